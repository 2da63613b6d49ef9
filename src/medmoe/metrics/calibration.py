"""Whether a probability means what it says: calibration error, Brier score, reliability, temperature."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medmoe.metrics.arrays import Bools, Floats, Ints, plain, ratio, weighed
from medmoe.metrics.resampling import Resampler

# Temperatures that a fit can give: wide enough for cosines as logits as well as for overconfident networks.
_COLDEST, _HOTTEST = 1e-4, 1e4


def softmax(logits: NDArray[Any], temperature: float = 1.0) -> Floats:
    """Turn logits [n, C] into probabilities [n, C]; a row with a NaN is NaN."""
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    result: Floats = powers / powers.sum(axis=1, keepdims=True)
    return result


def brier(probability: ArrayLike, truth: ArrayLike, weights: Floats | None = None) -> Floats:
    """Average the squared error of probabilities (Brier, 1950); 0 is best, an undefined probability counts as wrong.

    Args:
        probability: [n] of the positive class, or [n, C], whose errors are added over classes (2 is worst).
        truth: [n] bool, or [n] index of the class.
        weights: [n] or [R, n] weight of each item.

    Returns:
        [] or [R]; NaN where nothing has weight.
    """
    given = np.asarray(probability, dtype=np.float64)
    if given.ndim == 1:
        error = (given - np.asarray(truth, dtype=bool)) ** 2
    else:
        error = np.sum((given - np.eye(given.shape[1])[np.asarray(truth)]) ** 2, axis=1)
    error = np.where(np.isnan(error), float(given.ndim), error)
    weights = weighed(weights, len(error))
    return ratio(weights @ error, weights.sum(axis=-1))


def equal_mass_bins(confidence: ArrayLike, bins: int = 15) -> Ints:
    """Put items in bins of as equal a size as items of equal confidence, which stay together, allow.

    An item's bin is that of the middle of the places that items of its confidence take when sorted.

    Args:
        confidence: [n].
        bins: How many at most.

    Returns:
        [n] bin from 0, the least confident first; `bins` where confidence is NaN.
    """
    values = np.asarray(confidence, dtype=np.float64)
    defined = ~np.isnan(values)
    ordered = np.sort(values[defined])
    twice = np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")
    return np.where(defined, bins * twice // max(2 * len(ordered), 1), bins).astype(np.int64)


def ece(confidence: ArrayLike, right: ArrayLike, weights: Floats | None = None, *, bins: int = 15) -> Floats:
    """Average, over bins of equal mass, how far the mean confidence is from the share that is right.

    A finite sample of a calibrated model scores above 0, and the more so a resample of it: read it beside the same
    figure of other models, not beside 0 (Nixon et al., 2019; Kumar et al., 2019).

    Args:
        confidence: [n] probability of the answer given (of the positive class, for a finding); NaN counts as 1 beside
            a wrong answer.
        right: [n] bool, whether the answer is right (the finding present).
        weights: [n] or [R, n] weight of each item. Bins are those of all items, the same in each resample.
        bins: How many at most.

    Returns:
        [] or [R] from 0 to 1; NaN where nothing has weight.
    """
    gap, member = _gaps(confidence, right, bins)
    weights = weighed(weights, len(gap))
    return ratio(np.abs(weights @ (member * gap[:, None])).sum(axis=-1), weights.sum(axis=-1))


def _gaps(confidence: ArrayLike, right: ArrayLike, bins: int) -> tuple[Floats, Floats]:
    """Give confidence less truth [n], and each item's bin as one of [n, bins + 1]; the last is of NaN."""
    values, truth = np.asarray(confidence, dtype=np.float64), np.asarray(right, dtype=bool)
    gap = np.where(np.isnan(values), 1.0, values - truth)
    return gap, np.eye(bins + 1)[equal_mass_bins(values, bins)]


@dataclass(frozen=True, slots=True)
class Reliability:
    """Points of a reliability plot, one for each bin that has items, the least confident first.

    Attributes:
        confidence: [B] mean confidence.
        right: [B] share that is right.
        low: [B] lower end of the share's interval; NaN without a resampler.
        high: [B] upper end.
        n: [B] items.
    """

    confidence: Floats
    right: Floats
    low: Floats
    high: Floats
    n: Ints

    def to_json(self) -> list[dict[str, Any]]:
        """Give the points as plain data; what is undefined is None."""
        names = ("confidence", "right", "low", "high")
        return [
            {name: plain(float(getattr(self, name)[point])) for name in names} | {"n": int(self.n[point])}
            for point in range(len(self.n))
        ]


def reliability(
    confidence: ArrayLike, right: ArrayLike, *, bins: int = 15, resampler: Resampler | None = None, level: float = 0.95
) -> Reliability:
    """Compare confidence with the share that is right, in bins of equal mass; undefined confidences are left out.

    Args:
        confidence: [n].
        right: [n] bool.
        bins: How many at most.
        resampler: Of the items' patients, for intervals of the shares.
        level: Coverage of the intervals.
    """
    values, truth = np.asarray(confidence, dtype=np.float64), np.asarray(right, dtype=np.float64)
    member = np.eye(bins + 1)[equal_mass_bins(values, bins)][:, :bins]
    member = member[:, member.any(axis=0)]  # [n, B]
    mass = member.sum(axis=0)
    means = member.T @ np.column_stack([np.where(np.isnan(values), 0.0, values), truth]) / mass[:, None]
    low = high = np.full(len(mass), np.nan)
    if resampler is not None and len(mass):
        drawn = resampler.draws(lambda weights: ratio(weights @ (member * truth[:, None]), weights @ member))
        low, high = np.nanquantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return Reliability(means[:, 0], means[:, 1], low, high, mass.astype(np.int64))


def fit_temperature(logits: ArrayLike, truth: ArrayLike) -> float:
    """Find the temperature at which the probabilities of a validation split are likeliest (Guo et al., 2017).

    The likelihood has one maximum along 1 / temperature, found by Newton's method kept between bounds.

    Args:
        logits: [n, C], or [n] of a finding (log odds); rows with a NaN or an infinity are left out.
        truth: [n] index of the class, or [n] bool.

    Returns:
        The temperature to divide logits by, between 1e-4 and 1e4: an end where every answer is right by a margin
        (colder is always likelier) or the logits say nothing better than evenly.

    Raises:
        ValueError: If no row is left.
    """
    given = np.asarray(logits, dtype=np.float64)
    table = np.column_stack([np.zeros(len(given)), given]) if given.ndim == 1 else given
    kept = np.isfinite(table).all(axis=1)
    if not kept.any():
        raise ValueError("no row to fit a temperature to: all logits are NaN or infinite")
    table = table[kept]
    right = table[np.arange(len(table)), np.asarray(truth, dtype=np.int64)[kept]]
    low, high = 1 / _HOTTEST, 1 / _COLDEST
    if _slope(table, right, high)[0] <= 0:
        return _COLDEST
    if _slope(table, right, low)[0] >= 0:
        return _HOTTEST
    scale = 1.0
    for _ in range(200):
        slope, curvature = _slope(table, right, scale)
        low, high = (scale, high) if slope < 0 else (low, scale)
        step = scale - slope / curvature if curvature > 0 else 0.0
        following = step if low < step < high else (low * high) ** 0.5
        if abs(following - scale) <= 1e-14 * scale:
            break
        scale = following
    return 1 / scale


def _slope(logits: Floats, right: Floats, scale: float) -> tuple[float, float]:
    """Give the first and second derivative of the mean negative log-likelihood by 1 / temperature."""
    probability = softmax(logits, 1 / scale)
    expected = (probability * logits).sum(axis=1)
    spread = (probability * (logits - expected[:, None]) ** 2).sum(axis=1)
    return float(np.mean(expected - right)), float(np.mean(spread))


def log_loss(logits: ArrayLike, truth: ArrayLike, temperature: float = 1.0, weights: Floats | None = None) -> Floats:
    """Give the mean negative log-likelihood of the truth, which `fit_temperature` minimises: [] or [R].

    Args:
        logits: [n, C], or [n] of a finding (log odds).
        truth: [n] index of the class, or [n] bool.
        temperature: What the logits are divided by.
        weights: [n] or [R, n] weight of each item.

    Returns:
        NaN where a logit is NaN, of whatever weight (a loss without bound has no worst value to count), and where
        nothing has weight.
    """
    given = np.asarray(logits, dtype=np.float64) / temperature
    table = np.column_stack([np.zeros(len(given)), given]) if given.ndim == 1 else given
    highest = table.max(axis=1)
    total = highest + np.log(np.exp(table - highest[:, None]).sum(axis=1))
    loss = total - table[np.arange(len(table)), np.asarray(truth, dtype=np.int64)]
    weights = weighed(weights, len(loss))
    return ratio(weights @ loss, weights.sum(axis=-1))


def confidences(probability: NDArray[Any], truth: ArrayLike) -> tuple[Floats, Bools]:
    """Give what `ece` and `reliability` take: each item's highest probability, and whether it is the truth's.

    Args:
        probability: [n, C]; a tie of the highest is no right answer.
        truth: [n] index of the class.
    """
    highest = np.asarray(probability, dtype=np.float64).max(axis=1)
    single = np.count_nonzero(probability == highest[:, None], axis=1) == 1
    return highest, single & (np.argmax(probability, axis=1) == np.asarray(truth))
