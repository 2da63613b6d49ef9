"""A run's rows handed on to its trackers, none of which can stop it: one warning, and it is left alone."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from medmoe.folder import read_json
from medmoe.rundir import RunFolder
from medmoe.trackers import TrackedRun, Tracker, trackers
from medmoe.trackers.base import facts_to_show, numbers, settings_to_show

NOTES = "trackers.json"
_LOG = logging.getLogger(__name__)


class Tracking:
    """Hands each row of a run's metrics to its trackers, and then to whoever else watches.

    What a tracker lacks of the metrics so far it gets first: all of them, if it is new to the run. What each has is
    noted in `trackers.json`, so that a run that goes on goes on there too, and steps done again aren't doubled.

    Args:
        names: Names of `medmoe.trackers.TRACKERS`; may be empty.
        run: The run folder, its configuration and facts written.
        since: Steps that were done already.
        then: Called with every row after the trackers.

    Raises:
        ConfigError: If a name is unknown.
        MissingDependencyError: If one's package isn't installed.
    """

    def __init__(
        self, names: Iterable[str], run: RunFolder, *, since: int = 0, then: Callable[[dict[str, Any]], None]
    ) -> None:
        self._run, self._then = run, then
        self._lines: dict[str, _Line] = {}
        made = trackers(names)
        if not made:
            return
        history = run.history()
        config = read_json(run.path / "config.json")
        self._notes = _read(run.path / NOTES)
        for name, tracker in made.items():
            line = _Line(tracker, config, self._notes.setdefault(name, {}))
            if self._guarded(name, partial(line.start, run.path, history, since)):
                self._lines[name] = line

    def __call__(self, row: dict[str, Any]) -> None:
        """Hand on a row that was just written to the metrics."""
        for name, line in list(self._lines.items()):
            send = line.go_back if row["kind"] == "rewind" else line.log
            if not self._guarded(name, partial(send, row)):
                del self._lines[name]
        self._then(row)

    def finish(self, *, finished: bool) -> None:
        """Let the trackers write out what they have."""
        for name, line in self._lines.items():
            self._guarded(name, partial(line.tracker.finish, finished=finished))
        self._lines = {}

    def _guarded(self, name: str, call: Callable[[], None]) -> bool:
        """Call a tracker and note what it then has; where that fails, warn and give False."""
        try:
            call()
            _write(self._run.path / NOTES, self._notes)
        except Exception as error:  # whatever another program does, the run goes on
            told = (str(error).splitlines() or [""])[0] or type(error).__name__
            _LOG.warning("tracker %s failed and is off until the run is resumed: %s", name, told)
            return False
        return True


class _Line:
    """One tracker, and the last step of each kind of row that it has."""

    def __init__(self, tracker: Tracker, config: Mapping[str, Any], notes: dict[str, Any]) -> None:
        self.tracker, self._config, self._notes = tracker, config, notes
        self._sent: dict[str, int] = notes.setdefault("sent", {})

    def start(self, folder: Path, history: Sequence[Mapping[str, Any]], since: int) -> None:
        """Go on with what the tracker has of the run, and send what it lacks."""
        first = next((int(row["step"]) for row in history if not self._has(row)), since + 1)
        if self.tracker.replaces:
            first = min(first, since + 1)
            self._sent.update({kind: min(step, first - 1) for kind, step in self._sent.items()})
        known = self._notes.get("run")
        facts = facts_to_show(read_json(folder / "run.json"))
        self._shown = TrackedRun(folder, settings_to_show(self._config), facts, known, first)
        self._notes["run"] = self.tracker.start(self._shown)
        if self._notes["run"] != known:
            self._sent.clear()
        for row in history:
            self.log(row)

    def log(self, row: Mapping[str, Any]) -> None:
        """Send a row that the tracker doesn't have."""
        if not self._has(row):
            modalities = (self._config.get("model") or {}).get("modalities") or ()
            self.tracker.log(int(row["step"]), numbers(row, modalities))
            self._sent[row["kind"]] = int(row["step"])

    def go_back(self, row: Mapping[str, Any]) -> None:
        """Have the steps after that of a rewind replaced by those that are done again, if the tracker can."""
        step = int(row["step"])
        if self.tracker.replaces:
            self.tracker.finish(finished=False)
            self.tracker.start(replace(self._shown, known=self._notes["run"], since=step + 1))
            self._sent.update({kind: min(sent, step) for kind, sent in self._sent.items()})
        self.log(row)

    def _has(self, row: Mapping[str, Any]) -> bool:
        return int(row["step"]) <= self._sent.get(row["kind"], -1)


def _read(path: Path) -> dict[str, dict[str, Any]]:
    """Read the notes of earlier; without any, or with broken ones, trackers begin anew."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    forms = isinstance(found, dict) and all(isinstance(notes, dict) for notes in found.values())
    return found if forms else {}


def _write(path: Path, notes: Mapping[str, Any]) -> None:
    """Write the notes aside and rename them; they needn't outlive the machine's fall, only the process's."""
    aside = path.with_name(f".{path.name}.tmp")
    aside.write_text(json.dumps(notes, indent=1) + "\n", encoding="utf-8")
    aside.replace(path)
