"""The local losses: word–region similarity contrasted over a batch, and the paper's within one report."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from medmoe.objectives.contrastive import NEVER, nobody, symmetric_cross_entropy
from medmoe.objectives.local import word_region_similarity
from medmoe.types import Batch, Output


def local_alignment(
    output: Output,
    batch: Batch,
    *,
    tau_attention: float = 4.0,
    tau_aggregate: float = 5.0,
    tau_scale: float = 10.0,
    chunk: int | None = None,
) -> Tensor | None:
    """Contrast the words of every report with the regions of every image (GLoRIA, Huang et al., ICCV 2021).

    Args:
        output: Uses `image.regions`, `text.words` and `text.word_mask`.
        batch: Uses `report_id` and `has_report`.
        tau_attention: τ1, see `word_region_similarity`.
        tau_aggregate: τ2.
        tau_scale: τ3, multiplier of the similarities before the softmax over the batch.
        chunk: Reports held at a time; bounds the memory.

    Returns:
        [] float32 loss, or None when no sample has a report with a word.
    """
    if output.text is None or nobody(batch.has_report):
        return None
    present = output.text.word_mask.any(dim=1)
    if batch.has_report is not None:
        present = present & batch.has_report
    if nobody(present):
        return None
    similarity = word_region_similarity(
        output.image.regions,
        output.text.words,
        output.text.word_mask,
        tau_attention=tau_attention,
        tau_aggregate=tau_aggregate,
        chunk=chunk,
    )
    return symmetric_cross_entropy(tau_scale * similarity, report_id=batch.report_id, mask=present)


def within_report_loss(regions: Tensor, words: Tensor, word_mask: Tensor, *, tau: float = 1.0) -> Tensor:
    """The local loss as the MedMoE paper writes it (Chopra et al., 2025, https://arxiv.org/abs/2506.08356).

    a_ij = softmax_j(t_i·v_j / τ); c_i = Σ_j a_ij v_j; the loss of word i is
    −log [exp(cos(c_i, t_i)/τ) / Σ_j exp(cos(c_i, t_j)/τ)] over the words j of the *same* report. It has no negative
    from another image or report, so it teaches no match of images and reports: measured, retrieval by local
    similarity stays at chance. It is kept for comparison; `local_alignment` is the one that works.

    Args:
        regions: [B, D, G, G] local features.
        words: [B, N, D] words of the same samples' reports.
        word_mask: [B, N] bool.
        tau: τ.

    Returns:
        [] float32: the mean over each report's words, then over the reports that have one; 0 where none has.
    """
    grid = regions.flatten(2).float()  # [B, D, M]
    real = words.float().masked_fill(~word_mask[:, :, None], 0.0)
    attention = (torch.bmm(real, grid) / tau).softmax(dim=2)  # [B, N, M]
    context = torch.bmm(attention, grid.transpose(1, 2))  # [B, N, D]
    cosine = torch.bmm(F.normalize(context, dim=2), F.normalize(real, dim=2).transpose(1, 2))  # [B, N, N]
    logits = (cosine / tau).masked_fill(~word_mask[:, None, :], NEVER)
    own = logits.log_softmax(dim=2).diagonal(dim1=1, dim2=2)  # [B, N]
    count = word_mask.sum(dim=1)
    by_report = -own.masked_fill(~word_mask, 0.0).sum(dim=1) / count.clamp_min(1)
    return by_report.sum() / (count > 0).sum().clamp_min(1)


def local_within_report(output: Output, batch: Batch, *, tau: float = 1.0) -> Tensor | None:
    """The objective of `within_report_loss`.

    Args:
        output: Uses `image.regions`, `text.words` and `text.word_mask`.
        batch: Uses `has_report`.
        tau: τ.

    Returns:
        [] float32 loss, or None when no sample has a report with a word.
    """
    if output.text is None or nobody(batch.has_report):
        return None
    mask = output.text.word_mask
    if batch.has_report is not None:
        mask = mask & batch.has_report[:, None]
    if nobody(mask):
        return None
    return within_report_loss(output.image.regions, output.text.words, mask, tau=tau)
