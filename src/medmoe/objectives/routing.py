"""Training the routers: modality from the report, modality from the image, and the image after the report."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from medmoe.layers import wide
from medmoe.objectives.contrastive import nobody
from medmoe.types import Batch, Output, Routing

UNKNOWN = -1


def report_type(output: Output, batch: Batch) -> Tensor | None:
    """Cross-entropy of the report's type, read by the auxiliary linear head and by the text router.

    L_aux of Chopra et al., 2025 (https://arxiv.org/abs/2506.08356), on logits: with a softmax before the
    cross-entropy, which takes one of its own, the loss can't fall below 1.04 for six types.
    With hard routing it is what trains the text router: the argmax passes nothing else back.

    Args:
        output: Uses `text.report_logits` and `text.logits`.
        batch: Uses `modality` and `has_report`.

    Returns:
        [] float32 loss, the mean of both; None when no sample has a report and a known modality.
    """
    if output.text is None or batch.modality is None:
        return None
    target = batch.modality
    if batch.has_report is not None:
        target = target.masked_fill(~batch.has_report, UNKNOWN)
    if nobody(target != UNKNOWN):
        return None
    head = _over_known(output.text.report_logits, target)
    router = _over_known(output.text.logits, target)
    return (head + router) / 2


def image_modality(output: Output, batch: Batch) -> Tensor | None:
    """Cross-entropy of the image router against the modality label.

    Args:
        output: Uses `image.logits`.
        batch: Uses `modality`.

    Returns:
        [] float32 loss, or None when no modality is known.
    """
    if batch.modality is None or nobody(batch.modality != UNKNOWN):
        return None
    return _over_known(output.image.logits, batch.modality)


def _over_known(logits: Tensor, target: Tensor) -> Tensor:
    """Mean cross-entropy over samples whose target is known; 0 when none is."""
    total = F.cross_entropy(wide(logits), target, ignore_index=UNKNOWN, reduction="sum")
    return total / (target != UNKNOWN).sum().clamp_min(1)


def router_distillation(output: Output, batch: Batch) -> Tensor | None:
    """Cross-entropy of the image router against the text router's probabilities.

    It lets the image router follow the report's choice without any label; the text router isn't moved by it.

    Args:
        output: Uses `image.logits` and `text.logits`.
        batch: Uses `has_report`.

    Returns:
        [] float32 loss, or None when no sample has a report.
    """
    if output.text is None or nobody(batch.has_report):
        return None
    target = output.text.logits.detach().float().softmax(dim=1)
    loss = -(target * output.image.logits.float().log_softmax(dim=1)).sum(dim=1)  # [B]
    if batch.has_report is None:
        return loss.mean()
    present = batch.has_report.to(loss.dtype)
    return (loss * present).sum() / present.sum().clamp_min(1)


@torch.no_grad()
def routing_statistics(routing: Routing) -> dict[str, Tensor]:
    """Measure a batch's routing for the log.

    Returns:
        `entropy` [] mean entropy of the router's probabilities in nats; `load` [K] share of the weight
        that each expert carries.
    """
    logits = routing.logits.float()
    alpha = logits.softmax(dim=1)
    entropy = -(alpha * logits.log_softmax(dim=1)).sum(dim=1).mean()
    load = torch.zeros(logits.shape[1], device=logits.device)
    load.index_add_(0, routing.expert.flatten(), routing.weight.float().flatten())
    return {"entropy": entropy, "load": load / load.sum().clamp_min(1e-9)}
