"""The same as `references.py`, for figures that belong to one task: heatmaps, gates, routing, means over cells."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from references import Family, changed, draws_of, some
from scipy import ndimage, special, stats
from sklearn import metrics as sk
from sklearn.covariance import LedoitWolf
from sklearn.neighbors import NearestNeighbors

from medmoe.tasks.heatmaps import SIDE

MARGIN = 0.05


def mapped(rng: np.random.Generator) -> list[tuple[Any, ...]]:
    """Give four heatmaps, one of them with ties, and two boxes each."""
    maps = rng.normal(size=(4, SIDE, SIDE))
    maps[0] = maps[0].round()
    corners = np.sort(rng.uniform(0, 1, (4, 2, 2, 2)), axis=2).reshape(4, 2, 4)  # x0, y0, x1, y1
    corners[:, :, 2:] = np.maximum(corners[:, :, 2:], corners[:, :, :2] + 0.1)
    return [(maps, corners)]


HEATMAPS = Family(
    "Heatmaps over boxes",
    mapped,
    {
        "flat heatmap": changed(mapped, lambda rng, m, b: (0 * m + 0.3, b)),
        "NaN in the heatmap": changed(mapped, lambda rng, m, b: (np.where(rng.random(m.shape) < 0.1, np.nan, m), b)),
        "no point in a box": changed(mapped, lambda rng, m, b: (m, b[:, :1] * 0 - 1.0)),
        "every point in a box": changed(mapped, lambda rng, m, b: (m, np.tile([0.0, 0.0, 1.0, 1.0], (4, 1, 1)))),
    },
)


def centres() -> np.ndarray:
    """Give the points' coordinates along a side."""
    return (np.arange(SIDE) + 0.5) / SIDE


def marked(boxes: np.ndarray) -> np.ndarray:
    """Mark the points in any of an item's boxes."""
    at, found = centres(), np.zeros((len(boxes), SIDE, SIDE), dtype=bool)
    for item, own in enumerate(boxes):
        for x0, y0, x1, y1 in own:
            found[item] |= ((at >= x0) & (at <= x1))[None, :] & ((at >= y0) & (at <= y1))[:, None]
    return found


def each_map(figure: Any) -> Any:
    """Apply a figure of one heatmap [SIDE, SIDE] and its mask to each."""
    return lambda maps, boxes: np.array([figure(one, own) for one, own in zip(maps, marked(boxes), strict=True)])


def slow_contrast(heat: np.ndarray, own: np.ndarray) -> float:
    """Subtract means, in standard deviations of the whole map."""
    return (heat[own].mean() - heat[~own].mean()) / heat.std()


def slow_cnr(heat: np.ndarray, own: np.ndarray) -> float:
    """Subtract means, over the root of both variances."""
    return (heat[own].mean() - heat[~own].mean()) / math.sqrt(heat[own].var() + heat[~own].var())


def sk_mask_auroc(heat: np.ndarray, own: np.ndarray) -> float:
    """Take the points as items, those in a box positive."""
    return sk.roc_auc_score(own.ravel(), heat.ravel())


def sk_iou(heat: np.ndarray, own: np.ndarray) -> float:
    """Mark the points above six tenths of the map's span."""
    above = heat >= heat.min() + 0.6 * np.ptp(heat)
    return sk.jaccard_score(own.ravel(), above.ravel(), zero_division=0)


def slow_pointing(maps: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Tell whether the middle of the hottest points lies in a box, or within the margin of one."""
    at, hits = centres(), []
    for heat, own in zip(maps, boxes, strict=True):
        rows, columns = np.nonzero(heat == heat.max())
        x, y = at[columns].mean(), at[rows].mean()
        hits.append(any(x0 - MARGIN <= x <= x1 + MARGIN and y0 - MARGIN <= y <= y1 + MARGIN for x0, y0, x1, y1 in own))
    return np.array(hits, dtype=float)


def slow_on_masks(maps: Any, boxes: Any) -> Any:
    """Look the highest point of each map up in its boxes' mask, dilated by a square."""
    reach, hits = int(MARGIN * SIDE), []
    square = np.ones((2 * reach + 1, 2 * reach + 1), dtype=bool)
    for own, mask in zip(maps, marked(boxes), strict=True):
        if not np.isfinite(own).all() or np.ptp(own) == 0:
            hits.append(False)
            continue
        rows, columns = np.nonzero(own == own.max())
        row, column = int(rows.mean() + 0.5), int(columns.mean() + 0.5)
        hits.append(bool(ndimage.binary_dilation(mask, square)[row, column]))
    return np.array(hits, dtype=float)


# Gates.


def gated(rng: np.random.Generator) -> list[tuple[Any, ...]]:
    """Give router scores [n, K] and embeddings of images to judge, and embeddings and groups of known ones."""
    return [(rng.normal(size=(12, 4)), rng.normal(size=(12, 3)), rng.normal(size=(30, 3)), np.arange(30) % 3)]


GATES = Family(
    "Gates",
    gated,
    {
        "all tied": changed(gated, lambda rng, r, e, f, g: (0 * r, 0 * e + 1, f, g)),
        "NaN": changed(gated, lambda rng, r, e, f, g: (some(rng, r), some(rng, e), f, g)),
    },
)


def undefined_rows(figure: Any) -> Any:
    """Apply a figure to the rows that are defined, and give NaN for the others."""

    def each(rows: np.ndarray, *rest: Any) -> np.ndarray:
        fine = ~np.isnan(rows).any(axis=1)
        found = np.full(len(rows), np.nan)
        found[fine] = figure(rows[fine], *rest)
        return found

    return each


@undefined_rows
def sk_neighbour(embed: np.ndarray, fit: np.ndarray) -> np.ndarray:
    """Give the cosine of the third nearest with scikit-learn."""
    return 1 - NearestNeighbors(n_neighbors=3, metric="cosine").fit(fit).kneighbors(embed)[0][:, -1]


@undefined_rows
def sk_mahalanobis(embed: np.ndarray, fit: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Give minus the least squared distance to a group's mean under scikit-learn's shrunk covariance."""
    means = np.stack([fit[groups == group].mean(axis=0) for group in range(3)])
    model = LedoitWolf(assume_centered=True).fit(fit - means[groups])
    return -np.min([model.mahalanobis(embed - mean) for mean in means], axis=0)


@undefined_rows
def slow_gate(values: np.ndarray) -> np.ndarray:
    """Let through what the router is surest of: scipy's largest probability."""
    return special.softmax(values, axis=1).max(axis=1)


@undefined_rows
def slow_energy(values: np.ndarray) -> np.ndarray:
    """Give scipy's logsumexp."""
    return special.logsumexp(values, axis=1)


def slow_coverage(values: np.ndarray, rate: float = 0.7) -> float:
    """Try every value as a threshold, from the highest; give the share let through by the first that lets in enough."""
    for threshold in sorted(set(values[~np.isnan(values)]), reverse=True):
        share = float(np.mean([value >= threshold for value in values]))
        if share >= rate:
            return share
    return float(np.mean(~np.isnan(values)))


# Routing.


def routed(rng: np.random.Generator) -> list[tuple[Any, ...]]:
    """Give the true modality of images and a router's scores [n, K]."""
    return [(rng.integers(0, 4, 30), rng.normal(size=(30, 4)))]


ROUTED = Family(
    "Routing",
    routed,
    {
        "one expert takes all": changed(routed, lambda rng, t, r: (t, r + 9.0 * np.eye(4)[0])),
        "all tied": changed(routed, lambda rng, t, r: (t, 0 * r)),
        "NaN scores": changed(routed, lambda rng, t, r: (t, some(rng, r))),
    },
)


def slow_load(true: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Give the share of the decided images that each expert got: [K]."""
    chosen = [row.argmax() for row in scores if (row == row.max()).sum() == 1]
    return np.array([sum(own == expert for own in chosen) / len(chosen) for expert in range(4)])


def slow_load_entropy(true: np.ndarray, scores: np.ndarray) -> float:
    """Give scipy's entropy of the load."""
    return float(stats.entropy(slow_load(true, scores)))


def slow_entropy(true: np.ndarray, scores: np.ndarray) -> float:
    """Give the mean of scipy's entropy of each image's probabilities, those without a NaN."""
    return float(np.mean([stats.entropy(special.softmax(row)) for row in scores if not np.isnan(row).any()]))


def tensors(*arrays: np.ndarray) -> list[torch.Tensor]:
    """Give arrays as tensors."""
    return [torch.from_numpy(np.asarray(array)) for array in arrays]


# Means over cells.


def celled(rng: np.random.Generator) -> list[tuple[Any, ...]]:
    """Give values of 24 items in cells within cells, and weights."""
    cells = tuple(f"{'ab'[i % 2]}|{'xyz'[i % 3]}" for i in range(24))
    return [(rng.random(24), cells, draws_of(rng, 24) + 1)]


CELLS = Family(
    "Means over classes and modalities",
    celled,
    {
        "one cell": changed(celled, lambda rng, v, c, w: (v, ("a|x",) * 24, w)),
        "a cell without weight": changed(celled, lambda rng, v, c, w: (v, c, w * [own != "b|y" for own in c])),
        "NaN value": changed(celled, lambda rng, v, c, w: (np.r_[np.nan, v[1:]], c, w)),
        "no weight": changed(celled, lambda rng, v, c, w: (v, c, 0 * w)),
    },
)


def slow_fold(values: np.ndarray, cells: tuple[str, ...], weights: np.ndarray) -> np.ndarray:
    """Average items within cells, inner cells within outer ones, then these, leaving out what nothing was drawn of."""
    found = []
    for row in weights:
        outer = []
        for name in dict.fromkeys(cell[0] for cell in cells):
            inner = []
            for cell in dict.fromkeys(cell for cell in cells if cell[0] == name):
                own = np.array([other == cell for other in cells]) & (row > 0)
                if own.any():
                    inner.append(np.average(values[own], weights=row[own]))
            if inner:
                outer.append(np.mean(inner))
        found.append(np.mean(outer))
    return np.array(found)
