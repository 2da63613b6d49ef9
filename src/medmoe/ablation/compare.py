"""Whether one arm is better than another, over seeds and over patients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from medmoe.errors import DataError
from medmoe.metrics import Floats, Resampler, interval, sign_flip
from medmoe.tasks.outcomes import Outcome, folded, shares


@dataclass(frozen=True, slots=True)
class Comparison:
    """The difference of a metric between two arms trained with the same seeds and judged on the same items.

    Attributes:
        difference: Mean over seeds.
        seeds: [S] the difference with each seed.
        over_seeds: 95 % interval were training repeated with other seeds (Student's t; undefined for one seed, and for
            several with the same difference that isn't 0).
        over_patients: 95 % interval were other patients judged (bootstrap of whole patients, each item's outcome
            averaged over seeds).
        p_seeds: Two-sided p of Student's paired t test over seeds; undefined where the interval is.
        p_patients: Two-sided p of the sign-flip test: were the two arms exchanged for whole patients at random.
        n: Items.
        patients: Patients.
    """

    difference: float
    seeds: tuple[float, ...]
    over_seeds: tuple[float, float]
    over_patients: tuple[float, float]
    p_seeds: float
    p_patients: float
    n: int
    patients: int

    @property
    def clear(self) -> bool:
        """Tell whether both intervals lie on one side of zero."""
        ends = (*self.over_seeds, *self.over_patients)
        return all(end > 0 for end in ends) or all(end < 0 for end in ends)


def figures(outcomes: Sequence[Outcome]) -> Floats:
    """Give the figure of each seed's outcome: [S]."""
    return np.array([float(folded(outcome.values, outcome.cells)) for outcome in outcomes])


def figure_interval(outcomes: Sequence[Outcome], *, resamples: int = 2000, seed: int = 0) -> tuple[float, float]:
    """Give the 95 % interval over patients of a figure's mean over seeds."""
    first = outcomes[0]
    each = np.mean([outcome.values for outcome in outcomes], axis=0)
    resampler = Resampler([patient or None for patient in first.patients], resamples=resamples, seed=seed)
    return interval(resampler.draws(lambda weights: folded(each, first.cells, weights)))


def compare(arm: Sequence[Outcome], other: Sequence[Outcome], *, resamples: int = 2000, seed: int = 0) -> Comparison:
    """Compare an arm with another, seed by seed and item by item.

    Args:
        arm: Outcomes of one metric, one for each seed.
        other: Those of the other arm, with the same seeds in the same order.
        resamples: Bootstrap resamples.
        seed: Of the bootstrap.

    Raises:
        DataError: If not all were asked the same.
    """
    first = other[0]
    for outcome in (*arm, *other):
        if outcome.items != first.items or outcome.cells != first.cells:
            raise DataError("two runs were judged on different items", remedy="compare runs on one test set")
    by_seed = figures(arm) - figures(other)
    each = np.mean([a.values - b.values for a, b in zip(arm, other, strict=True)], axis=0)  # [n]
    patients = [patient or None for patient in first.patients]
    resampler = Resampler(patients, resamples=resamples, seed=seed)
    draws = resampler.draws(lambda weights: folded(each, first.cells, weights))
    return Comparison(
        difference=float(by_seed.mean()),
        seeds=tuple(by_seed.tolist()),
        over_seeds=t_interval(by_seed),
        over_patients=interval(draws),
        p_seeds=t_test(by_seed),
        p_patients=sign_flip(each * shares(first.cells), patients, seed=seed),
        n=len(each),
        patients=resampler.clusters,
    )


def t_interval(differences: Floats, *, level: float = 0.95) -> tuple[float, float]:
    """Give Student's interval of a mean of differences; undefined for fewer than two, or one like the other.

    Differences that are all the same, but not 0, say nothing of how much seeds differ: an interval without width would
    claim that they don't. Where all are 0, nothing was changed, and the interval is from 0 to 0.
    """
    mean, error = _mean_and_error(differences)
    if error == 0:
        return (0.0, 0.0) if mean == 0 else (math.nan, math.nan)
    half = float(stats.t.ppf((1 + level) / 2, max(len(differences) - 1, 1))) * error
    return mean - half, mean + half


def t_test(differences: Floats) -> float:
    """Give the two-sided p of Student's test that a mean of differences is 0.

    Returns:
        1 where all differences are 0; NaN, not testable, for fewer than two, or where all are the same and not 0.
    """
    mean, error = _mean_and_error(differences)
    if error == 0:
        return 1.0 if mean == 0 else math.nan
    return float(2 * stats.t.sf(abs(mean) / error, max(len(differences) - 1, 1)))


def _mean_and_error(differences: Floats) -> tuple[float, float]:
    """Give the mean and its standard error, 0 where the differences differ by rounding only; NaN for fewer than two."""
    count = len(differences)
    if count < 2:
        return math.nan, math.nan
    spread = float(differences.std(ddof=1))
    rounding = 1e-12 * float(np.abs(differences).max())
    return float(differences.mean()), 0.0 if spread <= rounding else spread / math.sqrt(count)
