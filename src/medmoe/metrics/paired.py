"""Is one model better than another on the same items?"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from medmoe.metrics.arrays import BLOCK, Bools, Floats, Ints, plain
from medmoe.metrics.resampling import Resampler, bca_interval, cluster_codes, interval

Key = TypeVar("Key", bound=Hashable)
_NORMAL = NormalDist()


@dataclass(frozen=True, slots=True)
class Difference:
    """A figure of the first model less that of the second, on the same items.

    Attributes:
        value: First less second.
        low: Lower end of its interval.
        high: Upper end.
        p: Two-sided p value of no difference.
        n: Items.
    """

    value: float
    low: float
    high: float
    p: float
    n: int

    def to_json(self) -> dict[str, Any]:
        """Give plain data; what is undefined is None."""
        return {
            "value": plain(self.value),
            "low": plain(self.low),
            "high": plain(self.high),
            "p": plain(self.p),
            "n": int(self.n),
        }


def paired_difference(
    first: Callable[[Floats], Floats],
    second: Callable[[Floats], Floats],
    resampler: Resampler,
    *,
    level: float = 0.95,
    bca: bool = False,
) -> Difference:
    """Compare a statistic of two models: both are computed in the same resamples of the same patients.

    Args:
        first: Maps weights [r, n] of the items to [r], for the first model.
        second: For the second.
        resampler: Of the items' patients.
        level: Coverage of the interval.
        bca: Whether the interval is corrected for bias and acceleration; the p value isn't.

    Returns:
        The difference; of a single patient without interval and p, since draws of one patient never vary.
    """

    def less(weights: Floats) -> Floats:
        return first(weights) - second(weights)

    value = float(less(np.ones((1, len(resampler.codes))))[0])
    if resampler.clusters < 2:
        return Difference(value, math.nan, math.nan, math.nan, len(resampler.codes))
    draws = resampler.draws(less)
    jackknife = resampler.jackknife(less) if bca else None
    return difference_of_draws(value, draws, len(resampler.codes), jackknife=jackknife, level=level)


def paired_means(
    first: ArrayLike, second: ArrayLike, resampler: Resampler, *, level: float = 0.95, bca: bool = False
) -> Difference:
    """Compare the means of two models' values of each item (hits, ranks, losses): `paired_difference`, but quicker.

    Args:
        first: [n] the first model's.
        second: [n] the second's.
        resampler: Of the items' patients.
        level: Coverage of the interval.
        bca: Whether the interval is corrected for bias and acceleration.

    Returns:
        The difference; undefined where an item's value is, and of a single patient without interval and p.
    """
    values = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    if resampler.clusters < 2:
        return Difference(float(values.mean()), math.nan, math.nan, math.nan, len(values))
    jackknife = resampler.jackknife_means(values) if bca else None
    return difference_of_draws(
        float(values.mean()), resampler.means(values), len(values), jackknife=jackknife, level=level
    )


def difference_of_draws(
    value: float, draws: Floats, n: int, *, jackknife: Floats | None = None, level: float = 0.95
) -> Difference:
    """Judge a difference by its draws, those of two figures subtracted, which must be of the same resamples.

    The p value is twice the smaller share of draws on either side of 0, 0 itself counting for both, and one draw is
    added to each side: with R draws it is never below 2 / (R + 1).

    Args:
        value: The difference.
        draws: [R]; undefined ones are left out.
        n: Items.
        jackknife: [G] the difference with each patient left out, for a BCa interval; None is a percentile interval.
        level: Coverage of the interval.
    """
    defined = draws[~np.isnan(draws)]
    if not len(defined) or np.isnan(value):
        return Difference(value, math.nan, math.nan, math.nan, n)
    low, high = (
        interval(defined, level=level) if jackknife is None else bca_interval(defined, value, jackknife, level=level)
    )
    side = min(np.count_nonzero(defined <= 0), np.count_nonzero(defined >= 0))
    return Difference(value, low, high, min(1.0, 2 * (1 + side) / (1 + len(defined))), n)


def sign_flip(
    differences: ArrayLike, patients: Sequence[Hashable | None], *, flips: int = 10_000, seed: int | Sequence[int] = 0
) -> float:
    """Test whether the mean difference is 0, by exchanging the two models for whole patients at random.

    Without a difference between the models, each patient's sum of differences is as likely to have either sign
    (Fisher, 1935). Where there are no more than `flips` ways to give signs, all are tried, else `flips` of them.

    Args:
        differences: [n] first model less second, of each item; undefined ones are left out.
        patients: [n] patient of each item; None makes an item its own cluster.
        flips: How many exchanges.
        seed: Seed of the exchanges.

    Returns:
        Two-sided p value; NaN without a defined difference.

    >>> sign_flip([1.0, 1.0, 1.0], ["a", "b", "c"])
    0.25
    """
    values = np.asarray(differences, dtype=np.float64)
    kept = np.flatnonzero(~np.isnan(values))
    if not len(kept):
        return math.nan
    codes = cluster_codes([patients[item] for item in kept.tolist()])
    sums = np.bincount(codes, weights=values[kept])
    sums = sums[sums != 0]
    observed = abs(float(sums.sum())) - 1e-9 * float(np.abs(sums).sum())  # a rounding error decides nothing
    if 2 ** min(len(sums), 64) <= flips:
        every = (np.arange(2 ** len(sums))[:, None] >> np.arange(len(sums))) & 1
        return float(np.mean(np.abs((2.0 * every - 1) @ sums) >= observed))
    rng = np.random.default_rng(seed)
    rows = max(1, BLOCK // len(sums))
    extreme = 0
    for start in range(0, flips, rows):
        size = (min(rows, flips - start), len(sums))
        bits = np.unpackbits(rng.integers(256, size=(size[0], -(-size[1] // 8)), dtype=np.uint8), axis=1)
        extreme += int(np.count_nonzero(np.abs((2.0 * bits[:, : size[1]] - 1) @ sums) >= observed))
    return (1 + extreme) / (1 + flips)


def mcnemar(first: ArrayLike, second: ArrayLike) -> float:
    """Test whether two models are right equally often, exactly, from the items that only one has right.

    Items count as independent: with several images of a patient, take `sign_flip` of the same zeros and ones.

    Args:
        first: [n] bool, whether the first model is right.
        second: [n] bool.

    Returns:
        Two-sided p value (McNemar, 1947, by the binomial distribution).
    """
    a, b = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    only = (int(np.count_nonzero(a & ~b)), int(np.count_nonzero(~a & b)))
    total, fewer = sum(only), min(only)
    ways, term = 0, 1
    for chosen in range(fewer + 1):
        ways += term
        term = term * (total - chosen) // (chosen + 1)
    return min(1.0, float(2 * ways / 2**total))


def delong(
    first: ArrayLike,
    second: ArrayLike,
    truth: ArrayLike,
    patients: Sequence[Hashable | None] | None = None,
    *,
    level: float = 0.95,
) -> Difference:
    """Compare two AUROCs on the same items by their covariance (DeLong et al., 1988; clustered: Obuchowski, 1997).

    Args:
        first: [n] scores of the first model; NaN counts against it.
        second: [n] of the second.
        truth: [n] bool.
        patients: [n] patient of each item; None makes an item its own cluster, and no list all of them.
        level: Coverage of the interval.

    Returns:
        The difference with a normal interval. Interval and p are NaN with fewer than two patients with a positive
        (a negative), or where nothing varies and yet the AUROCs differ.
    """
    positive = np.asarray(truth, dtype=bool)
    if not (positive.any() and (~positive).any()):
        return Difference(math.nan, math.nan, math.nan, math.nan, len(positive))
    codes = cluster_codes([None] * len(positive) if patients is None else patients)
    placed = [_placements(np.asarray(scores, dtype=np.float64), positive) for scores in (first, second)]
    less = placed[0] - placed[1]  # [n]
    value = float(less[positive].mean())
    error = _standard_error(less - value, positive, codes)
    if math.isnan(error) or (error == 0 and value != 0):
        return Difference(value, math.nan, math.nan, math.nan, len(positive))
    half = _NORMAL.inv_cdf((1 + level) / 2) * error
    p = 2 * _NORMAL.cdf(-abs(value) / error) if error > 0 else 1.0
    return Difference(value, value - half, value + half, p, len(positive))


def _placements(scores: Floats, positive: Bools) -> Floats:
    """Give for each item the share of the other class that it stands on the right side of, a tie counting half."""
    values = np.where(np.isnan(scores), np.where(positive, -np.inf, np.inf), scores)
    above, below = np.sort(values[positive]), np.sort(values[~positive])
    lower = np.searchsorted(below, values, "left") + np.searchsorted(below, values, "right")
    higher = 2 * len(above) - np.searchsorted(above, values, "left") - np.searchsorted(above, values, "right")
    return np.where(positive, lower / (2 * len(below)), higher / (2 * len(above)))


def _standard_error(centred: Floats, positive: Bools, codes: Ints) -> float:
    """Give the standard error of an AUROC (or a difference of two) from its centred placements [n]."""
    clusters = int(codes.max()) + 1
    sums, shared, with_class = [], clusters / max(clusters - 1, 1), []
    for own in (positive, ~positive):
        sums.append(np.bincount(codes[own], weights=centred[own], minlength=clusters) / np.count_nonzero(own))
        with_class.append(len(np.unique(codes[own])))
    if min(with_class) < 2:
        return math.nan
    variance = 2 * shared * float(sums[0] @ sums[1])
    variance += sum(count / (count - 1) * float(own @ own) for own, count in zip(sums, with_class, strict=True))
    return math.sqrt(max(variance, 0.0))


def holm(p_values: Mapping[Key, float]) -> dict[Key, float]:
    """Adjust a table of p values, so that any below 0.05 is a false alarm in one table of twenty (Holm, 1979).

    Args:
        p_values: By name; an undefined one stays so and isn't counted.

    >>> holm({"recall": 0.01, "auroc": 0.04, "pointing": 0.03})
    {'recall': 0.03, 'auroc': 0.06, 'pointing': 0.06}
    """
    adjusted = dict(p_values)
    defined = sorted((p, place) for place, p in enumerate(p_values.values()) if not math.isnan(p))
    names, highest = list(p_values), 0.0
    for order, (p, place) in enumerate(defined):
        highest = max(highest, min(1.0, p * (len(defined) - order)))
        adjusted[names[place]] = highest
    return adjusted
