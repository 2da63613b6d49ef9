"""Global alignment: each image's embedding beside its report's, away from the other reports' (InfoNCE)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from medmoe import layers
from medmoe.types import Batch, Output

NEVER = -1e30  # a logit no softmax can pick; finite, so that 0 · log p stays 0 and an all-masked row stays defined


def info_nce(
    image_embed: Tensor,
    text_embed: Tensor,
    logit_scale: Tensor | float,
    *,
    report_id: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Symmetric InfoNCE over the cosine similarities of images and reports.

    Source: van den Oord et al., 2018 (https://arxiv.org/abs/1807.03748), symmetric as in Radford et al., 2021
    (https://arxiv.org/abs/2103.00020); several positives as in `symmetric_cross_entropy`. Computed in float32
    whatever the inputs' type (float64 stays float64).

    Args:
        image_embed: [B, E] image embeddings, of any length: they are normalised here.
        text_embed: [B, E] report embeddings, row i belonging to image i; normalised here.
        logit_scale: [] multiplier of the cosines, 1 / τ.
        report_id: [B] int64, equal where the reports' texts are equal; None: all different.
        mask: [B] bool, False for an image without a report, which then is neither query nor candidate.

    Returns:
        [] loss; 0 where `mask` leaves nothing.

    >>> own, other = torch.eye(4), torch.eye(4).roll(1, 0)
    >>> bool(info_nce(own, own, 10.0) < info_nce(own, other, 10.0))
    True
    """
    image, text = F.normalize(layers.wide(image_embed), dim=-1), F.normalize(layers.wide(text_embed), dim=-1)
    with layers.without_autocast(image):
        return symmetric_cross_entropy(logit_scale * (image @ text.T), report_id=report_id, mask=mask)


def symmetric_cross_entropy(
    logits: Tensor, *, report_id: Tensor | None = None, mask: Tensor | None = None, together: Tensor | None = None
) -> Tensor:
    """Cross-entropy of a square similarity matrix, images over reports and reports over images, averaged.

    Templates and short findings make equal reports common in a batch, and telling equal texts apart is no
    task. The target of a row is therefore uniform over *all* reports equal to its own: with P(i) those,
    −1/|P(i)| Σ_{p∈P(i)} log softmax(logits_i)_p, the form L_out of Khosla et al., 2020
    (https://arxiv.org/abs/2004.11362) and of UniCL, Yang et al., 2022 (https://arxiv.org/abs/2204.03610).
    Against dropping the duplicates it keeps every image as a query; against summing the positives' probabilities
    it can't be met by one of them alone. Its least value is the mean of log |P(i)|, not 0.

    Args:
        logits: [B, B], images down, reports across.
        report_id: [B] int64, equal where the reports are; None: all different.
        mask: [B] bool, False for samples to leave out of rows and columns.
        together: [B, B] bool, symmetric, False for pairs that aren't held against each other; None: all are.

    Returns:
        [] loss, 0 where `mask` leaves nothing.
    """
    positive = torch.eye(len(logits), dtype=logits.dtype, device=logits.device)
    if report_id is not None:
        positive = (report_id[:, None] == report_id[None, :]).to(logits.dtype)  # [B, B]
    count: Tensor | int = max(len(logits), 1)
    rows, columns = logits, logits.T
    held = together
    if mask is not None:
        count = mask.sum().clamp_min(1)
        positive = positive * (mask[:, None] & mask[None, :])
        held = mask[None, :] if held is None else held & mask[None, :]
    if together is not None:
        positive = positive * together
    if held is not None:
        rows, columns = rows.masked_fill(~held, NEVER), columns.masked_fill(~held, NEVER)
    target = positive / positive.sum(1, keepdim=True).clamp_min(1.0)  # symmetric in its support, so it serves both ways
    both = F.log_softmax(rows, dim=1) + F.log_softmax(columns, dim=1)
    return -(target * both).sum() / (2 * count)


def global_alignment(output: Output, batch: Batch) -> Tensor | None:
    """InfoNCE of the whole image and the whole report.

    Args:
        output: Uses `image.embed`, `text.embed` and `logit_scale`.
        batch: Uses `report_id` and `has_report`.

    Returns:
        [] float32 loss, or None when no sample has a report.
    """
    if output.text is None or nobody(batch.has_report):
        return None
    return info_nce(
        output.image.embed, output.text.embed, output.logit_scale, report_id=batch.report_id, mask=batch.has_report
    )


def nobody(mask: Tensor | None) -> bool:
    """Whether a presence mask is there, can be looked at, and says that no sample has the thing.

    On an accelerator it isn't looked at: a loss is then 0 without a gradient, not inactive, where no sample has it.
    """
    return mask is not None and layers.readable(mask) and not bool(mask.any())
