"""What each step towards a router for unseen sites gives: every arm on the same groups of sources left out.

    python benchmarks/unseen_sources.py MANIFEST --out DIR

Sources are left out in groups, which is harder than one by one and five trainings instead of dozens. Each arm differs
from the one named beside it in a single point. `network` trains the small convolutional encoder instead of measuring.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from medmoe.build import tokenizer_of
from medmoe.config import RunConfig, VisionConfig
from medmoe.data.sources.base import ChangedSource, Source
from medmoe.data.sources.concat import ConcatSource, open_source
from medmoe.data.sources.rows import Rows
from medmoe.encoders.descriptor import MEASURES, Descriptor
from medmoe.evaluate import gather
from medmoe.holdout.bank import Bank, make_bank
from medmoe.holdout.folds import Facts, Fold, make_folds
from medmoe.holdout.model import blank_model, measuring_of
from medmoe.holdout.run import Setup, judge_fold
from medmoe.holdout.setting import Rules
from medmoe.holdout.summary import summarise
from medmoe.recipes import RECIPES
from medmoe.rundir import RunFolder, git_commit, machine
from medmoe.train import fit
from medmoe.types import Sample

SPLITS = ("train", "val", "test")
TOGETHER = 5


def squashed(index: int, sample: Sample) -> Sample:
    """Give an image resized to a square, as many pipelines do, its aspect lost."""
    pixels = torch.from_numpy(np.atleast_3d(sample.image).copy()).permute(2, 0, 1)[None]
    square = torch.nn.functional.interpolate(pixels, (192, 192), mode="bilinear", antialias=True)[0].permute(1, 2, 0)
    image = square.numpy() if sample.image.ndim == 3 else square[..., 0].numpy()
    return dataclasses.replace(sample, image=image, mask=None, gaze=None)


def stretched(index: int, sample: Sample) -> Sample:
    """Give an image whose 2nd and 98th percentile are black and white."""
    values = sample.image.astype(np.float32)
    low, high = np.percentile(values, [2, 98])
    image = np.clip((values - low) / max(high - low, 1e-3) * 255, 0, 255).astype(np.uint8)
    return dataclasses.replace(sample, image=image)


def columns(names: tuple[str, ...]) -> list[int]:
    """List the places of some measures among all."""
    places, start = [], 0
    for name in MEASURES:
        width = Descriptor(measures=(name,)).channels[0]
        places += list(range(start, start + width)) if name in names else []
        start += width
    return places


class Small:
    """A source that keeps its images, reduced, in memory."""

    def __init__(self, source: Source, shrink: Callable[[Sample], Sample]) -> None:
        self.source, self.shrink, self.kept = source, shrink, dict[int, Sample]()

    def __len__(self) -> int:
        """Count the samples."""
        return len(self.source)

    def __getitem__(self, index: int) -> Sample:
        """Read one sample."""
        if index not in self.kept:
            self.kept[index] = self.shrink(self.source[index])
        return self.kept[index]

    def facts(self, index: int) -> Sample:
        """Give what is known without pixels."""
        return self.source.facts(index)


def network_fold(
    source: Source, facts: Facts, fold: Fold, config: RunConfig, seed: int, out: Path
) -> dict[str, object]:
    """Train the small convolutional encoder and judge it; its gate takes everything."""
    model = config.model.model_copy(update={"modalities": fold.modalities})
    config = config.model_copy(update={"model": model, "train": config.train.model_copy(update={"seed": seed})})
    train = np.flatnonzero(~fold.out & facts.where("train") & (fold.target(facts) >= 0))
    run = RunFolder(out / f"{fold.name}-{seed}".replace(" ", "-"), resume=True)
    trained = fit(config, train=Rows(source, train.tolist()), val=None, run=run)
    result: dict[str, object] = {"fold": fold.name, "seed": seed, "modalities": list(fold.modalities)}
    rows = {"unseen": np.flatnonzero(fold.out), "seen": np.flatnonzero(~fold.out & facts.where("test"))}
    for name, own in rows.items():
        said = gather(trained, Rows(source, own.tolist()), workers=0).image_logits.softmax(1).max(1)
        every = [True] * len(own)
        result[name] = {"rows": own.tolist(), "chosen": said.indices.tolist(), "probability": said.values.tolist()}
        result[name] |= {"sure": every, "accepted": every}  # type: ignore[operator]
    return result | {"pictures": {"sure": [True], "accepted": [True]}}


def network(augment: float) -> RunConfig:
    """Give the recipe of the small network: 64 pixels, the tiny encoder, the router's loss alone."""
    config = RECIPES["router"]()
    vision = VisionConfig(name="tiny", image_size=64, channels=(24, 48, 96, 128))
    data = config.data.model_copy(update={"batch_size": 64, "augment": augment, "crop": 0.0, "workers": 0})
    train = config.train.model_copy(update={"steps": 350, "lr": 4e-3, "weight_decay": 0.05, "save_every": 350})
    experts = config.model.experts.model_copy(update={"levels": (3,)})
    model = config.model.model_copy(update={"vision": vision, "experts": experts})
    return config.model_copy(update={"model": model, "data": data, "train": train})


def main() -> None:
    """Run the arms asked for, and write results.json and table.md."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("manifest")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--views", type=int, default=3)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--arms", default="")
    options = parser.parse_args()
    parts = [(split, open_source(options.manifest, split=split, maps=False)) for split in SPLITS]
    source, facts = ConcatSource([own for _, own in parts]), Facts.of(parts)
    config = RECIPES["router"]()
    config = config.model_copy(update={"train": config.train.model_copy(update={"steps": options.steps})})
    model = blank_model(config, facts.modalities, source)
    measuring, cache = measuring_of(model, config), options.cache or options.out / "bank"
    folds = make_folds(facts, together=TOGETHER, modalities=False)
    assert tokenizer_of(model)

    def bank(change: Callable[[int, Sample], Sample] | None = None) -> Bank:
        if change is None:
            return make_bank(source, measuring, options.views, cache, tell=print)
        return make_bank(ChangedSource(source, change), measuring, 1, cache / change.__name__, tell=print)

    def measured(own: Bank, names: tuple[str, ...] = tuple(MEASURES), balance: float = 1.0, gate: int = 0):
        use = Bank(own.measures[..., columns(names)])
        data = config.data.model_copy(update={"balance": balance})
        setup = Setup(
            facts, use, Bank(use.measures[:, :1]), config.model_copy(update={"data": data}), Rules(groups=gate)
        )
        return [judge_fold(setup, fold, seed) for fold in folds for seed in range(options.seeds)]

    def trained(augment: float):
        small = Small(source, measuring.preprocess.shrink)
        return [network_fold(small, facts, fold, network(augment), 0, options.out / f"net-{augment}") for fold in folds]

    whole, grey = tuple(MEASURES), tuple(name for name in MEASURES if name != "colour")
    plain = Bank(bank().measures[:1])
    arms: dict[str, Callable[[], list[dict[str, object]]]] = {
        "network": lambda: trained(0.0),
        "network, augmented": lambda: trained(2.0),
        "grey measures": lambda: measured(plain, grey),
        "texture alone": lambda: measured(plain, ("texture",)),
        "all measures": lambda: measured(plain, whole),
        "aspect lost": lambda: measured(bank(squashed)),
        "stretched": lambda: measured(bank(stretched)),
        "augmented": lambda: measured(bank()),
        "unbalanced": lambda: measured(bank(), balance=0.0),
        "augmented, gate": lambda: measured(bank(), gate=4),
    }
    wanted = [name.strip() for name in options.arms.split(";") if name.strip()] or list(arms)
    options.out.mkdir(parents=True, exist_ok=True)
    for name in wanted:
        path = options.out / f"{name.replace(' ', '-').replace(',', '')}.json"
        if not path.is_file():
            begun = time.perf_counter()
            result = summarise(arms[name](), facts)
            result |= {"arm": name, "git_commit": git_commit(), "machine": machine(), "steps": options.steps}
            path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
            print(f"{name}: {time.perf_counter() - begun:.0f} s", flush=True)
    print(table(options.out, list(arms)))


def table(out: Path, arms: list[str]) -> str:
    """Word what is there as a table."""
    head = ("arm", "seeds", "mean recall over modalities", "over sources and modalities", "seen sources")
    lines = [" | ".join(head), " | ".join(["---"] * len(head))]
    for name in arms:
        path = out / f"{name.replace(' ', '-').replace(',', '')}.json"
        if path.is_file():
            result = json.loads(path.read_text(encoding="utf-8"))
            own, seen = result["sources"]["accepted"]["figures"], result["seen"]["recall/modalities"]
            words = [
                f"{v['value']:.3f} ({v['low']:.3f}–{v['high']:.3f})"
                for v in (own["recall/modalities"], own["recall/cells"], seen)
            ]
            lines.append(" | ".join([name, str(result["seeds"]), *words]))
    return "\n".join(f"| {line} |" for line in lines)


if __name__ == "__main__":
    main()
