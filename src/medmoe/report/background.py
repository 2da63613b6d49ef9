"""What stands behind the figures: subgroups and their gaps, the data-leak audit, prompts, and what made each run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from medmoe.report.details import audit, leaks, subgroups
from medmoe.report.figures import MINIMUM, Figure, metric_title, task_title
from medmoe.report.markup import DASH, Html, join, number, tag
from medmoe.report.results import cell, scrolling
from medmoe.report.runs import Run, titles

# keys of `about` in the order that the page tells them; the rest follows
_FACTS = ("model", "data", "split", "images", "skipped", "fit_split", "tune_split", "seed", "resamples")
_ELSEWHERE = {"command", "versions", "warnings", "machine"}


def facts(runs: Sequence[Run]) -> Html:
    """Write what was judged: a row for each fact, a column for each run; rows in which runs differ are marked."""
    keys = [key for key in _FACTS if any(key in run.about for run in runs)]
    keys += [
        key for key in dict.fromkeys(key for run in runs for key in run.about) if key not in (*_FACTS, *_ELSEWHERE)
    ]
    rows = [(key.replace("_", " "), [_plain(run.about.get(key)) for run in runs]) for key in keys]
    if any(run.benchmark for run in runs):
        rows.insert(0, ("benchmark", [_plain(run.benchmark.get("suite")) for run in runs]))
    rows.insert(0, ("file", [str(run.path) for run in runs]))
    rows.append(("medmoe", [_plain(_inner(run.about.get("versions"), "medmoe")) for run in runs]))
    head = None
    if len(runs) > 1:
        head = tag("thead", tag("tr", tag("th"), *[tag("th", title, scope="col") for title in titles(runs)]))
    body = [
        tag(
            "tr",
            tag("th", name, scope="row"),
            *[tag("td", value) for value in values],
            class_="differs" if len(set(values)) > 1 and name not in ("file", "model") else None,
        )
        for name, values in rows
    ]
    return scrolling(tag("table", head, tag("tbody", *body), class_="facts"), "What was judged")


def gaps(runs: Sequence[Run], minimum: int = MINIMUM) -> Html | None:
    """Write the subgroup tables with their gaps; None where no run has any."""
    parts = []
    for name, run in zip(titles(runs), runs, strict=True):
        for task in run.details:
            for column, table in subgroups(run.of(task)):
                metric = str(table.get("metric", ""))
                before = f"{name}: " if len(runs) > 1 else ""
                words = f"{task_title(task)}, {metric_title(metric) if metric else 'figure'} by {column}"
                parts.append(tag("h3", f"{before}{words}"))
                parts.append(_subgroup(column, metric, table, minimum))
    return join(parts) if parts else None


def leak_audit(runs: Sequence[Run]) -> Html | None:
    """Write what the audits for shared patients and images counted; None where no run has one."""
    parts = []
    for name, run in zip(titles(runs), runs, strict=True):
        found = audit(run.details)
        if found is None:
            continue
        shared = leaks(found)
        verdict = "Training and test share something." if shared else "Nothing shared was found by what was looked for."
        badge = tag("span", verdict, class_="badge bad" if shared else "badge good")
        heading = tag("h3", name) if len(runs) > 1 else None
        parts += [heading, tag("p", badge), tag("dl", *_pairs(found))]
    return join(parts) if parts else None


def prompts(runs: Sequence[Run]) -> Html | None:
    """Write each data set's classes with their images, prompts and whose wording it is; None without prompts."""
    parts = []
    for name, run in zip(titles(runs), runs, strict=True):
        for task in run.details:
            own = run.of(task)
            mark, sets = own.get("prompts"), own.get("groups")
            if not isinstance(mark, str) or not isinstance(sets, list):
                continue
            before = f"{name}, " if len(runs) > 1 else ""
            parts.append(tag("p", f"{before}{task_title(task)}: prompts ", tag("code", mark)))
            rows = [row for found in sets if isinstance(found, Mapping) for row in _classes(found)]
            head = ("Data set", "Modality", "Class", "Images with it alone", "Prompts", "Wording")
            table = tag("table", _head(head), tag("tbody", *rows))
            parts.append(_folded(f"{len(rows)} classes", scrolling(table, f"Prompts of {task}")))
    return join(parts) if parts else None


def origins(runs: Sequence[Run]) -> Html:
    """Write the exact commands, versions, machine and configuration of each run."""
    parts = []
    for name, run in zip(titles(runs), runs, strict=True):
        if len(runs) > 1:
            parts.append(tag("h3", name))
        evaluated, trained = run.about.get("command"), run.made.get("command")
        for words, command in (("Evaluated by", evaluated), ("Trained by", trained)):
            if command:
                parts.append(tag("p", f"{words}:", class_="note"))
                parts.append(tag("pre", tag("code", str(command)), class_="scroll", tabindex="0"))
        told = {key: run.about.get(key) for key in ("git_commit", "seed", "machine", "versions")}
        if run.made:
            told |= {f"training: {key}": value for key, value in run.made.items() if key not in ("command", "versions")}
        parts.append(tag("dl", *_pairs(told)))
        if run.config:
            text = json.dumps(run.config, indent=1)
            parts.append(_folded("Configuration", tag("pre", tag("code", text), class_="scroll", tabindex="0")))
    return join(parts)


def _subgroup(column: str, metric: str, table: Mapping[str, Any], minimum: int) -> Html:
    rows = []
    for row in table["rows"]:
        if isinstance(row, Mapping):
            few = row.get("too_few")
            told = tag("td", f"{few:,} items: too few patients", class_="few") if isinstance(few, int) else None
            content = told or cell(Figure.read(metric, row), minimum)
            rows.append(tag("tr", tag("th", str(row.get("group", DASH)), scope="row"), content))
    gap = table.get("gap")
    if isinstance(gap, Mapping):
        who = f"{table['highest']} above {table['lowest']}" if "highest" in table and "lowest" in table else ""
        head = tag("th", "largest gap", tag("small", who) if who else None, scope="row")
        rows.append(tag("tr", head, cell(Figure.read("difference", gap), 0), class_="all"))
    return scrolling(tag("table", _head((column, metric_title(metric))), tag("tbody", *rows)), f"By {column}")


def _classes(found: Mapping[str, Any]) -> Iterator[Html]:
    alone, counts, whose = (found.get(key) or {} for key in ("classes", "prompts", "origins"))
    for name in dict.fromkeys([*alone, *counts]):
        cells = [
            str(found.get("source") or DASH),
            str(found.get("modality") or DASH),
            str(name),
            _plain(alone.get(name)),
            str(counts.get(name, DASH)),
            str(whose.get(name, DASH)),
        ]
        yield tag("tr", *[tag("td", text) for text in cells])


def _pairs(found: Mapping[str, Any]) -> Iterator[Html]:
    for key, value in found.items():
        yield join([tag("dt", str(key).replace("_", " ")), tag("dd", _plain(value))])


def _plain(value: object) -> str:
    if value is None or value == "" or value == {} or value == []:
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return number(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{str(key).replace('_', ' ')} {_plain(inner)}" for key, inner in value.items())
    if isinstance(value, (list, tuple)):
        more = f" and {len(value) - 20} more" if len(value) > 20 else ""
        return ", ".join(_plain(inner) for inner in value[:20]) + more
    return str(value)


def _inner(found: object, key: str) -> object:
    return found.get(key) if isinstance(found, Mapping) else None


def _head(titles: Sequence[str]) -> Html:
    return tag("thead", tag("tr", *[tag("th", title, scope="col") for title in titles]))


def _folded(title: str, content: Html) -> Html:
    return tag("details", tag("summary", title), content)
