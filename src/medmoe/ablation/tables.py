"""An ablation's results to read: tables in Markdown, and the same as one self-contained HTML page."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medmoe.folder import write_text_atomically
from medmoe.report.markup import DASH, Html, join, number, tag
from medmoe.report.style import CSS

HOW_TO_READ = (
    "Means over seeds with 95 % intervals over patients, all arms trained for the same steps on the same images and "
    "judged on the same unseen ones. "
    "A difference stands with two 95 % intervals: over seeds (Student's t: were training repeated), and over patients "
    "(bootstrap of whole patients, outcomes averaged over seeds: were others judged). p is two-sided, over patients, "
    "corrected by Holm for all differences of the size. A difference is marked * when both intervals leave out zero. "
    "Multiply-adds are those of the vision side for one image at inference, its chosen experts included."
)


@dataclass(frozen=True, slots=True)
class Shown:
    """A table: its title, its heading row and its rows, cells as text."""

    title: str
    heading: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def shown(results: Mapping[str, Any]) -> list[Shown]:
    """Lay the results out as tables: figures and differences for each size of the data, then curves over sizes."""
    tables = []
    for size, found in results["sizes"].items():
        if not found["arms"]:
            continue
        what = f"{size}: trained on {found['train_images']} images, judged on {found['test_images']}"
        tables += [_figures(what, found, results["metrics"]), _differences(size, found, results["metrics"])]
    if len(results["sizes"]) > 1:
        tables.append(_curve(results))
    return tables


def _figures(title: str, found: Mapping[str, Any], names: Mapping[str, str]) -> Shown:
    metrics = [name for name in names if any(name in arm["metrics"] for arm in found["arms"].values())]
    heading = ("arm", "what", *(names[name] for name in metrics), "vision parameters", "multiply-adds")
    rows = []
    for name, arm in found["arms"].items():
        means = [_figure(arm["metrics"].get(metric)) for metric in metrics]
        cost = (f"{arm['cost']['vision_parameters'] / 1e6:.3f} M", f"{arm['cost']['multiply_adds'] / 1e6:.1f} M")
        rows.append((name, arm["about"], *means, *cost))
    chance = [number(found["chance"].get(metric)) for metric in metrics]
    rows.append(("chance", "an uninformed answer", *chance, DASH, DASH))
    return Shown(title, heading, tuple(rows))


def _figure(figure: Mapping[str, Any] | None) -> str:
    if figure is None:
        return DASH
    low, high = figure["over_patients"]
    return f"{number(figure['mean'])} ({number(low)} to {number(high)})"


def _differences(size: str, found: Mapping[str, Any], names: Mapping[str, str]) -> Shown:
    heading = ("arm", "against", "metric", "difference", "over seeds", "over patients", "p (Holm)", "")
    rows = []
    for name, arm in found["arms"].items():
        for metric, figure in arm["metrics"].items():
            gap = figure["difference"]
            if gap is not None:
                intervals = (_over_seeds(gap), _interval(gap["over_patients"]))
                p, mark = _p(gap["p_patients_holm"]), "*" if gap["clear"] else ""
                rows.append((name, arm["against"], names[metric], _signed(gap["mean"]), *intervals, p, mark))
    return Shown(f"{size}: differences", heading, tuple(rows))


def _curve(results: Mapping[str, Any]) -> Shown:
    """Put the differences of all sizes side by side."""
    sizes, rows = list(results["sizes"]), []
    arms = dict.fromkeys(arm for found in results["sizes"].values() for arm in found["arms"])
    for arm in arms:
        for metric, label in results["metrics"].items():
            gaps = [_gap(results["sizes"][size], arm, metric) for size in sizes]
            if any(gap is not None for gap in gaps):
                against = next(
                    found["arms"][arm]["against"] for found in results["sizes"].values() if arm in found["arms"]
                )
                cells = [
                    DASH
                    if gap is None
                    else f"{_signed(gap['mean'])} ({_interval(gap['over_patients'])}){'*' if gap['clear'] else ''}"
                    for gap in gaps
                ]
                rows.append((arm, against or DASH, label, *cells))
    return Shown("Differences by size, with intervals over patients", ("arm", "against", "metric", *sizes), tuple(rows))


def _gap(found: Mapping[str, Any], arm: str, metric: str) -> dict[str, Any] | None:
    gap: dict[str, Any] | None = found["arms"].get(arm, {}).get("metrics", {}).get(metric, {}).get("difference")
    return gap


def _signed(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return DASH
    return f"{value:+.3f}".replace("-", "−")


def _interval(ends: Sequence[float | None]) -> str:
    if None in ends:
        return DASH
    return f"{_signed(ends[0])} to {_signed(ends[1])}"


def _over_seeds(gap: Mapping[str, Any]) -> str:
    """Write the interval over seeds, or why nothing can be said of other seeds."""
    if None not in gap["over_seeds"]:
        return _interval(gap["over_seeds"])
    return f"{DASH} ({'one seed' if len(gap['seeds']) == 1 else 'the same in every seed'})"


def _p(value: float | None) -> str:
    if value is None:
        return DASH
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def markdown(results: Mapping[str, Any]) -> str:
    """Write the tables in Markdown."""
    parts = [f"# {results['grid']}", results["about"], f"Seeds {_seeds(results)}. {HOW_TO_READ}"]
    for table in shown(results):
        lines = ["| " + " | ".join(table.heading) + " |", "| " + " | ".join("---" for _ in table.heading) + " |"]
        lines += ["| " + " | ".join(row).replace("\n", " ") + " |" for row in table.rows]
        parts += [f"## {table.title}", "\n".join(lines)]
    if results["unfinished"]:
        parts.append(f"Not done: {', '.join(results['unfinished'])}.")
    return "\n\n".join(parts) + "\n"


def page(results: Mapping[str, Any]) -> str:
    """Write the tables as one HTML page that loads nothing from elsewhere and runs no script."""
    title = f"Ablation: {results['grid']}"
    about = results.get("command")
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        tag("style", Html(CSS)),
    )
    body = tag(
        "body",
        tag("header", tag("h1", title), tag("p", results["about"], class_="lead")),
        tag(
            "main",
            tag("p", f"Seeds {_seeds(results)}. {HOW_TO_READ}", class_="lead"),
            tag("p", tag("code", str(about))) if about else None,
            join(_section(table) for table in shown(results)),
            tag("p", f"Not done: {', '.join(results['unfinished'])}.") if results["unfinished"] else None,
        ),
    )
    return "<!doctype html>\n" + tag("html", head, body, lang="en") + "\n"


def write_tables(root: Path, results: Mapping[str, Any]) -> Path:
    """Write `results.json`, `table.md` and `table.html` into a folder, and give the page's path."""
    write_text_atomically(root / "results.json", json.dumps(results, indent=2) + "\n")
    write_text_atomically(root / "table.md", markdown(results))
    write_text_atomically(root / "table.html", page(results))
    return root / "table.html"


def _section(table: Shown) -> Html:
    heading = tag("thead", tag("tr", join(tag("th", cell, scope="col") for cell in table.heading)))
    rows = (
        tag("tr", tag("th", row[0], scope="row"), join(tag("td", cell) for cell in row[1:]), class_=_class(row))
        for row in table.rows
    )
    wide = tag("div", tag("table", heading, tag("tbody", join(rows))), class_="scroll", tabindex="0")
    return tag("section", tag("h2", table.title), wide)


def _class(row: Sequence[str]) -> str | None:
    if row[-1] != "*":
        return None
    return "good" if row[3].startswith("+") else "bad"


def _seeds(results: Mapping[str, Any]) -> str:
    return ", ".join(str(seed) for seed in results["seeds"])
