"""Naming an image's words: which word pieces does its report have?"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from medmoe.objectives.contrastive import nobody
from medmoe.types import Batch, Output


def report_words(output: Output, batch: Batch) -> Tensor | None:
    """Cross-entropy of the image's word scores against the word pieces of its own report.

    Classification with the report as a bag of words (SuperClass: Huang et al., 2024, https://arxiv.org/abs/2411.03313).
    With d_v the number of the batch's B reports that have piece v, a report's target is

        p_v ∝ log(B / d_v)     for the pieces v that it has, 0 for all others

    so that a piece which every report has counts nothing and a rare one most; the weights are the batch's own, where
    the paper keeps running ones. It needs no negatives, so the image encoder learns from the first step, while a
    contrastive loss stays for a while at telling modalities apart.

    Args:
        output: Uses `image.word_logits`.
        batch: Uses `tokens` and `has_report`.

    Returns:
        [] float32 loss, the mean over reports with a piece that tells them apart; None when the model has no such head
        or there is no such report.
    """
    logits, tokens = output.image.word_logits, batch.tokens
    if logits is None or tokens is None or nobody(batch.has_report):
        return None
    held = tokens.mask if batch.has_report is None else tokens.mask & batch.has_report[:, None]
    present = torch.zeros_like(logits, dtype=torch.float32)
    present.scatter_reduce_(1, tokens.ids, held.float(), reduce="amax")  # [B, V], 1 where the report has the piece
    reports = held.any(1).sum()
    weight = present * torch.log(reports / present.sum(0).clamp_min(1))
    total = weight.sum(1, keepdim=True)
    target = weight / total.clamp_min(torch.finfo(weight.dtype).tiny)
    counted = total.squeeze(1) > 0
    if not bool(counted.any()):
        return None
    return -(target * F.log_softmax(logits.float(), dim=1)).sum() / counted.sum()
