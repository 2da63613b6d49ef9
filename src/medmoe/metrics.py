"""Figures that can be trusted: exact ranks and chances, and intervals bootstrapped over patients.

Everything is numpy; a tie or a NaN counts against the model, never for it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]

# Resample weights are expanded to items in blocks of at most this many numbers (16 MB).
_BLOCK = 2_000_000


@dataclass(frozen=True, slots=True)
class Metric:
    """A figure with what is needed to judge it.

    Attributes:
        value: The figure.
        low: Lower end of its interval.
        high: Upper end.
        n: Items (images, reports or findings) it was computed from.
        controls: The same figure by chance, for a constant answer, for shuffled pairs, by name.
    """

    value: float
    low: float
    high: float
    n: int
    controls: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Give plain data; what is undefined (NaN) or unbounded is None, which JSON can hold."""
        return {
            "value": _plain(self.value),
            "low": _plain(self.low),
            "high": _plain(self.high),
            "n": int(self.n),
            "controls": {name: _plain(value) for name, value in self.controls.items()},
        }


def _plain(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def best_rank(similarity: NDArray[Any], relevant: Bools) -> Floats:
    """Rank each query's best relevant candidate, ties and NaN against it.

    The rank is 1 + the number of irrelevant candidates at least as similar as the best relevant one. A query
    whose relevant candidates are all NaN, or that has none, gets C + 1.

    Args:
        similarity: [Q, C] higher is more similar.
        relevant: [Q, C] bool.

    Returns:
        [Q] ranks from 1 to C + 1.
    """
    undefined = np.isnan(similarity)
    values = np.where(undefined, -np.inf, similarity)
    best = np.max(values, axis=1, where=relevant, initial=-np.inf)
    rank = 1.0 + np.count_nonzero((values >= best[:, None]) & ~relevant, axis=1)
    found = np.any(relevant & ~undefined, axis=1)
    result: Floats = np.where(found, rank, similarity.shape[1] + 1.0)
    return result


def hits_at_k(similarity: NDArray[Any], relevant: Bools, k: int) -> Floats:
    """Tell for each query whether a relevant candidate is among its first k, ties and NaN against it.

    Args:
        similarity: [Q, C].
        relevant: [Q, C] bool.
        k: How many candidates count.

    Returns:
        [Q] 1.0 for a hit, 0.0 for a miss; its mean is recall@k.
    """
    return hits(best_rank(similarity, relevant), k, candidates=similarity.shape[1])


def hits(ranks: Floats, k: int, *, candidates: int) -> Floats:
    """Turn ranks from `best_rank` into hits at k: [Q] of 0.0 and 1.0."""
    return (ranks <= min(k, candidates)).astype(np.float64)


def chance_at_k(relevant: Bools, k: int) -> float:
    """Compute recall@k of a random order exactly: the mean over queries of 1 - C(C - r, k) / C(C, k).

    Args:
        relevant: [Q, C] bool; r of a query is its number of relevant candidates.
        k: How many candidates count.
    """
    return float(_chances(relevant, min(k, relevant.shape[1]))[-1])


def chance_median_rank(relevant: Bools) -> float:
    """Give the smallest rank that a random order's first relevant candidate reaches half of the time."""
    candidates = relevant.shape[1]
    reached = np.flatnonzero(_chances(relevant, candidates) >= 0.5)
    return float(reached[0] + 1) if len(reached) else candidates + 1.0


def _chances(relevant: Bools, k: int) -> Floats:
    """Give the chance of a hit at 1, 2, … k: [k]."""
    candidates = relevant.shape[1]
    counts, queries = np.unique(relevant.sum(axis=1), return_counts=True)
    drawn = np.arange(k)
    missing = np.clip(candidates - counts[:, None] - drawn, 0, None) / (candidates - drawn)
    misses = np.cumprod(missing, axis=1)  # [distinct r, k]
    result: Floats = queries @ (1.0 - misses) / queries.sum()
    return result


def decide(scores: NDArray[Any]) -> Ints:
    """Choose the class with the highest score; -1, which is never right, where NaN or a tie decides.

    Args:
        scores: [n, C].

    Returns:
        [n] indices in [0, C), or -1.
    """
    highest = scores.max(axis=1, keepdims=True)
    single = np.count_nonzero(scores == highest, axis=1) == 1
    return np.where(single & ~np.isnan(scores).any(axis=1), scores.argmax(axis=1), -1).astype(np.int64)


def balanced_accuracy(true: ArrayLike, predicted: ArrayLike, weights: Floats | None = None) -> Floats:
    """Average the recall over the classes that occur.

    Args:
        true: [n] class of each item.
        predicted: [n] predicted class.
        weights: [n] or [R, n] weight of each item (how often a resample drew it); a class of weight 0 doesn't occur.

    Returns:
        [] or [R]; NaN where nothing has weight.
    """
    classes, index = np.unique(np.asarray(true), return_inverse=True)
    member = np.eye(len(classes))[index]  # [n, C]
    right = np.asarray(true) == np.asarray(predicted)
    weights = np.ones(len(member)) if weights is None else weights
    total = weights @ member
    recall = _ratio(weights @ (member * right[:, None]), total)
    occurs = total > 0
    return _ratio(np.where(occurs, recall, 0.0).sum(axis=-1), occurs.sum(axis=-1))


def auroc(scores: ArrayLike, truth: ArrayLike, weights: Floats | None = None) -> Floats:
    """Compute the area under the ROC curve: how often a positive scores above a negative, a tie counting half.

    A NaN score of a positive counts as the lowest, of a negative as the highest.

    Args:
        scores: [n].
        truth: [n] bool.
        weights: [n] or [R, n] weight of each item.

    Returns:
        [] or [R]; NaN where positives or negatives are absent.
    """
    values, positive = np.asarray(scores, dtype=np.float64), np.asarray(truth, dtype=bool)
    values = np.where(np.isnan(values), np.where(positive, -np.inf, np.inf), values)
    weights = np.ones(len(values)) if weights is None else weights
    order = np.argsort(values, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(np.unique(values, return_inverse=True)[1][order]) > 0])
    ordered = weights[..., order]
    above = np.add.reduceat(ordered * positive[order], starts, axis=-1)  # [R, distinct scores]
    below = np.add.reduceat(ordered * ~positive[order], starts, axis=-1)
    won = above * (np.cumsum(below, axis=-1) - 0.5 * below)
    return _ratio(won.sum(axis=-1), above.sum(axis=-1) * below.sum(axis=-1))


def weighted_median(values: Floats, weights: Floats | None = None) -> Floats:
    """Compute the median of items that count several times, as if each were repeated `weights` times.

    Args:
        values: [n].
        weights: [n] or [R, n] whole, not negative.

    Returns:
        [] or [R].
    """
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    reached = np.cumsum((np.ones(len(values)) if weights is None else weights)[..., order], axis=-1)
    half = reached[..., -1:] / 2
    result: Floats = (ordered[(reached >= half).argmax(axis=-1)] + ordered[(reached > half).argmax(axis=-1)]) / 2
    return result


def _ratio(above: Floats, below: Floats) -> Floats:
    """Divide, giving NaN where the divisor is 0."""
    safe = np.where(below > 0, below, 1.0)
    return np.asarray(np.where(below > 0, above / safe, np.nan), dtype=np.float64)


class Resampler:
    """Draws of whole patients with replacement (cluster bootstrap), reused for every figure of the same items.

    Args:
        patients: [n] patient of each item; an item without one (None) is a cluster of its own.
        resamples: R, how many draws.
        seed: An integer, or several (for independent streams of one seed).

    Raises:
        ValueError: If there is no item.
    """

    def __init__(
        self, patients: Sequence[Hashable | None], *, resamples: int = 1000, seed: int | Sequence[int] = 0
    ) -> None:
        if not len(patients):
            raise ValueError("nothing to resample: no item")
        known: dict[Hashable, int] = {}
        keys = [("item", i) if patient is None else ("patient", patient) for i, patient in enumerate(patients)]
        self.codes: Ints = np.array([known.setdefault(key, len(known)) for key in keys], dtype=np.int64)
        self.counts = _cluster_counts(len(known), resamples, np.random.default_rng(seed))  # [R, clusters]

    def means(self, values: Floats) -> Floats:
        """Give the mean of [n] or [n, V] values in each resample: [R] or [R, V]."""
        columns = values.reshape(len(values), -1)
        sums = np.zeros((self.counts.shape[1], columns.shape[1] + 1))
        np.add.at(sums, self.codes, np.column_stack([columns, np.ones(len(columns))]))
        totals = self.counts.astype(np.float64) @ sums
        result: Floats = (totals[:, :-1] / totals[:, -1:]).reshape(len(totals), *values.shape[1:])
        return result

    def draws(self, statistic: Callable[[Floats], Floats]) -> Floats:
        """Give any statistic in each resample.

        Args:
            statistic: Maps weights [r, n] (how often each resample drew each item) to [r] values.

        Returns:
            [R].
        """
        rows = max(1, _BLOCK // len(self.codes))
        blocks = [self.counts[start : start + rows] for start in range(0, len(self.counts), rows)]
        return np.concatenate([statistic(block[:, self.codes].astype(np.float64)) for block in blocks])


def _cluster_counts(clusters: int, resamples: int, rng: np.random.Generator) -> NDArray[np.uint32]:
    counts = np.empty((resamples, clusters), dtype=np.uint32)
    rows = max(1, _BLOCK // clusters)
    for start in range(0, resamples, rows):
        block = counts[start : start + rows]
        drawn = rng.integers(clusters, size=block.shape) + clusters * np.arange(len(block))[:, None]
        block[:] = np.bincount(drawn.ravel(), minlength=block.size).reshape(block.shape)
    return counts


def interval(draws: Floats, *, level: float = 0.95) -> tuple[float, float]:
    """Give the percentile interval of a statistic's draws, leaving out undefined ones; NaN when all are."""
    defined = draws[~np.isnan(draws)]
    if not len(defined):
        return float("nan"), float("nan")
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def bootstrap(
    values: ArrayLike,
    patients: Sequence[Hashable | None],
    *,
    statistic: Callable[[Floats, Floats], Floats] | None = None,
    resamples: int = 1000,
    seed: int | Sequence[int] = 0,
    level: float = 0.95,
) -> tuple[float, float]:
    """Give the percentile interval of a statistic, resampling whole patients (Efron and Tibshirani, 1993).

    Args:
        values: [n] value of each item.
        patients: [n] patient of each item; None makes an item its own cluster.
        statistic: Maps values [n] and weights [r, n] to [r]; None is the mean.
        resamples: How many resamples.
        seed: Seed of the draws.
        level: Coverage, in (0, 1).

    Returns:
        Lower and upper end.

    >>> bootstrap([1.0, 1.0, 1.0], ["a", "a", "b"])
    (1.0, 1.0)
    """
    array = np.asarray(values, dtype=np.float64)
    resampler = Resampler(patients, resamples=resamples, seed=seed)
    if statistic is None:
        return interval(resampler.means(array), level=level)
    chosen = statistic
    return interval(resampler.draws(lambda weights: chosen(array, weights)), level=level)
