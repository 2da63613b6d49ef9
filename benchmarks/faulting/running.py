"""Faults of what runs: processes killed, hanging, asked to stop, two at once, apart; a clock that goes back."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

from faulting import ills, runs
from faulting.cases import STEPS, Place, after, case, ends, told
from faulting.processes import Group, children, command


@case("a loader process is killed, as for want of memory", "exit 2, one line naming the process; same end")
def worker_killed(place: Place) -> str:
    group = after(place, 3, workers=2)
    os.kill(group.workers()[0], signal.SIGKILL)
    said = ends(group, 2)
    place.goes_on()
    return told(said, r"error: process 0: a loader process is gone.*--resume latest")


@case("one of two processes is killed", "the other: exit 2, one line naming it; same end")
def rank_killed(place: Place) -> str:
    group = after(place, 3, count=2)
    group.kill(1)
    said = ends(group, 2, -9, seconds=60)
    place.goes_on(count=2)
    return told(said, "error: process 0 of 2 lost the others.*no word from process 1")


@case("the first of two processes is killed", "the other: exit 2, one line naming it; same end")
def first_killed(place: Place) -> str:
    group = after(place, 3, count=2)
    group.kill(0)
    said = ends(group, -9, 2, seconds=60)
    place.goes_on(count=2)
    return told(said, "error: process 1 of 2 lost the others.*process 0 is gone")


@case("one of two processes is killed, under torchrun --max-restarts 1", "both are started again; exit 0, same end")
def restarted(place: Place) -> str:
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    words = [*start, "--max-restarts", "1", "-m", "medmoe", *runs.train(place.run, *STEPS)]
    log = place.folder / "torchrun"
    env = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}  # torchrun's one thread rounds otherwise
    with log.open("wb") as out:
        group = subprocess.Popen(words, stdout=out, stderr=out, env=env, start_new_session=True)
    try:
        while runs.last_step(place.run) < 3 and group.poll() is None:
            time.sleep(0.01)
        ranks = children(group.pid)
        assert len(ranks) == 2, f"{len(ranks)} processes: {log.read_text()[-600:]}"
        os.kill(ranks[1], signal.SIGKILL)
        assert group.wait(300) == 0, log.read_text()[-600:]
    finally:
        for pid in [*children(group.pid), group.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        group.wait()
    alone = place.alone(2)
    assert runs.weights(place.run) == runs.weights(alone), "the end isn't the undisturbed run's"
    assert runs.losses(place.run) == runs.losses(alone), "the losses aren't the undisturbed run's"
    begun = json.loads((place.run / "run.json").read_text())["from_step"]
    return f"went on from step {begun}"


@case("one of three processes hangs in a step", "after train.stall_seconds the others: exit 2, one line naming it")
def hung_collective(place: Place) -> str:
    words = runs.train(place.run, *STEPS, "train.stall_seconds=8")
    group = place.start(words, count=3, before=ills.step_hangs(2, after=3))
    for process in group.processes[:2]:
        process.join(120)
    group.kill(2)
    said = ends(group, 2, 2, -9)
    assert runs.whole(place.run) == [2]
    return told(said, r"error: process 0 of 3 lost the others, or waited 8 s for them; no word from process 2 ")


@case("the disk of the data hangs", "after train.stall_seconds: exit 2, one line naming the process")
def stalled_loader(place: Place) -> str:
    words = runs.train(place.run, *STEPS, "train.stall_seconds=6")
    said = ends(place.start(words, before=ills.reading_hangs(40)), 2, seconds=90)
    return told(said, r"error: process 0: no batch came in time.*train\.stall_seconds")


@case("SIGTERM while training", "exit 143 after the step, which is saved; same end")
def term(place: Place) -> str:
    return stopped(place, after(place, 3), signal.SIGTERM)


@case("SIGTERM to one of two processes", "both: exit 143 after the same step, which is saved; same end")
def term_of_one(place: Place) -> str:
    group = after(place, 3, count=2)
    group.send(signal.SIGTERM, 1)
    said = ends(group, 143)
    assert runs.whole(place.run)[-1] == runs.last_step(place.run)
    place.goes_on(count=2)
    return told(said, r"stopped at step \d+, saved in")


@case("SIGTERM to all processes of a job, the loader's too", "exit 143 after the step, which is saved; same end")
def term_of_all(place: Place) -> str:
    group = after(place, 3, workers=2)
    return stopped(place, group, None)


@case("SIGUSR1, the notice that a job ends soon", "exit 138 after the step, which is saved; same end")
def notice(place: Place) -> str:
    return stopped(place, after(place, 3), signal.SIGUSR1, 138)


@case("Ctrl-C", "exit 130 after the step, which is saved; same end")
def interrupt(place: Place) -> str:
    return stopped(place, after(place, 3), signal.SIGINT, 130)


def stopped(place: Place, group: Group, number: int | None, code: int = 143) -> str:
    """Ask a run to stop; None: SIGTERM to it and its loader processes."""
    if number is None:
        os.killpg(group.pids[0], signal.SIGTERM)
    else:
        group.send(number)
    said = ends(group, code)
    last = runs.last_step(place.run)
    assert runs.whole(place.run)[-1] == last < 10, f"step {last} was done, {runs.whole(place.run)} are saved"
    place.goes_on()
    return told(said, r"stopped at step \d+, saved in .*; go on with --resume latest")


@case("Ctrl-C twice", "exit 130 at once; what was saved is whole; same end")
def interrupt_twice(place: Place) -> str:
    group = after(place, 3)
    group.send(signal.SIGINT)
    group.until(lambda: "stopping" in group.said(), pause=0.0005)
    group.send(signal.SIGINT)
    said = ends(group, 130)
    assert runs.whole(place.run) == runs.saved(place.run) != []
    place.goes_on()
    return told(said, "stopped at once; --resume latest goes on from the last checkpoint")


@case("SIGTERM while a run validates", "exit 143 at the next batch, the step is saved; validated when it goes on")
def term_in_validation(place: Place) -> str:
    words = (*STEPS, "train.val_every=5")
    more = ("--val-data", "phantom:patients=600,seed=1,size=32")
    group = place.start(runs.train(place.run, *words, more=more))
    assert group.until(lambda: runs.last_step(place.run) >= 5), group.said()
    group.until(lambda: False, seconds=0.5)
    group.send(signal.SIGTERM)
    said = ends(group, 143)
    assert not runs.rows(place.run, "val"), "the validation was done"
    assert runs.whole(place.run)[-1] == 5, runs.whole(place.run)
    ends(place.start(runs.train(place.run, *words, more=more)), 0)
    assert [row["step"] for row in runs.rows(place.run, "val")] == [5, 10]
    assert runs.weights(place.run) == runs.weights(place.alone())
    return told(said, "stopped at step 5, saved in")


@case("SIGTERM during medmoe eval", "ends by the signal; no half a result is left")
def term_in_eval(place: Place) -> str:
    out = place.folder / "eval.json"
    words = ["eval", str(place.alone()), "--data", "phantom:patients=400,seed=2,size=32", "--json", str(out)]
    group = place.start([*words, "--workers", "1"])
    group.until(lambda: bool(group.workers()))
    group.until(lambda: False, seconds=1)
    group.send(signal.SIGTERM)
    ends(group, -signal.SIGTERM)
    assert not out.exists()
    return "no file"


@case("two processes write one run", "the second: exit 2, one line naming the first; the first isn't disturbed")
def two_writers(place: Place) -> str:
    first = after(place, 1)
    said = ends(place.start(runs.train(place.run, *STEPS)), 2)
    ends(first, 0)
    assert runs.weights(place.run) == runs.weights(place.alone())
    assert runs.losses(place.run) == runs.losses(place.alone())
    return told(said, f"error: .*being written by process {first.pids[0]} on")


@case("a run is killed without its loader processes, and begun again at once", "it goes on; same end")
def orphans(place: Place) -> str:
    group = after(place, 3, workers=2)
    left = group.workers()
    group.send(signal.SIGKILL)
    group.processes[0].join()
    alive = [pid for pid in left if Path(f"/proc/{pid}").exists()]
    place.goes_on()
    return f"{len(alive)} loader processes were still there"


@case("two machines that don't see one folder", "all: exit 2, one line naming what differs")
def no_shared_folder(place: Place) -> str:
    place.copy()
    elsewhere = place.folder / "elsewhere"

    def work() -> None:
        command(runs.train(place.run if os.environ["RANK"] == "0" else elsewhere, "train.steps=12"))

    group = Group(work, place.folder / "log", count=2)
    place.groups.append(group)
    return told(ends(group, 2), "error: process 0: process 1 has a step to begin at other than process 0")


@case("the clock goes back an hour, again and again", "nothing: same end, and rates that are possible")
def clock(place: Place) -> str:
    ends(place.start(runs.train(place.run, *STEPS), before=ills.clock_goes_back), 0)
    assert runs.weights(place.run) == runs.weights(place.alone())
    rates = [row["images_per_second"] for row in runs.rows(place.run)]
    waits = [row["data_wait"] for row in runs.rows(place.run)]
    assert all(0 < rate < 1e5 for rate in rates), rates
    assert all(0 <= wait <= 1.01 for wait in waits), waits
    return f"{min(rates):.0f} to {max(rates):.0f} images a second"
