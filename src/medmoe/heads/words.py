"""Regions that name words: scores of a batch's word pieces, in bounded memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from medmoe import layers
from medmoe.types import Tokens

NOT_HELD = -1e30  # the score of a word piece that no report of the batch has


def pieces_of(tokens: Tokens) -> Tensor:
    """List the word pieces that reports have, [P] int64."""
    pieces: Tensor = torch.unique(tokens.ids[tokens.mask])
    return pieces


def words_of_regions(head: nn.Linear, regions: Tensor, tokens: Tokens, held: Tensor | None = None) -> Tensor:
    """Score the word pieces of a batch's reports by the regions of each image, in float32.

    With z_vm what the head says of piece v at region m, the score is log Σ_m exp z_vm: a softmax over pieces *and*
    regions together, summed over regions. So a piece is named by the region that shows it most.

    A few images are gone through at a time, so that a large [B, M, V] is never whole. On an accelerator every piece of
    the vocabulary is scored and the others masked, since which ones the reports hold would have to be waited for.

    Args:
        head: D → V.
        regions: [B, D, G, G].
        tokens: Only pieces that they hold are scored.
        held: [P] int64 pieces to score instead, where they are known already.

    Returns:
        [B, V]; -1e30 for the other pieces. Gradients are once differentiable.
    """
    rows, kind = regions.flatten(2).transpose(1, 2), regions.device.type  # [B, M, D]
    narrow = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    dtype = torch.get_autocast_dtype(kind) if narrow else rows.dtype
    rows, weight, bias = rows.to(dtype), head.weight.to(dtype), head.bias.to(dtype)
    keep = torch.is_grad_enabled()
    if held is None and layers.readable(tokens.ids):
        held = pieces_of(tokens)
    if held is not None:
        said: Tensor = OverRegions.apply(rows, weight[held], bias[held], keep)
        return said.new_full((len(regions), head.out_features), NOT_HELD).index_copy(1, held, said)
    counts = torch.zeros(head.out_features, dtype=torch.int32, device=tokens.ids.device)
    counts.index_add_(0, tokens.ids.flatten(), tokens.mask.flatten().to(torch.int32))
    every: Tensor = OverRegions.apply(rows, weight, bias, keep)
    return every.masked_fill(counts == 0, NOT_HELD)


class OverRegions(torch.autograd.Function):
    """Log-sum-exp over regions of what a head says of each: [B, M, D], [P, D], [P], gradient wanted → [B, P].

    The softmax over regions, which is the gradient, is kept where it is no more than `KEPT` numbers, else it is worked
    out again. Sums are in float32 (float64 for float64) whatever the products are in.
    """

    KEPT = 1 << 24
    TILE, WIDE_TILE = 1 << 19, 1 << 27  # numbers at a time, on a CPU and on an accelerator

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor, keep: bool) -> Tensor:
        """Scores, a few images at a time."""
        keep = keep and rows.shape[0] * rows.shape[1] * len(weight) <= OverRegions.KEPT
        kept, pooled = [], []
        for block in OverRegions.blocks(rows, len(weight)):
            attention, score = OverRegions.attend(block, weight, bias)
            pooled.append(score)
            if keep:
                kept.append(attention)
        ctx.save_for_backward(rows, weight, bias, *kept)
        return torch.cat(pooled)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients by regions, weights and biases."""
        rows, weight, bias, *kept = ctx.saved_tensors
        blocks = OverRegions.blocks(rows, len(weight))
        d_rows, d_weight = [], torch.zeros_like(weight, dtype=grad.dtype)
        with layers.without_autocast(rows):
            for place, (block, own) in enumerate(zip(blocks, torch.split(grad, len(blocks[0])), strict=True)):
                attention = kept[place] if kept else OverRegions.attend(block, weight, bias)[0]
                slope = (attention * own[:, None]).to(rows.dtype).flatten(0, 1)  # [b·M, P]
                d_rows.append((slope @ weight).view(block.shape))
                d_weight += slope.T @ block.flatten(0, 1)
        return torch.cat(d_rows), d_weight.to(weight.dtype), grad.sum(0).to(bias.dtype), None

    @staticmethod
    def blocks(rows: Tensor, pieces: int) -> tuple[Tensor, ...]:
        """The images that are worked on together."""
        room = OverRegions.TILE if rows.device.type == "cpu" else OverRegions.WIDE_TILE
        return torch.split(rows, max(1, room // max(rows.shape[1] * pieces, 1)))

    @staticmethod
    def attend(block: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Softmax over regions [b, M, P] of what the head says of each, and the log-sum-exp [b, P]."""
        with layers.without_autocast(block):
            said = torch.addmm(bias, block.flatten(0, 1), weight.T).view(*block.shape[:2], -1)
        said = layers.wide(said)
        highest = said.amax(1, keepdim=True)
        attention = said.sub_(highest).exp_()
        total = attention.sum(1, keepdim=True)
        return attention.div_(total), (highest + total.log()).squeeze(1)
