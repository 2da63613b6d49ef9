"""Heatmaps: how they are computed from regions and words, and how they are held against boxes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from medmoe.metrics import Bools, Floats
from medmoe.tasks.base import MASK_GRID

# Side of the grid that heatmaps are upsampled to and points are taken from.
SIDE = MASK_GRID
_CENTRES: Floats = (np.arange(SIDE) + 0.5) / SIDE


def dot_heatmaps(regions: Tensor, queries: Tensor) -> Tensor:
    """Give the raw dot product of each query [n, D] with each region of its image [n, D, G, G]: [n, G, G]."""
    return torch.einsum("nd,ndgh->ngh", queries, regions)


def attention_heatmaps(
    regions: Tensor, words: Tensor, word_mask: Tensor, chosen: Tensor, *, tau_attention: float = 4.0
) -> Tensor:
    """Give the attention of chosen words as the local loss computes it (Huang et al., 2021), summed.

    Args:
        regions: [n, D, G, G].
        words: [n, N, D] all words of each report.
        word_mask: [n, N] bool.
        chosen: [n, N] bool, the words asked for.
        tau_attention: Sharpness of the softmax over regions.

    Returns:
        [n, G, G]; each word's attention sums to 1.
    """
    grid = regions.flatten(2)  # [n, D, M]
    score = (words @ grid).masked_fill(~word_mask[:, :, None], float("-inf"))  # [n, N, M]
    heat = torch.softmax(tau_attention * torch.softmax(score, dim=1), dim=2)
    return (heat * chosen[:, :, None]).sum(dim=1).view(len(regions), *regions.shape[2:])


def late_heatmaps(regions: Tensor, words: Tensor, chosen: Tensor, *, tau_region: float = 30.0) -> Tensor:
    """Give how much each region counts in late interaction (Yao et al., 2022) of chosen words, summed.

    Args:
        regions: [n, D, G, G].
        words: [n, N, D] all words of each report.
        chosen: [n, N] bool, the words asked for.
        tau_region: How nearly a word looks at one region only.

    Returns:
        [n, G, G]; each word's shares sum to 1.
    """
    cosine = F.normalize(words, dim=2) @ F.normalize(regions.flatten(2), dim=1)  # [n, N, M]
    share = torch.softmax(tau_region * cosine, dim=2)
    return (share * chosen[:, :, None]).sum(dim=1).view(len(regions), *regions.shape[2:])


def upsample(heat: Tensor) -> Floats:
    """Upsample heatmaps [n, G, G] bilinearly: [n, SIDE, SIDE]."""
    wide = F.interpolate(heat[:, None].double(), size=(SIDE, SIDE), mode="bilinear", align_corners=False)
    result: Floats = wide[:, 0].numpy()
    return result


def peaks(maps: Floats, grid: int) -> Floats:
    """Give where each heatmap is highest; of several equal maxima, their mean place.

    Args:
        maps: [n, SIDE, SIDE], upsampled.
        grid: G before upsampling. Beyond the centre of a border cell a map is level, so a point there is the centre.

    Returns:
        [n, 2] x, y fractions; NaN for a flat or NaN map.
    """
    highest = maps.max(axis=(1, 2), keepdims=True)
    top = maps == highest
    count = np.maximum(top.sum(axis=(1, 2)), 1)
    x, y = (top.sum(axis=1) @ _CENTRES) / count, (top.sum(axis=2) @ _CENTRES) / count
    useless = ~_readable(maps)
    points = np.clip(np.stack([x, y], axis=1), 0.5 / grid, 1 - 0.5 / grid)
    return np.where(useless[:, None], np.nan, points)


def standardised(maps: Floats) -> Floats:
    """Bring each heatmap to mean 0 and standard deviation 1; a flat or NaN one to 0."""
    fine = _readable(maps)[:, None, None]
    safe = np.where(fine, maps, 0.0)
    spread = safe.std(axis=(1, 2), keepdims=True)
    result: Floats = (safe - safe.mean(axis=(1, 2), keepdims=True)) / np.where(fine & (spread > 0), spread, 1.0)
    return result


def _readable(maps: Floats) -> Bools:
    """Tell which heatmaps are finite and vary by more than float32's rounding: [n]."""
    finite = np.isfinite(maps).sum(axis=(1, 2)) == maps[0].size
    safe = np.where(finite[:, None, None], maps, 0.0)
    varies: Bools = np.ptp(safe, axis=(1, 2)) > 1e-6 * np.abs(safe).max(axis=(1, 2))
    return varies


def inside(boxes: Floats, margin: float) -> Bools:
    """Mark the points of the SIDE×SIDE grid that lie in a box [b, 4] dilated by `margin`."""
    x, y = _CENTRES[None, None, :], _CENTRES[None, :, None]
    x0, y0, x1, y1 = (boxes[:, side, None, None] for side in range(4))
    held = (x >= x0 - margin) & (x <= x1 + margin) & (y >= y0 - margin) & (y <= y1 + margin)
    marked: Bools = np.logical_or.reduce(held, axis=0)
    return marked


def target_of(boxes: Floats, wide: Bools) -> Bools:
    """Give the boxes' own area, or the dilated one where no grid point lies in them."""
    exact = inside(boxes, 0.0)
    return exact if exact.sum() else wide


def within(points: Floats, corners: Floats, margin: float) -> Floats:
    """Tell which points lie in a dilated box of their item; a NaN point or box holds nothing.

    Args:
        points: [..., n, 2] x, y.
        corners: [n, b, 4] boxes, padded with NaN.
        margin: Dilation.

    Returns:
        [..., n] of 0.0 and 1.0.
    """
    x, y = points[..., 0, None], points[..., 1, None]  # [..., n, 1]
    x0, y0, x1, y1 = (corners[..., side] for side in range(4))  # [n, b]
    held = (x >= x0 - margin) & (x <= x1 + margin) & (y >= y0 - margin) & (y <= y1 + margin)
    within: Floats = np.logical_or.reduce(held, axis=-1).astype(np.float64)
    return within


def corners_of(boxes: Sequence[Floats]) -> Floats:
    """Stack the boxes [b, 4] of n findings: [n, b, 4], padded with NaN to the most of one."""
    stacked = np.full((len(boxes), max(len(own) for own in boxes), 4), np.nan)
    for place, own in enumerate(boxes):
        stacked[place, : len(own)] = own
    return stacked


def dilated(mask: Bools, margin: float) -> Bools:
    """Dilate a mask [SIDE, SIDE] by `margin` to each side, as `inside` dilates boxes."""
    reach = int(margin * SIDE)
    if not reach or not mask.any():
        return mask
    field = torch.from_numpy(mask[None].astype(np.float32))
    wide: Bools = F.max_pool2d(field, 2 * reach + 1, stride=1, padding=reach)[0].numpy() > 0
    return wide


def marked_at(points: Floats, masks: Bools) -> Floats:
    """Tell which points [..., n, 2] (x, y fractions) lie on a marked cell of their item's mask [n, SIDE, SIDE].

    Returns:
        [..., n] of 0.0 and 1.0; a NaN point lies nowhere.
    """
    known: Bools = np.asarray(np.isfinite(points).all(axis=-1))
    cell = np.clip(np.where(known[..., None], points, 0.0) * SIDE, 0, SIDE - 1).astype(np.int64)
    held: Floats = (known & masks[np.arange(len(masks)), cell[..., 1], cell[..., 0]]).astype(np.float64)
    return held


def contrast(unit: Floats, target: Bools) -> Floats:
    """Subtract the mean outside from the mean inside, for standardised maps: [n]; 0 when either is empty."""
    within, area = np.einsum("nyx,nyx->n", unit, target), target.sum(axis=(1, 2))
    rest = target[0].size - area
    total = unit.sum(axis=(1, 2))
    usable = (area > 0) & (rest > 0)
    return np.where(usable, within / np.maximum(area, 1) - (total - within) / np.maximum(rest, 1), 0.0)


def contrast_to_noise(unit: Floats, target: Bools) -> Floats:
    """Divide the contrast by the root of the summed variances inside and outside: [n]; 0 when either side is empty.

    The ratio of Boecking et al., 2022 (https://arxiv.org/abs/2204.09817), with its sign: a heatmap that avoids the box
    is no success.
    """
    area = target.sum(axis=(1, 2))
    rest = target[0].size - area
    spread, means = np.zeros(len(unit)), []
    squares = unit * unit
    first, second = (np.einsum("nyx,nyx->n", field, target) for field in (unit, squares))
    others = unit.sum(axis=(1, 2)) - first, squares.sum(axis=(1, 2)) - second
    for total, power, size in ((first, second, area), (*others, rest)):
        means.append(total / np.maximum(size, 1))
        spread += np.maximum(power / np.maximum(size, 1) - means[-1] ** 2, 0)
    fine = (area > 0) & (rest > 0) & (spread > 1e-12)
    return np.where(fine, (means[0] - means[1]) / np.sqrt(np.where(fine, spread, 1)), 0.0)


def ranks(unit: Floats) -> Floats:
    """Rank the points of each standardised heatmap, of equal ones their mean rank: [n, SIDE, SIDE]."""
    from scipy.stats import rankdata  # takes long to import

    result: Floats = rankdata(unit.reshape(len(unit), -1), axis=1).reshape(unit.shape)
    return result


def mask_auroc(ranked: Floats, target: Bools) -> Floats:
    """Tell how often a point inside is hotter than one outside, from ranks: [n]; 0.5 when either side is empty."""
    area = target.sum(axis=(1, 2)).astype(np.float64)
    rest = target[0].size - area
    won = np.einsum("nyx,nyx->n", ranked, target) - area * (area + 1) / 2
    pairs = area * rest
    return np.where(pairs > 0, won / np.maximum(pairs, 1), 0.5)


def rescaled(maps: Floats) -> Floats:
    """Bring each heatmap to [0, 1] by its minimum and maximum; a flat or NaN one to 0."""
    fine = _readable(maps)[:, None, None]
    safe = np.where(fine, maps, 0.0)
    low = safe.min(axis=(1, 2), keepdims=True)
    span = safe.max(axis=(1, 2), keepdims=True) - low
    result: Floats = (safe - low) / np.where(span > 0, span, 1.0)
    return result


def overlap(marked: Bools, target: Bools) -> Floats:
    """Divide intersection by union: [n]; 0 when both are empty."""
    both = np.einsum("nyx,nyx->n", marked.astype(np.float32), target.astype(np.float32)).astype(np.float64)
    either = marked.sum(axis=(1, 2)) + target.sum(axis=(1, 2)) - both
    shared: Floats = both / np.maximum(either, 1)
    return shared
