"""Processes to attack: commands in forks of this one, joined as torchrun joins them, watched, and ended for real."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

_FORK = multiprocessing.get_context("fork")  # what they need is imported already, which takes longer than most faults


def _nothing() -> None:
    pass


def command(words: Sequence[str]) -> None:
    """Run a `medmoe` command as its script does."""
    from medmoe.cli import main

    sys.argv = ["medmoe", *words]
    main()


def _child(work: Callable[[], None], before: Callable[[], None], env: dict[str, str], log: Path) -> None:
    os.setsid()  # a group with its loader processes, which can be ended as a whole
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    os.environ |= env
    before()
    work()


class Group:
    """Processes that run the same, alone or joined.

    Args:
        work: What each does.
        log: What they say goes there, with `.0`, `.1` … after it.
        count: How many; two or more find each other as torchrun's do.
        before: Called in each, before `work`.
    """

    def __init__(
        self, work: Callable[[], None], log: Path, *, count: int = 1, before: Callable[[], None] = _nothing
    ) -> None:
        self.logs = [log.with_name(f"{log.name}.{rank}") for rank in range(count)]
        for path in self.logs:
            path.unlink(missing_ok=True)
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "WORLD_SIZE": str(count)}
        envs = [{**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]
        self.processes = [
            _FORK.Process(target=_child, args=(work, before, env, path))
            for env, path in zip(envs, self.logs, strict=True)
        ]
        for process in self.processes:
            process.start()

    @property
    def pids(self) -> list[int]:
        """The numbers of the processes, in the order of their ranks."""
        return [process.pid or 0 for process in self.processes]

    @property
    def alive(self) -> bool:
        """Whether any process still runs."""
        return any(process.is_alive() for process in self.processes)

    def until(self, happened: Callable[[], bool], *, seconds: float = 300, pause: float = 0.01) -> bool:
        """Wait until something has happened, or the processes are gone; tells whether it has."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if happened():
                return True
            if not self.alive:
                return happened()
            time.sleep(pause)
        return False

    def send(self, number: int, rank: int | None = None) -> None:
        """Send a signal to one process, or to each; not to their loader processes."""
        for place, pid in enumerate(self.pids):
            if rank in (None, place):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)

    def kill(self, rank: int | None = None) -> None:
        """End one process, or each, with the loader processes, as a machine does that loses power."""
        for place, pid in enumerate(self.pids):
            if rank in (None, place):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)
        for place, process in enumerate(self.processes):
            if rank in (None, place):
                process.join()

    def workers(self, rank: int = 0) -> list[int]:
        """List the loader processes of one."""
        return children(self.pids[rank])

    def wait(self, seconds: float = 300) -> list[int | str]:
        """Wait for the ends, and give the exit codes; what doesn't end is killed, and `hung`."""
        end = time.monotonic() + seconds
        codes: list[int | str] = []
        for process in self.processes:
            process.join(max(end - time.monotonic(), 0))
            codes.append("hung" if process.exitcode is None else process.exitcode)
        self.kill()
        return codes

    def said(self) -> str:
        """Give what the processes said, in the order of their ranks."""
        return "\n".join(path.read_text(encoding="utf-8", errors="replace") for path in self.logs if path.exists())


def children(pid: int) -> list[int]:
    """List the processes that one has started and that are there."""
    with contextlib.suppress(OSError):
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
    return port
