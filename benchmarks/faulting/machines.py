"""Two machines in one: network namespaces that only a virtual link joins, which can be cut."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

LINK, PORT = "wire", 29400
ADDRESSES = ("10.77.0.1", "10.77.0.2")
_NOWHERE = "02:00:00:00:00:99"  # a hardware address that nobody has
_PREFIX = "medmoe"


class Unable(Exception):  # noqa: N818 - no error: this machine doesn't have what is needed
    """Namespaces can't be made here, and why."""


class Job:
    """One command in one namespace.

    Args:
        machine: The namespace; None: this one.
        words: The command.
        log: What it says goes there.
        env: Variables besides this process's own.
    """

    def __init__(self, machine: str | None, words: list[str], log: Path, env: dict[str, str]) -> None:
        into = [] if machine is None else ["ip", "netns", "exec", machine]
        self.log = log
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                [*into, *words], stdout=out, stderr=out, env={**os.environ, **env}, start_new_session=True
            )
        self.begun = time.monotonic()
        self.ended: float | None = None

    @property
    def code(self) -> int | None:
        """The exit code, None while it runs; when it ended is noted at the first look."""
        code = self.process.poll()
        if code is not None and self.ended is None:
            self.ended = time.monotonic()
        return code

    def said(self) -> str:
        """Give what it said."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def kill(self) -> None:
        """End it and what is in its session."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class Machines:
    """Two namespaces and the link between them.

    Attributes:
        names: Of the namespaces; who made them is part of it.
    """

    def __init__(self) -> None:
        self.names = tuple(f"{_PREFIX}-{_owner(os.getpid())}-{number}" for number in range(2))

    def build(self) -> None:
        """Make the namespaces, and join them."""
        if shutil.which("ip") is None or sys.platform != "linux":
            raise Unable("there is no `ip` here (Linux's iproute2)")
        if os.geteuid() != 0:
            raise Unable("network namespaces need root")
        for name in self.names:
            _ip("netns", "add", name)
        first, second = self.names
        _ip("link", "add", LINK, "netns", first, "type", "veth", "peer", "name", LINK, "netns", second)
        for name, address in zip(self.names, ADDRESSES, strict=True):
            _ip("-n", name, "address", "add", f"{address}/30", "dev", LINK)
            _ip("-n", name, "link", "set", "lo", "up")
            _ip("-n", name, "link", "set", LINK, "up")

    def pids(self, number: int) -> list[int]:
        """List the processes of a machine."""
        return _pids(self.names[number])

    def kill(self, number: int) -> None:
        """End all processes of a machine at once, as a loss of power does."""
        _kill_all(self.names[number])

    def down(self) -> None:
        """Take the link down at both ends: who has something to send is told that there is no way."""
        for name in self.names:
            _ip("-n", name, "link", "set", LINK, "down")

    def lose(self) -> None:
        """Let the link lose all packets, and nobody be told: they go to a hardware address that isn't there."""
        for name, other in zip(self.names, reversed(ADDRESSES), strict=True):
            _ip("-n", name, "neigh", "replace", other, "lladdr", _NOWHERE, "dev", LINK, "nud", "permanent")

    def mend(self) -> None:
        """Let the link be as it was."""
        for name, other in zip(self.names, reversed(ADDRESSES), strict=True):
            _ip("-n", name, "link", "set", LINK, "up")
            with contextlib.suppress(Unable):  # taking a link down forgets its neighbours
                _ip("-n", name, "neigh", "del", other, "dev", LINK)
        self.patience(15)

    def patience(self, retries: int) -> None:
        """Say after how many unanswered packets a connection is given up: 6 are 25 seconds, 15 a quarter of an hour."""
        for name in self.names:
            _ip("netns", "exec", name, "sh", "-c", f"echo {retries} > /proc/sys/net/ipv4/tcp_retries2")

    def clean(self) -> None:
        """End what runs in the namespaces, and delete them; the link goes with them."""
        for name in self.names:
            _delete(name)


@contextmanager
def machines() -> Iterator[Machines]:
    """Give two machines that are gone at the end, after an error, Ctrl-C and SIGTERM too.

    What an earlier process left that was killed is deleted first.

    Raises:
        Unable: If namespaces can't be made here.
    """
    clean_up()
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    pair = Machines()
    try:
        pair.build()
        yield pair
    finally:
        pair.clean()
        signal.signal(signal.SIGTERM, before)


def clean_up() -> list[str]:
    """Delete the namespaces whose makers are gone; gives their names."""
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True) if shutil.which("ip") else None
    names = [line.split()[0] for line in listed.stdout.splitlines() if line] if listed else []
    left = []
    for name in names:
        parts = name.split("-")
        if len(parts) == 4 and parts[0] == _PREFIX and _owner(parts[1]) != f"{parts[1]}-{parts[2]}":
            _delete(name)
            left.append(name)
    return left


def until(happened: Callable[[], bool], *, seconds: float, pause: float = 0.02) -> bool:
    """Wait until something has happened; tells whether it has."""
    end = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > end:
            return False
        time.sleep(pause)
    return True


def _owner(pid: int | str) -> str:
    """Name a process so that another with its number isn't taken for it."""
    with contextlib.suppress(OSError):
        return f"{pid}-{Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[19]}"
    return f"{pid}-gone"


def _pids(name: str) -> list[int]:
    found = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True)
    return [int(word) for word in found.stdout.split()]


def _kill_all(name: str) -> None:
    for _ in range(100):  # what was being started while the first look was taken
        pids = _pids(name)
        if not pids:
            return
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def _delete(name: str) -> None:
    _kill_all(name)
    subprocess.run(["ip", "netns", "del", name], capture_output=True)


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    if done.returncode:
        raise Unable(f"`ip {' '.join(words)}`: {done.stderr.strip()}")
