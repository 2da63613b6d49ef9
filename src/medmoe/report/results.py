"""An evaluation on the page: headline figures, bars by modality, full tables and router confusion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from medmoe.report.charts import bar
from medmoe.report.figures import (
    HEADLINES,
    MINIMUM,
    TASKS,
    Figure,
    by_metric,
    groups,
    metric_title,
    task_title,
    variant_title,
    variants,
)
from medmoe.report.markup import Html, finite, join, number, tag

Results = Mapping[str, Any]

TOO_FEW = "n too small"

# class of the style sheet → what the mark means
_LEGEND = {
    "fill": "value",
    "whisker": "95 % interval",
    "mark chance": "chance",
    "mark majority": "majority",
    "mark shuffled": "shuffled pairs",
    "mark other": "other controls",
    "zone": "within shuffled",
}


def headlines(results: Results, *, minimum: int = MINIMUM) -> Html | None:
    """Draw a tile for each headline figure that was evaluated; None where there is none."""
    tiles = []
    for task, name in HEADLINES:
        found = results.get("tasks", {}).get(task, {}).get(name)
        if found is not None:
            tiles.append(_tile(task, Figure.read(name, found), minimum))
    return tag("div", *tiles, class_="tiles") if tiles else None


def bars(results: Results, *, minimum: int = MINIMUM) -> Html | None:
    """Draw the headline figures modality by modality against their controls; None where there are none."""
    cards = []
    for task, name in HEADLINES:
        own = by_metric(results.get("tasks", {}).get(task, {})).get(name, {})
        shown = [group for group in groups({name: own}) if group and "/" not in group]
        if any(own[group].in_unit_range for group in shown):
            lines = [_bar_line(group, own[group], minimum) for group in shown]
            heading = tag("figcaption", tag("b", metric_title(name)), tag("small", task_title(task)))
            cards.append(tag("figure", heading, tag("ul", *lines), class_="chart bars"))
    if not cards:
        return None
    return join([legend(), tag("div", *cards, class_="charts")])


def legend() -> Html:
    """Explain the marks of a bar."""
    signs = [tag("span", tag("i", class_=f"sign {style}"), words) for style, words in _LEGEND.items()]
    return tag("p", *signs, class_="legend")


def tables(results: Results, *, minimum: int = MINIMUM) -> Html:
    """Write a table for each task: modalities as rows, metrics as columns; other readings folded away."""
    parts = []
    for task, metrics in results.get("tasks", {}).items():
        parts.append(tag("h3", task_title(task)))
        if task in TASKS:
            parts.append(tag("p", TASKS[task][1], class_="asked"))
        if not metrics:
            reason = results.get("details", {}).get(task, {}).get("skipped", "no figure")
            parts.append(tag("p", f"Skipped: {reason}.", class_="empty"))
            continue
        figures = by_metric(metrics)
        for prefix, names in variants(list(figures)).items():
            own = {name: figures[name] for name in names}
            table = _table(own, f"{task_title(task)}{f', {variant_title(prefix)}' if prefix else ''}", minimum)
            if prefix:
                summary = variant_title(prefix)
                table = tag("details", tag("summary", summary[:1].upper() + summary[1:]), table)
            parts.append(table)
    return join(parts) if parts else tag("p", "No task was evaluated.", class_="empty")


def confusions(results: Results) -> Html | None:
    """Draw each router's confusion, rows being true modalities; None where routing wasn't evaluated."""
    details = results.get("details", {}).get("routing", {})
    names = details.get("modalities", [])
    drawn = []
    for router in ("image", "text"):
        matrix = details.get(router, {}).get("confusion")
        if matrix and len(matrix) == len(names):
            drawn.append(_confusion(f"{router.capitalize()} router", names, matrix))
    return tag("div", *drawn, class_="charts wide") if drawn else None


def _tile(task: str, figure: Figure, minimum: int) -> Html:
    judged = figure.verdict()
    badge = tag("span", judged[1], class_="badge good" if judged[0] else "badge bad") if judged else None
    drawn = None
    if figure.in_unit_range and figure.value is not None:
        drawn = bar(figure.value, figure.low, figure.high, figure.controls)
    n = f"n\N{NO-BREAK SPACE}{figure.n:,}" if figure.n is not None else ""
    return tag(
        "div",
        tag("p", task_title(task), class_="eyebrow"),
        tag("h3", metric_title(figure.name)),
        tag("p", tag("b", figure.said), " ", tag("small", figure.interval), class_="big"),
        drawn,
        tag("p", " · ".join(part for part in (figure.compared, n) if part), class_="note"),
        tag("span", TOO_FEW, class_="badge") if figure.too_few(minimum) else badge,
        class_="tile few" if figure.too_few(minimum) else "tile",
    )


def _bar_line(group: str, figure: Figure, minimum: int) -> Html:
    judged = figure.verdict()
    weak = "weak" if judged is not None and not judged[0] else None
    few = figure.too_few(minimum)
    small = [tag("small", line) for line in (figure.interval, TOO_FEW if few else "") if line]
    value = tag("span", tag("b", figure.said, class_=weak), *small, class_="value")
    drawn = tag("span")
    if figure.in_unit_range and figure.value is not None:
        drawn = bar(figure.value, figure.low, figure.high, figure.controls)
    name = tag("span", group, class_="name")
    return tag("li", name, drawn, value, title=figure.compared or None, class_="few" if few else None)


def _table(figures: Mapping[str, Mapping[str, Figure]], caption: str, minimum: int) -> Html:
    columns = [tag("th", metric_title(name), scope="col") for name in figures]
    head = tag("thead", tag("tr", tag("th", "Modality", scope="col"), *columns))
    rows = []
    for group in groups(figures):
        cells = [cell(own.get(group), minimum) for own in figures.values()]
        rows.append(tag("tr", tag("th", group or "all", scope="row"), *cells, class_=None if group else "all"))
    return scrolling(tag("table", tag("caption", caption, class_="hidden"), head, tag("tbody", *rows)), caption)


def scrolling(table: Html, label: str) -> Html:
    """Put a table into a box of its own that scrolls sideways, also by keyboard."""
    return tag("div", table, class_="scroll", tabindex="0", role="region", aria_label=label)


def cell(figure: Figure | None, minimum: int, *, style: str = "") -> Html:
    """Write a figure as a table's cell: value, interval, controls, verdict and n; grey where n is too small."""
    if figure is None:
        return tag("td", number(None))
    judged, few = figure.verdict(), figure.too_few(minimum)
    weak = judged is not None and not judged[0]
    value = tag("b", figure.said, class_="weak" if weak and not few else None)
    verdict = judged[1] if judged is not None and weak and not few else ""
    count = "" if figure.n is None else f"n\N{NO-BREAK SPACE}{figure.n:,}{': n too small' if few else ''}"
    small = [tag("small", line) for line in (figure.compared, verdict, count) if line]
    interval = tag("span", figure.interval, class_="interval")
    return tag("td", value, " ", interval, *small, class_=f"{style} {'few' if few else ''}".strip() or None)


def _confusion(title: str, names: Sequence[str], matrix: Sequence[Sequence[object]]) -> Html:
    head = tag("tr", tag("th", "true ↓ chosen →"), *[tag("th", tag("span", name), scope="col") for name in names])
    rows = []
    for index, (name, row) in enumerate(zip(names, matrix, strict=True)):
        counts = [finite(value) or 0.0 for value in row]
        total = sum(counts)
        cells = [_share(count, total, right=index == column) for column, count in enumerate(counts)]
        rows.append(tag("tr", tag("th", name, scope="row"), *cells))
    right = sum(finite(matrix[k][k]) or 0.0 for k in range(len(names)))
    everything = sum(finite(value) or 0.0 for row in matrix for value in row)
    said = f"{right:,.0f} of {everything:,.0f} to their own modality’s expert"
    caption = tag("figcaption", tag("b", title), tag("small", said))
    table = tag("table", tag("thead", head), tag("tbody", *rows), class_="confusion")
    return tag("figure", caption, tag("div", table, class_="scroll", tabindex="0"), class_="chart")


def _share(count: float, total: float, *, right: bool) -> Html:
    share = count / total if total else 0.0
    colour = "--good" if right else "--bad"
    style = f"background:color-mix(in srgb, var({colour}) {100 * share:.0f}%, transparent)" if count else None
    strong = "strong" if share > 0.55 else None
    return tag("td", f"{count:,.0f}", style=style, class_=strong, title=f"{100 * share:.1f} %")
