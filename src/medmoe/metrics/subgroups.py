"""Whether a model serves some patients worse: a figure for each value of a column, and the gap between them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from medmoe.metrics.arrays import BLOCK, Bools, Floats, Ints, plain
from medmoe.metrics.metric import Metric
from medmoe.metrics.resampling import Resampler, interval

Statistic = Callable[[Floats], Floats]


@dataclass(frozen=True, slots=True)
class Subgroups:
    """A figure for each subgroup, and the gap between the best and the worst.

    Attributes:
        groups: The figure of each subgroup that is large enough, in order of name; NaN where it is undefined there.
        gap: The highest figure less the lowest, its interval, and as controls the gap of shuffled
            subgroups: its mean (`shuffled`) and what it stays below 95 % of the time (`shuffled_high`). None with
            fewer than two defined figures.
        highest: The subgroup with the highest figure; None without a gap.
        lowest: That with the lowest.
        p: How often a shuffle's gap is at least as wide; NaN without a gap.
        too_few: Items of each subgroup with too few patients to print a figure.
        unknown: Items without a value in the column.
    """

    groups: dict[str, Metric]
    gap: Metric | None = None
    highest: str | None = None
    lowest: str | None = None
    p: float = math.nan
    too_few: dict[str, int] = field(default_factory=dict)
    unknown: int = 0

    def to_json(self) -> dict[str, Any]:
        """Give plain data; what is undefined is None."""
        return {
            "groups": {name: metric.to_json() for name, metric in self.groups.items()},
            "gap": None if self.gap is None else self.gap.to_json(),
            "highest": self.highest,
            "lowest": self.lowest,
            "p": plain(self.p),
            "too_few": dict(self.too_few),
            "unknown": self.unknown,
        }


def by_subgroup(
    column: Sequence[Hashable | None],
    statistic: Statistic,
    resampler: Resampler,
    *,
    fewest: int = 20,
    shuffles: int = 200,
    seed: int | Sequence[int] = 0,
    level: float = 0.95,
) -> Subgroups:
    """Compute a figure within each subgroup of the items.

    All figures come from the same resamples of patients. The gap's interval is that of the difference between the
    two subgroups that stand highest and lowest, so it can reach below 0, as the gap itself, which picks the widest
    difference of each draw, never could; whether so wide a gap is more than the chance of picking, the shuffles tell.

    Args:
        column: [n] subgroup of each item; None, NaN and an empty text are unknown.
        statistic: Maps weights [r, n] of all items to [r]: a subgroup's has weight 0 outside it.
        resampler: Of the items' patients.
        fewest: Patients that a subgroup needs before its figure is given.
        shuffles: How often subgroups are shuffled: among patients that have one, within those with several.
        seed: Seed of the shuffles.
        level: Coverage of the intervals.
    """
    names, own, too_few = _large(column, resampler.codes, fewest)
    unknown = sum(not _known(value) for value in column)
    if not names:
        return Subgroups({}, too_few=too_few, unknown=unknown)
    inside = own[None, :] == np.arange(len(names))[:, None]  # [G, n]
    values = statistic(inside.astype(np.float64))
    draws = resampler.draws(lambda weights: _within(statistic, inside, weights))  # [R, G]
    groups = {
        name: Metric(float(values[group]), *interval(draws[:, group], level=level), int(inside[group].sum()))
        for group, name in enumerate(names)
    }
    defined = np.flatnonzero(~np.isnan(values))
    if len(defined) < 2:
        return Subgroups(groups, too_few=too_few, unknown=unknown)
    high, low = defined[values[defined].argmax()], defined[values[defined].argmin()]
    value = float(values[high] - values[low])
    shuffled = _shuffled_gaps(statistic, own, len(names), resampler.codes, shuffles, seed)
    controls, p = {}, math.nan
    if len(shuffled):
        controls = {"shuffled": float(shuffled.mean()), "shuffled_high": float(np.quantile(shuffled, 0.95))}
        p = (1 + int(np.count_nonzero(shuffled >= value - 1e-9))) / (1 + len(shuffled))
    ends = interval(draws[:, high] - draws[:, low], level=level)
    gap = Metric(value, *ends, int(inside[defined].sum()), controls)
    return Subgroups(groups, gap, names[high], names[low], p, too_few, unknown)


def _large(column: Sequence[Hashable | None], codes: Ints, fewest: int) -> tuple[list[str], Ints, dict[str, int]]:
    """Give the names of subgroups with patients enough, each item's among them (or -1), and the others' items."""
    labels = np.array([f"={value}" if _known(value) else "" for value in column])
    names: list[str] = []
    own, too_few = np.full(len(labels), -1, dtype=np.int64), {}
    for label in sorted(set(labels.tolist()) - {""}, key=lambda label: _natural(label[1:])):
        rows = np.flatnonzero(labels == label)
        if len(np.unique(codes[rows])) < fewest:
            too_few[label[1:]] = len(rows)
        else:
            own[rows] = len(names)
            names.append(label[1:])
    return names, own, too_few


def _known(value: Hashable | None) -> bool:
    return value is not None and value != "" and not (isinstance(value, float) and math.isnan(value))


def _natural(name: str) -> tuple[float, str]:
    """Sort names that start with a number by it, before all others."""
    number = re.match(r"\d+(\.\d+)?", name)
    return (float(number[0]) if number else math.inf, name)


def _within(statistic: Statistic, inside: Bools, weights: Floats) -> Floats:
    return np.stack([statistic(weights * group) for group in inside], axis=-1)


def _shuffled_gaps(
    statistic: Statistic, own: Ints, groups: int, codes: Ints, shuffles: int, seed: int | Sequence[int]
) -> Floats:
    """Give the gap between the highest and lowest figure when subgroups are shuffled; shuffles without one left out."""
    gaps = [np.empty(0)]
    rows = max(1, BLOCK // (len(own) * groups))
    every = _shuffles(own, codes, np.random.default_rng(seed))
    for start in range(0, shuffles, rows):
        moved = np.stack([next(every) for _ in range(min(rows, shuffles - start))])  # [S, n]
        each = np.stack([statistic((moved == group).astype(np.float64)) for group in range(groups)], axis=-1)
        several = np.count_nonzero(~np.isnan(each), axis=1) > 1
        gaps.append(np.nanmax(each[several], axis=1) - np.nanmin(each[several], axis=1))
    return np.concatenate(gaps)


def _shuffles(own: Ints, codes: Ints, rng: np.random.Generator) -> Iterator[Ints]:
    """Move subgroups among the patients that have one, and among the items of a patient that has several: [n] each.

    So what the images of a patient share never tells the subgroups apart more, or less, than it did.
    """
    known = np.flatnonzero(own >= 0)
    label = np.full(int(codes.max()) + 1, -1)  # of each patient, one of its own
    label[codes[known]] = own[known]
    several = np.zeros(len(label), dtype=bool)
    several[codes[known[own[known] != label[codes[known]]]]] = True
    single = np.flatnonzero((label >= 0) & ~several)  # patients
    apart, within = known[~several[codes[known]]], known[several[codes[known]]]  # items
    together = within[np.argsort(codes[within], kind="stable")]
    while True:
        moved = own.copy()
        drawn = label.copy()
        drawn[single] = rng.permutation(label[single])
        moved[apart] = drawn[codes[apart]]
        moved[within[np.lexsort((rng.random(len(within)), codes[within]))]] = own[together]
        yield moved


def age_band(age: float | None, edges: Sequence[int] = (18, 40, 60, 80)) -> str | None:
    """Name the band of years that an age is in; None for an age that is unknown, undefined or negative.

    Args:
        age: In years.
        edges: The youngest age of each band but the first, ascending.

    >>> [age_band(age) for age in (3, 17.9, 18, 59, 93, None)]
    ['0–17', '0–17', '18–39', '40–59', '80+', None]
    """
    if age is None or not age >= 0:
        return None
    bounds = [0, *edges]
    band = sum(age >= edge for edge in edges)
    return f"{bounds[band]}+" if band == len(edges) else f"{bounds[band]}–{bounds[band + 1] - 1}"
