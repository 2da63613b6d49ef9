"""Regions that name words: scores of a batch's word pieces, in bounded memory."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from medmoe.layers import readable, wide
from medmoe.types import Tokens

NOT_HELD = -1e30  # the score of a word piece that no report of the batch has

# numbers of image, region and word piece held at a time: 64 MiB, and 1 GiB on an accelerator
PIECES, WIDE_PIECES = 1 << 24, 1 << 28


def pieces_of(tokens: Tokens) -> Tensor:
    """List the word pieces that reports have, [P] int64."""
    pieces: Tensor = torch.unique(tokens.ids[tokens.mask])
    return pieces


def words_of_regions(head: nn.Linear, regions: Tensor, tokens: Tokens, held: Tensor | None = None) -> Tensor:
    """Score the word pieces of a batch's reports by the regions of each image, in float32.

    With z_vm what the head says of piece v at region m, the score is log Σ_m exp z_vm: a softmax over pieces *and*
    regions together, summed over regions. So a piece is named by the region that shows it most.

    Pieces are gone through some at a time, and again in the backward pass where they are more than that, so that no
    [B, M, V] is ever whole. On an accelerator every piece of the vocabulary is scored, since which ones the reports
    hold would have to be waited for, and the others are masked.

    Args:
        head: D → V.
        regions: [B, D, G, G].
        tokens: The reports.
        held: [P] int64 pieces to score, where that is known already; None: those of the reports.

    Returns:
        [B, V]; -1e30 for the other pieces.
    """
    rows = regions.flatten(2).transpose(1, 2)  # [B, M, D]
    room = PIECES if rows.device.type == "cpu" else WIDE_PIECES
    step = max(1, room // max(rows.shape[0] * rows.shape[1], 1))
    if held is None and readable(tokens.ids):
        held = pieces_of(tokens)
    if held is not None:
        said = _over_regions(rows, head.weight[held], head.bias[held], step)
        return said.new_full((len(regions), head.out_features), NOT_HELD).index_copy(1, held, said)
    counts = torch.zeros(head.out_features, dtype=torch.int32, device=tokens.ids.device)
    counts.index_add_(0, tokens.ids.flatten(), tokens.mask.flatten().to(torch.int32))
    return _over_regions(rows, head.weight, head.bias, step).masked_fill(counts == 0, NOT_HELD)


def _over_regions(rows: Tensor, weight: Tensor, bias: Tensor, step: int) -> Tensor:
    """Log-sum-exp over regions of what a head [P, D] says of each: [B, M, D] → [B, P], `step` pieces at a time."""
    if len(weight) <= step:
        return _pooled(rows, weight, bias)
    parts = zip(torch.split(weight, step), torch.split(bias, step), strict=True)
    pooled = [checkpoint(_pooled, rows, *part, use_reentrant=False, preserve_rng_state=False) for part in parts]
    return torch.cat(pooled, dim=1)


def _pooled(rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.logsumexp(wide(F.linear(rows, weight, bias)), dim=1)
