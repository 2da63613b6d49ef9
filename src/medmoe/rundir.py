"""A run folder: the resolved configuration, what made it, its metrics, its checkpoints."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import IO, Any

from medmoe.config import RunConfig
from medmoe.errors import UserError
from medmoe.folder import read_json, write_text_atomically

try:
    import fcntl
except ImportError:  # where files can't be locked, two writers aren't noticed
    fcntl = None  # type: ignore[assignment]

CONFIG, LOCK = "config.json", ".lock"
_OF_DISK = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.EIO))
_HELD: set[IO[str]] = set()  # open locks
PACKAGES = ("torch", "torchvision", "timm", "transformers", "tokenizers", "numpy", "pillow", "pyarrow", "pydicom")


class RunFolder:
    """Where a run writes.

    Args:
        path: The folder; made if missing.
        resume: Whether a run already there goes on; a new folder starts afresh either way.
        about: Facts to keep in `run.json`, such as the command and the data.
        writes: Whether this process writes; of several that train together one does, the others only read.

    Raises:
        UserError: If the folder holds a run and `resume` is off.
    """

    def __init__(
        self, path: Path | str, *, resume: bool = False, about: Mapping[str, Any] | None = None, writes: bool = True
    ) -> None:
        self.path = Path(path)
        self.about, self.writes = dict(about or {}), writes
        if not writes:
            return
        if self.path.is_file():
            raise UserError("is a file, not a folder", where=str(self.path), remedy="give another --out")
        if self.path.is_dir() and any(path.name != LOCK for path in self.path.iterdir()) and not resume:
            raise UserError(
                "the run folder exists and isn't empty",
                where=str(self.path),
                remedy="go on with --resume latest, or give another --out",
            )
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)

    @property
    def metrics(self) -> Path:
        """The file of metrics, one JSON object a line."""
        return self.path / "metrics.jsonl"

    @property
    def quarantine(self) -> Path:
        """The file of bad samples that were skipped, one JSON object a line; there when there was one."""
        return self.path / "quarantine.jsonl"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from writing the run while the body runs; a lock dies with its process.

        Raises:
            UserError: If another one writes it.
        """
        if not self.writes or fcntl is None:
            yield
            return
        with writing(self.path):
            file = (self.path / LOCK).open("a+", encoding="utf-8")
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                file.seek(0)
                who = file.read().strip() or "another process"
                remedy = "wait for it, stop it, or give another --out"
                raise UserError(f"the run is being written by {who}", where=str(self.path), remedy=remedy) from None
            with writing(self.path):
                file.truncate(0)
                file.write(f"process {os.getpid()} on {platform.node()} since {time.strftime('%Y-%m-%dT%H:%M:%S%z')}\n")
                file.flush()
            _HELD.add(file)
            try:
                yield
            finally:
                _HELD.discard(file)

    def begin(self, config: RunConfig, loads: Mapping[str, Any] | None, *, step: int = 0) -> None:
        """Write the resolved configuration and what made the run.

        Args:
            config: The configuration.
            loads: What was used of saved weights, by part; None for a run that goes on, which keeps what it said.
            step: Steps done, of a run that goes on.
        """
        if not self.writes:
            return
        path = self.path / "run.json"
        if loads is None:
            loads = read_json(path).get("initialised_from", {}) if path.is_file() else {}
        write_text_atomically(self.path / CONFIG, config.model_dump_json(indent=2) + "\n")
        facts = {
            **self.about,
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "from_step": step,
            "seed": config.train.seed,
            "versions": versions(),
            "git_commit": git_commit(),
            "machine": machine(),
            "initialised_from": {part: str(report) for part, report in loads.items()},
        }
        write_text_atomically(path, json.dumps(facts, indent=2) + "\n")

    def log(self, row: dict[str, Any]) -> dict[str, Any]:
        """Append a row to the metrics and give it back."""
        if not self.writes:
            return row
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        return row

    def rewind(self, step: int) -> None:
        """Drop metrics of steps after `step`, which are done again.

        What is said of spikes gone back from stays, unless all begins anew.
        """
        if not self.writes:
            return
        rows = [row for row in self.history() if row["step"] <= step or (step and row.get("kind") == "rewind")]
        write_text_atomically(self.metrics, "".join(json.dumps(row) + "\n" for row in rows))

    def history(self) -> list[dict[str, Any]]:
        """Read the metrics; a line cut short by a crash is left out."""
        if not self.metrics.is_file():
            return []
        rows = []
        for line in self.metrics.read_text(encoding="utf-8").splitlines():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                continue
        return rows


@contextlib.contextmanager
def writing(folder: Path, then: str = "") -> Iterator[None]:
    """Tell in one line of a disk that is full, read-only or broken.

    Args:
        folder: Where it is.
        then: What is still there, to be said with it.

    Raises:
        UserError: In place of the system's error.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _OF_DISK:
            raise
        what = f"can't be written ({error.strerror}){then and '; '}{then}"
        where = str(error.filename or folder)
        raise UserError(what, where=where, remedy="make room, or give another --out; then --resume latest") from error


def _close_locks() -> None:
    """Let a loader process have no part in the lock, which it would hold on to when its run is killed."""
    for file in _HELD:
        file.close()
    _HELD.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_locks)


def versions() -> dict[str, str]:
    """Give the versions of Python and the packages that matter."""
    found = {"python": platform.python_version()}
    for name in ("medmoe", *PACKAGES):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """Describe the machine without naming it."""
    return {"system": platform.system(), "processor": platform.machine(), "cores": os.cpu_count()}


def git_commit() -> str | None:
    """Give the commit of the code, where it is a git checkout."""
    folder = Path(__file__).resolve().parent
    try:
        run = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return run.stdout.strip() or None


def command_line(*, without: Sequence[str] = ()) -> str:
    """Give the command as it was typed.

    Args:
        without: Options with a value to leave out, such as where the result is written: the same result, written
            elsewhere, is then the same in every byte.
    """
    words, kept = iter(sys.argv[1:]), ["medmoe"]
    for word in words:
        if word in without:
            next(words, None)
        elif word.split("=", 1)[0] not in without:
            kept.append(word)
    return " ".join(kept)
