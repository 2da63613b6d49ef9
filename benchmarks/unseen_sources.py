"""What each step towards a router for unseen sites gives: every arm on the same groups of sources left out.

    python benchmarks/unseen_sources.py MANIFEST --out DIR

Sources are left out in five groups, which is harder than one by one. Each arm differs in a single point from an arm
above it, which the table names; the gate is set in all of them.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medmoe.config import RunConfig
from medmoe.data.sources.base import ChangedSource, Source
from medmoe.data.sources.concat import ConcatSource, open_source
from medmoe.encoders.descriptor import MEASURES, Descriptor
from medmoe.holdout.bank import Bank, Measuring, make_bank
from medmoe.holdout.folds import Facts, Fold, make_folds
from medmoe.holdout.model import blank_model, measuring_of
from medmoe.holdout.run import Setup, judge_fold
from medmoe.holdout.setting import Rules
from medmoe.holdout.summary import summarise
from medmoe.holdout.tables import figure
from medmoe.recipes import RECIPES
from medmoe.rundir import git_commit, machine
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
    """

    against: str
    what: str
    change: Callable[[int, Sample], Sample] | None = None
    measures: tuple[str, ...] = tuple(MEASURES)
    views: int = 1
    balance: float = 1.0
    shuffled: bool = False


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
    "grey": Arm("", "measures of grey levels, layout and texture alone", measures=GREY),
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


def judge(world: World, arm: Arm) -> list[dict[str, Any]]:
    """Judge an arm on every group left out, with every seed."""
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
            result = summarise(judge(world, arm), world.facts)
            result |= {"arm": name.strip(), "git_commit": git_commit(), "machine": machine()}
            path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
            print(f"{name}: {time.perf_counter() - begun:.0f} s", flush=True)
    print(table(options.out))


def path_of(out: Path, name: str) -> Path:
    """Give the file of an arm's figures."""
    return out / f"{name}.json"


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
            values += [own.get(f"{kind}/modalities") for kind in ("coverage", "accepted_right")]
            lines.append(
                " | ".join([f"`{name}`", f"`{arm.against}`" if arm.against else "–", arm.what, *map(figure, values)])
            )
    return "\n".join(f"| {line} |" for line in lines)


if __name__ == "__main__":
    main()
