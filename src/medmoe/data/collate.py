"""Prepared samples as one batch: absent facts become masks, equal reports equal numbers."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from medmoe.data.text import Draws, ReportTokenizer
from medmoe.errors import DataError, unknown
from medmoe.types import Batch, Sample


def collate(
    items: Sequence[tuple[Tensor, Sample]],
    tokenizer: ReportTokenizer | None,
    *,
    modalities: Sequence[str],
    rng: Draws | None = None,
    foreign: bool = False,
) -> Batch:
    """Make a batch of B prepared samples.

    Args:
        items: What `Preprocess` gave for each.
        tokenizer: Tokenizes the reports; None leaves them out.
        modalities: The model's modalities, in its order.
        rng: Draws sentences of long reports, in training, or gives what draws those of each.
        foreign: Whether a modality that isn't one of the model's gets the index -1, as an unknown one does; the sample
            keeps its name.

    Raises:
        DataError: If a sample's modality isn't one of the model's, unless `foreign`.
    """
    samples = [sample for _, sample in items]
    tokens = tokenizer([sample.report for sample in samples], rng=rng) if tokenizer else None
    has_report = tokens.word_mask.any(1) if tokens else None
    ids = None
    if has_report is not None:
        told = zip(samples, has_report.tolist(), strict=True)
        ids = torch.tensor([_report_id(sample, place, has) for place, (sample, has) in enumerate(told)])
    mask, has_mask = _stack([sample.mask for sample in samples])
    gaze, has_gaze = _stack([sample.gaze for sample in samples])
    return Batch(
        image=torch.stack([image for image, _ in items]),
        keys=tuple(sample.key for sample in samples),
        tokens=tokens,
        has_report=has_report,
        report_id=ids,
        modality=torch.tensor([_modality_index(sample, modalities, foreign=foreign) for sample in samples]),
        mask=mask,
        has_mask=has_mask,
        gaze=gaze,
        has_gaze=has_gaze,
        samples=tuple(dataclasses.replace(sample, mask=None, gaze=None) for sample in samples),
    )


def _report_id(sample: Sample, place: int, has_report: bool) -> int:
    """Hash a report's words to 63 bits, whatever its case and blanks; without a report, something unique below 0."""
    text = " ".join((sample.report or "").lower().split()) if has_report else f"{place} {sample.key}"
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    number = int.from_bytes(digest, "big") >> 1
    return number if has_report else -1 - number


def _modality_index(sample: Sample, modalities: Sequence[str], *, foreign: bool) -> int:
    if sample.modality is None or (foreign and sample.modality not in modalities):
        return -1
    if sample.modality not in modalities:
        raise unknown_modality(sample, modalities)
    return list(modalities).index(sample.modality)


def unknown_modality(sample: Sample, modalities: Sequence[str]) -> DataError:
    """Give the error to raise where a sample's modality isn't one of the model's."""
    return DataError(
        unknown("modality", str(sample.modality), modalities),
        where=sample.key,
        remedy=f"train with --set 'model.modalities={json.dumps([*modalities, sample.modality])}'",
    )


def _stack(maps: Sequence[Any]) -> tuple[Tensor | None, Tensor | None]:
    """Stack the maps that there are, zero elsewhere: [B, 1, H, W] float32 and [B] bool, or None when there is none."""
    first = next((one for one in maps if one is not None), None)
    if first is None:
        return None, None
    stacked = torch.zeros(len(maps), 1, *first.shape)
    for place, one in enumerate(maps):
        if one is not None:
            stacked[place, 0] = torch.from_numpy(one)
    return stacked, torch.tensor([one is not None for one in maps])
