"""What each step towards a router for unseen sites gives: every arm on the same groups of sources left out.

    python benchmarks/unseen_sources.py MANIFEST --out DIR

Sources are left out in groups, which is harder than one by one and takes five trainings instead of dozens. Each arm
differs in a single point from an arm above it, which the table names; the gate is set in all that measure. `network`
trains the small convolutional encoder on the pixels, where the others measure.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medmoe.config import RunConfig, VisionConfig
from medmoe.data.sources.base import ChangedSource, Source
from medmoe.data.sources.concat import ConcatSource, open_source
from medmoe.data.sources.remembered import RememberedSource
from medmoe.data.sources.rows import Rows
from medmoe.encoders.descriptor import MEASURES, Descriptor
from medmoe.evaluate import gather
from medmoe.holdout.bank import Bank, Measuring, make_bank
from medmoe.holdout.folds import Facts, Fold, make_folds
from medmoe.holdout.model import blank_model, measuring_of
from medmoe.holdout.run import Setup, judge_fold
from medmoe.holdout.setting import Rules
from medmoe.holdout.summary import summarise
from medmoe.holdout.tables import figure
from medmoe.recipes import RECIPES
from medmoe.rundir import RunFolder, git_commit, machine
from medmoe.train import fit
from medmoe.types import Sample

SPLITS = ("train", "val", "test")
TOGETHER = 5
GREY = tuple(name for name in MEASURES if name != "colour")


@dataclass(frozen=True)
class Arm:
    """One row of the table.

    Attributes:
        against: The arm that it differs from in one point.
        what: That point.
        change: How images are changed before they are measured.
        measures: Those that are taken.
        views: How often an image is measured.
        balance: Of the modalities.
        shuffled: Whether the modalities of the training images are dealt out at random.
        augment: Strength of augmentation of the network that learns from pixels; None: images are measured.
    """

    against: str
    what: str
    change: Callable[[int, Sample], Sample] | None = None
    measures: tuple[str, ...] = tuple(MEASURES)
    views: int = 1
    balance: float = 1.0
    shuffled: bool = False
    augment: float | None = None


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


ARMS = {
    "network": Arm("", "a small convolutional network learns from the pixels", augment=0.0),
    "network, augmented": Arm("network", "its images are augmented", augment=2.0),
    "grey": Arm("network", "fixed measures in the network's place, none of colour", measures=GREY),
    "colour": Arm("grey", "measures of colour too"),
    "square": Arm("colour", "resized to a square, the aspect lost", change=squashed),
    "stretched": Arm("colour", "grey levels stretched to each image's own range", change=stretched),
    "augmented": Arm("colour", "four changed views of each image too", views=5),
    "unbalanced": Arm("colour", "modalities as often as they come", balance=0.0),
    "shuffled": Arm("colour", "control: labels of the training images shuffled", shuffled=True),
}


def columns(names: tuple[str, ...]) -> list[int]:
    """List the places of some measures among all."""
    places, start = [], 0
    for name in MEASURES:
        width = Descriptor(measures=(name,)).channels[0]
        places += list(range(start, start + width)) if name in names else []
        start += width
    return places


@dataclass(frozen=True)
class World:
    """What all arms share: the images, who is left out, how images are measured, and where that is kept."""

    source: Source
    facts: Facts
    folds: list[Fold]
    config: RunConfig
    measuring: Measuring
    cache: Path
    seeds: int

    def bank(self, arm: Arm) -> Bank:
        """Measure the images as an arm does."""
        source = self.source if arm.change is None else ChangedSource(self.source, arm.change)
        bank = make_bank(source, self.measuring, arm.views, self.cache, tell=print)
        return Bank(bank.measures[..., columns(arm.measures)])


def measured(world: World, arm: Arm) -> list[dict[str, Any]]:
    """Judge an arm that measures."""
    bank, facts = world.bank(arm), world.facts
    if arm.shuffled:
        order = np.random.default_rng(0).permutation(np.flatnonzero(facts.where("train")))
        names = np.array(facts.modality)
        names[np.flatnonzero(facts.where("train"))] = names[order]
        facts = dataclasses.replace(facts, modality=tuple(names.tolist()))
    data = world.config.data.model_copy(update={"balance": arm.balance})
    config = world.config.model_copy(update={"data": data})
    setup = Setup(facts, bank, Bank(bank.measures[:1, :1]), config, Rules())
    return [judge_fold(setup, fold, seed) for fold in world.folds for seed in range(world.seeds)]


def network(world: World, arm: Arm, out: Path) -> list[dict[str, Any]]:
    """Train the small convolutional encoder without each group, one seed, and judge it; nothing is turned away."""
    vision = VisionConfig(name="tiny", image_size=64, channels=(24, 48, 96, 128))
    base = world.config
    experts = base.model.experts.model_copy(update={"levels": (3,)})
    data = {"batch_size": 64, "augment": arm.augment, "crop": 0.0, "workers": 0}
    train = {"steps": 350, "lr": 4e-3, "weight_decay": 0.05, "save_every": 350}
    small = RememberedSource(world.source, world.measuring.preprocess.shrink, megabytes=1000)
    return [_learn(small, world.facts, fold, base, (vision, experts, data, train), out) for fold in world.folds]


def _learn(source: Source, facts: Facts, fold: Fold, base: RunConfig, changes: Any, out: Path) -> dict[str, Any]:
    vision, experts, data, settings = changes
    model = base.model.model_copy(update={"modalities": fold.modalities, "vision": vision, "experts": experts})
    config = base.model_copy(
        update={
            "model": model,
            "data": base.data.model_copy(update=data),
            "train": base.train.model_copy(update=settings),
        }
    )
    train = np.flatnonzero(~fold.out & facts.where("train") & (fold.target(facts) >= 0))
    run = RunFolder(out / fold.name.replace(" ", "-"), resume=True)
    trained = fit(config, train=Rows(source, train.tolist()), val=None, run=run)
    result: dict[str, Any] = {"fold": fold.name, "seed": 0, "modalities": list(fold.modalities)}
    known = np.array([name in fold.modalities for name in facts.modality])
    rows = {"unseen": np.flatnonzero(fold.out & known), "seen": np.flatnonzero(~fold.out & facts.where("test"))}
    for name, own in rows.items():
        said = gather(trained, Rows(source, own.tolist()), workers=0).image_logits.softmax(1).max(1)
        result[name] = {"rows": own.tolist(), "chosen": said.indices.tolist()}
        result[name] |= {"score": said.values.tolist(), "accepted": {"all": [True] * len(own)}}
    return result | {"pictures": {"accepted": {"all": [True]}}}


def make_world(manifest: str, out: Path, cache: Path | None, seeds: int) -> World:
    """Open the manifest and deal its sources into groups."""
    names = {"patient_id": "group_id"}
    parts = [(split, open_source(manifest, split=split, maps=False, columns=names)) for split in SPLITS]
    source, facts = ConcatSource([own for _, own in parts]), Facts.of(parts)
    config = RECIPES["router"]()
    model = blank_model(config, facts.modalities, source)
    folds = make_folds(facts, together=TOGETHER, modalities=False)
    return World(source, facts, folds, config, measuring_of(model, config), cache or out / "bank", seeds)


def main() -> None:
    """Run the arms asked for, and print the table of all that are there."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("manifest")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--cache", type=Path, help="folder of measures, such as bank/ of medmoe holdout")
    parser.add_argument("--arms", default=";".join(ARMS), help="names, separated by ;")
    options = parser.parse_args()
    world = make_world(options.manifest, options.out, options.cache, options.seeds)
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.arms.split(";"):
        arm, path = ARMS[name.strip()], path_of(options.out, name.strip())
        if not path.is_file():
            begun = time.perf_counter()
            judge = measured if arm.augment is None else partial(network, out=options.out / path.stem)
            result = summarise(judge(world, arm), world.facts)
            result |= {"arm": name.strip(), "git_commit": git_commit(), "machine": machine()}
            path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
            print(f"{name}: {time.perf_counter() - begun:.0f} s", flush=True)
    print(table(options.out))


def path_of(out: Path, name: str) -> Path:
    """Give the file of an arm's figures."""
    return out / f"{name.replace(', ', '-')}.json"


def table(out: Path) -> str:
    """Word what is there as a table."""
    head = (
        "arm",
        "differs from",
        "in",
        "recall: mean over modalities",
        "over sources",
        "seen sources",
        "taken",
        "right among taken",
    )
    lines = [" | ".join(head), " | ".join(["---"] * len(head))]
    for name, arm in ARMS.items():
        if path_of(out, name).is_file():
            result: Mapping[str, Any] = json.loads(path_of(out, name).read_text(encoding="utf-8"))
            own, seen = result["sources"]["figures"], result["seen"]["recall/modalities"]
            values = [own["recall/modalities"], own["recall/cells"], seen]
            gate = [own.get(f"{kind}/modalities") for kind in ("coverage", "accepted_right")]
            values += gate if arm.augment is None else [None, None]
            lines.append(
                " | ".join([f"`{name}`", f"`{arm.against}`" if arm.against else "–", arm.what, *map(figure, values)])
            )
    return "\n".join(f"| {line} |" for line in lines)


if __name__ == "__main__":
    main()
