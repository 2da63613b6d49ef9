"""A figure with its bootstrap draws and controls, so that a mean over figures keeps an honest interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from medmoe.metrics import Floats, Metric, interval


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure of one group of items.

    Attributes:
        value: The figure.
        draws: [R] the figure in each bootstrap resample.
        n: Items it was computed from.
        controls: Fixed controls by name.
        shuffled: [S] the figure in each shuffle of the truth, or None.
        shuffled_draws: [R] the first shuffle's figure in each bootstrap resample, or None.
    """

    value: float
    draws: Floats
    n: int
    controls: dict[str, float] = field(default_factory=dict)
    shuffled: Floats | None = None
    shuffled_draws: Floats | None = None

    def metric(self) -> Metric:
        """Give the metric: its 95 % interval, and the shuffled control's mean, lower and upper bound.

        A bound of the control is the outer one of two: that of its values over the shuffles, and that of its bootstrap
        interval (one shuffle's, moved to the mean of all, since one alone lies anywhere among them).
        """
        low, high = interval(self.draws)
        controls = dict(self.controls)
        if self.shuffled is not None and self.shuffled_draws is not None:
            centre = float(np.mean(self.shuffled))
            spread, drawn = interval(self.shuffled), interval(self.shuffled_draws - self.shuffled[0] + centre)
            controls["shuffled"] = centre
            controls["shuffled_low"] = float(np.fmin(spread[0], drawn[0]))
            controls["shuffled_high"] = float(np.fmax(spread[1], drawn[1]))
        return Metric(self.value, low, high, self.n, controls)


def mean(figures: Sequence[Figure]) -> Figure:
    """Average figures of disjoint groups, each counting the same; its draws average theirs.

    Groups are resampled independently: each keeps its size, and a patient seen in two groups is drawn in each.
    """
    shared = set.intersection(*(set(figure.controls) for figure in figures))
    shuffled = [figure.shuffled for figure in figures if figure.shuffled is not None]
    drawn = [figure.shuffled_draws for figure in figures if figure.shuffled_draws is not None]
    complete = len(shuffled) == len(drawn) == len(figures)
    return Figure(
        value=float(np.mean([figure.value for figure in figures])),
        draws=np.mean([figure.draws for figure in figures], axis=0),
        n=sum(figure.n for figure in figures),
        controls={
            name: float(np.mean([figure.controls[name] for figure in figures]))
            for name in figures[0].controls
            if name in shared
        },
        shuffled=np.mean(shuffled, axis=0) if complete else None,
        shuffled_draws=np.mean(drawn, axis=0) if complete else None,
    )


def by_group(groups: Mapping[str, Mapping[str, Figure]]) -> dict[str, Figure]:
    """Name figures: `NAME` is the mean over the groups that have it, `NAME/GROUP` one group's.

    Args:
        groups: Figures by group, then by name.
    """
    names = dict.fromkeys(name for figures in groups.values() for name in figures)
    named: dict[str, Figure] = {}
    for name in names:
        own = {group: figures[name] for group, figures in groups.items() if name in figures}
        named[name] = mean(list(own.values()))
        named |= {f"{name}/{group}": figure for group, figure in own.items()}
    return named


def metrics(figures: Mapping[str, Figure]) -> dict[str, Metric]:
    """Turn figures into metrics."""
    return {name: figure.metric() for name, figure in figures.items()}
