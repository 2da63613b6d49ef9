"""Intervals from resampling whole patients: percentile and BCa, for any statistic of weighted items."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medmoe.metrics.arrays import BLOCK, Floats, Ints

_NORMAL = NormalDist()


class Resampler:
    """Draws of whole patients with replacement (cluster bootstrap), reused for every figure of the same items.

    Args:
        patients: [n] patient of each item; an item without one (None) is a cluster of its own.
        resamples: R, how many draws.
        seed: An integer, or several (for independent streams of one seed).

    Attributes:
        codes: [n] cluster of each item, from 0.
        counts: [R, clusters] how often each resample drew each cluster.

    Raises:
        ValueError: If there is no item.
    """

    def __init__(
        self, patients: Sequence[Hashable | None], *, resamples: int = 1000, seed: int | Sequence[int] = 0
    ) -> None:
        if not len(patients):
            raise ValueError("nothing to resample: no item")
        self.codes = cluster_codes(patients)
        clusters = int(self.codes.max()) + 1
        self.counts = _cluster_counts(clusters, resamples, np.random.default_rng(seed))  # [R, clusters]

    @property
    def clusters(self) -> int:
        """How many patients there are, each item without one counting as a patient."""
        return int(self.counts.shape[1])

    def means(self, values: Floats) -> Floats:
        """Give the mean of [n] or [n, V] values in each resample: [R] or [R, V]."""
        columns = values.reshape(len(values), -1)
        sums = np.zeros((self.clusters, columns.shape[1] + 1))
        np.add.at(sums, self.codes, np.column_stack([columns, np.ones(len(columns))]))
        totals = self.counts.astype(np.float64) @ sums
        result: Floats = (totals[:, :-1] / totals[:, -1:]).reshape(len(totals), *values.shape[1:])
        return result

    def draws(self, statistic: Callable[[Floats], Floats]) -> Floats:
        """Give any statistic in each resample.

        Args:
            statistic: Maps weights [r, n] (how often each resample drew each item) to [r] or [r, V] values.

        Returns:
            [R] or [R, V].
        """
        rows = max(1, BLOCK // len(self.codes))
        blocks = [self.counts[start : start + rows] for start in range(0, len(self.counts), rows)]
        return np.concatenate([statistic(block[:, self.codes].astype(np.float64)) for block in blocks])

    def jackknife(self, statistic: Callable[[Floats], Floats], *, most: int = 1000) -> Floats:
        """Give a statistic with each patient left out in turn.

        Args:
            statistic: As for `draws`.
            most: With more patients than this, they are dealt at random into so many groups of equal size, left out
                one by one: the acceleration of BCa stays what it is, up to a noise of order 1 / `most`.

        Returns:
            [G] or [G, V], G the smaller of `most` and the number of patients.
        """
        groups = self._groups(most)
        own = groups[self.codes]  # [n]
        count = int(groups.max()) + 1
        rows = max(1, BLOCK // len(own))
        return np.concatenate(
            [
                statistic((own != np.arange(start, min(start + rows, count))[:, None]).astype(np.float64))
                for start in range(0, count, rows)
            ]
        )

    def jackknife_means(self, values: Floats, *, most: int = 1000) -> Floats:
        """Give `jackknife` of the mean of [n] values, without a pass over all items for each patient; [G].

        NaN where nothing is left.
        """
        own = self._groups(most)[self.codes]
        sums, sizes = np.bincount(own, weights=values), np.bincount(own)
        left = len(values) - sizes
        return np.where(left > 0, (values.sum() - sums) / np.maximum(left, 1), np.nan)

    def _groups(self, most: int) -> Ints:
        """Give the group that each cluster is left out with: [clusters]."""
        if self.clusters <= most:
            return np.arange(self.clusters)
        return np.random.default_rng(0).permutation(self.clusters) % most


def cluster_codes(patients: Sequence[Hashable | None]) -> Ints:
    """Number the patients of items from 0, in order of appearance: [n]; each None is a cluster of its own."""
    known: dict[Hashable, int] = {}
    keys = [("item", i) if patient is None else ("patient", patient) for i, patient in enumerate(patients)]
    return np.array([known.setdefault(key, len(known)) for key in keys], dtype=np.int64)


def _cluster_counts(clusters: int, resamples: int, rng: np.random.Generator) -> NDArray[np.uint32]:
    counts = np.empty((resamples, clusters), dtype=np.uint32)
    rows = max(1, BLOCK // clusters)
    for start in range(0, resamples, rows):
        block = counts[start : start + rows]
        drawn = rng.integers(clusters, size=block.shape) + clusters * np.arange(len(block))[:, None]
        block[:] = np.bincount(drawn.ravel(), minlength=block.size).reshape(block.shape)
    return counts


def interval(draws: Floats, *, level: float = 0.95) -> tuple[float, float]:
    """Give the percentile interval of a statistic's draws, leaving out undefined ones; NaN when all are."""
    return _between(draws, (1 - level) / 2, (1 + level) / 2)


def bca_interval(draws: Floats, value: float, jackknife: Floats, *, level: float = 0.95) -> tuple[float, float]:
    """Give the bias-corrected and accelerated interval (Efron, 1987), leaving out undefined draws.

    The percentiles are moved by how far the draws' median is from the value and by how the statistic's spread
    changes with it. Where all draws lie on one side of the value, half a draw is taken to lie on the other; where
    leaving out a patient changes nothing, nothing is accelerated.

    Args:
        draws: [R] of `Resampler.draws` or `means`.
        value: The statistic of the items themselves.
        jackknife: [G] of `Resampler.jackknife` or `jackknife_means`, of the same statistic.
        level: Coverage, in (0, 1).

    Returns:
        Lower and upper end; NaN when the value or all draws are undefined.
    """
    defined = draws[~np.isnan(draws)]
    if not len(defined) or np.isnan(value):
        return float("nan"), float("nan")
    below = (np.count_nonzero(defined < value) + np.count_nonzero(defined <= value)) / (2 * len(defined))
    bias = _NORMAL.inv_cdf(min(max(below, 0.5 / len(defined)), 1 - 0.5 / len(defined)))
    acceleration = _acceleration(jackknife)
    shares = []
    for nominal in (_NORMAL.inv_cdf((1 - level) / 2), _NORMAL.inv_cdf((1 + level) / 2)):
        slowed = 1 - acceleration * (bias + nominal)
        if slowed <= 0:  # beyond where the correction holds
            return interval(defined, level=level)
        shares.append(_NORMAL.cdf(bias + (bias + nominal) / slowed))
    return _between(defined, *shares)


def _acceleration(jackknife: Floats) -> float:
    """Give a sixth of the skewness of the influences of the patients, over the root of their number."""
    defined = jackknife[~np.isnan(jackknife)]
    if not len(defined):
        return 0.0
    influence = defined.mean() - defined
    spread = float(np.sum(influence**2))
    if not spread > (1e-12 * float(np.abs(defined).max())) ** 2:  # rounding only
        return 0.0
    return float(np.sum(influence**3) / (6 * spread**1.5))


def _between(draws: Floats, low: float, high: float) -> tuple[float, float]:
    defined = draws[~np.isnan(draws)]
    if not len(defined):
        return float("nan"), float("nan")
    ends = np.quantile(defined, [low, high])
    return float(ends[0]), float(ends[1])


def bootstrap(
    values: ArrayLike,
    patients: Sequence[Hashable | None],
    *,
    statistic: Callable[[Floats, Floats], Floats] | None = None,
    resamples: int = 1000,
    seed: int | Sequence[int] = 0,
    level: float = 0.95,
    bca: bool = False,
) -> tuple[float, float]:
    """Give the interval of a statistic, resampling whole patients (Efron and Tibshirani, 1993).

    Args:
        values: [n] value of each item.
        patients: [n] patient of each item; None makes an item its own cluster.
        statistic: Maps values [n] and weights [r, n] to [r]; None is the mean.
        resamples: How many resamples.
        seed: Seed of the draws.
        level: Coverage, in (0, 1).
        bca: Whether the percentiles are corrected for bias and acceleration.

    Returns:
        Lower and upper end: undefined where a value is, and without width for a single patient.

    >>> bootstrap([1.0, 1.0, 1.0], ["a", "a", "b"])
    (1.0, 1.0)
    """
    array = np.asarray(values, dtype=np.float64)
    resampler = Resampler(patients, resamples=resamples, seed=seed)
    if statistic is None:
        draws = resampler.means(array)
        return (
            bca_interval(draws, float(array.mean()), resampler.jackknife_means(array), level=level)
            if bca
            else interval(draws, level=level)
        )
    chosen = statistic

    def weighted(weights: Floats) -> Floats:
        return chosen(array, weights)

    draws = resampler.draws(weighted)
    if not bca:
        return interval(draws, level=level)
    value = float(weighted(np.ones((1, len(array))))[0])
    return bca_interval(draws, value, resampler.jackknife(weighted), level=level)
