"""What a tracker is told of a run: numbers and settings, never a path, a sample's key or a report."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

# what of run.json leaves the machine; the command and the names of the data may say whose data it is
FACTS = ("started", "seed", "versions", "git_commit", "machine", "processes")
_PRIVATE = ("data.columns",)


@dataclass(frozen=True, slots=True)
class TrackedRun:
    """A run as a tracker gets to know it.

    Attributes:
        folder: The run folder, beside or in which a tracker may write.
        config: Settings by dotted key.
        facts: Versions, commit, machine and so on by dotted key.
        known: What the tracker's own `start` gave when it began to show this run; None for a run it doesn't know.
        since: The first step that follows; what a tracker has of it or of later ones is done again.
    """

    folder: Path
    config: Mapping[str, str | int | float | bool]
    facts: Mapping[str, str | int | float | bool]
    known: str | None
    since: int


class Tracker(Protocol):
    """Shows a run. Making one imports its package; any of its methods may fail, which stops no run.

    Attributes:
        replaces: Whether steps done again after an interruption replace those that it has; else they aren't sent.
    """

    replaces: ClassVar[bool]

    def start(self, run: TrackedRun) -> str:
        """Begin to show a run, or go on with the known one.

        Returns:
            Its name for the run; another one than the known, if it has nothing of the run any more.
        """
        ...

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Show finite numbers of a step."""
        ...

    def finish(self, *, finished: bool) -> None:
        """Write out everything; the run did all its steps, or was stopped before."""
        ...


def numbers(row: Mapping[str, Any], experts: Sequence[str] = ()) -> dict[str, float]:
    """Give the finite numbers of a row of the metrics by name, `KIND/NAME` or `KIND/NAME/PART`; no text.

    Args:
        row: Of `metrics.jsonl`.
        experts: Names for the places of a list that has one for each.

    >>> numbers({"kind": "train", "step": 3, "loss": 2.0, "terms": {"global": 1.0}, "load": [1.0], "inactive": ["x"]})
    {'train/loss': 2.0, 'train/terms/global': 1.0, 'train/load/0': 1.0}
    """
    kind = str(row["kind"])
    found = {}
    for key, value in row.items():
        for name, number in _numbers(key, value, experts):
            found[f"{kind}/{name}"] = number
    found.pop(f"{kind}/step", None)
    return found


def _numbers(name: str, value: object, experts: Sequence[str]) -> Iterator[tuple[str, float]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _numbers(f"{name}/{key}", item, experts)
    elif isinstance(value, list):
        named = experts if len(experts) == len(value) else range(len(value))
        for key, item in zip(named, value, strict=True):
            yield from _numbers(f"{name}/{key}", item, ())
    elif isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        yield name, float(value)


def settings_to_show(config: Mapping[str, Any]) -> dict[str, str | int | float | bool]:
    """Give the settings that may leave the machine: those that hold no path and name no column of the user's.

    >>> settings_to_show({"train": {"steps": 5, "text_cache": "/data/ann"}, "data": {"columns": {"text": "findings"}}})
    {'train.steps': 5}
    """
    return dict(_leaves("", config))


def facts_to_show(facts: Mapping[str, Any]) -> dict[str, str | int | float | bool]:
    """Give what of `run.json` may leave the machine."""
    return dict(_leaves("", {name: facts[name] for name in FACTS if name in facts}))


def _leaves(prefix: str, value: object) -> Iterator[tuple[str, str | int | float | bool]]:
    if prefix in _PRIVATE:
        return
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(f"{prefix}.{key}" if prefix else str(key), item)
    elif value is None:
        yield prefix, "none"
    elif isinstance(value, (bool, int, float)):
        yield prefix, value
    else:
        text = value if isinstance(value, str) else json.dumps(value)
        if "/" not in text and "\\" not in text:
            yield prefix, text
