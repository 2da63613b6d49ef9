"""Objectives: pure functions from an output and a batch to a loss, found by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from medmoe.errors import ConfigError, unknown
from medmoe.objectives.alignment import local_alignment, local_within_report, within_report_loss
from medmoe.objectives.contrastive import global_alignment, info_nce
from medmoe.objectives.local import word_region_similarity
from medmoe.objectives.routing import image_modality, report_type, router_distillation
from medmoe.types import Batch, Loss, Output

Objective = Callable[..., Tensor | None]

OBJECTIVES: dict[str, Objective] = {
    "global": global_alignment,
    "local": local_alignment,
    "local_within_report": local_within_report,
    "report_type": report_type,
    "image_modality": image_modality,
    "router_distillation": router_distillation,
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

    Raises:
        ConfigError: If an objective or one of its options is unknown.
    """
    for name in (*weights, *(options or {})):
        if name not in OBJECTIVES:
            raise ConfigError(unknown("objective", name, OBJECTIVES), where="objectives")
    total = torch.zeros((), device=output.image.embed.device)
    terms, inactive = {}, []
    for name, weight in weights.items():
        if weight == 0:
            continue
        value = OBJECTIVES[name](output, batch, **(options or {}).get(name, {}))
        if value is None:
            inactive.append(name)
            continue
        total = total + weight * value
        terms[name] = value.detach()
    return Loss(total=total, terms=terms, inactive=tuple(inactive))


__all__ = ["OBJECTIVES", "Objective", "info_nce", "total_loss", "within_report_loss", "word_region_similarity"]
