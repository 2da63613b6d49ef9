"""Charts of points as inline SVG: ROC, precision and recall, reliability, and a figure over levels of a corruption."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from medmoe.report import details
from medmoe.report.charts import ticks
from medmoe.report.details import Points
from medmoe.report.figures import metric_title, task_title
from medmoe.report.markup import Html, finite, join, number, tag
from medmoe.report.runs import Run

_SIZE, _HEIGHT = 360, 270
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 10, 40
_MOST_LINES = 8  # of one chart: as many as there are colours
_MOST_POINTS = 400

# key of a task's details → title, words of x, words of y, whether the diagonal means something
_SHARES = {
    "roc": ("ROC", "false positive rate", "true positive rate", True),
    "pr": ("Precision and recall", "recall", "precision", False),
    "reliability": ("Reliability", "mean confidence", "share right", True),
}
_AREAS = {"area": "area", "ece": "ECE", "brier": "Brier"}


@dataclass(frozen=True)
class Line:
    """One line of a chart.

    Attributes:
        name: What the legend calls it.
        points: (x, y), (x, y, n) where `dots`, or (x, y, low, high).
        note: What the legend says of it, such as its area.
        dots: Whether every point is drawn, larger the more items it stands for.
    """

    name: str
    points: Points
    note: str = ""
    dots: bool = False


def plots(runs: Sequence[Run], letters: Sequence[str]) -> Html | None:
    """Draw every chart that the runs' details hold points for; None where there are none.

    One run's lines share a chart; of several runs, each chart has one line a run.
    """
    parts = []
    for task in dict.fromkeys(task for run in runs for task in run.details):
        drawn = [*_shares(task, runs, letters), *_curves(task, runs, letters)]
        if drawn:
            parts += [tag("h3", task_title(task)), tag("div", *drawn, class_="charts")]
    return join(parts) if parts else None


def chart(
    title: str,
    lines: Sequence[Line],
    *,
    x: str,
    y: str,
    unit: bool = False,
    diagonal: bool = False,
) -> Html:
    """Draw lines through points.

    Args:
        title: What is drawn.
        lines: At most 8 are drawn; the rest is counted in the caption.
        x: Words under the chart.
        y: Words beside it.
        unit: Whether both axes go from 0 to 1.
        diagonal: Whether the line from (0, 0) to (1, 1) is drawn.
    """
    shown = [line for line in lines if line.points][:_MOST_LINES]
    if unit:
        across, up = [0.0, 0.25, 0.5, 0.75, 1.0], [0.0, 0.25, 0.5, 0.75, 1.0]
    else:
        across = ticks(*_range([point[0] for line in shown for point in line.points]))
        up = ticks(*_range([height for line in shown for point in line.points for height in _heights(line, point)]))
    place = _Place(across[0], across[-1], up[0], up[-1])
    parts = [*_axes(place, across, up, x, y)]
    if diagonal:
        parts.append(tag("line", **place.ends((0.0, 0.0), (1.0, 1.0)), class_="diagonal"))
    for index, line in enumerate(shown):
        parts += _drawn(place, line, f"s{index}")
    words = [f"{line.name} {line.note}".strip() for line in shown]
    legend = [tag("span", tag("i", class_=f"key s{k}"), word) for k, word in enumerate(words)]
    if len(lines) > len(shown):
        legend.append(tag("span", f"{len(lines) - len(shown)} more aren’t drawn"))
    svg = tag("svg", tag("title", f"{title}: {'; '.join(words)}"), *parts, viewBox=f"0 0 {_SIZE} {_HEIGHT}", role="img")
    caption = tag("figcaption", tag("b", title), tag("span", *legend, class_="legend"))
    return tag("figure", caption, svg, class_="chart")


@dataclass(frozen=True)
class _Place:
    """Maps a value to its place in the picture."""

    left: float
    right: float
    low: float
    high: float

    def at(self, x: float, y: float) -> tuple[float, float]:
        across = (x - self.left) / (self.right - self.left)
        up = (y - self.low) / (self.high - self.low)
        width, height = _SIZE - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
        return round(_LEFT + across * width, 1), round(_TOP + (1 - up) * height, 1)

    def ends(self, first: tuple[float, float], second: tuple[float, float]) -> dict[str, float]:
        (x1, y1), (x2, y2) = self.at(*first), self.at(*second)
        return {"x1": x1, "y1": y1, "x2": x2, "y2": y2}


def _axes(place: _Place, across: Sequence[float], up: Sequence[float], x: str, y: str) -> Iterator[Html]:
    for value in up:
        ends = place.ends((place.left, value), (place.right, value))
        yield tag("line", **ends, class_="grid")
        yield tag("text", f"{value:g}", x=_LEFT - 6, y=ends["y1"] + 3.5, class_="end")
    for value in across:
        at = place.at(value, place.low)
        yield tag("text", f"{value:g}", x=at[0], y=at[1] + 15, class_="middle")
    yield tag("text", x, x=(_LEFT + _SIZE - _RIGHT) / 2, y=_HEIGHT - 6, class_="middle")
    middle = (_TOP + _HEIGHT - _BOTTOM) / 2
    yield tag("text", y, x=10, y=middle, class_="middle", transform=f"rotate(-90 10 {middle:g})")


def _drawn(place: _Place, line: Line, style: str) -> Iterator[Html]:
    kept = line.points[:: max(1, len(line.points) // _MOST_POINTS)]
    if kept[-1] != line.points[-1]:
        kept = [*kept, line.points[-1]]
    if not line.dots and all(len(point) == 4 for point in kept):
        outline = [(p[0], p[3]) for p in kept] + [(p[0], p[2]) for p in reversed(kept)]
        yield tag("polygon", points=_written(place, outline), class_=f"band {style}")
    yield tag("polyline", points=_written(place, [(p[0], p[1]) for p in kept]), class_=f"line {style}")
    if line.dots or len(kept) <= 12:
        most = max((point[2] for point in kept if len(point) > 2), default=0.0)
        for point in kept:
            share = point[2] / most if line.dots and len(point) > 2 and most > 0 else 0.25
            x, y = place.at(point[0], point[1])
            yield tag("circle", cx=x, cy=y, r=f"{1.5 + 4 * max(0.0, share) ** 0.5:.2g}", class_=f"dot {style}")


def _written(place: _Place, points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:g},{y:g}" for x, y in (place.at(*point) for point in points))


def _heights(line: Line, point: tuple[float, ...]) -> tuple[float, ...]:
    return (point[1], *point[2:]) if len(point) == 4 and not line.dots else (point[1],)


def _range(values: Sequence[float]) -> tuple[float, float]:
    return (min(values), max(values)) if values else (0.0, 1.0)


def _shares(task: str, runs: Sequence[Run], letters: Sequence[str]) -> Iterator[Html]:
    for key, (title, x, y, diagonal) in _SHARES.items():
        own = [_lines(run.of(task).get(key), dots=key == "reliability") for run in runs]
        for name, lines in _charts(own, letters):
            heading = f"{title}, {name}" if name else title
            yield chart(heading, lines, x=x, y=y, unit=True, diagonal=diagonal)


def _curves(task: str, runs: Sequence[Run], letters: Sequence[str]) -> Iterator[Html]:
    own = [list(details.curves(run.of(task))) for run in runs]
    for title in dict.fromkeys(title for found in own for title, _, _, _ in found):
        same = [next((chart for chart in found if chart[0] == title), None) for found in own]
        x, y = next((chart[1], chart[2]) for chart in same if chart is not None)
        lines = [
            [Line(name, points) for name, points in chart[3].items()] if chart is not None else [] for chart in same
        ]
        for name, drawn in _charts(lines, letters):
            heading = metric_title(title)
            yield chart(f"{heading}, {name}" if name else heading, drawn, x=x, y=metric_title(y) if y else "")


def _charts(own: Sequence[list[Line]], letters: Sequence[str]) -> Iterator[tuple[str, list[Line]]]:
    """Give (name, lines) of each chart: all of one run's lines, or of several runs the lines of one name."""
    if len(own) == 1:
        if own[0]:
            yield "", own[0]
        return
    names = dict.fromkeys(line.name for lines in own for line in lines)
    for name in ("mean",) if "mean" in names else names:
        yield (
            name,
            [
                Line(letter, line.points, line.note, line.dots)
                for letter, lines in zip(letters, own, strict=True)
                for line in lines
                if line.name == name
            ],
        )


def _lines(value: object, *, dots: bool) -> list[Line]:
    made = []
    for name, points in details.lines(value).items():
        given = value[name] if isinstance(value, Mapping) and name in value else None
        said = ""
        if isinstance(given, Mapping):
            known = {words: finite(given.get(key)) for key, words in _AREAS.items()}
            said = ", ".join(f"{words} {number(found)}" for words, found in known.items() if found is not None)
        made.append(Line(name, points, said, dots))
    return made
