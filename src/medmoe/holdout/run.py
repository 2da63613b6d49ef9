"""Running the folds: fit a router without, judge what was left out, write down what became of each image."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medmoe.config import RunConfig
from medmoe.data.nonmedical import PICTURES, picture_in
from medmoe.data.sources.base import ChangedSource, Source
from medmoe.data.sources.rows import Rows
from medmoe.errors import ConfigError
from medmoe.folder import write_text_atomically
from medmoe.holdout.bank import Bank
from medmoe.holdout.folds import Facts, Fold
from medmoe.holdout.setting import Rules, fit_router
from medmoe.types import Sample

_PICTURES = 31  # first key of the random stream
SETTINGS = "settings.json"


@dataclass(frozen=True, slots=True)
class Setup:
    """What all folds share.

    Attributes:
        facts: Of all images.
        bank: Their measures.
        pictures: Measures of pictures that are no medical images.
        config: The router's width, and how modalities are balanced.
        rules: What the gate is to do.
        images: Fingerprint of the images and how they were measured.
    """

    facts: Facts
    bank: Bank
    pictures: Bank
    config: RunConfig
    rules: Rules
    images: str = ""


def drawn_pictures(source: Source, count: int, *, seed: int = 0) -> Source:
    """Put pictures that no scanner made in the frames of some of a source's images, each kind in turn."""
    kinds = tuple(PICTURES)
    rows = np.random.default_rng([seed, _PICTURES]).choice(len(source), min(count, len(source)), replace=False)

    def replace(index: int, sample: Sample) -> Sample:
        return picture_in(kinds[index % len(kinds)], sample, np.random.default_rng([seed, _PICTURES, index]))

    return ChangedSource(Rows(source, rows.tolist()), replace)


def run_folds(
    setup: Setup, folds: Sequence[Fold], seeds: int, out: Path, *, tell: Callable[[str], None] = lambda text: None
) -> list[dict[str, Any]]:
    """Run every fold with every seed, unless its outcome is there.

    Returns:
        The outcomes: see `judge_fold`.

    Raises:
        ConfigError: If the folder holds outcomes of other settings.
    """
    _agree(setup, out)
    outcomes = []
    for fold in folds:
        for seed in range(seeds):
            path = out / "folds" / f"{fold.name.replace(' ', '-').replace('/', '_')}-seed-{seed}.json"
            if not path.is_file():
                path.parent.mkdir(parents=True, exist_ok=True)
                write_text_atomically(path, json.dumps(judge_fold(setup, fold, seed)) + "\n")
                tell(f"{fold.name}, seed {seed}")
            outcomes.append(json.loads(path.read_text(encoding="utf-8")))
    return outcomes


def _agree(setup: Setup, out: Path) -> None:
    """Write down the settings, or check that they are those of the outcomes that are there."""
    config = setup.config.model_dump(mode="json")
    now = {"config": config, "rules": asdict(setup.rules), "views": len(setup.bank.measures), "images": setup.images}
    path = out / SETTINGS
    if path.is_file():
        if json.loads(path.read_text(encoding="utf-8")) != now:
            raise ConfigError("was begun with other settings", where=str(out), remedy="give another --out")
        return
    out.mkdir(parents=True, exist_ok=True)
    write_text_atomically(path, json.dumps(now, indent=2) + "\n")


def judge_fold(setup: Setup, fold: Fold, seed: int) -> dict[str, Any]:
    """Fit a router without what a fold leaves out, and judge it.

    Returns:
        JSON-ready: `fold`, `seed`, `modalities`, and by name of `unseen` (left out), `seen` (test images of the
        training sources) and `pictures` the `rows`, the `chosen` place among the modalities, the `score` of the gate
        that is kept, 0 where it begins to take images, and by name of `IDEAS` which were `accepted`.
    """
    facts = setup.facts
    router, gates = fit_router(setup.bank, facts, fold, setup.config, setup.rules, seed=seed)
    known = np.array([name != "" for name in facts.modality])
    places = {"unseen": np.flatnonzero(fold.out & known), "seen": np.flatnonzero(~fold.out & facts.where("test"))}
    measures = {name: setup.bank.plain[rows] for name, rows in places.items()}
    places["pictures"], measures["pictures"] = np.arange(len(setup.pictures.plain)), setup.pictures.plain
    result: dict[str, Any] = {"fold": fold.name, "seed": seed, "modalities": list(fold.modalities)}
    kept = next(iter(gates.values()))
    for name, rows in places.items():
        logits, features = router(measures[name]), router.placed(measures[name])
        least = torch.tensor(kept.least, dtype=torch.float64)[logits.argmax(dim=1)]
        result[name] = {
            "rows": rows.tolist(),
            "chosen": logits.argmax(dim=1).tolist(),
            "score": (kept.score(logits, features) - least).tolist(),
            "accepted": {idea: gate.accepts(logits, features).tolist() for idea, gate in gates.items()},
        }
    return result
