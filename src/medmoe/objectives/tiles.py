"""The similarity of every word with every region of every pair of image and report, in little memory.

It goes through the images a few at a time, and through the reports in tiles small enough to stay in cache, and takes
the gradient of each pair's similarity while its tile is there. The backward pass is then matrix products only, on
two tensors kept for each tile, or on the tile worked out a second time, where memory is to stay bounded. Whatever is
as large as all regions exists once: their gradient.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from medmoe import layers
from medmoe.objectives.contrastive import NEVER
from medmoe.objectives.groups import Rows
from medmoe.products import product, products

EPS = 1e-8  # below this length a word or context has no direction: its cosine is 0 and passes no gradient
TILE = 1 << 19  # numbers of one tile on CPU: 2 MiB in float32, the fastest of 2^16 to 2^20
WIDE_TILE = 1 << 25  # on an accelerator: large enough to fill it, and 128 MiB

Room: TypeAlias = tuple[Tensor, Tensor, Tensor, Tensor]


@dataclass(frozen=True, slots=True)
class _Group:
    """Reports worked on together: which they are, and their words without the padding they share.

    Attributes:
        index: [R] int64 places of the reports in the batch, or a run of them.
        words: [R·n, D] their words, zero where padded.
        inverse: [R, n] 1 / |t|, zero for a word without direction.
        mask: [R, n] bool, or None when there is no padding left.
    """

    index: Rows
    words: Tensor
    inverse: Tensor
    mask: Tensor | None


class _Tile(NamedTuple):
    """What the backward pass needs of I images against R reports, before it knows the loss's gradient.

    Attributes:
        slope: [I, M, R·n] ∂s/∂(t · v), by way of t · c and of the attention.
        heat: [I, M, R·n] the attention over regions.
        pull: [I, R·n] 2 ∂s/∂|c|².
        shrink: [I, R·n] ∂s/∂t by way of |t|, as a multiple of t.
        context: [I, R·n, D] c, or None in Gram form.
    """

    slope: Tensor
    heat: Tensor
    pull: Tensor
    shrink: Tensor
    context: Tensor | None


class TiledSimilarity(torch.autograd.Function):
    """`word_region_similarity` of regions [Bi, D, M], words [Bj, N, D] (zero where masked), mask, (τ1, τ2), chunk."""

    @staticmethod
    def forward(
        ctx: Any,
        grid: Tensor,
        words: Tensor,
        word_mask: Tensor,
        taus: tuple[float, float],
        chunk: int | None,
        keep_gradient: bool,
    ) -> Tensor:
        """Similarities [Bi, Bj]; keeps tiles for the backward pass when asked and when there are no chunks."""
        similarity = words.new_zeros(len(grid), len(words))
        keep = keep_gradient and chunk is None
        with layers.without_autocast(grid):
            groups = _groups(words, word_mask, grid.shape[2], chunk)
            scratch = _scratch(grid, words, groups)
            tiles: list[_Tile] = []
            for images in _blocks(grid, groups):
                block, gram = _regions(grid[images], words.dtype)
                for group in groups:
                    room = _room(scratch, block, group, fresh=keep)
                    attention = _attend(block, gram, group, taus[0], room)
                    similarity[images, group.index], tile = _similarity(block, group, attention, taus, keep=keep)
                    tiles.extend(tile)
        ctx.save_for_backward(grid, words, *(tensor for tile in tiles for tensor in tile))
        ctx.groups, ctx.taus = groups, taus
        return similarity

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients by regions and words, tile after tile."""
        grid, words, *kept = ctx.saved_tensors
        groups: list[_Group] = ctx.groups
        size = len(_Tile._fields)
        tiles = (_Tile(*kept[start : start + size]) for start in range(0, len(kept), size))
        d_grid, d_words = torch.empty_like(grid), torch.zeros_like(words)
        d_groups = [torch.zeros_like(group.words) for group in groups]
        scratch = _scratch(grid, words, groups)
        with layers.without_autocast(grid):
            for images in _blocks(grid, groups):
                block, gram = _regions(grid[images], words.dtype)
                d_block = torch.zeros_like(block)
                d_gram = None if gram is None else torch.zeros_like(gram)  # half the gradient
                for group, d_group in zip(groups, d_groups, strict=True):
                    room = _room(scratch, block, group, fresh=False)
                    tile = next(tiles, None)
                    if tile is None:
                        attention = _attend(block, gram, group, ctx.taus[0], room)
                        (tile,) = _similarity(block, group, attention, ctx.taus, keep=True)[1]
                    _pull_back(tile, grad[images, group.index], block, group, room, (d_block, d_group, d_gram))
                if d_gram is not None:
                    d_block.baddbmm_(d_gram, block)
                d_grid[images] = d_block.transpose(1, 2)
        for group, d_group in zip(groups, d_groups, strict=True):
            d_words[group.index, : group.inverse.shape[1]] = d_group.view(*group.inverse.shape, -1)
        return d_grid, d_words, None, None, None, None


class _Attention(NamedTuple):
    """I images attended to by R reports, on the way to a similarity or its gradient.

    Attributes:
        score: [I, M, R·n] t · v.
        share: [I, M, R·n] softmax of that over the words of a report.
        heat: [I, M, R·n] softmax of τ1 · share over regions.
        reach: [I, M, R·n] in Gram form VVᵀ heat; to be overwritten otherwise.
        context: [I, R·n, D] c = heatᵀ V, or None in Gram form.
        dot: [I, R·n] t · c.
        square: [I, R·n] |c|².
    """

    score: Tensor
    share: Tensor
    heat: Tensor
    reach: Tensor
    context: Tensor | None
    dot: Tensor
    square: Tensor


def _attend(block: Tensor, gram: Tensor | None, group: _Group, tau: float, room: Room) -> _Attention:
    """Let the reports of a group attend to I images.

    Args:
        block: [I, M, D] regions V.
        gram: [I, M, M] their Gram matrices, or None to go through contexts.
        group: The reports.
        tau: τ1.
        room: Four tensors [I, M, R·n] to work in.
    """
    share, heat, reach, spare = room
    shape = (*block.shape[:2], *group.inverse.shape)  # [I, M, R, n]
    score = product(block.flatten(0, 1), group.words).view(share.shape)
    if group.mask is not None:
        score.view(shape).masked_fill_(~group.mask, NEVER)
    torch.softmax(score.view(shape), dim=3, out=share.view(shape))
    torch.softmax(torch.mul(share, tau, out=spare), dim=1, out=heat)
    dot = torch.mul(heat, score, out=spare).sum(1)
    if gram is None:
        context = products(heat.transpose(1, 2), block.transpose(1, 2))
        return _Attention(score, share, heat, reach, context, dot, context.square().sum(2))
    reach = products(gram, heat.transpose(1, 2))
    return _Attention(score, share, heat, reach, None, dot, torch.mul(heat, reach, out=spare).sum(1))


def _similarity(
    block: Tensor, group: _Group, attention: _Attention, taus: tuple[float, float], *, keep: bool
) -> tuple[Tensor, tuple[_Tile, ...]]:
    """The similarities [I, R] that an attention comes to and, to `keep`, what the backward pass needs."""
    score, share, heat, reach, context, dot, square = attention
    shape = (*block.shape[:2], *group.inverse.shape)  # [I, M, R, n]
    usable = square > EPS**2
    square = torch.where(usable, square, 1.0)
    inverse = torch.where(usable, square.rsqrt() * group.inverse.view(-1), 0.0)  # [I, R·n] 1 / |t||c|
    cosine = dot * inverse
    similarity, weight = _aggregate(cosine.view(len(block), *shape[2:]), group.mask, taus[1])
    if not keep:
        return similarity, ()
    if context is not None:
        reach = products(block, context)  # VVᵀ heat
    d_cosine = weight.view_as(cosine)
    d_dot, d_length = d_cosine * inverse, -d_cosine * cosine
    pull = d_length / square
    # The mean that the softmax over regions would subtract is 0: a cosine does not change with its context's length.
    slope = reach.mul_((taus[0] * pull)[:, None]).addcmul_(score, (taus[0] * d_dot)[:, None]).mul_(heat)
    by_word = slope.mul_(share).view(shape)  # slope was by share; now by t · v, less the mean over words
    by_word.addcmul_(share.view(shape), by_word.sum(3, keepdim=True), value=-1.0)
    slope.addcmul_(heat, d_dot[:, None])
    return similarity, (_Tile(slope, heat, pull, d_length * group.inverse.view(-1).square(), context),)


def _aggregate(cosine: Tensor, mask: Tensor | None, tau: float) -> tuple[Tensor, Tensor]:
    """Sum over words, log Σ_n exp(τ cos_n) over real words, [I, R], and its gradient by cos_n, [I, R, n]."""
    scaled = tau * cosine
    if mask is None:
        similarity = torch.logsumexp(scaled, dim=2)
        return similarity, tau * torch.exp(scaled - similarity[:, :, None])
    similarity = torch.logsumexp(scaled.masked_fill(~mask, NEVER), dim=2)
    weight = torch.where(mask, tau * torch.exp(scaled - similarity[:, :, None]), 0.0)
    return torch.where(mask.any(1), similarity, 0.0), weight


def _pull_back(
    tile: _Tile,
    grad: Tensor,
    block: Tensor,
    group: _Group,
    room: Room,
    into: tuple[Tensor, Tensor, Tensor | None],
) -> None:
    """Add one tile's gradients.

    Args:
        tile: Of I images and R reports.
        grad: [I, R] the loss's gradient by each pair's similarity.
        block: [I, M, D] regions.
        group: The reports.
        room: Tensors [I, M, R·n], the first and the last free to work in.
        into: The gradients of `block`, of the group's words, and half that of the Gram matrices (None in context
            form).
    """
    d_block, d_words, d_gram = into
    weight = grad[:, :, None].expand(*grad.shape, group.inverse.shape[1]).reshape(len(grad), -1)  # [I, R·n]
    slope = torch.mul(tile.slope, weight[:, None], out=room[0]).flatten(0, 1)  # [I·M, R·n]
    d_words.add_(product(slope.T, block.flatten(0, 1).T))
    d_words.addcmul_(group.words, (tile.shrink * weight).sum(0)[:, None])
    d_block.flatten(0, 1).add_(product(slope, group.words.T))
    pull = tile.pull * weight
    if tile.context is not None:
        d_block.add_(products(tile.heat, (tile.context * pull[:, :, None]).transpose(1, 2)))
    elif d_gram is not None:
        d_gram.add_(products(torch.mul(tile.heat, pull[:, None], out=room[3]), tile.heat))


def _regions(grid: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """A few images' regions [I, D, M] as rows V [I, M, D], and VVᵀ [I, M, M] or None."""
    block = grid.transpose(1, 2).to(dtype).contiguous()
    return block, _gram(block)


def _gram(block: Tensor) -> Tensor | None:
    """VVᵀ of each image [I, M, M] where working with it is less than with contexts, else None."""
    regions, width = block.shape[1:]
    return torch.bmm(block, block.transpose(1, 2)) if 2 * regions <= 3 * width else None


def _blocks(grid: Tensor, groups: list[_Group]) -> Iterator[slice]:
    """Images worked on together: as many as make a tile with the largest group."""
    most = max((group.inverse.numel() for group in groups), default=0) * grid.shape[2]
    step = max(1, _tile(grid) // max(most, 1))
    return (slice(start, min(start + step, len(grid))) for start in range(0, len(grid), step))


def _tile(value: Tensor) -> int:
    return TILE if value.device.type == "cpu" else WIDE_TILE


def _scratch(grid: Tensor, words: Tensor, groups: list[_Group]) -> Tensor:
    """Room for the largest tile four times over: allocated once, it stays in cache."""
    images = max((block.stop - block.start for block in _blocks(grid, groups)), default=0)
    most = max((group.inverse.numel() for group in groups), default=0)
    return words.new_empty(4, images * most * grid.shape[2])


def _room(scratch: Tensor, block: Tensor, group: _Group, *, fresh: bool) -> Room:
    """Four [I, M, R·n] for one tile; those that a kept tile is made of, the second and third, `fresh` if wanted."""
    shape = (*block.shape[:2], group.inverse.numel())
    size = shape[0] * shape[1] * shape[2]
    share, heat, reach, spare = (part[:size].view(shape) for part in scratch)
    if fresh:
        heat, reach = torch.empty_like(heat), torch.empty_like(reach)
    return share, heat, reach, spare


def _groups(words: Tensor, word_mask: Tensor, regions: int, chunk: int | None) -> list[_Group]:
    """Reports of like length together, so that little padding is worked on.

    On an accelerator lengths are not looked at (that would wait for the device): groups are in batch order.
    """
    total, most = word_mask.shape
    limit = total if chunk is None else min(chunk, total)
    inverse = words.norm(dim=2)
    inverse = torch.where(inverse > EPS, 1.0 / inverse, 0.0)  # [B, N]
    if not layers.readable(words):
        step = min(limit, max(1, _tile(words) // max(most * regions, 1)))
        runs = [slice(start, start + step) for start in range(0, total, max(step, 1))] if most else []
        return [_Group(run, words[run].flatten(0, 1), inverse[run], word_mask[run]) for run in runs]
    lengths: list[int] = (word_mask * torch.arange(1, most + 1)).amax(1).tolist() if most else [0] * total
    parts: list[list[int]] = []
    for place in sorted((j for j in range(total) if lengths[j]), key=lengths.__getitem__):
        room = min(limit, max(1, _tile(words) // (lengths[place] * regions)))
        if not parts or len(parts[-1]) >= room or lengths[place] > 1.25 * lengths[parts[-1][0]] + 1:
            parts.append([])
        parts[-1].append(place)
    groups = []
    for part in parts:
        index, count = torch.tensor(part), lengths[part[-1]]
        mask = word_mask[index, :count]
        packed = words[index, :count].flatten(0, 1)
        groups.append(_Group(index, packed, inverse[index, :count], None if bool(mask.all()) else mask))
    return groups
