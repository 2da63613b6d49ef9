"""Namespaces: do two machines train as one does, and what comes of a link that is cut, or a machine that is lost?

    python benchmarks/namespaces.py --json namespaces.json --markdown namespaces.md

Two network namespaces that only a virtual link joins stand for the machines; each runs torchrun, and the run folder is
on a disk that both see. The link is cut in two ways: taken down, and losing all packets without a word, as a broken
switch does. It needs Linux, root and `ip`; without them nothing is tried, and the exit code is 0. Namespaces and
processes are deleted at the end, and those that an earlier, killed run left at the beginning. `--only WORD` runs the
rows whose names hold a word.

Where a link is cut for good, the kernel is told to give a connection up after some 25 seconds without an answer
(`tcp_retries2=6`) instead of a quarter of an hour: torchrun itself waits that long for a store that it can't reach.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from faulting import runs
from faulting.machines import ADDRESSES, LINK, PORT, Job, Machines, Unable, machines, until
from faulting.table import leave, markdown, options

STEPS, EVERY, STALL, CUT = 30, 5, 12, 20
SETTINGS = (f"train.steps={STEPS}", f"train.save_every={EVERY}", "train.keep=3")
_START = [sys.executable, "-m", "torch.distributed.run"]
_ENV = {"OMP_NUM_THREADS": "1"}  # torchrun's own choice, said: another number of threads rounds otherwise
ROWS: dict[str, tuple[str, Callable[[Pair], str]]] = {}


class Pair:
    """Two machines with a run on a disk that both see.

    Args:
        machines: The namespaces.
        folder: For the run and what is said.
        alone: Where the runs are that nobody disturbs.
    """

    def __init__(self, machines: Machines, folder: Path, alone: Path) -> None:
        self.machines, self.folder, self.alone = machines, folder, alone
        self.run = folder / "run"
        self.jobs: list[Job] = []

    def start(self, number: int, *settings: str, restarts: int = 0, read: int = 60, share: bool = False) -> Job:
        """Start torchrun on one machine.

        Args:
            number: The machine.
            *settings: Of the run.
            restarts: How often torchrun starts the processes again.
            read: Seconds that torchrun waits for an answer of its store.
            share: Whether torchrun's store serves the processes too, which it does unless told otherwise.
        """
        torchrun = [
            *("--nnodes", "2", "--nproc-per-node", "1", "--max-restarts", str(restarts)),
            *("--rdzv-backend", "c10d", "--rdzv-endpoint", f"{ADDRESSES[0]}:{PORT}", "--rdzv-id", "two"),
            *(
                "--rdzv-conf",
                f"is_host={int(number == 0)},read_timeout={read}",
                "--local-addr",
                ADDRESSES[number],
            ),
            *("--log-dir", str(self.folder / "logs"), "--redirects", "3"),
        ]
        words = [*_START, *torchrun, "-m", "medmoe", *runs.train(self.run, *SETTINGS, *settings)]
        env = {**_ENV, "GLOO_SOCKET_IFNAME": LINK, "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": str(int(not share))}
        self.jobs.append(Job(self.machines.names[number], words, self.folder / f"log-{len(self.jobs)}", env))
        return self.jobs[-1]

    def both(self, *settings: str, **more: Any) -> list[Job]:
        """Start torchrun on both machines."""
        return [self.start(number, *settings, **more) for number in range(2)]

    def reaches(self, step: int) -> None:
        """Wait for a step of the run."""
        until(lambda: runs.last_step(self.run) >= step or any(job.code is not None for job in self.jobs), seconds=240)
        assert runs.last_step(self.run) >= step, self.said()[-1500:]

    def ends(self, jobs: list[Job], *codes: int, seconds: float = 240) -> None:
        """Wait for the ends, which must have these codes, and leave no process."""
        until(lambda: all(job.code is not None for job in jobs), seconds=seconds)
        found = [job.code for job in jobs]
        assert found == list(codes), f"exit codes {found}, not {list(codes)}: {self.said()[-1500:]}"
        assert until(lambda: not self.left(), seconds=10), f"processes {self.left()} are left"

    def left(self) -> list[int]:
        """List the processes that there are on both machines."""
        return [*self.machines.pids(0), *self.machines.pids(1)]

    def said(self) -> str:
        """Give what was said, by torchrun and by the processes."""
        return "\n".join([*(job.said() for job in self.jobs), *self.ours().values()])

    def ours(self) -> dict[str, str]:
        """Give what each process wrote to its standard error, by attempt and file."""
        files = sorted((self.folder / "logs").rglob("stderr.log"))
        return {str(path.parent): path.read_text(encoding="utf-8", errors="replace") for path in files}

    def errors(self) -> list[str]:
        """List the lines by which processes ended; a traceback of theirs isn't one, and fails."""
        assert "Traceback" not in "".join(self.ours().values()), "".join(self.ours().values())[-1500:]
        return [line for text in self.ours().values() for line in text.splitlines() if line.startswith("error:")]

    def same(self) -> None:
        """Compare the end with that of the run that nobody disturbed: weights, optimiser, losses, in every bit."""
        alone = self.undisturbed()
        final = f"checkpoints/step-{STEPS:07d}/optimizer.safetensors"
        assert runs.weights(self.run) == runs.weights(alone), "the weights aren't the undisturbed run's"
        assert (self.run / final).read_bytes() == (alone / final).read_bytes(), "nor is the optimiser's memory"
        assert runs.losses(self.run) == runs.losses(alone), "the losses aren't the undisturbed run's"

    def undisturbed(self) -> Path:
        """Give the run of two processes on one machine, made once."""
        run = self.alone / "alone"
        if not run.exists():
            start = [*_START, "--standalone", "--nproc-per-node", "2", "-m", "medmoe"]
            job = Job(None, [*start, *runs.train(run, *SETTINGS)], self.alone / "log", _ENV)
            assert job.process.wait(300) == 0, job.said()[-1500:]
        return run

    def apart(self, step: int) -> float:
        """Let one process do the step after a checkpoint; gives how far its loss is from the two machines'."""
        one, kept = self.folder / f"one-{step}", f"checkpoints/step-{step:07d}"
        if step:
            shutil.copytree(self.run / kept, one / kept)
            shutil.copy(self.run / "config.json", one)
        words = runs.train(one, *SETTINGS, f"train.steps={step + 1}", more=("--allow-changes",))
        job = Job(None, [sys.executable, "-m", "medmoe", *words], self.folder / f"log-one-{step}", _ENV)
        assert job.process.wait(300) == 0, job.said()[-1500:]
        expected = dict(runs.losses(self.run))[step + 1]
        return abs(dict(runs.losses(one))[step + 1] - expected) / abs(expected)

    def clean(self) -> None:
        """End what still runs, and mend the link."""
        for number in range(2):
            self.machines.kill(number)
        for job in self.jobs:
            job.kill()
        self.machines.mend()


def row(name: str, documented: str) -> Callable[[Callable[[Pair], str]], Callable[[Pair], str]]:
    """Put a row into the table."""

    def add(act: Callable[[Pair], str]) -> Callable[[Pair], str]:
        ROWS[name] = (documented, act)
        return act

    return add


@row("nothing", "weights are those of two processes on one machine, losses those of one process to 1e-5")
def together(pair: Pair) -> str:
    jobs = pair.both()
    pair.ends(jobs, 0, 0)
    pair.same()
    assert runs.steps(pair.run) == list(range(1, STEPS + 1))
    apart = [pair.apart(step) for step in (0, *runs.saved(pair.run)[:-1])]
    assert max(apart) <= 1e-5, f"losses differ by {max(apart):.1e}"
    return f"{STEPS} steps; of {len(apart)} steps from equal weights, losses differ by at most {max(apart):.1e}"


def cut_for_a_while(pair: Pair, cut: Callable[[], None]) -> str:
    jobs = pair.both("train.stall_seconds=90")
    pair.reaches(EVERY + 2)
    cut()
    time.sleep(1)
    at = runs.last_step(pair.run)
    time.sleep(CUT - 1)
    during = runs.last_step(pair.run) - at
    pair.machines.mend()
    mended = time.monotonic()
    assert until(lambda: runs.last_step(pair.run) > at + during, seconds=120), "it doesn't go on"
    pause = time.monotonic() - mended
    pair.ends(jobs, 0, 0)
    pair.same()
    assert runs.steps(pair.run) == list(range(1, STEPS + 1)), "a step was done twice, or not at all"
    assert during == 0, f"{during} steps were done without a link"
    return f"at step {at}; went on {pause:.0f} s after the link was back, no step done again"


@row(f"the link is down for {CUT} s", "training goes on by itself; same end")
def down_for_a_while(pair: Pair) -> str:
    return cut_for_a_while(pair, pair.machines.down)


@row(f"the link loses all packets for {CUT} s", "training goes on by itself; same end")
def silent_for_a_while(pair: Pair) -> str:
    return cut_for_a_while(pair, pair.machines.lose)


def cut_for_good(pair: Pair, cut: Callable[[], None]) -> str:
    jobs = pair.both(f"train.stall_seconds={STALL}")
    pair.reaches(EVERY + 2)
    pair.machines.patience(6)
    cut()
    begun = time.monotonic()
    until(lambda: len(pair.errors()) == 2 or all(job.code is not None for job in jobs), seconds=120)
    ours = time.monotonic() - begun
    pair.ends(jobs, 1, 1)
    errors = "\n".join(pair.errors())
    for wanted in (r"process 0 of 2 lost .* no word from process 1 ", r"process 1 of 2 lost .* process 0 is gone, or "):
        assert len(re.findall(f"^error: {wanted}", errors, re.MULTILINE)) == 1, f"nobody said {wanted!r}: {errors}"
    with (pair.run / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    done, whole = runs.last_step(pair.run), runs.whole(pair.run)[-1]
    assert done - whole <= EVERY, f"{done - whole} steps lost"
    pair.machines.mend()
    again = pair.both(f"train.stall_seconds={STALL}")
    pair.ends(again, 0, 0)
    pair.same()
    begun_at = json.loads((pair.run / "run.json").read_text())["from_step"]
    assert begun_at == whole
    took = [round((job.ended or 0) - begun) for job in jobs]
    return (
        f"both said so after {ours:.0f} s (stall_seconds={STALL}), torchrun ended after {took[0]} and {took[1]} s "
        f"with 1; {done - whole} steps lost; the same commands went on from step {begun_at}"
    )


@row("the link is down for good", "after train.stall_seconds one line each, naming the other; restart: same end")
def down_for_good(pair: Pair) -> str:
    return cut_for_good(pair, pair.machines.down)


@row(
    "the link loses all packets for good",
    "after train.stall_seconds one line each, naming the other; restart: same end",
)
def silent_for_good(pair: Pair) -> str:
    return cut_for_good(pair, pair.machines.lose)


def went_on(pair: Pair, lost_at: int) -> str:
    """Tell from where the last life began, which must be as late as the checkpoints allow."""
    begun = int(json.loads((pair.run / "run.json").read_text())["from_step"])
    assert lost_at - begun <= EVERY, f"from step {begun}, but step {lost_at} was done"
    return f"lost at step {lost_at}, went on from step {begun}"


@row(f"the link loses all packets for {2 * CUT} s; --max-restarts 3", "both are started again by torchrun; same end")
def restarted(pair: Pair) -> str:
    jobs = pair.both(f"train.stall_seconds={STALL}", restarts=3)
    pair.reaches(EVERY + 2)
    pair.machines.lose()
    time.sleep(2 * CUT)
    at = runs.last_step(pair.run)
    pair.machines.mend()
    mended = time.monotonic()
    until(lambda: runs.last_step(pair.run) > at or any(job.code is not None for job in jobs), seconds=240)
    pause = time.monotonic() - mended
    pair.ends(jobs, 0, 0)
    pair.same()
    return f"{went_on(pair, at)}; {pause:.0f} s after the link was back"


@row(
    "the link loses all packets for longer than torchrun's read_timeout; --max-restarts 3",
    "torchrun ends with 1 on the machine that can't reach the store, and on the other then; started again: same end",
)
def too_long(pair: Pair) -> str:
    settings = f"train.stall_seconds={STALL}"
    jobs = pair.both(settings, restarts=3, read=20)
    pair.reaches(EVERY + 2)
    pair.machines.lose()
    begun = time.monotonic()
    time.sleep(2 * CUT)
    at = runs.last_step(pair.run)
    pair.machines.mend()
    pair.ends(jobs, 1, 1)
    took = [round((job.ended or 0) - begun) for job in jobs]
    pair.ends(pair.both(settings, restarts=3, read=20), 0, 0)
    pair.same()
    return f"read_timeout=20: ended {took[1]} and {took[0]} s after the cut; {went_on(pair, at)}"


@row(
    "the second machine loses power; --max-restarts 3",
    "the first one's torchrun waits for it; the same command there, and they go on; same end",
)
def second_lost(pair: Pair) -> str:
    settings = f"train.stall_seconds={STALL}"
    first, _ = pair.both(settings, restarts=3)
    pair.reaches(EVERY + 2)
    at, said = power_loss(pair)
    pair.machines.mend()
    assert first.code is None, pair.said()[-1500:]
    pair.ends([first, pair.start(1, settings, restarts=3)], 0, 0)
    pair.same()
    return f"the first said so after {said:.0f} s; {went_on(pair, at)}"


@row(
    "the second machine loses power; --max-restarts 3, torchrun's store is shared (its default)",
    "torchrun doesn't let it in again, and ends with 1 on both; both started again: same end",
)
def second_lost_sharing(pair: Pair) -> str:
    settings, more = f"train.stall_seconds={STALL}", {"restarts": 3, "read": 20, "share": True}
    first, _ = pair.both(settings, **more)
    pair.reaches(EVERY + 2)
    at, _ = power_loss(pair)
    pair.machines.mend()
    pair.ends([first, pair.start(1, settings, **more)], 1, 1)
    pair.ends(pair.both(settings, **more), 0, 0)
    pair.same()
    return went_on(pair, at)


def power_loss(pair: Pair) -> tuple[int, float]:
    """Let the second machine lose power; gives the step, and the seconds until the first one's process said so."""
    pair.machines.lose()  # a machine without power says no farewell
    pair.machines.kill(1)
    begun = time.monotonic()
    assert until(lambda: bool(pair.errors()), seconds=60)
    return runs.last_step(pair.run), time.monotonic() - begun


@row(
    "the first machine loses power, at which they meet; --max-restarts 3",
    "torchrun on the other ends with 1; both started again: same end",
)
def first_lost(pair: Pair) -> str:
    settings = f"train.stall_seconds={STALL}"
    jobs = pair.both(settings, restarts=3)
    pair.reaches(EVERY + 2)
    pair.machines.patience(6)
    pair.machines.lose()
    pair.machines.kill(0)
    begun = time.monotonic()
    at = runs.last_step(pair.run)
    pair.ends(jobs, -9, 1)
    took = time.monotonic() - begun
    errors = pair.errors()
    assert len(errors) == 1, errors
    assert re.match("error: process 1 of 2 lost .* process 0 is gone, or the way to its machine", errors[0]), errors
    pair.machines.mend()
    pair.ends(pair.both(settings, restarts=3), 0, 0)
    pair.same()
    return f"the other's torchrun ended after {took:.0f} s; {went_on(pair, at)}"


def attempt(name: str, machines: Machines, scratch: Path) -> dict[str, Any]:
    """Give one row, and tell what happened."""
    documented, act = ROWS[name]
    folder = scratch / f"{len(list(scratch.iterdir())):02}"
    folder.mkdir()
    pair, begun = Pair(machines, folder, scratch), time.monotonic()
    try:
        with contextlib.ExitStack() as after:
            after.callback(pair.clean)
            told, ended = act(pair), "as documented"
    except Exception as error:  # the next row is to be tried all the same; a link that can't be mended is one too
        told, ended = f"{type(error).__name__}: {error}", "NOT AS DOCUMENTED"
    seconds = round(time.monotonic() - begun, 1)
    return {"cut": name, "documented": documented, "ended": ended, "told": told, "seconds": seconds}


def main() -> None:
    """Give every row, and print the table."""
    asked = options(__doc__).parse_args()
    names = [name for name in ROWS if not asked.only or any(word in name for word in asked.only)]
    rows = []
    try:
        with tempfile.TemporaryDirectory(prefix="medmoe-namespaces-") as scratch, machines() as pair:
            for name in names:
                rows.append(attempt(name, pair, Path(scratch)))
                print(f"{rows[-1]['ended']:18} {rows[-1]['seconds']:6} s  {name}: {rows[-1]['told']}", flush=True)
    except Unable as error:
        print(f"not tried: {error}")
        rows = [
            {"cut": name, "documented": ROWS[name][0], "ended": "not tried", "told": str(error), "seconds": 0.0}
            for name in names
        ]
    cells = [
        (row["cut"], row["documented"], row["ended"], " ".join(row["told"].split())[:600], f"{row['seconds']:.0f}")
        for row in rows
    ]
    head = ("what happens to two machines", "documented end", "ended", "counted", "seconds")
    leave(asked, "rows", rows, markdown(head, cells))


if __name__ == "__main__":
    main()
