"""What a page is made from: run folders and evaluation files, read and checked."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from medmoe.errors import ConfigError, DataError

_EVALUATIONS = ("evaluation.json", "summary.json")
_REMEDY = "give a run folder, or a file that `medmoe eval … --json FILE` wrote"


@dataclass(frozen=True)
class Run:
    """One evaluated model.

    Attributes:
        name: What the page calls it; unique among the runs of a page.
        path: The run folder or evaluation file.
        tasks: Figures by task and metric.
        details: Whatever else the tasks found; `medmoe.report.details` says what the page reads of it.
        about: Command, model, data, split, seed, versions and so on of the evaluation.
        history: Rows of `metrics.jsonl`; empty for a file.
        config: The run's configuration; empty for a file.
        made: What made the run (`run.json`); empty for a file.
        preprocess: Fingerprint of the preprocessing that the run's own model declares, or None.
        benchmark: What `medmoe eval --benchmark` found; empty for an evaluation on a split.
        by: What the tasks found within each value of a column (`medmoe eval --by`); empty without.
    """

    name: str
    path: Path
    tasks: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)
    history: Sequence[Mapping[str, Any]] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    made: Mapping[str, Any] = field(default_factory=dict)
    preprocess: str | None = None
    benchmark: Mapping[str, Any] = field(default_factory=dict)
    by: Mapping[str, Any] = field(default_factory=dict)

    @property
    def results(self) -> dict[str, Any]:
        """The evaluation as `medmoe eval --json` writes it."""
        by = {"by": self.by} if self.by else {}
        return {"tasks": self.tasks, "details": self.details, **by, "about": self.about}

    def of(self, task: str) -> Mapping[str, Any]:
        """Give the details of a task; empty where there are none."""
        found = self.details.get(task)
        return found if isinstance(found, Mapping) else {}


def read_runs(paths: Sequence[Path | str]) -> list[Run]:
    """Read run folders and evaluation files; names that clash get their folder before them.

    Raises:
        ConfigError: If there is no path, or one is given twice.
        DataError: If one isn't there, or isn't an evaluation.
    """
    if not paths:
        raise ConfigError("no run was given", remedy=_REMEDY)
    found = [Path(path) for path in paths]
    twice = [str(path) for path, count in Counter(path.resolve() for path in found).items() if count > 1]
    if twice:
        raise ConfigError(f"{twice[0]} is given twice", remedy="give each run once")
    return [read_run(path, name=name) for path, name in zip(found, shortest_names(found), strict=True)]


def read_run(path: Path, *, name: str | None = None) -> Run:
    """Read one run folder or evaluation file.

    Raises:
        DataError: If it isn't there, or isn't an evaluation.
    """
    if path.is_file():
        return Run(name or path.stem, path, **_evaluation(path))
    if not path.is_dir():
        raise DataError("isn't there", where=str(path), remedy=_REMEDY)
    kept = next((path / file for file in _EVALUATIONS if (path / file).is_file()), None)
    if kept is None:
        raise DataError(
            "the folder holds no evaluation.json", where=str(path), remedy=f"evaluate it: medmoe eval {path} --data …"
        )
    return Run(
        name or path.resolve().name,
        path,
        **_evaluation(kept),
        history=_history(path / "metrics.jsonl"),
        config=_optional(path / "config.json"),
        made=_optional(path / "run.json"),
        preprocess=_optional(path / "model" / "preprocess.json").get("fingerprint"),
    )


def titles(runs: Sequence[Run]) -> list[str]:
    """Name each run as columns do, letter before name; one run alone needs no letter."""
    if len(runs) == 1:
        return [runs[0].name]
    return [f"{letter} · {run.name}" for letter, run in zip(ascii_uppercase, runs, strict=False)]


def _evaluation(path: Path) -> dict[str, Any]:
    found = _json(path)
    if isinstance(found, Mapping) and "benchmark" in found:
        return {"benchmark": _benchmark(found["benchmark"], path), "about": _mapping(found, "about", path)}
    if not isinstance(found, Mapping) or not isinstance(found.get("tasks"), Mapping):
        raise DataError("isn't an evaluation: no mapping `tasks`", where=str(path), remedy=_REMEDY)
    for task, metrics in found["tasks"].items():
        if not isinstance(metrics, Mapping):
            raise DataError(f"the figures of task {task!r} aren't a mapping", where=str(path), remedy=_REMEDY)
        for metric, figure in metrics.items():
            if not isinstance(figure, Mapping) or "value" not in figure:
                raise DataError(f"{task} {metric!r} has no value", where=str(path), remedy=_REMEDY)
    return {"tasks": found["tasks"], **{key: _mapping(found, key, path) for key in ("details", "by", "about")}}


def _mapping(found: Mapping[str, Any], key: str, path: Path) -> Mapping[str, Any]:
    value = found.get(key, {})
    if not isinstance(value, Mapping):
        raise DataError(f"`{key}` isn't a mapping", where=str(path), remedy=_REMEDY)
    return value


def _benchmark(found: object, path: Path) -> Mapping[str, Any]:
    """Check the form of a benchmark's result as far as the page reads it."""
    rows = found.get("rows") if isinstance(found, Mapping) else None
    if not isinstance(found, Mapping) or not {"suite", "means", "notes", "protocol"} <= set(found) or not rows:
        raise DataError("isn't the result of a benchmark", where=str(path), remedy=_REMEDY)
    for row in rows:
        if not isinstance(row, Mapping) or not {"set", "status", "metric", "published"} <= set(row):
            raise DataError("a data set of the benchmark isn't as written", where=str(path), remedy=_REMEDY)
    return found


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"isn't JSON ({error})", where=str(path), remedy=_REMEDY) from None


def _optional(path: Path) -> Mapping[str, Any]:
    found = _json(path) if path.is_file() else {}
    return found if isinstance(found, Mapping) else {}


def _history(path: Path) -> list[Mapping[str, Any]]:
    """Read the log; a line cut short by a crash is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(row, Mapping):
            rows.append(row)
    return rows


def shortest_names(paths: Sequence[Path]) -> list[str]:
    """Name each path by as many of its last parts as tell it from the others."""
    whole = [path.resolve() for path in paths]
    parts = [(*path.parts[1:-1], path.stem if path.is_file() else path.name) for path in whole]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(own[-depth:]) for own in parts]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]
