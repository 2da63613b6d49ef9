"""Late interaction: every word of a report beside the region that is most like it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from medmoe import layers
from medmoe.errors import ConfigError
from medmoe.objectives import tiles
from medmoe.objectives.groups import check_negatives
from medmoe.objectives.local import loss_over_pairs
from medmoe.products import product
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
        chunk: Words held at a time. None keeps one number for each (image, word, region) for the backward pass; a
            number keeps none and works a chunk out again there. Values and gradients are the same.

    Returns:
        [Bi, Bj] float32 (float64 for float64 inputs) in [-1, 1]; 0 for a report without a word. Gradients are once
        differentiable.

    Raises:
        ConfigError: If `chunk` is less than 1, or `tau_region` isn't above 0.
    """
    if chunk is not None and chunk < 1:
        raise ConfigError(f"chunk is {chunk}; it counts words, so at least 1", remedy="leave it out for no chunks")
    if not tau_region > 0:
        raise ConfigError(f"tau_region is {tau_region}; a sharpness is above 0")
    wide = torch.float64 if regions.dtype == torch.float64 else torch.float32
    with layers.without_autocast(regions):
        rows = F.normalize(regions.to(wide).flatten(2).transpose(1, 2).contiguous(), dim=2)  # [Bi, M, D]
        if layers.readable(word_mask):
            flat = F.normalize(words.to(wide)[word_mask], dim=1)  # [W, D], the words of all reports one after another
            owner = torch.nonzero(word_mask)[:, 0]  # [W], whose report a word is of
            best = _best(rows, flat, tau_region, chunk)
            total = best.new_zeros(len(rows), len(words)).index_add(1, owner, best)
        else:
            real = words.to(wide).masked_fill(~word_mask[:, :, None], 0.0)
            best = _best(rows, F.normalize(real, dim=2).flatten(0, 1), tau_region, chunk)
            total = best.view(len(rows), *word_mask.shape).masked_fill(~word_mask, 0.0).sum(2)
        return total / word_mask.sum(1).clamp_min(1)


def _best(rows: Tensor, flat: Tensor, tau: float, chunk: int | None) -> Tensor:
    keep = torch.is_grad_enabled() and (rows.requires_grad or flat.requires_grad)
    best: Tensor = _Best.apply(rows, flat, tau, chunk, keep and (chunk is None or chunk >= len(flat)))
    return best


class _Best(torch.autograd.Function):
    """1/τ log mean over regions m of exp(τ t · v_m): unit regions [I, M, D], unit words [W, D], τ, chunk → [I, W].

    It goes through tiles that stay in cache. The gradient by the cosines is the softmax over regions, which is kept
    for each tile (`keep`) or worked out again; either way the backward pass is two products.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, flat: Tensor, tau: float, chunk: int | None, keep: bool) -> Tensor:
        best = rows.new_empty(len(rows), len(flat))
        kept: list[Tensor] = []
        for images, part in _tiles(rows, flat, chunk):
            attention, best[images, part] = _attend(rows[images], flat[part], tau)
            if keep:
                kept.append(attention)
        ctx.save_for_backward(rows, flat, *kept)
        ctx.tau, ctx.chunk = tau, chunk
        return best

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, flat, *kept = ctx.saved_tensors
        d_rows, d_flat = rows.new_zeros(rows.shape), torch.zeros_like(flat)
        with layers.without_autocast(rows):
            for place, (images, part) in enumerate(_tiles(rows, flat, ctx.chunk)):
                attention = kept[place] if kept else _attend(rows[images], flat[part], ctx.tau)[0]
                slope = (attention * grad[images, part][:, None]).flatten(0, 1)  # [I·M, w]
                d_rows[images].flatten(0, 1).add_(product(slope, flat[part].T))
                d_flat[part] += product(slope.T, rows[images].flatten(0, 1).T)
        return d_rows, d_flat, None, None, None


def _attend(rows: Tensor, flat: Tensor, tau: float) -> tuple[Tensor, Tensor]:
    """Softmax over regions of τ times the cosines, [I, M, w], and `best` of each word, [I, w]."""
    scaled = product(rows.flatten(0, 1), flat).view(*rows.shape[:2], len(flat)).mul_(tau)
    highest = scaled.amax(1, keepdim=True)
    attention = scaled.sub_(highest).exp_()
    total = attention.sum(1, keepdim=True)
    best = (highest + (total / rows.shape[1]).log()) / tau
    return attention.div_(total), best.squeeze(1)


def _tiles(rows: Tensor, flat: Tensor, chunk: int | None) -> Iterator[tuple[slice, slice]]:
    """Images and words that are worked on together."""
    images, regions, _ = rows.shape
    room = tiles.TILE if rows.device.type == "cpu" else tiles.WIDE_TILE
    step = min(len(flat) if chunk is None else chunk, max(1, room // max(regions, 1)))
    block = max(1, room // max(step * regions, 1))
    for image in range(0, images, block):
        for word in range(0, len(flat), max(step, 1)):
            yield slice(image, min(image + block, images)), slice(word, min(word + step, len(flat)))


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
