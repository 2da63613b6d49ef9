"""A paper's table on the page: figures of our own beside the published ones, what isn't on disk marked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from medmoe.benchmarks import remarks
from medmoe.benchmarks.table import mean_name, published_cell, published_mean
from medmoe.report.figures import MINIMUM, Figure
from medmoe.report.markup import DASH, Html, join, tag
from medmoe.report.results import cell, scrolling
from medmoe.report.runs import Run

Row = Mapping[str, Any]

LEAD = (
    "In percent. What another paper publishes stands as it was published: a difference may come from prompts, "
    "preprocessing, split or metric, and shows nothing about the models until all four are the same."
)


def published(runs: Sequence[Run], minimum: int = MINIMUM) -> Html | None:
    """Write a table for each suite, with a column for each run that filled it; None where no run has any.

    Args:
        runs: The runs; those that were judged on a public benchmark are read.
        minimum: Images below which a figure is greyed.
    """
    suites: dict[str, list[Run]] = {}
    for run in runs:
        if run.benchmark:
            suites.setdefault(f"{run.benchmark['suite']} {run.benchmark.get('fingerprint')}", []).append(run)
    return join(_suite(own, minimum) for own in suites.values()) if suites else None


def _suite(runs: Sequence[Run], minimum: int) -> Html:
    found = [run.benchmark for run in runs]
    first = found[0]
    models = list(dict.fromkeys(name for row in first["rows"] for one in row["published"] for name in one["percent"]))
    columns = ["Data set", "Metric", *[run.name for run in runs], *models]
    head = tag("thead", tag("tr", *[tag("th", title, scope="col") for title in columns]))
    rows = [line for place in range(len(first["rows"])) for line in _lines(found, place, models, minimum)]
    rows += _means(found, models)
    title = str(first.get("title", first["suite"]))
    table = tag("table", tag("caption", title, class_="hidden"), head, tag("tbody", *rows), class_="published")
    notes = []
    for run, one in zip(runs, found, strict=True):
        listed = [tag("li", said) for said in remarks(one)]
        summary = f"{len(listed)} remarks" if len(runs) == 1 else f"{run.name}: {len(listed)} remarks"
        notes.append(tag("details", tag("summary", summary), tag("ul", *listed), class_="note", open=len(runs) == 1))
    source = tag("p", f"Published figures: {first.get('source', DASH)}", class_="note")
    return join([tag("h3", title), scrolling(table, title), source, *notes])


def _lines(found: Sequence[Row], place: int, models: Sequence[str], minimum: int) -> Iterator[Html]:
    """Write a data set: a line for each share of training images, and accuracy where that isn't the metric."""
    rows = [one["rows"][place] for one in found]
    row = rows[0]
    for number, one in enumerate(row["published"] or [{"fraction": None, "percent": {}}]):
        share = "" if one["fraction"] is None else f" @{100 * one['fraction']:g}%"
        metric = str(row["metric"] if one["fraction"] is None else row.get("ours_metric", row["metric"]))
        own = [_own(each, one["fraction"], minimum) for each in rows]
        others = [tag("td", published_cell(row, number, model) or DASH) for model in models]
        yield tag("tr", _head(row), tag("td", f"{metric.replace('_', ' ')}{share}"), *own, *others)
    plain = [each.get("figures", {}).get("accuracy") for each in rows]
    if row["metric"] != "accuracy" and any(plain):
        own = [_figure("accuracy", one, minimum) for one in plain]
        yield tag("tr", _head(row), tag("td", "accuracy"), *own, *[tag("td", DASH) for _ in models])


def _head(row: Row) -> Html:
    small = [str(row.get(key)) for key in ("modality", "split") if row.get(key)]
    return tag("th", row["set"], tag("small", ", ".join(small)), scope="row")


def _own(row: Row, fraction: float | None, minimum: int) -> Html:
    if row["status"] != "evaluated":
        expected = row.get("expected")
        return tag("td", row["status"], tag("small", f"expected {expected}") if expected else None, class_="few own")
    ours = row.get("ours")
    return _figure(row["metric"], ours if fraction is None else (ours or {}).get(f"{fraction:g}"), minimum)


def _figure(name: str, found: Row | None, minimum: int) -> Html:
    """Write one of our figures in percent."""
    if found is None:
        return tag("td", DASH, class_="own")
    percent = {key: _percent(found.get(key)) for key in ("value", "low", "high")}
    controls = {control: _percent(value) for control, value in (found.get("controls") or {}).items()}
    figure = Figure.read(name, {"n": found.get("n"), **percent, "controls": controls})
    return cell(figure, minimum, style="own")


def _percent(value: Any) -> float | None:
    return None if value is None else 100 * value


def _means(found: Sequence[Row], models: Sequence[str]) -> Iterator[Html]:
    """Write a line for each metric and choice of data sets that a run has a mean over."""
    lines = dict.fromkeys((mean["metric"], tuple(mean["sets"])) for one in found for mean in one["means"])
    for metric, sets in lines:
        own = [_mean_over(one, metric, sets) for one in found]
        first = next(place for place, mean in enumerate(own) if mean is not None)
        mean = own[first]
        assert mean is not None
        head = tag("th", mean_name(mean), tag("small", ", ".join(sets)), scope="row")
        figures = [_figure(metric, one, 0) for one in own]
        others = [tag("td", published_mean(found[first], mean, model) or DASH) for model in models]
        yield tag("tr", head, tag("td", metric.replace("_", " ")), *figures, *others, class_="all")


def _mean_over(found: Row, metric: str, sets: tuple[str, ...]) -> Row | None:
    return next((one for one in found["means"] if (one["metric"], tuple(one["sets"])) == (metric, sets)), None)
