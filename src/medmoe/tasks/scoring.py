"""From answers and scores to figures: what is judged is a function of the truth, which is also shuffled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from medmoe.metrics import (
    Floats,
    Ints,
    Resampler,
    accuracy,
    auroc,
    average_precision,
    balanced_accuracy,
    f1,
    interval,
    macro,
)
from medmoe.tasks.figures import Figure


class Statistic(Protocol):
    """A figure of the truth [n, …], whole or in resamples."""

    def __call__(self, truth: NDArray[Any], weights: Floats | None = None) -> Floats:
        """Give [] without weights, [R] with weights [R, n]."""
        ...


def shuffled_figure(
    statistic: Statistic, truth: NDArray[Any], orders: Sequence[Ints], resampler: Resampler, controls: dict[str, float]
) -> Figure:
    """Compute a statistic, in resamples and with the truth shuffled.

    Args:
        statistic: The figure.
        truth: [n, …].
        orders: Permutations [n] of the truth, at least one.
        resampler: Draws patients of the n items.
        controls: Fixed controls by name.
    """
    return Figure(
        value=float(statistic(truth)),
        draws=resampler.draws(lambda weights: statistic(truth, weights)),
        n=len(truth),
        controls=controls,
        shuffled=np.array([float(statistic(truth[order])) for order in orders]),
        shuffled_draws=resampler.draws(lambda weights: statistic(truth[orders[0]], weights)),
    )


def permutations(size: int, times: int, seed: Sequence[int]) -> list[Ints]:
    """Draw permutations of `size` items."""
    rng = np.random.default_rng(seed)
    return [rng.permutation(size) for _ in range(times)]


def balanced(answer: Ints) -> Statistic:
    """Give the balanced accuracy of answers [n]."""

    def statistic(truth: NDArray[Any], weights: Floats | None = None) -> Floats:
        return balanced_accuracy(truth, answer, weights)

    return statistic


def accurate(answer: Ints) -> Statistic:
    """Give the accuracy of answers [n]."""

    def statistic(truth: NDArray[Any], weights: Floats | None = None) -> Floats:
        return accuracy(truth, answer, weights)

    return statistic


def macro_auroc(scores: Floats) -> Statistic:
    """Give the area under the ROC curve, averaged over findings: scores [n, findings]."""

    def statistic(truth: NDArray[Any], weights: Floats | None = None) -> Floats:
        return macro(auroc, scores, truth, weights)

    return statistic


def macro_ap(scores: Floats) -> Statistic:
    """Give the average precision, averaged over findings: scores [n, findings]."""

    def statistic(truth: NDArray[Any], weights: Floats | None = None) -> Floats:
        return macro(average_precision, scores, truth, weights)

    return statistic


def macro_f1(scores: Floats, thresholds: Sequence[float]) -> Statistic:
    """Give F1 at a threshold for each finding, averaged over findings: scores [n, findings]."""
    above = scores - np.asarray(thresholds)

    def statistic(truth: NDArray[Any], weights: Floats | None = None) -> Floats:
        return macro(lambda own, shown, drawn: f1(own, shown, 0.0, drawn), above, truth, weights)

    return statistic


def mean_over(statistics: Sequence[Statistic]) -> Statistic:
    """Average statistics of the same items, such as those of several draws of the training images."""

    def statistic(truth: NDArray[Any], weights: Floats | None = None) -> Floats:
        return np.asarray(np.mean([one(truth, weights) for one in statistics], axis=0))

    return statistic


def gain(value: float, draws: Floats, other: float, other_draws: Floats) -> dict[str, float | None]:
    """Give the difference of two figures of the same resamples with its interval, as plain data.

    Args:
        value: The figure.
        draws: [R] its draws.
        other: What it is compared with.
        other_draws: [R] of the same resamples.
    """
    low, high = interval(draws - other_draws)
    found = {"value": value - other, "low": low, "high": high}
    return {name: number if np.isfinite(number) else None for name, number in found.items()}
