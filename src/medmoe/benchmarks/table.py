"""A benchmark's result as a table: data set, n, ours with its interval, chance, and what was published."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

OWN_COLUMNS = ("data set", "n", "metric", "ours, % [95 %]", "chance", "majority")


def table(result: Mapping[str, Any]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Write a result of `run_benchmark` as a header and rows; figures are in percent.

    Where another metric than the stated one fits the published figures, accuracy has a line of its own. A published
    figure that no source available gave is `?`; an evaluated data set's published figure that can be no
    figure of the named metric on these images has a `!`. At the end stands for each metric the mean over the data sets
    that were judged by it, beside the published figures' mean over the same ones.
    """
    models = list(
        dict.fromkeys(model for row in result["rows"] for one in row["published"] for model in one["percent"])
    )
    rows = [line for row in result["rows"] for line in _lines(row, models)]
    for mean in result["means"]:
        name, metric = mean_name(mean), mean["metric"].replace("_", " ")
        published = (published_mean(result, mean, model) for model in models)
        rows.append((name, "", metric, _figure(mean), *_controls(mean), *published))
    return (*OWN_COLUMNS, *models), rows


def remarks(result: Mapping[str, Any]) -> list[str]:
    """Write what to know beside the table: where a data set is expected, what differs, what a sign means.

    What a data set's file says of it in general (`notes`, `metric_why`, `unknown`) stays in the result.
    """
    lines = list(result["notes"])
    for row in result["rows"]:
        if row["status"] != "evaluated":
            lines.append(f"{row['set']}: {row['status']}; expected {row['expected']}")
        lines += [f"{row['set']}: {warning}" for warning in row.get("warnings", [])]
    looked = [row for row in result["rows"] if "leak_check" in row]
    lines += dict.fromkeys(f"leak check: {row['leak_check']}" for row in looked if not row["audit"])
    shown = [cell for line in table(result)[1] for cell in line[len(OWN_COLUMNS) :]]
    if any(cell.endswith("!") for cell in shown):
        lines.append("!: can be no figure of the named metric on these images")
    if "?" in shown:
        lines.append("?: published, but not in a source that could be read")
    return lines


def _lines(row: Mapping[str, Any], models: list[str]) -> list[tuple[str, ...]]:
    """Write a data set: one line, or one for each share of training images."""
    lines = []
    for place, one in enumerate(row["published"] or [{"fraction": None, "percent": {}}]):
        ours = row.get("ours")
        metric = row["metric"]
        if one["fraction"] is not None:
            ours = (ours or {}).get(f"{one['fraction']:g}")
            metric = f"{row.get('ours_metric', metric)} @{100 * one['fraction']:g}%"
        published = (published_cell(row, place, model) for model in models)
        said = _figure(ours) if row["status"] == "evaluated" else row["status"]
        count = f"{row['n']:,}" if "n" in row else ""
        lines.append((row["set"], count, metric.replace("_", " "), said, *_controls(ours), *published))
    plain = row.get("figures", {}).get("accuracy") if row["metric"] != "accuracy" else None
    if plain is not None:
        lines.append((row["set"], count, "accuracy", _figure(plain), *_controls(plain), *("" for _ in models)))
    return lines


def _figure(metric: Mapping[str, Any] | None) -> str:
    if metric is None or metric["value"] is None:
        return "undefined"
    ends = ("?" if metric[end] is None else f"{100 * metric[end]:.1f}" for end in ("low", "high"))
    return f"{100 * metric['value']:.2f} [{', '.join(ends)}]"


def _controls(metric: Mapping[str, Any] | None) -> tuple[str, str]:
    controls = (metric or {}).get("controls", {})
    chance, majority = (controls.get(name) for name in ("chance", "majority"))
    return tuple("" if value is None else f"{100 * value:.1f}" for value in (chance, majority))  # type: ignore[return-value]


def published_cell(row: Mapping[str, Any], place: int, model: str) -> str:
    """Write a model's published figure: empty where there is none, `?` where it couldn't be read, `!` where doubtful.

    Args:
        row: A data set of the result.
        place: Which of its published lists of figures.
        model: The model.
    """
    percents = row["published"][place]["percent"] if place < len(row["published"]) else {}
    if model not in percents:
        return ""
    value, readings = percents[model], row.get("figure_readings") or []
    if value is None:
        return "?"
    possible = readings[place].get(model, {}).get(row["metric"]) if place < len(readings) else None
    return f"{value:.2f}{'!' if possible is False else ''}"


def mean_name(mean: Mapping[str, Any]) -> str:
    """Say over how many data sets of the suite a mean is."""
    return f"mean of {len(mean['sets'])} of {mean['of']}"


def published_mean(result: Mapping[str, Any], mean: Mapping[str, Any], model: str) -> str:
    """Write the mean of a model's published figures over the data sets that a mean of ours is over.

    Empty where a data set has none, `?` where one couldn't be read, with a `!` where one is doubtful.
    """
    rows = [row for row in result["rows"] if row["set"] in mean["sets"] and row["status"] == "evaluated"]
    cells = [
        next((cell for place in range(len(row["published"])) if (cell := published_cell(row, place, model))), "")
        for row in rows
    ]
    if not all(cells) or "?" in cells:
        return "?" if all(cells) else ""
    found = [
        next(one["percent"][model] for one in row["published"] if one["percent"].get(model) is not None) for row in rows
    ]
    return f"{sum(found) / len(found):.2f}{'!' if any(cell.endswith('!') for cell in cells) else ''}"
