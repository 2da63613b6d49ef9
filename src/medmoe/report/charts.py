"""Charts as inline SVG: lines over training steps, and a bar with its interval and controls.

Colours come from the page's style sheet by class, so that a chart follows light and dark.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from medmoe.report.markup import Html, finite, join, number, tag

_WIDTH, _HEIGHT = 360, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 50, 10, 10, 26
_MOST_POINTS = 240  # more than the chart has pixels for
_SMOOTH_FROM = 40  # points from which a noisy line is smoothed
_MARKS = ("shuffled", "majority", "chance")  # controls with a mark of their own
_NOISY = 3.0  # a line is noisy when its ups and downs add up to more than this many times its range


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a chart.

    Attributes:
        name: What the legend calls it.
        points: (step, value) pairs in order; a value that isn't finite is a gap.
        style: Class of the style sheet that gives it its colour.
        dots: Whether each point is marked; such a line is never smoothed.
        raw: Whether the raw values lie behind a smoothed line.
    """

    name: str
    points: Sequence[tuple[float, object]]
    style: str
    dots: bool = False
    raw: bool = True

    def clean(self) -> list[tuple[float, float]]:
        """Give the points that can be drawn."""
        pairs = [(step, finite(value)) for step, value in self.points]
        return [(step, value) for step, value in pairs if value is not None]


def line_chart(title: str, series: Sequence[Series], *, note: str = "") -> Html:
    """Draw lines over steps, with the last value of each in the caption.

    Args:
        title: What is drawn.
        series: The lines, drawn in order.
        note: One sentence under the chart.
    """
    drawn = [(line, line.clean()) for line in series]
    drawn = [(line, points) for line, points in drawn if points]
    if not drawn:
        body = tag("p", "No finite value was logged.", class_="empty")
        return tag("figure", tag("figcaption", tag("b", title)), body, class_="chart")
    legend = join(
        tag("span", tag("i", class_=f"key {line.style}"), f"{line.name} {number(points[-1][1])}")
        for line, points in drawn
    )
    summary = "; ".join(f"{line.name} from {number(pts[0][1])} to {number(pts[-1][1])}" for line, pts in drawn)
    picture = tag(
        "svg",
        tag("title", f"{title}: {summary}"),
        *_lines(drawn),
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        role="img",
    )
    caption = tag("figcaption", tag("b", title), tag("span", legend, class_="legend"))
    return tag("figure", caption, picture, tag("p", note, class_="note") if note else None, class_="chart")


def bar(value: float, low: float | None, high: float | None, controls: Mapping[str, object]) -> Html:
    """Draw a value in [0, 1] as a bar with its interval as a whisker and its controls as marks.

    The zone up to `shuffled_high` is shaded: a bar that ends inside it is no better than pairs
    shuffled within their modality.
    """
    zone = finite(controls.get("shuffled_high"))
    parts = [tag("rect", x="0", y="3", width="100%", height="14", rx="3", class_="track")]
    parts.append(tag("rect", x="0", y="3", width=_percent(value), height="14", rx="3", class_="fill"))
    if zone is not None:
        parts.append(tag("rect", x="0", y="3", width=_percent(zone), height="14", rx="3", class_="zone"))
    if low is not None and high is not None:
        parts.append(tag("line", x1=_percent(low), x2=_percent(high), y1="10", y2="10", class_="whisker"))
        parts += [
            tag("line", x1=_percent(x), x2=_percent(x), y1="6.5", y2="13.5", class_="whisker") for x in (low, high)
        ]
    others = [name for name in controls if name not in _MARKS and not name.endswith(("_low", "_high"))]
    for name in (*others, *_MARKS):
        at = finite(controls.get(name))
        if at is not None:
            name = name if name in _MARKS else "other"
            parts.append(tag("line", x1=_percent(at), x2=_percent(at), y1="0", y2="20", class_=f"mark {name}"))
    said = [f"{number(value)}"] + [f"{name.replace('_', ' ')} {number(at)}" for name, at in controls.items()]
    return tag("svg", *parts, class_="bar", height="20", role="img", aria_label=", ".join(said))


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Choose round numbers that span a range.

    >>> ticks(0.13, 2.1)
    [0.0, 0.5, 1.0, 1.5, 2.0, 2.5]
    """
    if high - low < 1e-12 * max(1.0, abs(low)):
        pad = abs(low) * 0.1 or 1.0
        low, high = low - pad, high + pad
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * unit for unit in (1.0, 2.0, 5.0, 10.0) if power * unit >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def _lines(drawn: Sequence[tuple[Series, list[tuple[float, float]]]]) -> list[Html]:
    steps = [step for _, points in drawn for step, _ in points]
    values = [value for _, points in drawn for _, value in points]
    across, up = ticks(min(values), max(values)), ticks(min(steps), max(steps), most=4)
    left, right = (min(steps), max(steps)) if max(steps) > min(steps) else (up[0], up[-1])

    def x(step: float) -> float:
        return round(_LEFT + (step - left) / (right - left) * (_WIDTH - _LEFT - _RIGHT), 1)

    def y(value: float) -> float:
        return round(_TOP + (across[-1] - value) / (across[-1] - across[0]) * (_HEIGHT - _TOP - _BOTTOM), 1)

    parts = []
    for value in across:
        parts.append(tag("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=y(value), y2=y(value), class_="grid"))
        parts.append(tag("text", _tick(value), x=_LEFT - 6, y=y(value) + 3.5, class_="end"))
    for step in (tick for tick in up if left <= tick <= right):
        anchor = "end" if x(step) > _WIDTH - 30 else "middle"
        parts.append(tag("text", _tick(step), x=x(step), y=_HEIGHT - 8, class_=anchor))
    for line, points in drawn:
        shown = _thin(points)
        smooth = not line.dots and len(shown) >= _SMOOTH_FROM and _noisy([value for _, value in shown])
        if line.raw or not smooth:
            parts.append(_path([(x(s), y(v)) for s, v in shown], f"line {line.style}{' raw' if smooth else ''}"))
        if smooth:
            parts.append(_path([(x(s), y(v)) for s, v in _smoothed(shown)], f"line {line.style}"))
        if line.dots or len(shown) == 1:
            parts += [tag("circle", cx=x(s), cy=y(v), r="2.6", class_=f"dot {line.style}") for s, v in shown]
    return parts


def _path(points: Sequence[tuple[float, float]], style: str) -> Html:
    return tag("polyline", points=" ".join(f"{x:g},{y:g}" for x, y in points), class_=style)


def _thin(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Average neighbours until there are few enough points."""
    size = math.ceil(len(points) / _MOST_POINTS)
    groups = (points[start : start + size] for start in range(0, len(points), size))
    return [(sum(s for s, _ in group) / len(group), sum(v for _, v in group) / len(group)) for group in groups]


def _noisy(values: Sequence[float]) -> bool:
    travelled = sum(abs(after - before) for before, after in pairwise(values))
    return travelled > _NOISY * (max(values) - min(values))


def _smoothed(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Average each point with its neighbours within a twentieth of the points, fewer at the steep start."""
    reach, values = max(1, len(points) // 20), [value for _, value in points]
    smooth = []
    for index, (step, _) in enumerate(points):
        window = values[max(0, index - reach) : index + min(index, reach) + 1]
        smooth.append((step, sum(window) / len(window)))
    return smooth


def _tick(value: float) -> str:
    if value and (abs(value) >= 10_000 or abs(value) < 0.001):
        return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:g}"


def _percent(share: float) -> str:
    return f"{100 * min(1.0, max(0.0, share)):.4g}%"
