"""A run folder as it stands, read without touching it: what it is, how far it came, and whether it still moves."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medmoe.errors import DataError
from medmoe.report.markup import finite

CONFIG, FACTS, METRICS, LOCK = "config.json", "run.json", "metrics.jsonl", ".lock"
STATES = ("running", "finished", "stopped", "broken")
_LOCKS = Path("/proc/locks")
_PATIENCE = 60.0  # seconds without a sign of life, at least, after which a run counts as stopped
_GAPS = 5  # and so many times the usual time between two lines
_RECENT = 20  # lines of the log that speed is read from

Row = Mapping[str, Any]


@dataclass(frozen=True)
class RunState:
    """One run.

    Attributes:
        path: Its folder.
        state: running (its lock is held on this machine, or it wrote a moment ago), finished, stopped, or broken: its
            configuration can't be read.
        problem: What can't be read or isn't as it should be; empty where all is well.
        config: The recipe; empty where it can't be read.
        facts: What made it (`run.json`).
        history: Rows of its metrics.
        updated: When it last wrote, in seconds since 1970; None where it never did.
    """

    path: Path
    state: str
    problem: str = ""
    config: Mapping[str, Any] = field(default_factory=dict, repr=False)
    facts: Mapping[str, Any] = field(default_factory=dict, repr=False)
    history: Sequence[Row] = field(default=(), repr=False)
    updated: float | None = None

    def rows(self, kind: str) -> list[Row]:
        """Give the rows of a kind, `train` or `val`."""
        return [row for row in self.history if row["kind"] == kind]

    @property
    def summary(self) -> dict[str, Any]:
        """What is listed of it; None where it isn't known."""
        train, val = self.rows("train"), self.rows("val")
        losses = [(value, row["step"]) for row in val if (value := finite(row.get("loss"))) is not None]
        best = min(losses, default=(None, None))
        recent = [row for row in train if row["step"] > 1][-_RECENT:]
        machine = _mapping(self.facts.get("machine"))
        return {
            "run": str(self.path),
            "recipe": self.config.get("recipe"),
            "state": self.state,
            "step": self.history[-1]["step"] if self.history else 0,
            "steps": _mapping(self.config.get("train")).get("steps"),
            "loss": finite(train[-1].get("loss")) if train else None,
            "val_loss": finite(val[-1].get("loss")) if val else None,
            "best_val_loss": best[0],
            "best_step": best[1],
            "image_router": finite(val[-1].get("image_router_accuracy")) if val else None,
            "images_per_second": _median(recent, "images_per_second"),
            "data_wait": _median(recent, "data_wait"),
            "seconds": _seconds(train, self.config),
            "started": self.facts.get("started"),
            "commit": self.facts.get("git_commit"),
            "seed": _mapping(self.config.get("train")).get("seed"),
            "machine": " ".join(str(machine[key]) for key in ("system", "processor", "cores") if key in machine)
            or None,
            "problem": self.problem or None,
        }


def find_runs(folders: Sequence[Path | str]) -> list[Path]:
    """Find the run folders that these are or hold, at any depth, each once; a run's own folders aren't looked into.

    Raises:
        DataError: If a folder isn't there.
    """
    found: dict[Path, Path] = {}
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise DataError("isn't a folder", where=str(folder), remedy="give run folders, or folders that hold some")
        for path in _within(folder):
            found.setdefault(path.resolve(), path)
    return list(found.values())


def is_run(folder: Path) -> bool:
    """Tell whether a folder is that of a run, however little of it is left."""
    return (folder / FACTS).is_file() or (folder / METRICS).is_file()


def read_state(folder: Path, *, now: float | None = None) -> RunState:
    """Read a run folder; what can't be read is named in the result, not raised.

    Args:
        folder: The run folder.
        now: Seconds since 1970 by which a run's age is told; the clock's by default.
    """
    config, broken = _object(folder / CONFIG)
    facts, lost = _object(folder / FACTS)
    history, unread = _history(folder / METRICS)
    if not broken and not _has_form(config):
        broken = f"{CONFIG} isn't that of a run"
    problems = [problem for problem in (broken, lost, unread) if problem]
    last = next((row for row in reversed(history) if row["kind"] != "rewind"), None)
    if last is not None and finite(last.get("loss")) is None:
        problems.append("the last loss isn't a finite number")
    updated = _newest(folder / METRICS, folder / "checkpoints", folder / CONFIG)
    if broken:
        return RunState(folder, "broken", "; ".join(problems), {}, facts, history, updated)
    steps = _mapping(config["train"])["steps"]
    if history and history[-1]["step"] >= steps and (folder / "model").is_dir():
        state = "finished"
    else:
        age = None if updated is None else (time.time() if now is None else now) - updated
        fresh = age is not None and age < max(_PATIENCE, _GAPS * _gap(history, config))
        state = "running" if fresh or is_locked(folder / LOCK) else "stopped"
    return RunState(folder, state, "; ".join(problems), config, facts, history, updated)


def is_locked(lock: Path) -> bool:
    """Tell whether a process on this machine holds a lock file, without taking it; False where nobody tells."""
    try:
        node = lock.stat().st_ino
        held = _LOCKS.read_text(encoding="ascii").splitlines()
    except OSError:
        return False
    return any(line.split()[5].rsplit(":", 1)[-1] == str(node) for line in held if len(line.split()) > 5)


def _within(folder: Path) -> Iterator[Path]:
    for where, names, _ in os.walk(folder):
        here = Path(where)
        if is_run(here):
            names.clear()
            yield here
        else:
            names[:] = sorted(name for name in names if not name.startswith("."))


def _object(path: Path) -> tuple[dict[str, Any], str]:
    """Read a JSON object, or give why it can't be."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        return {}, f"{path.name} can't be read ({error.strerror})"
    except ValueError:
        return {}, f"{path.name} isn't JSON"
    return (found, "") if isinstance(found, dict) else ({}, f"{path.name} isn't a JSON object")


def _history(path: Path) -> tuple[list[Row], str]:
    """Read the metrics, and say how much of it isn't a row; a last line cut short is what a crash leaves."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return [], ""
    except OSError as error:
        return [], f"{path.name} can't be read ({error.strerror})"
    read = [_row(line) for line in lines]
    bad = sum(row is None for row in read[:-1])
    said = f"{bad} line{'s' if bad > 1 else ''} of {path.name} can't be read" if bad else ""
    return [row for row in read if row is not None], said


def _row(line: str) -> Row | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return (
        row if isinstance(row, dict) and isinstance(row.get("step"), int) and isinstance(row.get("kind"), str) else None
    )


def _has_form(config: Mapping[str, Any]) -> bool:
    return isinstance(_mapping(config.get("train")).get("steps"), int)


def _newest(*paths: Path) -> float | None:
    times = [path.stat().st_mtime for path in paths if path.exists()]
    return max(times, default=None)


def _seconds(train: Sequence[Row], config: Mapping[str, Any]) -> float | None:
    """Add up the time that the steps took: of each line, its images by its speed; validation and saving not counted."""
    images = _images(config)
    if not train or images is None:
        return None
    total, before = 0.0, 0
    for row in train:
        speed = finite(row.get("images_per_second"))
        total += (row["step"] - before) * images / speed if speed else 0.0
        before = row["step"]
    return total


def _gap(history: Sequence[Row], config: Mapping[str, Any]) -> float:
    """Give the seconds between the last two lines of training."""
    train = [row for row in history if row["kind"] == "train"][-2:]
    images, speed = _images(config), finite(train[-1].get("images_per_second")) if train else None
    if len(train) < 2 or images is None or not speed:
        return 0.0
    return float((train[1]["step"] - train[0]["step"]) * images / speed)


def _images(config: Mapping[str, Any]) -> float | None:
    batch = finite(_mapping(config.get("data")).get("batch_size"))
    return None if batch is None else batch * (finite(_mapping(config.get("train")).get("accum_freq")) or 1)


def _median(rows: Sequence[Row], key: str) -> float | None:
    values = [value for row in rows if (value := finite(row.get(key))) is not None]
    return statistics.median(values) if values else None


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
