"""The similarity of every word with every region of every pair of image and report, in little memory.

It goes through the pairs in tiles small enough to stay in cache and takes the gradient of each pair's similarity
while its tile is there. The backward pass is then matrix products only, on two tensors kept for each tile, or on
the tile worked out a second time, where memory is to stay bounded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from medmoe.objectives.contrastive import NEVER

EPS = 1e-8  # below this length a word or context has no direction: its cosine is 0 and passes no gradient
TILE = 1 << 18  # numbers of one tile on CPU: 1 MiB in float32, about a core's second-level cache

Room: TypeAlias = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


@dataclass(frozen=True, slots=True)
class _Group:
    """Reports worked on together: which they are, and their words without the padding they share.

    Attributes:
        index: [R] int64 places of the reports in the batch.
        words: [R·n, D] their words, zero where padded.
        inverse: [R, n] 1 / |t|, zero for a word without direction.
        mask: [R, n] bool, or None when there is no padding left.
        images: How many images make a tile.
    """

    index: Tensor
    words: Tensor
    inverse: Tensor
    mask: Tensor | None
    images: int


class _Tile(NamedTuple):
    """What the backward pass needs of I images against R reports, before it knows the loss's gradient.

    Attributes:
        slope: [I, R·n, M] ∂s/∂(t · v), by way of t · c and of the attention.
        heat: [I, R·n, M] the attention over regions.
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
        similarity = grid.new_zeros(len(grid), len(words))
        keep = keep_gradient and chunk is None
        with torch.autocast(grid.device.type, enabled=False):
            gram = _gram(grid)
            groups = _groups(words, word_mask, grid.shape[2], chunk)
            scratch = _scratch(grid, groups)
            tiles: list[_Tile] = []
            for group in groups:
                for rows in _rows(len(grid), group.images):
                    room = _room(scratch, len(grid[rows]), group, grid.shape[2], fresh=keep)
                    attention = _attend(grid[rows], _at(gram, rows), group, taus[0], room)
                    similarity[rows, group.index], tile = _similarity(grid[rows], group, attention, taus, keep=keep)
                    tiles.extend(tile)
        ctx.save_for_backward(grid, words, gram, *(tensor for tile in tiles for tensor in tile))
        ctx.groups, ctx.taus = groups, taus
        return similarity

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients by regions and words, tile after tile."""
        grid, words, gram, *kept = ctx.saved_tensors
        size = len(_Tile._fields)
        tiles = (_Tile(*kept[start : start + size]) for start in range(0, len(kept), size))
        d_grid, d_words = torch.zeros_like(grid), torch.zeros_like(words)
        d_gram = None if gram is None else torch.zeros_like(gram)  # half the gradient
        scratch = _scratch(grid, ctx.groups)
        with torch.autocast(grid.device.type, enabled=False):
            for group in ctx.groups:
                d_group = torch.zeros_like(group.words)
                for rows in _rows(len(grid), group.images):
                    room = _room(scratch, len(grid[rows]), group, grid.shape[2], fresh=False)
                    tile = next(tiles, None)
                    if tile is None:
                        attention = _attend(grid[rows], _at(gram, rows), group, ctx.taus[0], room)
                        (tile,) = _similarity(grid[rows], group, attention, ctx.taus, keep=True)[1]
                    weight = grad[rows, group.index].repeat_interleave(group.inverse.shape[1], dim=1)  # [I, R·n]
                    _pull_back(
                        tile, weight, grid[rows], group.words, room[0], (d_grid[rows], d_group, _at(d_gram, rows))
                    )
                d_words[group.index, : group.inverse.shape[1]] = d_group.view(*group.inverse.shape, -1)
            if d_gram is not None:
                d_grid.baddbmm_(grid, d_gram)
        return d_grid, d_words, None, None, None, None


class _Attention(NamedTuple):
    """I images attended to by R reports, on the way to a similarity or its gradient.

    Attributes:
        score: [I, R·n, M] t · v.
        share: [I, R·n, M] softmax of that over the words of a report.
        heat: [I, R·n, M] softmax of τ1 · share over regions.
        reach: [I, R·n, M] in Gram form heat VᵀV; to be overwritten otherwise.
        context: [I, R·n, D] c = heat Vᵀ, or None in Gram form.
        product: [I, R·n] t · c.
        square: [I, R·n] |c|².
    """

    score: Tensor
    share: Tensor
    heat: Tensor
    reach: Tensor
    context: Tensor | None
    product: Tensor
    square: Tensor


def _attend(grid: Tensor, gram: Tensor | None, group: _Group, tau: float, room: Room) -> _Attention:
    """Let the reports of a group attend to I images.

    Args:
        grid: [I, D, M] regions.
        gram: [I, M, M] their Gram matrices, or None to go through contexts.
        group: The reports.
        tau: τ1.
        room: Five tensors [I, R·n, M] to work in.
    """
    score, share, heat, reach, spare = room
    shape = (len(grid), *group.inverse.shape, grid.shape[2])  # [I, R, n, M]
    torch.bmm(group.words.expand(len(grid), -1, -1), grid, out=score)
    if group.mask is not None:
        score.view(shape).masked_fill_(~group.mask[:, :, None], NEVER)
    torch.softmax(score.view(shape), dim=2, out=share.view(shape))
    torch.softmax(torch.mul(share, tau, out=spare), dim=2, out=heat)
    product = torch.mul(heat, score, out=spare).sum(2)
    if gram is None:
        context = torch.bmm(heat, grid.transpose(1, 2))
        return _Attention(score, share, heat, reach, context, product, context.square().sum(2))
    torch.bmm(heat, gram, out=reach)
    return _Attention(score, share, heat, reach, None, product, torch.mul(heat, reach, out=spare).sum(2))


def _similarity(
    grid: Tensor, group: _Group, attention: _Attention, taus: tuple[float, float], *, keep: bool
) -> tuple[Tensor, tuple[_Tile, ...]]:
    """The similarities [I, R] that an attention comes to and, to `keep`, what the backward pass needs."""
    score, share, heat, reach, context, product, square = attention
    shape = (len(grid), *group.inverse.shape, grid.shape[2])  # [I, R, n, M]
    usable = square > EPS**2
    square = torch.where(usable, square, 1.0)
    inverse = torch.where(usable, square.rsqrt() * group.inverse.view(-1), 0.0)  # [I, R·n] 1 / |t||c|
    cosine = product * inverse
    similarity, weight = _aggregate(cosine.view(shape[:3]), group.mask, taus[1])
    if not keep:
        return similarity, ()
    if context is not None:
        torch.bmm(context, grid, out=reach)  # heat VᵀV
    d_cosine = weight.view_as(cosine)
    d_product, d_length = d_cosine * inverse, -d_cosine * cosine
    pull = d_length / square
    # The mean that the softmax over regions would subtract is 0: a cosine does not change with its context's length.
    slope = reach.mul_((taus[0] * pull)[:, :, None]).addcmul_(score, (taus[0] * d_product)[:, :, None]).mul_(heat)
    by_word = slope.mul_(share).view(shape)  # slope was by share; now by t · v, less the mean over words
    by_word.addcmul_(share.view(shape), by_word.sum(2, keepdim=True), value=-1.0)
    slope.addcmul_(heat, d_product[:, :, None])
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
    weight: Tensor,
    grid: Tensor,
    words: Tensor,
    room: Tensor,
    into: tuple[Tensor, Tensor, Tensor | None],
) -> None:
    """Add one tile's gradients.

    Args:
        tile: Of I images and R reports.
        weight: [I, R·n] the loss's gradient by the similarity of each word's pair.
        grid: [I, D, M] regions.
        words: [R·n, D] words.
        room: [I, R·n, M] to work in.
        into: The gradients of `grid`, of `words`, and half that of the Gram matrices (None in context form).
    """
    d_grid, d_words, d_gram = into
    slope = torch.mul(tile.slope, weight[:, :, None], out=room)
    d_words.addbmm_(slope, grid.transpose(1, 2))
    d_words.addcmul_(words, (tile.shrink * weight).sum(0)[:, None])
    d_grid.baddbmm_(words.T.expand(len(grid), -1, -1), slope)
    pull = (tile.pull * weight)[:, :, None]
    if tile.context is not None:
        d_grid.baddbmm_((tile.context * pull).transpose(1, 2), tile.heat)
    elif d_gram is not None:
        d_gram.baddbmm_(torch.mul(tile.heat, pull, out=room).transpose(1, 2), tile.heat)


def _scratch(grid: Tensor, groups: list[_Group]) -> Tensor:
    """Room for the largest tile five times over: allocated once, it stays in cache."""
    images, _, regions = grid.shape
    most = max((min(images, group.images) * group.inverse.numel() * regions for group in groups), default=0)
    return grid.new_empty(5, most)


def _room(scratch: Tensor, images: int, group: _Group, regions: int, *, fresh: bool) -> Room:
    """Five [I, R·n, M] for one tile; those that a kept tile is made of, the third and fourth, `fresh` if wanted."""
    shape = (images, group.inverse.numel(), regions)
    size = shape[0] * shape[1] * shape[2]
    score, share, heat, reach, spare = (part[:size].view(shape) for part in scratch)
    if fresh:
        heat, reach = torch.empty_like(heat), torch.empty_like(reach)
    return score, share, heat, reach, spare


def _gram(grid: Tensor) -> Tensor | None:
    """VᵀV of each image [Bi, M, M] where working with it is less than with contexts, else None."""
    width, regions = grid.shape[1:]
    return torch.bmm(grid.transpose(1, 2), grid) if 2 * regions <= 3 * width else None


def _groups(words: Tensor, word_mask: Tensor, regions: int, chunk: int | None) -> list[_Group]:
    """Reports of like length together, so that little padding is worked on.

    On an accelerator lengths are not looked at (that would wait for the device): chunks are in batch order.
    """
    total = len(word_mask)
    on_cpu = words.device.type == "cpu"
    limit = total if chunk is None else min(chunk, total)
    lengths = _lengths(word_mask)
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
        mask = word_mask[index, :count]
        padded = not on_cpu or not bool(mask.all())
        images = max(1, TILE // (len(part) * count * regions)) if on_cpu else 1 << 30
        packed = words[index, :count].flatten(0, 1)
        groups.append(_Group(index, packed, inverse[index, :count], mask if padded else None, images))
    return groups


def _lengths(word_mask: Tensor) -> list[int]:
    """How far each report's words go; on an accelerator, how far they may go."""
    total, most = word_mask.shape
    if not most or word_mask.device.type != "cpu":
        return [most] * total
    reach: list[int] = (word_mask * torch.arange(1, most + 1)).amax(1).tolist()
    return reach


def _rows(total: int, step: int) -> list[slice]:
    return [slice(start, min(start + step, total)) for start in range(0, total, step)]


def _at(value: Tensor | None, rows: slice) -> Tensor | None:
    return None if value is None else value[rows]
