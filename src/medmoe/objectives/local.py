"""Local alignment: the words of a report beside the regions of its image they speak of.

`word_region_similarity` never holds what it can do without. It goes through the image–report pairs tile by
tile, small enough to stay in cache, and takes the gradient of each pair's similarity while the pair is there,
so that the backward pass is matrix products only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from medmoe.errors import ConfigError
from medmoe.objectives.contrastive import NEVER, nobody, symmetric_cross_entropy
from medmoe.types import Batch, Output

EPS = 1e-8  # below this length a word or context has no direction: its cosine is 0 and passes no gradient
TILE = 1 << 18  # numbers of one tile on CPU: 1 MiB, about a core's second-level cache


def word_region_similarity(
    regions: Tensor,
    words: Tensor,
    word_mask: Tensor,
    *,
    tau_attention: float = 4.0,
    tau_aggregate: float = 5.0,
    chunk: int | None = None,
) -> Tensor:
    """How well the words of each report find themselves in the regions of each image.

    For image i, report j, word t_n of the report and region v_m of the image (GLoRIA: Huang et al., ICCV 2021,
    https://openaccess.thecvf.com/content/ICCV2021/papers/Huang_GLoRIA_A_Multimodal_Global-Local_Representation_Learning_Framework_for_Label-Efficient_Medical_ICCV_2021_paper.pdf):

        share_nm = softmax over the words n of (t_n · v_m)             the words compete for each region
        heat_nm  = softmax over the regions m of (τ1 · share_nm)
        c_n      = Σ_m heat_nm v_m                                     what the image holds of the word
        s_ij     = log Σ_n exp(τ2 · cos(t_n, c_n))

    The sum is not divided by τ2 nor by the number of words, as in the authors' code: s_ij lies in
    log n ± τ2, so a longer report has a higher column. Dot products are of raw features.

    The length of a context is taken from the Gram matrix of the regions, |c|² = heatᵀ(VᵀV)heat, where M is at
    most 1.5 D, and from the context itself beyond: the two agree, and the choice is of work only. The first can
    lose digits where the context is shorter than a thousandth of its regions.

    Args:
        regions: [Bi, D, G, G] (or [Bi, D, M]) local features of Bi images.
        words: [Bj, N, D] local features of the words of Bj reports; Bi and Bj may differ.
        word_mask: [Bj, N] bool, True where there is a word; what stands elsewhere changes nothing.
        tau_attention: τ1, sharpness over regions.
        tau_aggregate: τ2, sharpness over words.
        chunk: Reports held at a time. None keeps two numbers for each (image, report, word, region) for the
            backward pass; a number keeps none, works the chunk out again there, and so bounds the memory
            whatever Bi and Bj. Values and gradients are the same.

    Returns:
        [Bi, Bj] float32 (float64 for float64 inputs). The column of a report without a word is 0 and passes
        no gradient: mask it (`local_loss` does). Gradients are once differentiable.

    Raises:
        ConfigError: If `chunk` is less than 1.
    """
    if chunk is not None and chunk < 1:
        raise ConfigError(f"chunk is {chunk}; it counts reports, so at least 1", remedy="leave it out for no chunks")
    wide = torch.float64 if regions.dtype == torch.float64 else torch.float32
    grid = regions.to(wide).flatten(2)  # [Bi, D, M]
    real = words.to(wide).masked_fill(~word_mask[:, :, None], 0.0)  # [Bj, N, D]
    keep_gradient = torch.is_grad_enabled() and (grid.requires_grad or real.requires_grad)
    similarity: Tensor = _Similarity.apply(  # type: ignore[no-untyped-call]
        grid, real, word_mask, tau_attention, tau_aggregate, chunk, keep_gradient
    )
    return similarity


@dataclass(frozen=True, slots=True)
class _Group:
    """Reports worked on together: which they are, and a view of their words without the common padding.

    Attributes:
        index: [R] int64 places of the reports in the batch.
        words: [R·n, D] their words, zero where padded.
        inverse: [R, n] 1 / |t_n|, zero for a word without direction.
        mask: [R, n] bool, or None when there is no padding left.
        images: How many images make a tile.
    """

    index: Tensor
    words: Tensor
    inverse: Tensor
    mask: Tensor | None
    images: int


@dataclass(frozen=True, slots=True)
class _Tile:
    """What the backward pass needs of I images against R reports, before it knows the loss's gradient g [I, R].

    Attributes:
        slope: [I, R·n, M] ∂s/∂(t·v) through the attention and through t · c.
        heat: [I, R·n, M] the attention over regions.
        pull: [I, R·n] 2 ∂s/∂|c|².
        context: [I, R·n, D] c, or None in Gram form.
        shrink: [I, R·n] ∂s/∂t of the word's own length, as a multiple of t.
    """

    slope: Tensor
    heat: Tensor
    pull: Tensor
    context: Tensor | None
    shrink: Tensor


class _Similarity(torch.autograd.Function):
    """`word_region_similarity` over tiles of images × reports."""

    @staticmethod
    def forward(
        ctx: Any,
        grid: Tensor,
        words: Tensor,
        word_mask: Tensor,
        tau_attention: float,
        tau_aggregate: float,
        chunk: int | None,
        keep_gradient: bool,
    ) -> Tensor:
        taus = (tau_attention, tau_aggregate)
        similarity = grid.new_zeros(len(grid), len(words))
        tiles: list[_Tile] = []
        with torch.autocast(grid.device.type, enabled=False):
            gram = _gram(grid)
            groups = _groups(words, word_mask, grid.shape[2], chunk)
            for group in groups:
                for rows in _rows(len(grid), group.images):
                    part, tile = _work_tile(grid[rows], _at(gram, rows), group, taus, keep_gradient)
                    similarity[rows, group.index] = part
                    if tile is not None and chunk is None:
                        tiles.append(tile)
        ctx.save_for_backward(grid, words, word_mask)
        ctx.gram, ctx.groups, ctx.tiles, ctx.taus = gram, groups, tiles, taus
        return similarity

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grid, words, _ = ctx.saved_tensors
        d_grid, d_words = torch.zeros_like(grid), torch.zeros_like(words)
        d_gram = None if ctx.gram is None else torch.zeros_like(ctx.gram)
        kept = iter(ctx.tiles)
        with torch.autocast(grid.device.type, enabled=False):
            for group in ctx.groups:
                count = len(group.words) // len(group.index)
                d_group = torch.zeros_like(group.words)
                for rows in _rows(len(grid), group.images):
                    tile = next(kept, None)
                    if tile is None:
                        tile = _work_tile(grid[rows], _at(ctx.gram, rows), group, ctx.taus, True)[1]
                    weight = grad[rows, group.index].repeat_interleave(count, dim=1)  # [I, R·n]
                    _pull_back(tile, weight, grid[rows], group.words, d_grid[rows], d_group, _at(d_gram, rows))
                d_words[group.index, :count] = d_group.view(len(group.index), count, -1)
            if d_gram is not None:
                d_grid.baddbmm_(grid, d_gram)
        return d_grid, d_words, None, None, None, None, None


def _work_tile(
    grid: Tensor, gram: Tensor | None, group: _Group, taus: tuple[float, float], keep_gradient: bool
) -> tuple[Tensor, _Tile | None]:
    """The similarities [I, R] of I images with the reports of a group, and what their gradient needs."""
    (images, _, regions), (reports, count) = grid.shape, group.inverse.shape
    words = group.words.expand(images, -1, -1)  # [I, R·n, D]
    score = torch.bmm(words, grid)  # [I, R·n, M]
    by_word = score.view(images, reports, count, regions)
    if group.mask is not None:
        by_word.masked_fill_(~group.mask[:, :, None], NEVER)
    share = torch.softmax(by_word, dim=2)
    heat = torch.softmax(taus[0] * share, dim=3).view_as(score)
    context = None
    if gram is None:
        context = torch.bmm(heat, grid.transpose(1, 2))  # [I, R·n, D]
        square = context.square().sum(2)
        reach = torch.bmm(context, grid)  # [I, R·n, M] = heat VᵀV
    else:
        reach = torch.bmm(heat, gram)
        square = (heat * reach).sum(2)  # |c|²
    product = (heat * score).sum(2)  # t · c
    length = square.clamp_min(0.0).sqrt()
    inverse = group.inverse.view(1, -1) * torch.where(length > EPS, 1.0 / length, 0.0)  # [I, R·n] 1 / |t||c|
    cosine = product * inverse
    similarity, weight = _aggregate(cosine.view(images, reports, count), group.mask, taus[1])
    if not keep_gradient:
        return similarity, None
    slope_product = weight.view_as(cosine) * inverse  # ∂s/∂(t · c)
    safe = torch.where(length > EPS, square, 1.0)
    pull = -weight.view_as(cosine) * cosine / safe  # 2 ∂s/∂|c|²
    shrink = -weight.view_as(cosine) * cosine * group.inverse.view(1, -1).square()
    # softmax over regions: the mean it would subtract is t·c's part less |c|'s part, which is 0 for a cosine
    slope = reach.mul_((taus[0] * pull)[:, :, None]).addcmul_(score, (taus[0] * slope_product)[:, :, None]).mul_(heat)
    back = torch._softmax_backward_data(slope.view_as(share), share, 2, share.dtype).view_as(score)
    back.addcmul_(heat, slope_product[:, :, None])
    return similarity, _Tile(back, heat, pull, context, shrink)


def _aggregate(cosine: Tensor, mask: Tensor | None, tau: float) -> tuple[Tensor, Tensor]:
    """log Σ_n exp(τ cos_n) over real words, [I, R], and its gradient by cos_n, [I, R, n]."""
    if mask is not None:
        cosine = cosine.masked_fill(~mask, NEVER)
    scaled = tau * cosine
    similarity = torch.logsumexp(scaled, dim=2)
    weight = tau * torch.softmax(scaled, dim=2)
    if mask is not None:
        real = mask.any(1)
        similarity = torch.where(real, similarity, 0.0)
        weight = torch.where(mask, weight, 0.0)
    return similarity, weight


def _pull_back(
    tile: _Tile,
    weight: Tensor,
    grid: Tensor,
    words: Tensor,
    d_grid: Tensor,
    d_words: Tensor,
    d_gram: Tensor | None,
) -> None:
    """Add one tile's gradients, for `weight` [I, R·n] the loss's gradient by the similarity of each word's pair."""
    slope = tile.slope * weight[:, :, None]
    d_words.addbmm_(slope, grid.transpose(1, 2))
    d_words.addcmul_(words, (tile.shrink * weight).sum(0)[:, None])
    d_grid.baddbmm_(words.T.expand(len(grid), -1, -1), slope)
    pull = (tile.pull * weight)[:, :, None]
    if d_gram is None:
        d_grid.baddbmm_((tile.context * pull).transpose(1, 2), tile.heat)
    else:
        d_gram.baddbmm_((tile.heat * pull).transpose(1, 2), tile.heat)


def _gram(grid: Tensor) -> Tensor | None:
    """VᵀV of each image [Bi, M, M] where working with it is less than with contexts, else None."""
    width, regions = grid.shape[1:]
    return torch.bmm(grid.transpose(1, 2), grid) if 2 * regions <= 3 * width else None


def _groups(words: Tensor, word_mask: Tensor, regions: int, chunk: int | None) -> list[_Group]:
    """Reports of like length together, so that little padding is worked on.

    On an accelerator lengths are not looked at (that would wait for the device): chunks are in batch order.
    """
    total, most = word_mask.shape
    on_cpu = words.device.type == "cpu"
    limit = total if chunk is None else min(chunk, total)
    lengths = [most] * total
    if on_cpu:
        lengths = (word_mask * torch.arange(1, most + 1)).amax(1).tolist() if most else [0] * total
    parts: list[list[int]] = []
    for place in sorted((j for j in range(total) if lengths[j]), key=lengths.__getitem__):
        room = min(limit, max(1, TILE // (lengths[place] * regions))) if on_cpu else limit
        if not parts or len(parts[-1]) >= room or lengths[place] > 1.25 * lengths[parts[-1][0]] + 1:
            parts.append([])
        parts[-1].append(place)
    groups = []
    inverse = words.norm(dim=2)
    inverse = torch.where(inverse > EPS, 1.0 / inverse, 0.0)  # [B, N]
    for part in parts:
        index, count = torch.tensor(part, device=words.device), lengths[part[-1]]
        mask: Tensor | None = word_mask[index, :count]
        if on_cpu and bool(mask.all()):
            mask = None
        images = max(1, TILE // (len(part) * count * regions)) if on_cpu else 1 << 30
        groups.append(
            _Group(index, words[index, :count].flatten(0, 1), inverse[index, :count], mask, images)
        )
    return groups


def _rows(total: int, step: int) -> list[slice]:
    return [slice(start, min(start + step, total)) for start in range(0, total, step)]


def _at(value: Tensor | None, rows: slice) -> Tensor | None:
    return None if value is None else value[rows]
