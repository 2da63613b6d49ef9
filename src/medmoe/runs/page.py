"""A comparison of runs as one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medmoe.errors import ConfigError
from medmoe.folder import write_text_atomically
from medmoe.report.charts import Series, line_chart
from medmoe.report.document import Section, document, warned
from medmoe.report.markup import DASH, Html, number, tag
from medmoe.runs.comparison import Comparison, Points, figure_said, said

_LEAD = "What differs between these runs, how they went, and what they were judged by."


def write_comparison(path: Path | str, found: Comparison) -> Path:
    """Write the page; it loads nothing from elsewhere and runs no script.

    Args:
        path: The file to write; its folder is made if missing.
        found: The comparison.

    Raises:
        ConfigError: If the file can't be written.
    """
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_text_atomically(target, page(found))
    except OSError as error:
        raise ConfigError(f"{target} can't be written ({error.strerror})", where="--html") from None
    return target


def page(found: Comparison) -> str:
    """Give the page's text."""
    charts = tag("div", *(_chart(name, found) for name in found.shown), class_="charts wide")
    sections = [
        Section("runs", "Runs", "", _table("run", found.names, _overview(found))),
        Section("settings", "Settings that differ", "", _differing(found.settings, found.names)),
        Section("made", "What made them", "", _differing(found.made, found.names)),
        Section("curves", "How they went", "As each run logged it; noisy lines are smoothed.", charts),
    ]
    if found.figures:
        rows = {f"{task}: {metric}": list(map(figure_said, each)) for (task, metric), each in found.figures.items()}
        lead = "With 95 % intervals. For controls and paired differences, see `medmoe report`."
        sections.append(Section("figures", "Figures", lead, _table("figure", found.names, rows)))
    title = f"{len(found.runs)} runs compared"
    return document(title, _LEAD, sections, first=warned(found.doubts) if found.doubts else None)


def _overview(found: Comparison) -> dict[str, list[str]]:
    """Say of each run what a listing says."""
    rows = [run.summary for run in found.runs]
    plain = {"folder": "run", "recipe": "recipe", "state": "state", "started": "started", "seed": "seed"}
    digits = {
        "best validation loss": "best_val_loss",
        "last validation loss": "val_loss",
        "image router accuracy": "image_router",
        "images per second": "images_per_second",
    }
    said_of = {name: [DASH if row[key] is None else str(row[key]) for row in rows] for name, key in plain.items()}
    said_of["step"] = [f"{row['step']} of {DASH if row['steps'] is None else row['steps']}" for row in rows]
    return said_of | {name: [number(row[key]) for row in rows] for name, key in digits.items()}


def _chart(name: str, found: Comparison) -> Html:
    def line(place: int, run: str, points: Points) -> Series:
        return Series(run, points, f"s{place}", dots=name.startswith("val/") and len(points) < 60, raw=False)

    each = zip(found.names, found.curves[name], strict=True)
    return line_chart(name, [line(place, run, points) for place, (run, points) in enumerate(each)])


def _differing(found: Mapping[str, Sequence[Any]], names: Sequence[str]) -> Html:
    if not found:
        return tag("p", "Nothing that is known of them.", class_="empty")
    return _table("key", names, {key: list(map(said, each)) for key, each in found.items()})


def _table(corner: str, names: Sequence[str], rows: Mapping[str, Sequence[str]]) -> Html:
    head = tag("thead", tag("tr", tag("th", corner), *(tag("th", name) for name in names)))
    body = [tag("tr", tag("th", key), *(tag("td", cell) for cell in cells)) for key, cells in rows.items()]
    return tag("div", tag("table", head, tag("tbody", *body), class_="facts"), class_="scroll", tabindex="0")
