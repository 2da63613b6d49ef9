"""Differences between two runs: paired by patient where both kept their items, from the intervals otherwise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from medmoe.metrics import Floats, Resampler, cluster_codes, holm, interval, sign_flip
from medmoe.report.details import Items, items
from medmoe.report.figures import Figure
from medmoe.report.runs import Run

_SAME = 1e-6  # the items' mean and the figure are the same up to this


@dataclass(frozen=True)
class Comparison:
    """How far a figure of one run lies above the reference run's.

    Attributes:
        value: The difference, or None where it isn't told.
        low: Lower end of its 95 % interval.
        high: Upper end.
        how: `paired`, `unpaired`, `refused`, or `absent` where one of the two has no such figure.
        reason: Why it isn't paired; empty where it is.
        p: Two-sided p of the paired test, or None.
        adjusted: p after Holm's correction over a table, or None.
    """

    value: float | None
    low: float | None
    high: float | None
    how: str
    reason: str = ""
    p: float | None = None
    adjusted: float | None = None

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def obstacles(reference: Run, other: Run) -> list[str]:
    """Say why two runs can't be compared at all: they judged different data."""
    told = []
    for key, words in (("data", "data"), ("split", "split"), ("images", "number of images")):
        mine, theirs = (_plain(run.about.get(key)) for run in (reference, other))
        if mine != theirs:
            told.append(f"different {words} ({_said(mine)} and {_said(theirs)})")
    one, two = reference.about.get("data_fingerprint"), other.about.get("data_fingerprint")
    if one is not None and two is not None:
        return [] if one == two else ["different data, by their fingerprints"]
    return told


def compare(reference: Run, other: Run, task: str, metric: str, *, resamples: int = 1000, seed: int = 0) -> Comparison:
    """Compare a figure of two runs.

    Paired: the interval is a bootstrap over patients of the items' differences, and p that of `metrics.sign_flip`.
    Without items the interval joins the two runs' own ends (Zou and Donner, 2008, doi:10.1002/sim.3095), as if they
    were independent: too wide for two models on the same images.
    """
    mine, theirs = (_figure(run, task, metric) for run in (reference, other))
    if mine is None or theirs is None or mine.value is None or theirs.value is None:
        return Comparison(None, None, None, "absent", "not judged for both")
    against = obstacles(reference, other)
    if against:
        return Comparison(None, None, None, "refused", "; ".join(against))
    if mine.n != theirs.n:
        return Comparison(None, None, None, "refused", f"different items (n {mine.n} and {theirs.n})")
    first, second = (items(run.of(task), metric) for run in (reference, other))
    if first is None or second is None:
        return _unpaired(mine, theirs, "no outcomes item by item in the files")
    matched = _matched(first, second)
    if matched is None:
        return Comparison(None, None, None, "refused", "the items differ")
    groups = _groups(*matched, (mine.value, theirs.value))
    if groups is None:
        return _unpaired(mine, theirs, "the figure isn’t a mean of its items")
    return _paired(*matched, groups, resamples=resamples, seed=seed)


def corrected(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Correct p for the number of paired differences of one table, by Holm's method."""
    adjusted = holm({place: found.p for place, found in enumerate(comparisons) if found.p is not None})
    return [replace(found, adjusted=adjusted.get(place)) for place, found in enumerate(comparisons)]


def _figure(run: Run, task: str, metric: str) -> Figure | None:
    found = run.tasks.get(task, {}).get(metric)
    return None if found is None else Figure.read(metric, found)


def _unpaired(mine: Figure, theirs: Figure, reason: str) -> Comparison:
    assert mine.value is not None
    assert theirs.value is not None
    value = theirs.value - mine.value
    if mine.low is None or mine.high is None or theirs.low is None or theirs.high is None:
        return Comparison(value, None, None, "unpaired", f"{reason}, and no interval")
    low = value - math.hypot(theirs.value - theirs.low, mine.high - mine.value)
    high = value + math.hypot(theirs.high - theirs.value, mine.value - mine.low)
    return Comparison(value, low, high, "unpaired", reason)


def _matched(first: Items, second: Items) -> tuple[Items, Items] | None:
    """Put the second run's items in the first's order, both without those that don't count; None if they differ."""
    if first.keys is not None and second.keys is not None:
        place = {key: row for row, key in enumerate(second.keys)}
        if len(place) != len(second.keys) or set(place) != set(first.keys) or len(first.keys) != len(place):
            return None
        second = second.take(np.array([place[key] for key in first.keys], dtype=np.int64))
    counts = ~np.isnan(first.values)
    if not _same_patients(first, second) or not np.array_equal(counts, ~np.isnan(second.values)) or not counts.any():
        return None
    rows = np.flatnonzero(counts)
    return first.take(rows), second.take(rows)


def _same_patients(first: Items, second: Items) -> bool:
    """Tell whether the same items are of the same patients; of named items patients may be named otherwise."""
    if first.patients == second.patients:
        return True
    named = first.keys is not None and second.keys is not None
    return named and np.array_equal(cluster_codes(first.patients), cluster_codes(second.patients))


@dataclass(frozen=True)
class _Groups:
    """How items are averaged: within groups, these within larger ones, and then over those.

    Attributes:
        member: [n, G] 1.0 where an item is of a group.
        above: [G, T] 1.0 where a group is of a larger one.
    """

    member: Floats
    above: Floats

    def mean(self, values: Floats, weights: Floats) -> Floats:
        """Average values [n] with weights [r, n]: [r]; a group without weight doesn't occur."""
        total, sums = weights @ self.member, weights @ (self.member * values[:, None])  # [r, G]
        occurs = total > 0
        means = np.where(occurs, sums / np.where(occurs, total, 1.0), 0.0)
        within = occurs @ self.above  # [r, T] groups that occur
        larger = np.where(within > 0, means @ self.above / np.where(within > 0, within, 1.0), 0.0)
        result: Floats = larger.sum(axis=-1) / (within > 0).sum(axis=-1)
        return result

    def shares(self) -> Floats:
        """Give each item's share in the mean: [n], of sum 1."""
        each = 1.0 / (self.above.shape[1] * (self.above @ self.above.sum(axis=0)) * self.member.sum(axis=0))  # [G]
        result: Floats = self.member @ each
        return result


def _groups(first: Items, second: Items, values: tuple[float, float]) -> _Groups | None:
    """Find the way of averaging the items that gives both figures; None if nothing fits.

    It is the mean of all; that over groups; or that over the first parts of the groups' names, each the mean over its
    groups (`ct/mass`: over classes within modalities).
    """
    size = len(first.values)
    choices = [_Groups(np.ones((size, 1)), np.ones((1, 1)))]
    if first.groups is not None:
        names, code = np.unique(first.groups, return_inverse=True)
        parts = np.unique([name.partition("/")[0] for name in names.tolist()], return_inverse=True)[1]
        member = np.eye(len(names))[code]
        choices += [_Groups(member, np.ones((len(names), 1))), _Groups(member, np.eye(int(parts.max()) + 1)[parts])]
    for choice in choices:
        share = choice.shares()
        if all(abs(float(share @ own.values) - v) <= _SAME for own, v in zip((first, second), values, strict=True)):
            return choice
    return None


def _paired(first: Items, second: Items, groups: _Groups, *, resamples: int, seed: int) -> Comparison:
    each = second.values - first.values
    resampler = Resampler(first.patients, resamples=resamples, seed=seed)
    low, high = interval(resampler.draws(lambda weights: groups.mean(each, weights)))
    share = groups.shares() * each
    p = sign_flip(share, first.patients, seed=[seed, 1])
    return Comparison(float(share.sum()), low, high, "paired", "", None if math.isnan(p) else p)


def _plain(value: object) -> object:
    return value.rstrip("/") if isinstance(value, str) else value


def _said(value: object) -> str:
    return "not told" if value is None else str(value)
