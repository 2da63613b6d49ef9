"""What each of several processes holds of a model after a step, with its backbones whole and in parts.

    torchrun --standalone --nproc-per-node 2 benchmarks/parts.py [--set model.vision.name=swin-t ...] [--device cpu]

Takes a step of the recipe `medmoe` on phantoms, once with the backbones whole and once in parts (`train.shard`), and
adds up the bytes of the weights, gradients and optimiser memory that the process holds then.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from medmoe.build import build_loader
from medmoe.config import override
from medmoe.data.sources.phantom import PhantomSource
from medmoe.distributed import current, joined, own_rows
from medmoe.optim import state_tensors
from medmoe.recipes import RECIPES
from medmoe.rundir import RunFolder
from medmoe.state import prepare
from medmoe.train import train_step

MIB = 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="settings of the recipe")
    parser.add_argument("--recipe", default="medmoe")
    parser.add_argument("--device", default="cpu")
    asked = parser.parse_args()
    with joined(asked.device, timeout=600) as world:
        for parts in ("false", "true"):
            held = measured(asked.recipe, [*asked.set, f"train.shard={parts}"], world.device(asked.device))
            line = {"process": world.rank, "of": world.size, "in_parts": parts == "true", **held}
            sys.stdout.write(json.dumps(line) + "\n")
            sys.stdout.flush()


def measured(name: str, settings: list[str], device: str) -> dict[str, float]:
    """Take a step; give the MiB of what this process then holds, of the backbones and of all."""
    source = PhantomSource(12, size=64)
    config = override(RECIPES[name](), settings)
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder(Path(folder) / "run", writes=current().first)
        state, config = prepare(config, train=source, run=run, init={}, device=device)
        batches = iter(build_loader(source, state.model, config, train=True, alone=False))
        state.guard = None
        train_step(state, batches, config, device)
    weights = dict(state.model.named_parameters())
    kinds = {
        "weights": weights,
        "gradients": {key: value.grad for key, value in weights.items() if value.grad is not None},
        "optimiser": state_tensors(state.model, state.optimizer),
    }
    found = {}
    for kind, tensors in kinds.items():
        for part, prefixes in (("backbones", ("vision.", "text.")), ("all", ("",))):
            own = (own_rows(value) for key, value in tensors.items() if key.startswith(prefixes))
            found[f"{part}_{kind}_mib"] = round(sum(value.numel() * value.element_size() for value in own) / MIB, 2)
    return found


if __name__ == "__main__":
    main()
