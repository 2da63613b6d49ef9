"""A model over pixels made by hand: what it sees of clean and of corrupted images is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from constructed import PIXELS, code, context, evidence
from torch.nn.functional import normalize

from medmoe.modalities import SIX
from medmoe.tasks.base import Change, Context, Evidence
from medmoe.types import Sample

# Grey level of each modality's images; the router goes by it.
LEVEL = {"xray": 0.2, "ct": 0.5, "fundus": 0.8}
LABELS = ("nodule", "mass")


def images(
    count: int = 24, modalities: Sequence[str] = ("xray", "ct", "fundus"), side: int = 16, *, split: str = ""
) -> list[Sample]:
    """Give evenly grey images of two findings, two of each patient; other splits have other patients."""
    made = []
    for i in range(count):
        modality, label = modalities[i % len(modalities)], LABELS[i // len(modalities) % 2]
        pixels = np.full((side, side), LEVEL.get(modality, 0.35), np.float32)
        report = f"a {label} number{i}"
        patient = f"{split}p{i // 2}"
        made.append(
            Sample(f"row:{i}", pixels, report, modality=modality, labels=(label,), patient=patient, source="made")
        )
    return made


def look(samples: Sequence[Sample]) -> Evidence:
    """Say of images what the model sees.

    The router is sure of the nearest grey level. The embedding is the report's words as long as pixels are less than
    0.1 from the modality's level on average, else those of a report that is about the other finding.
    """
    logits = torch.full((len(samples), len(SIX)), -100.0)
    embed = []
    for row, sample in enumerate(samples):
        for modality, level in LEVEL.items():
            logits[row, SIX.index(modality)] = -50 * abs(float(sample.image.mean()) - level)
        fine = np.abs(sample.image - LEVEL.get(sample.modality or "", 0.35)).mean() < 0.1
        words = (sample.report or "").split()
        if not fine:
            words = [LABELS[1 - LABELS.index(word)] if word in LABELS else "else" for word in words]
        said = torch.stack([code(word) * (6 if word in LABELS else 1) for word in words])
        embed.append(normalize(said.sum(dim=0), dim=0))
    bare = [replace(sample, image=PIXELS) for sample in samples]
    return evidence(bare, image_embed=torch.stack(embed), image_logits=logits)


def looking(samples: Sequence[Sample], **options: int) -> Context:
    """Give a context whose `again` looks at the changed images."""

    def again(change: Change) -> Evidence:
        return look([change(index, sample) for index, sample in enumerate(samples)])

    return replace(context(**options), again=again)


def counting(given: Context) -> tuple[Context, list[Change]]:
    """Give a context that also keeps the changes it was asked for."""
    asked: list[Change] = []
    run: Callable[[Change], Evidence] | None = given.again
    assert run is not None

    def again(change: Change) -> Evidence:
        asked.append(change)
        return run(change)

    return replace(given, again=again), asked
