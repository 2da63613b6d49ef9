"""Objectives: pure functions from an output and a batch to a loss, found by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor

from medmoe.errors import ConfigError, unknown
from medmoe.objectives.contrastive import global_alignment, info_nce
from medmoe.objectives.late_interaction import late_interaction, late_interaction_similarity
from medmoe.objectives.local import local_alignment, local_within_report, within_report_loss, word_region_similarity
from medmoe.objectives.local_similarity import LocalSimilarity
from medmoe.objectives.routing import image_modality, report_type, router_distillation
from medmoe.objectives.words import region_words, report_words
from medmoe.types import Batch, Loss, Output

Objective: TypeAlias = Callable[..., Tensor | None]
"""`(output, batch, **options)` → [] float32 loss, or None when the batch lacks what it needs."""

LOCAL_SIMILARITIES: dict[str, LocalSimilarity] = {
    "attention": LocalSimilarity(word_region_similarity, scale=10.0, summed=True),
    "late_interaction": LocalSimilarity(late_interaction_similarity, scale=20.0, summed=False),
}
"""How words and regions are compared at inference, by the objective that a model was trained with."""

OBJECTIVES: dict[str, Objective] = {
    "global": global_alignment,
    "local": local_alignment,
    "local_within_report": local_within_report,
    "late_interaction": late_interaction,
    "report_type": report_type,
    "image_modality": image_modality,
    "router_distillation": router_distillation,
    "report_words": report_words,
    "region_words": region_words,
}


def total_loss(
    output: Output,
    batch: Batch,
    weights: Mapping[str, float],
    options: Mapping[str, Mapping[str, Any]] | None = None,
) -> Loss:
    """Sum objectives by their weights.

    Args:
        output: What the model said.
        batch: What it said it of.
        weights: Weight of each objective; one of weight zero isn't computed.
        options: Keyword options of single objectives.

    Returns:
        The weighted sum, each term, and the names of those whose fields the batch lacks. When none is active
        the total is 0 and has no gradient.

    Raises:
        ConfigError: If an objective or one of its options is unknown.
    """
    options = options or {}
    _check(weights, options)
    total = torch.zeros((), device=output.image.embed.device)
    terms: dict[str, Tensor] = {}
    inactive: list[str] = []
    for name, weight in weights.items():
        if weight == 0:
            continue
        value = OBJECTIVES[name](output, batch, **options.get(name, {}))
        if value is None:
            inactive.append(name)
            continue
        total = total + weight * value
        terms[name] = value.detach()
    return Loss(total=total, terms=terms, inactive=tuple(inactive), modality=batch.modality)


def _check(weights: Mapping[str, float], options: Mapping[str, Mapping[str, Any]]) -> None:
    for name in (*weights, *options):
        if name not in OBJECTIVES:
            raise ConfigError(unknown("objective", name, OBJECTIVES), where="objectives")
    for name, chosen in options.items():
        allowed = [key for key in inspect.signature(OBJECTIVES[name]).parameters if key not in ("output", "batch")]
        for key in chosen:
            if key not in allowed:
                raise ConfigError(unknown("option", key, allowed), where=f"objectives.{name}")


__all__ = [
    "LOCAL_SIMILARITIES",
    "OBJECTIVES",
    "LocalSimilarity",
    "Objective",
    "info_nce",
    "late_interaction_similarity",
    "total_loss",
    "within_report_loss",
    "word_region_similarity",
]
