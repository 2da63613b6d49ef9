"""Where a step of `tiny` goes: python benchmarks/step_parts.py [THREADS], the best time of each part in ms."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import torch
from torch import nn

from medmoe.experts.router import image_statistics
from medmoe.heads.words import words_of_regions
from medmoe.objectives import total_loss
from medmoe.recipes import RECIPES
from medmoe.speed.workload import batches_of, step_of
from medmoe.types import Output, Pyramid, over_tensors


def best(run: Callable[[], object], rounds: int = 15) -> float:
    """Give the least of some repetitions, after three that don't count."""
    times = []
    for _ in range(3 + rounds):
        begun = time.perf_counter()
        run()
        times.append(1e3 * (time.perf_counter() - begun))
    return min(times[3:])


def leaves(output: Output) -> Output:
    """Give an output as tensors that take a gradient and pass none on."""
    return over_tensors(output, lambda value: value.detach().requires_grad_(value.is_floating_point()))


def main(threads: int) -> None:
    torch.set_num_threads(threads)
    state, config, batches = batches_of(RECIPES["tiny"](), patients=250, count=4)
    model, batch = state.model.train(), batches[0]
    step = step_of(state, config, batches, "cpu")
    output = leaves(model(batch))
    pyramid = Pyramid(tuple(level.detach().requires_grad_() for level in model.vision(batch.image).levels))
    assert isinstance(model.region_words, nn.Linear)
    assert batch.tokens is not None

    def summed(*values: torch.Tensor) -> None:
        torch.stack([value.float().mean() for value in values]).sum().backward()

    parts: dict[str, Callable[[], object]] = {
        "whole step": step,
        "image encoder": lambda: summed(*model.vision(batch.image).levels),
        "text encoder": lambda: summed(model.text(batch.tokens).words),
        "experts": lambda: summed(model.experts(pyramid, output.image.routing)),
        "pooling, projection": lambda: summed(model.image_projection(model.image_norm(model.pool(pyramid)))),
        "image router": lambda: summed(model.image_router(image_statistics(pyramid))),
        "region words": lambda: summed(words_of_regions(model.region_words, output.image.regions, batch.tokens)),
        "late interaction": lambda: total_loss(
            output, batch, {"late_interaction": 1.0}, config.objective_options
        ).total.backward(),
        "other losses": lambda: total_loss(
            output, batch, {name: weight for name, weight in config.objectives.items() if name != "late_interaction"}
        ).total.backward(),
    }
    for name, run in parts.items():
        print(f"{name}: {best(run):.1f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1)
