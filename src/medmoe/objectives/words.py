"""Naming an image's words: which word pieces does its report have?"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from medmoe.layers import wide
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
    return _bag_of_words(output.image.word_logits, batch)


def region_words(output: Output, batch: Batch) -> Tensor | None:
    """`report_words` with what the regions say: some place of the image shows each word.

    Multiple-instance learning with the report as a bag of labels: see `medmoe.heads.words.words_of_regions` for how
    regions are pooled. Raising a piece everywhere raises it for every image, so only a place that tells images
    apart lowers the loss, and a word's score is high where its finding is. It needs no negatives, and takes the local
    path off the plateau on which contrastive local losses begin.

    Args:
        output: Uses `image.region_word_logits`.
        batch: Uses `tokens` and `has_report`.

    Returns:
        [] float32 loss as in `report_words`, over the pieces of the batch's reports; None likewise.
    """
    return _bag_of_words(output.image.region_word_logits, batch)


def _bag_of_words(logits: Tensor | None, batch: Batch) -> Tensor | None:
    tokens = batch.tokens
    if logits is None or tokens is None or nobody(batch.has_report):
        return None
    held = tokens.mask if batch.has_report is None else tokens.mask & batch.has_report[:, None]
    present = torch.zeros_like(logits, dtype=torch.float32)
    present.scatter_reduce_(1, tokens.ids, held.float(), reduce="amax")  # [B, V], 1 where the report has the piece
    reports = held.any(1).sum().clamp_min(1)
    weight = present * torch.log(reports / present.sum(0).clamp_min(1))
    total = weight.sum(1, keepdim=True)
    target = weight / total.clamp_min(torch.finfo(weight.dtype).tiny)
    counted = total.squeeze(1) > 0
    if nobody(counted):
        return None
    return -(target * F.log_softmax(wide(logits), dim=1)).sum() / counted.sum().clamp_min(1)
