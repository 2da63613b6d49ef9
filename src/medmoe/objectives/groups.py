"""Who is held against whom: the words of a batch's reports, and the groups whose samples are each other's negatives."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from medmoe.errors import ConfigError, unknown
from medmoe.objectives.contrastive import nobody
from medmoe.types import Batch, Output

NEGATIVES = ("batch", "modality")

Rows: TypeAlias = Tensor | slice
"""Samples of a batch: their indices, or all of them."""


def check_negatives(negatives: str, *, where: str) -> None:
    """Refuse an unknown choice of negatives.

    Raises:
        ConfigError: If `negatives` is none of `NEGATIVES`.
    """
    if negatives not in NEGATIVES:
        raise ConfigError(unknown("value", negatives, NEGATIVES), where=where)


def over_groups(loss_of: Callable[[Rows], Tensor], batch: Batch, told: Tensor, negatives: str) -> Tensor:
    """Take a loss within each group of samples that are held against each other: mean over the samples.

    Args:
        loss_of: Rows of the batch → [] mean loss over them.
        batch: Its `modality` makes the groups; samples of unknown modality are one group.
        told: [B] bool, samples that have words, at least one.
        negatives: One of `NEGATIVES`; `batch` is one group of all.
    """
    if negatives == "batch" or batch.modality is None:
        return loss_of(slice(None))
    present = sorted(set(batch.modality[told].tolist()))
    groups = [torch.nonzero((batch.modality == one) & told).flatten() for one in present]
    return torch.stack([loss_of(rows) * len(rows) for rows in groups]).sum() / told.sum()


def together_in(batch: Batch, negatives: str) -> Tensor | None:
    """[B, B] bool, which samples `over_groups` holds against each other; None for all."""
    if negatives == "batch" or batch.modality is None:
        return None
    return batch.modality[:, None] == batch.modality[None, :]


def words_of(output: Output, batch: Batch) -> tuple[Tensor, Tensor] | None:
    """[B, N, D] words and [B, N] where they are, those of absent reports left out; None when none remains."""
    if output.text is None:
        return None
    word_mask = output.text.word_mask
    if batch.has_report is not None:
        word_mask = word_mask & batch.has_report[:, None]
    return None if nobody(word_mask) else (output.text.words, word_mask)
