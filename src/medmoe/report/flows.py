"""Routing as flows: which expert the reports and the pixels of each modality are sent to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from medmoe.report.markup import Html, finite, number, tag
from medmoe.report.results import scrolling
from medmoe.report.runs import Run

Counts = list[list[float]]

_WIDTH, _TOP, _NODE, _GAP = 360, 26, 10, 8
_SIDE = 96  # for the names at either side
_EACH = 26  # mean height of a node


def flows(run: Run) -> Html | None:
    """Draw a run's flows from what each report says, over the true modality, to what the pixels say.

    Where the two routers' choices were counted together (`image_by_text`), the report's choice leads straight to the
    pixels'. None without any of these counts.
    """
    found = run.of("routing")
    names = [str(name) for name in _listed(found.get("modalities"))]
    joint = _counts(found.get("image_by_text"), len(names))
    if joint is not None:
        return _figure(run.name, ["by the report", "by the pixels"], names, [_turned(joint)])
    image = _counts((found.get("image") or {}).get("confusion"), len(names))
    text = _counts((found.get("text") or {}).get("confusion"), len(names))
    if image is None or not names:
        return None
    if text is None:
        return _figure(run.name, ["true modality", "by the pixels"], names, [image])
    return _figure(run.name, ["by the report", "true modality", "by the pixels"], names, [_turned(text), image])


def usage(run: Run) -> Html | None:
    """Write how often images of each finding went to each expert; None where that wasn't counted."""
    found = run.of("routing")
    names, findings = [str(name) for name in _listed(found.get("modalities"))], found.get("findings")
    rows = []
    for finding, own in findings.items() if isinstance(findings, Mapping) else ():
        counts = _listed(own.get("experts")) if isinstance(own, Mapping) else []
        if len(counts) != len(names) or not names:
            continue
        cells = [tag("td", f"{finite(count) or 0:,.0f}") for count in counts]
        sure = tag("td", number(finite(own.get("probability"))))
        rows.append(tag("tr", tag("th", str(finding), scope="row"), *cells, sure))
    if not rows:
        return None
    columns = ["Modality/finding", *names, "median probability"]
    head = tag("thead", tag("tr", *[tag("th", column, scope="col") for column in columns]))
    title = "Experts by finding"
    table = scrolling(tag("table", head, tag("tbody", *rows)), title)
    return tag("details", tag("summary", f"{title}: images of each that went to each expert"), table)


def _turned(counts: Counts) -> Counts:
    return [list(column) for column in zip(*counts, strict=True)]


def _listed(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _counts(value: object, size: int) -> Counts | None:
    if not isinstance(value, list) or len(value) != size or not size:
        return None
    rows = [[finite(count) or 0.0 for count in row] if isinstance(row, list) else [] for row in value]
    return rows if all(len(row) == size for row in rows) else None


def _figure(title: str, columns: Sequence[str], names: Sequence[str], steps: Sequence[Counts]) -> Html:
    """Draw columns of nodes, as high as their counts, joined by bands."""
    size = len(names)
    heights = [[0.0] * size for _ in columns]
    for place, step in enumerate(steps):
        for one in range(size):
            heights[place][one] = max(heights[place][one], sum(step[one]))
            heights[place + 1][one] = max(heights[place + 1][one], sum(row[one] for row in step))
    most = max(sum(column) for column in heights) or 1.0
    scale = _EACH * size / most
    tops = [_tops([height * scale for height in column]) for column in heights]
    bottom = max(
        top + height * scale
        for own, column in zip(tops, heights, strict=True)
        for top, height in zip(own, column, strict=True)
    )
    span = (_WIDTH - 2 * _SIDE - _NODE) / (len(columns) - 1)
    xs = [_SIDE + index * span for index in range(len(columns))]
    parts = [
        band
        for place, step in enumerate(steps)
        for band in _bands(step, tops[place : place + 2], xs[place : place + 2], scale, place)
    ]
    parts += _nodes(columns, names, heights, tops, xs, scale)
    said = f"{title}: {' → '.join(columns)}"
    svg = tag("svg", tag("title", said), *parts, viewBox=f"0 0 {_WIDTH} {bottom + 6:.0f}", role="img")
    return tag(
        "figure",
        tag("figcaption", tag("b", "Flow of the images"), tag("small", " → ".join(columns))),
        svg,
        class_="chart",
    )


def _tops(heights: Sequence[float]) -> list[float]:
    tops, at = [], float(_TOP)
    for height in heights:
        tops.append(at)
        at += height + _GAP
    return tops


def _bands(
    step: Counts, tops: Sequence[Sequence[float]], xs: Sequence[float], scale: float, place: int
) -> Iterator[Html]:
    """Draw the bands between two columns in the colour of the true modality (the right column's, or the left's)."""
    left, right = list(tops[0]), list(tops[1])
    x0, x1 = xs[0] + _NODE, xs[1]
    middle = (x0 + x1) / 2
    ends = [[0.0] * len(step) for _ in step]
    for to in range(len(step)):
        for one in range(len(step)):
            ends[one][to] = right[to]
            right[to] += step[one][to] * scale
    for one, row in enumerate(step):
        for to, count in enumerate(row):
            if not count:
                continue
            high, a, b = max(1.0, count * scale), left[one], ends[one][to]
            curve = (
                f"M{x0:.1f} {a:.1f}C{middle:.1f} {a:.1f} {middle:.1f} {b:.1f} {x1:.1f} {b:.1f}V{b + high:.1f}"
                f"C{middle:.1f} {b + high:.1f} {middle:.1f} {a + high:.1f} {x0:.1f} {a + high:.1f}Z"
            )
            style = f"flow s{one % 8}" if one == to else f"flow wrong s{(to if place == 0 else one) % 8}"
            yield tag("path", tag("title", f"{count:,.0f}"), d=curve, class_=style)
            left[one] += count * scale


def _nodes(
    columns: Sequence[str],
    names: Sequence[str],
    heights: Sequence[Sequence[float]],
    tops: Sequence[Sequence[float]],
    xs: Sequence[float],
    scale: float,
) -> Iterator[Html]:
    last = len(columns) - 1
    for index, column in enumerate(columns):
        anchor = {0: "end", last: "start"}.get(index, "middle")
        at = xs[index] + (_NODE if index == 0 else 0 if index == last else _NODE / 2)
        yield tag("text", column, x=f"{at:.1f}", y=12, class_=anchor)
        for one, name in enumerate(names):
            high = max(1.0, heights[index][one] * scale)
            top = tops[index][one]
            yield tag(
                "rect",
                x=f"{xs[index]:.1f}",
                y=f"{top:.1f}",
                width=_NODE,
                height=f"{high:.1f}",
                class_=f"node s{one % 8}",
            )
            if index in (0, last):
                x = xs[index] - 5 if index == 0 else xs[index] + _NODE + 5
                count = f"{name} {heights[index][one]:,.0f}"
                yield tag("text", count, x=f"{x:.1f}", y=f"{top + high / 2 + 3.5:.1f}", class_=anchor)
