"""Evidence whose image features are a direction for each class plus noise: what a probe can learn is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from constructed import code, context, evidence, sample

from medmoe.tasks.base import Context, Evidence

NAMES = ("consolidation", "nodule", "pneumothorax")


def blobs(
    labels: Sequence[tuple[str, ...] | None],
    *,
    first: int = 0,
    noise: float = 0.3,
    seed: int = 0,
    modality: str = "xray",
    source: str | None = "made",
    per_patient: int = 1,
) -> Evidence:
    """Give images whose features are the sum of their labels' directions; patients are numbered from `first`."""
    patients = [f"p{first + i // per_patient}" for i in range(len(labels))]
    samples = [
        sample(first + i, None, modality, own, patient=patients[i], source=source) for i, own in enumerate(labels)
    ]
    found = evidence(samples, seed=seed)
    clean = torch.stack([sum((code(f"blob {name}") for name in own or ()), torch.zeros(64)) for own in labels])
    return replace(found, image_embed=clean + noise * found.image_embed)


def three(each: int) -> list[tuple[str, ...]]:
    return [(name,) for _ in range(each) for name in NAMES]


def split(
    *, noise: float = 0.3, fit: int = 30, each: int = 10, tune: int | None = 10, seed: int = 0, resamples: int = 50
) -> tuple[Evidence, Context]:
    """Give evaluated evidence of three classes and the context with its training and validation splits."""
    judged = blobs(three(each), noise=noise, seed=3)
    return judged, replace(
        context(seed=seed, resamples=resamples),
        fit=blobs(three(fit), first=1000, noise=noise, seed=1),
        tune=None if tune is None else blobs(three(tune), first=2000, noise=noise, seed=2),
    )
