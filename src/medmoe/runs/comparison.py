"""What differs between runs: settings, what made them, their curves, and the figures they were judged by."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from medmoe.errors import ConfigError, UserError
from medmoe.report import Run, read_runs
from medmoe.report.differences import obstacles
from medmoe.report.figures import HEADLINES, Figure
from medmoe.report.markup import DASH, number
from medmoe.report.runs import shortest_names
from medmoe.runs.folder import RunState
from medmoe.runs.listing import aligned, settings
from medmoe.trackers.base import numbers

MOST_RUNS = 8  # as many as charts have colours
# what is drawn first, in this order; the terms of the loss follow
CURVES = (
    "val/loss",
    "train/loss",
    "val/image_router_accuracy",
    "train/expert_agreement",
    "train/grad_norm",
    "train/images_per_second",
    "train/data_wait",
    "train/rss_mib",
)
_TERMS = ("val/terms/", "train/terms/")
_MADE = ("versions", "git_commit", "machine", "processes", "train_data", "val_data", "initialised_from")
_WIDTH, _BARS = 32, "▁▂▃▄▅▆▇█"
_WIDE = 50  # largest over smallest from which a curve is drawn on a logarithmic scale

Points = list[tuple[int, float]]


@dataclass(frozen=True)
class Comparison:
    """Runs beside each other; every list has an entry for each run, in order.

    Attributes:
        runs: The runs.
        names: What they are called: as much of their paths as tells them apart.
        settings: Dotted key → values, where they differ; None where a run has no such setting.
        made: The same of versions, commit, machine and data.
        curves: Name of a metric → (step, value) pairs, for all that a run has logged.
        figures: (task, metric) → figure with its interval, None where a run wasn't judged by it.
        doubts: Why curves or figures may not be comparable, and what can't be read.
    """

    runs: Sequence[RunState]
    names: Sequence[str]
    settings: Mapping[str, list[Any]]
    made: Mapping[str, list[Any]]
    curves: Mapping[str, list[Points]]
    figures: Mapping[tuple[str, str], list[Figure | None]]
    doubts: Sequence[str] = field(default=())

    @property
    def plain(self) -> dict[str, Any]:
        """All of it as JSON has it."""
        return {
            "runs": [run.summary for run in self.runs],
            "settings": dict(self.settings),
            "made": dict(self.made),
            "curves": {name: [[list(point) for point in one] for one in each] for name, each in self.curves.items()},
            "figures": {
                f"{task}/{metric}": [_plain(figure) for figure in each] for (task, metric), each in self.figures.items()
            },
            "doubts": list(self.doubts),
        }

    @property
    def shown(self) -> list[str]:
        """Names of the curves to draw, most telling first."""
        first = [name for name in CURVES if name in self.curves]
        return first + [name for start in _TERMS for name in self.curves if name.startswith(start)]


def compare(runs: Sequence[RunState]) -> Comparison:
    """Set runs beside each other.

    Raises:
        ConfigError: If there are fewer than 2 or more than 8, or one is given twice.
    """
    if not 2 <= len(runs) <= MOST_RUNS:
        raise ConfigError(f"got {len(runs)} runs, allowed: 2 to {MOST_RUNS}", where="medmoe runs compare")
    if len({run.path.resolve() for run in runs}) < len(runs):
        raise ConfigError("a run is given twice", where="medmoe runs compare", remedy="give each run once")
    names = shortest_names([run.path for run in runs])
    judged, unjudged = _judged(runs)
    doubts = [f"{name}: {run.problem}" for name, run in zip(names, runs, strict=True) if run.problem]
    doubts += [_moves(name, run) for name, run in zip(names, runs, strict=True) if run.state in ("running", "stopped")]
    differing = _differing([settings(run) if run.config else None for run in runs])
    if any(key.startswith("objectives.") for key in differing):
        doubts.append("objectives are weighed differently: compare the terms of the loss, not its sum")
    doubts += unjudged + _not_alike(names, judged)
    return Comparison(
        runs,
        names,
        differing,
        _differing([_made_of(run) if run.facts else None for run in runs]),
        _curves(runs),
        _figures(judged),
        doubts,
    )


def lines(found: Comparison) -> str:
    """Write a comparison as text: what differs, each curve as a line of bars on a common scale, the figures."""
    parts = []
    for title, differing in (("settings that differ", found.settings), ("made by", found.made)):
        body = aligned([[title, *found.names], *([key, *map(said, each)] for key, each in differing.items())])
        parts.append("\n".join(body) if differing else f"{title}: none")
    first = [name for name in found.shown if not name.startswith("train/terms/")]
    parts.append("\n".join(line for name in first for line in _curve_lines(name, found)))
    if found.figures:
        head = ["figure", *found.names]
        rows = [[f"{task} {metric}", *map(figure_said, each)] for (task, metric), each in found.figures.items()]
        parts.append("\n".join(aligned([head, *rows])))
    if found.doubts:
        parts.append("\n".join(f"note: {doubt}" for doubt in found.doubts))
    return "\n\n".join(part for part in parts if part)


def sparkline(points: Points, *, low: float, high: float, last: int, width: int = _WIDTH) -> str:
    """Draw values over steps 0 to `last` as bars between `low` and `high`; of several in one place their mean.

    >>> sparkline([(1, 0.0), (4, 1.0)], low=0, high=1, last=4, width=4)
    '▁  █'
    """
    places: list[list[float]] = [[] for _ in range(width)]
    for step, value in points:
        places[min(width - 1, max(0, step - 1) * width // max(last, 1))].append(value)
    span = (high - low) or 1.0
    return "".join(_bar((sum(own) / len(own) - low) / span) if own else " " for own in places).rstrip()


def said(value: Any) -> str:
    """Write a setting's value; a dash for none."""
    if value is None:
        return DASH
    return value if isinstance(value, str) else json.dumps(value)


def figure_said(figure: Figure | None) -> str:
    """Write a figure with its interval."""
    return DASH if figure is None else f"{figure.said} {figure.interval}".rstrip()


def _bar(share: float) -> str:
    return _BARS[min(len(_BARS) - 1, max(0, int(share * len(_BARS))))]


def _curve_lines(name: str, found: Comparison) -> list[str]:
    each = found.curves[name]
    values = [value for points in each for _, value in points]
    low, high, last = min(values), max(values), max(step for points in each for step, _ in points)
    head = f"{name}, {number(low)} to {number(high)} over {last} steps"
    drawn = each
    if low > 0 and high / low > _WIDE:  # else one outlier makes all others look alike
        head += ", logarithmic"
        drawn = [[(step, math.log(value)) for step, value in points] for points in each]
        low, high = math.log(low), math.log(high)
    rows = [
        [f"  {run}", sparkline(line, low=low, high=high, last=last).ljust(_WIDTH), number(own[-1][1]) if own else DASH]
        for run, line, own in zip(found.names, drawn, each, strict=True)
    ]
    return [head, *aligned(rows)]


def _moves(name: str, run: RunState) -> str:
    row = run.summary
    return f"{name} is {run.state}" + (f" at step {row['step']} of {row['steps']}" if row["steps"] else "")


def _differing(each: Sequence[Mapping[str, Any] | None]) -> dict[str, list[Any]]:
    """Give the keys in which mappings differ, unreadable ones (None) left aside."""
    keys = dict.fromkeys(key for one in each if one is not None for key in one)
    found = {}
    for key in keys:
        values = [None if one is None else one.get(key) for one in each]
        if len({json.dumps(one.get(key), sort_keys=True) for one in each if one is not None}) > 1:
            found[key] = values
    return found


def _made_of(run: RunState) -> dict[str, Any]:
    """Give what made a run by dotted key."""
    made: dict[str, Any] = {}
    for key in _MADE:
        value = run.facts.get(key)
        made |= {f"{key}.{name}": item for name, item in value.items()} if isinstance(value, Mapping) else {key: value}
    return {key: value for key, value in made.items() if value is not None}


def _curves(runs: Sequence[RunState]) -> dict[str, list[Points]]:
    each: list[dict[str, Points]] = []
    for run in runs:
        modalities = (
            run.config.get("model", {}).get("modalities") if isinstance(run.config.get("model"), Mapping) else ()
        )
        own: dict[str, Points] = {}
        for row in run.history:
            for name, value in numbers(row, modalities or ()).items():
                own.setdefault(name, []).append((row["step"], value))
        each.append(own)
    return {name: [own.get(name, []) for own in each] for name in dict.fromkeys(name for own in each for name in own)}


def _judged(runs: Sequence[RunState]) -> tuple[list[Run | None], list[str]]:
    """Read each run's evaluation; None where it has none, and why where that can't be read."""
    found: list[Run | None] = []
    problems = []
    for run in runs:
        try:
            kept = any((run.path / name).is_file() for name in ("evaluation.json", "summary.json"))
            found.append(read_runs([run.path])[0] if kept else None)
        except UserError as error:
            found.append(None)
            problems.append(str(error))
    return found, problems


def _figures(judged: Sequence[Run | None]) -> dict[tuple[str, str], list[Figure | None]]:
    """Give the headline figures that any run was judged by."""
    found = {}
    for task, metric in HEADLINES:
        each = [None if run is None else run.tasks.get(task, {}).get(metric) for run in judged]
        if any(each):
            found[task, metric] = [None if one is None else Figure.read(metric, one) for one in each]
    return found


def _not_alike(names: Sequence[str], judged: Sequence[Run | None]) -> list[str]:
    """Say which runs' figures aren't of the same items as the first's."""
    there = [(name, run) for name, run in zip(names, judged, strict=True) if run is not None]
    if not there:
        return []
    (first, reference), *others = there
    return [
        f"figures of {name} and {first} don't compare: {'; '.join(against)}"
        for name, run in others
        if (against := obstacles(reference, run))
    ]


def _plain(figure: Figure | None) -> dict[str, Any] | None:
    if figure is None:
        return None
    return {"value": figure.value, "low": figure.low, "high": figure.high, "n": figure.n}
