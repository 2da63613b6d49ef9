"""A process that reads one hostile file after another, and the one that watches its time and its memory."""

from __future__ import annotations

import logging
import multiprocessing
import os
import resource
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from fuzzing.damage import Case
from fuzzing.kinds import KINDS, Reading

_ROOM = 3 << 30  # bytes of address space over those at the start; beyond, memory isn't given at all
_FLOOD = 100  # warnings and lines of logs that one file may cause
_LONGEST = 4000  # characters of an error
_FINE = ("read", "refused")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What reading a file did.

    Attributes:
        kind: The kind of file.
        number: The case's number.
        how: What had been done to the file.
        result: `read`, `refused`, or the fault.
        detail: The error's text.
        seconds: Processor time of the slowest reading.
        megabytes: Most memory of a reading, over what the process held before.
    """

    kind: str
    number: int
    how: str
    result: str
    detail: str = ""
    seconds: float = 0.0
    megabytes: float = 0.0

    @property
    def fault(self) -> bool:
        """Tell whether the file was neither read nor refused as it should be."""
        return self.result not in _FINE


def make(kind: str, number: int, seed: int, folder: Path) -> Case:
    """Write the files of a case: the same ones for the same seed, kind and number."""
    rng = np.random.default_rng([seed, number, *kind.encode()])
    return KINDS[kind].make(rng, folder)


def judge(names: tuple[str, ...], reading: Reading) -> tuple[str, str]:
    """Read here and now.

    Args:
        names: Names of the file, one of which has to be in an error.
        reading: Reads it.

    Returns:
        `read`, `refused` or the fault, and the error's text.
    """
    from medmoe.errors import UserError

    noise = _Noise()
    logging.getLogger().addHandler(noise)
    result, detail = "read", ""
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("default")
            reading()
    except UserError as error:
        result, detail = "refused", str(error)
        if not any(name in detail for name in names):
            result = "error without the file's name"
        elif len(detail) > _LONGEST or not detail.isprintable():
            result, detail = "error that isn't one line", repr(detail[:300])
    except Exception as error:  # the very thing that is looked for
        result, detail = f"{type(error).__name__} escapes", _place(error)
    finally:
        logging.getLogger().removeHandler(noise)
    count = len(told) + noise.lines
    if count > _FLOOD and result in _FINE:
        result, detail = "flood of warnings", f"{count}: {[str(each.message) for each in told[:1]]}"
    return result, detail


class _Noise(logging.Handler):
    """Counts what would be logged."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.lines += 1


def _place(error: Exception) -> str:
    """Tell an error and the last lines of ours and of others that it went through."""
    import traceback

    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "medmoe" in frame.filename][-1:]
    places = ", ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in (*ours, *frames[-1:]))
    return f"{str(error)[:200]!r} at {places}"


def run(cases: Iterable[tuple[str, int]], *, seed: int, seconds: float, megabytes: float) -> Iterator[Outcome]:
    """Read cases one after the other in a process of their own, which is ended and begun anew where one is a fault.

    Args:
        cases: Kind and number of each.
        seed: What all choices come from.
        seconds: Limit of each reading of a file: of the processor's time, or of waiting without any.
        megabytes: Limit of each reading, over what the process held before.
    """
    worker: _Worker | None = None
    try:
        for kind, number in cases:
            worker = worker or _Worker(seed)
            outcome = worker.ask(kind, number, seconds, megabytes)
            if outcome.fault:
                worker.end()
                worker = None
            yield outcome
    finally:
        if worker is not None:
            worker.end()


class _Worker:
    """A process that reads cases as it is asked to."""

    def __init__(self, seed: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.ours, theirs = context.Pipe()
        self.folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
        self.process = context.Process(target=_serve, args=(theirs, seed, self.folder), daemon=True)
        self.process.start()
        theirs.close()

    def ask(self, kind: str, number: int, seconds: float, megabytes: float) -> Outcome:
        """Read one case in every way: the worst of what came of them, with the longest time and the most memory."""
        how, worst, slowest, most = "", ("read", ""), 0.0, 0.0
        try:
            self.ours.send((kind, number))
            how, readings = self._hear(120.0)
            for _ in range(readings):
                result, detail, took, memory = self._hear(seconds)
                slowest, most = max(slowest, took), max(most, memory)
                if memory > megabytes:
                    result, detail = "too much memory", f"{result}: {detail}"
                worst = max(worst, (result, detail), key=lambda each: (each[0] != "read") + (each[0] not in _FINE))
        except TimeoutError:
            worst = ("hang" if how else "case not made", "")
            slowest = seconds
        except (EOFError, ConnectionError):
            self.process.join(5)
            worst = ("crash", f"exit code {self.process.exitcode}")
        return Outcome(kind, number, how, *worst, slowest, most)

    def _hear(self, seconds: float) -> Any:
        """Wait for what the process says, as long as it works for it and hasn't worked for too long.

        On a busy machine a process gets little of the processor: it is its own time that counts. One that doesn't work
        waits for something that may never come.
        """
        begun, worked = time.monotonic(), _worked(self.process.pid)
        while not self.ours.poll(0.2):
            took, used = time.monotonic() - begun, _worked(self.process.pid) - worked
            if used > seconds or (took > seconds and used < 0.02 * took):
                raise TimeoutError
        return self.ours.recv()

    def end(self) -> None:
        """End the process and take its files away."""
        self.process.kill()
        self.process.join()
        self.ours.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def _serve(pipe: Connection, seed: int, folder: Path) -> None:
    """Make and read cases as long as there are any."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # C libraries write to these themselves
    os.dup2(1, 2)
    warmed: set[str] = set()
    while True:
        kind, number = pipe.recv()
        if kind not in warmed:
            _limit(None)
            KINDS[kind].warm()
            warmed.add(kind)
            _limit(_ROOM)
        place = folder / f"{kind}-{number}"
        place.mkdir()
        case = make(kind, number, seed, place)
        readings = KINDS[kind].readings(case.path)
        pipe.send((case.how, len(readings)))
        for reading in readings:
            before = _held("VmRSS")
            _forget_peak()
            begun = time.process_time()
            result, detail = judge(case.names or (case.path.name,), reading)
            took = time.process_time() - begun
            pipe.send((result, detail, took, max(_held("VmHWM") - before, 0) / 2**20))
        shutil.rmtree(place, ignore_errors=True)


def _limit(room: int | None) -> None:
    """Keep a case from taking all of the machine's memory; None lets it."""
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (hard if room is None else _held("VmSize") + room, hard))


def _held(name: str) -> int:
    """Read a size of this process, in bytes, from what Linux says of it."""
    lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def _worked(process: int | None) -> float:
    """Read the seconds of processor time that a process has had; 0 once it has ended."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _forget_peak() -> None:
    """Make the peak of memory begin anew."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


if sys.platform != "linux":
    raise SystemExit("memory is measured as Linux tells it: run the campaign there")
