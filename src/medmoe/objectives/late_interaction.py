"""Late interaction: every word of a report beside the region that is most like it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from medmoe.errors import ConfigError
from medmoe.objectives.groups import check_negatives
from medmoe.objectives.local import loss_over_pairs
from medmoe.types import Batch, Output


def late_interaction_similarity(
    regions: Tensor, words: Tensor, word_mask: Tensor, *, tau_region: float = 30.0, chunk: int | None = None
) -> Tensor:
    """How like the words of each report are to their best regions in each image.

    For image i, report j of N_j words t_n, and M regions v_m of the image:

        best_n = 1/τ log (1/M Σ_m exp(τ cos(t_n, v_m)))
        s_ij   = 1/N_j Σ_n best_n

    The token-wise maximum of FILIP (Yao et al., 2022, https://arxiv.org/abs/2111.07783), from words to regions, made
    smooth: as τ grows, best_n becomes the largest cosine, and as it falls, their mean. Unlike `word_region_similarity`,
    which compares a word with a sum of regions, a region counts by its own likeness: one that merely cancels what
    the others have too much of adds little.

    Args:
        regions: [Bi, D, G, G] (or [Bi, D, M]) local features of Bi images.
        words: [Bj, N, D] local features of the words of Bj reports; Bi and Bj may differ.
        word_mask: [Bj, N] bool, True where there is a word; what stands elsewhere changes nothing.
        tau_region: τ, how nearly a word looks at one region only.
        chunk: Words held at a time. None keeps two numbers for each (image, word, region) for the backward pass; a
            number keeps those of one chunk and works them out again there. Values and gradients are the same.

    Returns:
        [Bi, Bj] float32 (float64 for float64 inputs) in [-1, 1]; 0 for a report without a word.

    Raises:
        ConfigError: If `chunk` is less than 1, or `tau_region` isn't above 0.
    """
    if chunk is not None and chunk < 1:
        raise ConfigError(f"chunk is {chunk}; it counts words, so at least 1", remedy="leave it out for no chunks")
    if not tau_region > 0:
        raise ConfigError(f"tau_region is {tau_region}; a sharpness is above 0")
    wide = torch.float64 if regions.dtype == torch.float64 else torch.float32
    with torch.autocast(regions.device.type, enabled=False):
        grid = F.normalize(regions.to(wide).flatten(2), dim=1)  # [Bi, D, M]
        flat = F.normalize(words.to(wide)[word_mask], dim=1)  # [W, D], the words of all reports one after another
        owner = torch.nonzero(word_mask)[:, 0]  # [W], whose report a word is of
        total: Tensor
        if chunk is not None and chunk < len(flat):
            total = _InChunks.apply(grid, flat, owner, len(words), tau_region, chunk)
        else:
            cosine = flat @ grid  # [Bi, W, M]
            best = (torch.logsumexp(tau_region * cosine, dim=2) - math.log(cosine.shape[2])) / tau_region  # [Bi, W]
            total = grid.new_zeros(len(grid), len(words)).index_add(1, owner, best)
        return total / word_mask.sum(1).clamp_min(1)


class _InChunks(torch.autograd.Function):
    """Sums over each report's words of best_n, a chunk of words at a time in the same room, forth and back.

    Of regions [Bi, D, M], words [W, D], their owners [W], Bj, τ and the words of a chunk: [Bi, Bj].
    """

    @staticmethod
    def forward(ctx: Any, grid: Tensor, flat: Tensor, owner: Tensor, reports: int, tau: float, chunk: int) -> Tensor:
        """Keeps nothing for the backward pass but what it was given."""
        total = grid.new_zeros(len(grid), reports)
        for rows, logits in _logits(grid, flat, tau, chunk):
            best = (torch.logsumexp(logits, dim=2) - math.log(grid.shape[2])) / tau
            total.index_add_(1, owner[rows], best)
        ctx.save_for_backward(grid, flat, owner)
        ctx.tau, ctx.chunk = tau, chunk
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients by regions and words: that of best_n by a cosine is the softmax over regions."""
        grid, flat, owner = ctx.saved_tensors
        d_grid, d_flat = torch.zeros_like(grid), torch.zeros_like(flat)
        with torch.autocast(grid.device.type, enabled=False):
            for rows, logits in _logits(grid, flat, ctx.tau, ctx.chunk):
                slope = torch.softmax(logits, dim=2, out=logits).mul_(grad[:, owner[rows], None])
                d_grid.baddbmm_(flat[rows].T.expand(len(grid), -1, -1), slope)
                d_flat[rows].addbmm_(slope, grid.transpose(1, 2))
        return d_grid, d_flat, None, None, None, None


def _logits(grid: Tensor, flat: Tensor, tau: float, chunk: int) -> Iterator[tuple[slice, Tensor]]:
    """Give τ · cosines of one chunk of words after another, [Bi, w, M], each in the room of the one before."""
    room = grid.new_empty(len(grid) * chunk * grid.shape[2])
    for start in range(0, len(flat), chunk):
        rows = slice(start, min(start + chunk, len(flat)))
        shape = (len(grid), rows.stop - start, grid.shape[2])
        logits = room[: shape[0] * shape[1] * shape[2]].view(shape)
        yield rows, torch.bmm(flat[rows].expand(len(grid), -1, -1), grid, out=logits).mul_(tau)


def late_interaction(
    output: Output,
    batch: Batch,
    *,
    tau_region: float = 30.0,
    tau_scale: float = 20.0,
    negatives: str = "batch",
    chunk: int | None = None,
) -> Tensor | None:
    """Each image finds its report and each report its image, by `late_interaction_similarity`.

    Args:
        output: Uses `image.regions`, `text.words` and `text.word_mask`.
        batch: Uses `report_id`, `has_report` and, to hold a modality's own against each other, `modality`.
        tau_region: How nearly a word looks at one region only.
        tau_scale: Multiplier of the similarities.
        negatives: Which pairs a pair is held against: all of the `batch`, or those of its `modality`.
        chunk: Words held at a time, for bounded memory; None: all, faster.

    Returns:
        [] float32 loss, or None when no sample has a word.

    Raises:
        ConfigError: If an option isn't allowed.
    """
    check_negatives(negatives, where="objective_options.late_interaction.negatives")
    compare = partial(late_interaction_similarity, tau_region=tau_region, chunk=chunk)
    return loss_over_pairs(output, batch, compare, tau_scale=tau_scale, negatives=negatives)
