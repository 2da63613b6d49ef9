"""A table of runs: filtered, sorted, and as lines of text."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from medmoe.errors import ConfigError, unknown
from medmoe.report.markup import DASH, number
from medmoe.runs.folder import RunState

_CONDITION = re.compile(r"\s*([\w.]+)\s*(<=|>=|!=|=|<|>)\s*(.*?)\s*")
_ORDERS: dict[str, Callable[[float, float], bool]] = {
    "<": lambda one, other: one < other,
    ">": lambda one, other: one > other,
    "<=": lambda one, other: one <= other,
    ">=": lambda one, other: one >= other,
}
# column of the table → (heading, how its value is written)
_COLUMNS: dict[str, tuple[str, Callable[[Mapping[str, Any]], str]]] = {
    "run": ("run", lambda row: str(row["run"])),
    "recipe": ("recipe", lambda row: _text(row["recipe"])),
    "state": ("state", lambda row: str(row["state"])),
    "step": ("step", lambda row: f"{row['step']}/{_text(row['steps'])}"),
    "loss": ("loss", lambda row: number(row["loss"])),
    "val_loss": ("val", lambda row: number(row["val_loss"])),
    "best_val_loss": ("best val", lambda row: _best(row)),
    "image_router": ("router", lambda row: number(row["image_router"])),
    "images_per_second": ("images/s", lambda row: number(row["images_per_second"])),
    "data_wait": ("waits", lambda row: DASH if row["data_wait"] is None else f"{row['data_wait']:.0%}"),
    "seconds": ("in steps", lambda row: DASH if row["seconds"] is None else _duration(row["seconds"])),
    "seed": ("seed", lambda row: _text(row["seed"])),
    "commit": ("commit", lambda row: _text(row["commit"])[:8]),
    "started": ("started", lambda row: _text(row["started"])[:16].replace("T", " ")),
    "machine": ("machine", lambda row: _text(row["machine"])),
}
_LEFT = {"run", "recipe", "state", "commit", "started", "machine"}
_ONCE = ("recipe", "seed", "commit", "machine")  # said under the table where all runs share it


def chosen(runs: Sequence[RunState], conditions: Sequence[str]) -> list[RunState]:
    """Give the runs that meet every condition, such as `recipe=tiny`, `val_loss<2` or `train.lr>=0.001`.

    A text may hold `*` and `?`; a value that isn't known meets no condition but `=none`.

    Raises:
        ConfigError: If a condition can't be read, or no run has such a column or setting.
    """
    tests = [_condition(condition, runs) for condition in conditions]
    return [run for run in runs if all(test(run) for test in tests)]


def ordered(runs: Sequence[RunState], key: str | None) -> list[RunState]:
    """Sort runs by a column or setting, smallest first, or largest first with `-` before it; the unknown come last.

    Raises:
        ConfigError: If no run has such a column or setting.
    """
    if key is None:
        return list(runs)
    name = key.removeprefix("-")
    _check(name, runs, "--sort")
    known = [(value, run) for run in runs if (value := value_of(run, name)) is not None]
    known.sort(key=lambda pair: _rank(pair[0]), reverse=key.startswith("-"))
    return [run for _, run in known] + [run for run in runs if value_of(run, name) is None]


def value_of(run: RunState, key: str) -> Any:
    """Give a run's value of a column, or of a setting by its dotted key; None where it has none."""
    row = run.summary
    return row[key] if key in row else settings(run).get(key)


def settings(run: RunState) -> dict[str, Any]:
    """Give a run's settings by dotted key."""

    def walk(prefix: str, value: Any) -> dict[str, Any]:
        if isinstance(value, Mapping) and value:
            return {k: v for key, item in value.items() for k, v in walk(f"{prefix}{key}.", item).items()}
        return {prefix[:-1]: value}

    return walk("", run.config) if run.config else {}


def table(runs: Sequence[RunState]) -> str:
    """Write runs as aligned lines, what can't be read of them below.

    A column that no run has a value for isn't there; what all runs share is said once.
    """
    rows = [run.summary for run in runs]
    cells = {key: [write(row) for row in rows] for key, (_, write) in _COLUMNS.items()}
    shared = [key for key in _ONCE if len(runs) > 1 and len(set(cells[key])) == 1 and cells[key][0] != DASH]
    shown = [key for key in cells if key not in shared and any(cell != DASH for cell in cells[key])]
    lines = aligned([[_COLUMNS[key][0] for key in shown], *zip(*(cells[key] for key in shown), strict=True)], shown)
    if shared:
        lines.append("all: " + ", ".join(f"{_COLUMNS[key][0]} {cells[key][0]}" for key in shared))
    lines += [f"{row['run']}: {row['problem']}" for row in rows if row["problem"]]
    return "\n".join(lines)


def aligned(rows: Sequence[Sequence[str]], keys: Sequence[str] = ()) -> list[str]:
    """Pad cells so that columns stand under each other: those of text to the left, of numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    left = [not keys or key in _LEFT for key in keys or widths]
    return [
        "  ".join(
            cell.ljust(width) if first else cell.rjust(width)
            for cell, width, first in zip(row, widths, left, strict=True)
        ).rstrip()
        for row in rows
    ]


def _condition(text: str, runs: Sequence[RunState]) -> Callable[[RunState], bool]:
    found = _CONDITION.fullmatch(text)
    if found is None:
        raise ConfigError(f"got {text!r}, allowed: KEY=VALUE, or with !=, <, <=, > or >=", where="--where")
    key, order, asked = found.groups()
    _check(key, runs, "--where")
    try:
        value = json.loads(asked)
    except ValueError:
        value = asked
    if order in _ORDERS and not _is_number(value):
        raise ConfigError(f"got {text!r}, allowed with {order}: a number", where="--where")

    def meets(run: RunState) -> bool:
        own = value_of(run, key)
        if order in _ORDERS:
            return _is_number(own) and _ORDERS[order](own, value)
        return _alike(own, value, asked) == (order == "=")

    return meets


def _alike(own: Any, value: Any, asked: str) -> bool:
    if own is None:
        return asked in ("none", "null")
    return bool(own == value) or (isinstance(own, str) and fnmatchcase(own, asked))


def _check(key: str, runs: Sequence[RunState], where: str) -> None:
    known = {name for run in runs for name in (*run.summary, *settings(run))}
    if runs and key not in known:
        raise ConfigError(unknown("column or setting", key, known), where=where)


def _rank(value: Any) -> tuple[int, float, str]:
    return (0, float(value), "") if _is_number(value) else (1, 0.0, str(value))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _best(row: Mapping[str, Any]) -> str:
    return DASH if row["best_val_loss"] is None else f"{number(row['best_val_loss'])} at {row['best_step']}"


def _duration(seconds: float) -> str:
    """Write a duration in its two largest units.

    >>> [_duration(s) for s in (0.2, 59, 61, 3720, 90000)]
    ['0s', '59s', '1m 01s', '1h 02m', '1d 01h']
    """
    whole = round(seconds)
    days, hours, minutes = whole // 86400, whole // 3600 % 24, whole // 60 % 60
    if days:
        return f"{days}d {hours:02}h"
    if hours:
        return f"{hours}h {minutes:02}m"
    return f"{minutes}m {whole % 60:02}s" if minutes else f"{whole}s"


def _text(value: object) -> str:
    return DASH if value is None else str(value)
