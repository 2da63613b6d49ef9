"""An evaluation on the page: headline figures, bars by modality, full tables and router confusion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from medmoe.report.charts import bar
from medmoe.report.figures import (
    HEADLINES,
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

# class of the style sheet → what the mark means
_LEGEND = {
    "fill": "value",
    "whisker": "95 % interval",
    "mark chance": "chance",
    "mark majority": "majority",
    "mark shuffled": "shuffled pairs",
    "zone": "within shuffled",
}


def headlines(results: Results) -> Html | None:
    """Draw a tile for each headline figure that was evaluated; None where there is none."""
    tiles = []
    for task, name in HEADLINES:
        found = results.get("tasks", {}).get(task, {}).get(name)
        if found is not None:
            tiles.append(_tile(task, Figure.read(name, found)))
    return tag("div", *tiles, class_="tiles") if tiles else None


def bars(results: Results) -> Html | None:
    """Draw the headline figures modality by modality against their controls; None where there are none."""
    cards = []
    for task, name in HEADLINES:
        own = by_metric(results.get("tasks", {}).get(task, {})).get(name, {})
        shown = [group for group in groups({name: own}) if group and "/" not in group]
        if any(own[group].in_unit_range for group in shown):
            lines = [_bar_line(group, own[group]) for group in shown]
            heading = tag("figcaption", tag("b", metric_title(name)), tag("small", task_title(task)))
            cards.append(tag("figure", heading, tag("ul", *lines), class_="chart bars"))
    if not cards:
        return None
    key = [tag("span", tag("i", class_=f"sign {style}"), words) for style, words in _LEGEND.items()]
    return join([tag("p", *key, class_="legend"), tag("div", *cards, class_="charts")])


def tables(results: Results) -> Html:
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
            table = _table(own, f"{task_title(task)}{f', {variant_title(prefix)}' if prefix else ''}")
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


def _tile(task: str, figure: Figure) -> Html:
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
        tag("p", tag("b", number(figure.value)), " ", tag("small", figure.interval), class_="big"),
        drawn,
        tag("p", " · ".join(part for part in (figure.compared, n) if part), class_="note"),
        badge,
        class_="tile",
    )


def _bar_line(group: str, figure: Figure) -> Html:
    judged = figure.verdict()
    weak = "weak" if judged is not None and not judged[0] else None
    value = tag("span", tag("b", number(figure.value), class_=weak), tag("small", figure.interval), class_="value")
    drawn = tag("span")
    if figure.in_unit_range and figure.value is not None:
        drawn = bar(figure.value, figure.low, figure.high, figure.controls)
    return tag("li", tag("span", group, class_="name"), drawn, value, title=figure.compared or None)


def _table(figures: Mapping[str, Mapping[str, Figure]], caption: str) -> Html:
    columns = [tag("th", metric_title(name), scope="col") for name in figures]
    head = tag("thead", tag("tr", tag("th", "Modality", scope="col"), *columns))
    rows = []
    for group in groups(figures):
        cells = [_cell(own.get(group)) for own in figures.values()]
        rows.append(tag("tr", tag("th", group or "all", scope="row"), *cells, class_=None if group else "all"))
    table = tag("table", tag("caption", caption, class_="hidden"), head, tag("tbody", *rows))
    return tag("div", table, class_="scroll", tabindex="0", role="region", aria_label=caption)


def _cell(figure: Figure | None) -> Html:
    if figure is None:
        return tag("td", number(None))
    judged = figure.verdict()
    weak = judged is not None and not judged[0]
    value = tag("b", number(figure.value), class_="weak" if weak else None)
    lines = [figure.compared, judged[1] if judged is not None and weak else "", f"n {figure.n:,}" if figure.n else ""]
    small = [tag("small", line) for line in lines if line]
    return tag("td", value, " ", tag("span", figure.interval, class_="interval"), *small)


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
