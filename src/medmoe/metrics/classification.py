"""Figures of a classification: by the class chosen, at a threshold, and over all thresholds.

Every figure takes weights [R, n], one row for each resample, and gives [R]; none is a loop over resamples. A NaN
score counts against the model: a positive's as the lowest, a negative's as the highest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medmoe.metrics.arrays import Bools, Floats, Ints, ratio, weighed

# Shares are compared as exact fractions would be: a rounding error decides no threshold.
_ROUNDING = 1e-9


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


def accuracy(true: ArrayLike, predicted: ArrayLike, weights: Floats | None = None) -> Floats:
    """Give the share of items whose class is right.

    Args:
        true: [n] class of each item.
        predicted: [n] predicted class.
        weights: [n] or [R, n] weight of each item (how often a resample drew it).

    Returns:
        [] or [R]; NaN where nothing has weight.
    """
    right = np.asarray(true) == np.asarray(predicted)
    weights = weighed(weights, len(right))
    return ratio(weights @ right.astype(np.float64), weights.sum(axis=-1))


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
    weights = weighed(weights, len(member))
    total = weights @ member
    return _over_classes(ratio(weights @ (member * right[:, None]), total), total > 0)


def macro_f1(true: ArrayLike, predicted: ArrayLike, weights: Floats | None = None) -> Floats:
    """Average F1 = 2 TP / (2 TP + FP + FN) over the classes that occur.

    Args:
        true: [n] class of each item.
        predicted: [n] predicted class; one that isn't a class of the truth (as -1) is wrong, and no class to average.
        weights: [n] or [R, n] weight of each item; a class of weight 0 doesn't occur.

    Returns:
        [] or [R]; NaN where nothing has weight.
    """
    classes, index = np.unique(np.asarray(true), return_inverse=True)
    member = np.eye(len(classes))[index]  # [n, C]
    chosen = (np.asarray(predicted)[:, None] == classes).astype(np.float64)
    weights = weighed(weights, len(member))
    total = weights @ member
    return _over_classes(ratio(2 * (weights @ (member * chosen)), total + weights @ chosen), total > 0)


def _over_classes(each: Floats, occurs: Bools) -> Floats:
    return ratio(np.where(occurs, each, 0.0).sum(axis=-1), occurs.sum(axis=-1))


class AtThreshold(NamedTuple):
    """The weight of right and wrong answers when scores from a threshold up are called positive; each [] or [R]."""

    true_positives: Floats
    false_positives: Floats
    false_negatives: Floats
    true_negatives: Floats

    @property
    def f1(self) -> Floats:
        """2 TP / (2 TP + FP + FN); NaN where no item is positive and none is called so."""
        return ratio(2 * self.true_positives, 2 * self.true_positives + self.false_positives + self.false_negatives)

    @property
    def sensitivity(self) -> Floats:
        """The share of positives that are called positive (recall)."""
        return ratio(self.true_positives, self.true_positives + self.false_negatives)

    @property
    def specificity(self) -> Floats:
        """The share of negatives that are called negative."""
        return ratio(self.true_negatives, self.true_negatives + self.false_positives)

    @property
    def precision(self) -> Floats:
        """The share of positives among what is called positive (positive predictive value)."""
        return ratio(self.true_positives, self.true_positives + self.false_positives)

    @property
    def negative_precision(self) -> Floats:
        """The share of negatives among what is called negative (negative predictive value)."""
        return ratio(self.true_negatives, self.true_negatives + self.false_negatives)


def at_threshold(scores: ArrayLike, truth: ArrayLike, threshold: float, weights: Floats | None = None) -> AtThreshold:
    """Call scores of at least `threshold` positive and count what is right and wrong.

    Args:
        scores: [n].
        truth: [n] bool.
        threshold: Chosen on other items than these, as by `best_threshold` on validation.
        weights: [n] or [R, n] weight of each item.
    """
    values, positive = np.asarray(scores, dtype=np.float64), np.asarray(truth, dtype=bool)
    called = np.where(np.isnan(values), ~positive, values >= threshold)
    weights = weighed(weights, len(values))
    cells = (called & positive, called & ~positive, ~called & positive, ~called & ~positive)
    return AtThreshold(*(np.asarray(weights @ cell.astype(np.float64)) for cell in cells))


def f1(scores: ArrayLike, truth: ArrayLike, threshold: float, weights: Floats | None = None) -> Floats:
    """Compute the F1 of the positive class when scores of at least `threshold` are called positive: [] or [R]."""
    return at_threshold(scores, truth, threshold, weights).f1


def best_threshold(scores: ArrayLike, truth: ArrayLike, weights: Floats | None = None) -> float:
    """Find the score that, as a threshold, gives the highest F1; the highest such score where several do.

    Args:
        scores: [n].
        truth: [n] bool.
        weights: [n] weight of each item.

    Returns:
        One of the scores, or infinity (nothing is called positive) where no threshold finds a positive.
    """
    values, above, below = tally(scores, truth, weights)
    found, called = np.cumsum(above[::-1]), np.cumsum((above + below)[::-1])
    each = ratio(2 * found, called + above.sum())
    each = np.where(np.isfinite(values[::-1]) & (found > 0), each, 0.0)
    if not each.any():
        return float("inf")
    return float(values[::-1][np.flatnonzero(each >= each.max() - _ROUNDING)[0]])


def tally(scores: ArrayLike, truth: ArrayLike, weights: Floats | None = None) -> tuple[Floats, Floats, Floats]:
    """Add up positives and negatives at each distinct score, from the lowest to the highest.

    Returns:
        The K distinct scores, and the weight of positives and of negatives at each: [K] or [R, K].
    """
    values, positive = np.asarray(scores, dtype=np.float64), np.asarray(truth, dtype=bool)
    values = np.where(np.isnan(values), np.where(positive, -np.inf, np.inf), values)
    weights = weighed(weights, len(values))
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]][: len(ordered)])
    drawn = weights[..., order]
    if not len(starts):
        return ordered, drawn, drawn
    above = np.add.reduceat(drawn * positive[order], starts, axis=-1)  # [R, distinct scores]
    below = np.add.reduceat(drawn * ~positive[order], starts, axis=-1)
    return ordered[starts], above, below


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
    _, above, below = tally(scores, truth, weights)
    won = above * (np.cumsum(below, axis=-1) - 0.5 * below)
    return ratio(won.sum(axis=-1), above.sum(axis=-1) * below.sum(axis=-1))


def average_precision(scores: ArrayLike, truth: ArrayLike, weights: Floats | None = None) -> Floats:
    """Average the precision over the recall gained at each distinct score, without interpolation.

    Args:
        scores: [n].
        truth: [n] bool.
        weights: [n] or [R, n] weight of each item.

    Returns:
        [] or [R]; NaN where positives are absent.
    """
    _, above, below = tally(scores, truth, weights)
    gained = above[..., ::-1]
    found, called = np.cumsum(gained, axis=-1), np.cumsum((above + below)[..., ::-1], axis=-1)
    summed = (gained * (found / np.where(called > 0, called, 1.0))).sum(axis=-1)
    return ratio(summed, above.sum(axis=-1))


def sensitivity_at_specificity(
    scores: ArrayLike, truth: ArrayLike, specificity: float = 0.9, weights: Floats | None = None
) -> Floats:
    """Give the highest sensitivity of a threshold that has at least this specificity: [] or [R].

    NaN where positives or negatives are absent; 0 where only calling nothing positive is specific enough.
    """
    _, above, below = tally(scores, truth, weights)
    positives, negatives = above.sum(axis=-1), below.sum(axis=-1)
    found, wrong = np.cumsum(above[..., ::-1], axis=-1), np.cumsum(below[..., ::-1], axis=-1)
    enough = wrong <= (1 - specificity + _ROUNDING) * negatives[..., None]
    highest = np.max(np.where(enough, found, 0.0), axis=-1, initial=0.0)
    return np.asarray(np.where(negatives > 0, ratio(highest, positives), np.nan), dtype=np.float64)


def fpr_at_tpr(scores: ArrayLike, truth: ArrayLike, tpr: float = 0.95, weights: Floats | None = None) -> Floats:
    """Give the lowest false positive rate of a threshold that finds at least this share of positives: [] or [R].

    For a gate against the unknown, the positives are what it should let in. NaN where positives or negatives are
    absent.
    """
    _, above, below = tally(scores, truth, weights)
    positives, negatives = above.sum(axis=-1), below.sum(axis=-1)
    found, wrong = np.cumsum(above[..., ::-1], axis=-1), np.cumsum(below[..., ::-1], axis=-1)
    enough = found >= (tpr - _ROUNDING) * positives[..., None]
    lowest = np.min(np.where(enough, wrong, np.inf), axis=-1, initial=np.inf)
    return np.asarray(np.where(positives > 0, ratio(lowest, negatives), np.nan), dtype=np.float64)


def macro(
    statistic: Callable[[Floats, Bools, Floats | None], Floats],
    scores: NDArray[Any],
    truth: NDArray[Any],
    weights: Floats | None = None,
) -> Floats:
    """Average a figure of one finding (as `auroc`) over findings, those left out where it is undefined.

    Args:
        statistic: Maps (scores [n], truth [n], weights) to [] or [R].
        scores: [n, findings].
        truth: [n, findings] bool.
        weights: [n] or [R, n] weight of each item.

    Returns:
        [] or [R]; NaN where the figure is defined for no finding.
    """
    columns = range(truth.shape[1])
    each = np.stack([statistic(scores[:, column], truth[:, column], weights) for column in columns], axis=-1)
    return _over_classes(each, np.isfinite(each))
