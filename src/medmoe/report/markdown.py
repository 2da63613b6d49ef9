"""Figures within each value of a column as Markdown tables, put between two marks of a page, so that none is typed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medmoe.errors import DataError
from medmoe.folder import write_text_atomically
from medmoe.report.by_value import CHOSEN, Row, rows, silent
from medmoe.report.figures import MINIMUM, TASKS, Figure, metric_title
from medmoe.report.markup import number

START, END = "<!-- figures -->", "<!-- /figures -->"

# Controls that have a column of their own, in this order, where a table has them; others follow.
_ORDER = ("chance", "majority", "centre", "shuffled", "prompt_prior", "raw_pixels", "random_weights")


def write_markdown(path: Path, results: Mapping[str, Any], *, minimum: int = MINIMUM) -> Path:
    """Put the tables of an evaluation between the marks of a page; a page that isn't there yet is made.

    Args:
        path: The page.
        results: An evaluation as `medmoe eval --by COLUMN --json` writes it.
        minimum: Items below which a figure isn't printed; whose it was is said instead.

    Raises:
        DataError: If the page has no place for them, or the evaluation no figures by a column.
    """
    remedy = f"add a line {START} and a line {END} after it; what stands between them is replaced"
    text = path.read_text(encoding="utf-8") if path.is_file() else f"{START}\n{END}\n"
    place = re.compile(f"{re.escape(START)}\n.*?{re.escape(END)}", re.S)
    if len(place.findall(text)) != 1:
        got = f"has {len(place.findall(text))} places for figures, allowed: one"
        raise DataError(got, where=str(path), remedy=remedy)
    written = f"{START}\n{markdown(results, minimum=minimum)}{END}"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomically(path, place.sub(lambda _: written, text))
    return path


def markdown(results: Mapping[str, Any], *, minimum: int = MINIMUM) -> str:
    """Write a section for each task, and at the end what made the figures.

    Raises:
        DataError: If the evaluation has no figures by a column.
    """
    if "by" not in results:
        raise DataError("has no figures by a column", remedy="evaluate with --by source")
    parts = [_task(results, task, minimum) for task in CHOSEN if task in results["tasks"]]
    return "\n" + "\n".join([*parts, *_left_out(results["by"]), _made(results.get("about", {}))]) + "\n"


def _task(results: Mapping[str, Any], task: str, minimum: int) -> str:
    title, asked = TASKS[task]
    lines = [f"### {title}", "", asked, ""]
    found = list(rows(results, task))
    for name in dict.fromkeys(row.figure.name for row in found):
        lines += [*_table(results["by"]["column"], [row for row in found if row.figure.name == name], minimum), ""]
    reasons = silent(results, task)
    if reasons:
        lines += [f"Without a figure: {_by_reason(reasons)}.", ""]
    return "\n".join(lines)


def _left_out(by: Mapping[str, Any]) -> list[str]:
    return [f"In no table: {_by_reason(by['left_out'])}.", ""] if by.get("left_out") else []


def _by_reason(reasons: Mapping[str, str]) -> str:
    """Name values behind each reason: `a, b (too few); c (no text)`."""
    members: dict[str, list[str]] = {}
    for value, reason in reasons.items():
        members.setdefault(reason, []).append(value)
    return "; ".join(f"{', '.join(names)} ({reason})" for reason, names in members.items())


def _table(column: str, found: Sequence[Row], minimum: int) -> list[str]:
    """Write one figure of every value; bold where its interval clears every control, only named where n is small."""
    shown = [row for row in found if not row.figure.too_few(minimum)]
    few = dict.fromkeys(f"{row.value} {row.modality}".strip() for row in found if row.figure.too_few(minimum))
    title = metric_title(found[0].figure.name)
    left_out = [f"{title}, fewer than {minimum} items: {', '.join(few)}."] if few else []
    if not shown:
        return left_out
    names = {control for row in shown for control in row.figure.controls if not control.endswith(("_low", "_high"))}
    controls = [*(name for name in _ORDER if name in names), *sorted(names.difference(_ORDER))]
    header = [column, "modality", "n", "images", "patients", title]
    header += [name.replace("_", " ") for name in controls]
    lines = [_line(header), _line(["---"] * 2 + ["---:"] * (len(header) - 2))]
    for row in shown:
        cells = [row.value, row.modality, *map(_count, (row.figure.n, row.images, row.patients)), _value(row.figure)]
        lines.append(_line([*cells, *(_control(row.figure, name) for name in controls)]))
    return [*lines, *(["", *left_out] if left_out else [])]


def _value(figure: Figure) -> str:
    judged = figure.verdict()
    said = f"**{figure.said}**" if judged and judged[0] else figure.said
    return f"{said} {figure.interval}".strip()


def _control(figure: Figure, name: str) -> str:
    if name not in figure.controls:
        return ""
    high = figure.controls.get(f"{name}_high")
    return number(figure.controls[name]) + ("" if high is None else f" (to {number(high)})")


def _count(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _made(about: Mapping[str, Any]) -> str:
    """Say what made the figures; of a path in the command its last two parts."""
    command = " ".join(_short(word) for word in str(about.get("command", "")).split())
    facts = [f"commit `{str(about['git_commit'])[:12]}`"] if about.get("git_commit") else []
    facts += [f"{name} {about[name]}" for name in ("seed", "resamples") if name in about]
    facts += [f"{name} {version}" for name, version in (about.get("versions") or {}).items()]
    machine = about.get("machine")
    if isinstance(machine, Mapping):
        facts += [f"{name} {value}" for name, value in machine.items()]
    return f"Made by `{command}`; {', '.join(facts)}.\n" if command else ""


def _short(word: str) -> str:
    option, equals, path = word.rpartition("=")
    parts = [part for part in path.split("/") if part]
    return f"{option}{equals}{'/'.join(parts[-2:])}" if "/" in path else word
