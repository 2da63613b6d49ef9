"""The faults: what is done to a small run, and what must come of it."""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from faulting import ills, runs
from faulting.processes import Group, command

STEPS = ("train.steps=10", "train.save_every=2", "train.keep=3")


class Unable(Exception):  # noqa: N818 - no error: this machine doesn't have what the fault needs
    """A fault that can't be given here, and why."""


class Place:
    """Where one fault is given: folders of its own, a run that nobody disturbed to compare with.

    Args:
        scratch: A folder that faults share.
        name: Of this one's own.
    """

    def __init__(self, scratch: Path, name: str) -> None:
        self.scratch, self.folder = scratch, scratch / name
        self.folder.mkdir()
        self.run = self.folder / "run"
        self.mounted: list[Path] = []
        self.groups: list[Group] = []

    def start(self, words: list[str], *, count: int = 1, before: Callable[[], None] | None = None) -> Group:
        """Start a command."""
        more = {} if before is None else {"before": before}
        log = self.folder / f"log-{len(self.groups)}"
        self.groups.append(Group(partial(command, words), log, count=count, **more))
        return self.groups[-1]

    def alone(self, count: int = 1) -> Path:
        """Give the run that nobody disturbs, of one process or several, made once."""
        run = self.scratch / f"alone-{count}"
        if not run.exists():
            ends(self.start(runs.train(run, *STEPS), count=count), 0)
        return run

    def copy(self) -> Path:
        """Begin with a copy of that run, as it was when it was killed after its last checkpoint."""
        shutil.copytree(self.alone(), self.run)
        shutil.rmtree(self.run / "model")
        return self.run

    def goes_on(self, *more: str, count: int = 1) -> str:
        """Go on with the run, which must end as the one that nobody disturbed did; gives what was said."""
        group = self.start(runs.train(self.run, *STEPS, more=more), count=count)
        said = ends(group, 0)
        alone = self.alone(count)
        assert runs.weights(self.run) == runs.weights(alone), "the end isn't the undisturbed run's"
        assert runs.losses(self.run) == runs.losses(alone), "the losses aren't the undisturbed run's"
        return said

    def disk(self, megabytes: int) -> Path:
        """Mount a small disk for the run."""
        self.run.mkdir()
        options = f"size={megabytes}m"
        if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", self.run], capture_output=True).returncode:
            raise Unable("a tmpfs can't be mounted here; it needs root")
        self.mounted.append(self.run)
        return self.run

    def remount(self, options: str) -> None:
        """Mount the run's disk with other options."""
        subprocess.run(["mount", "-o", f"remount,{options}", self.run], check=True)

    def clean(self) -> None:
        """End what still runs, and delete what was written."""
        for group in self.groups:
            group.kill()
        for path in self.mounted:
            subprocess.run(["umount", "-l", path], check=False)
        shutil.rmtree(self.folder, ignore_errors=True)


@dataclass(frozen=True)
class Case:
    """A fault.

    Attributes:
        documented: How it must end, as docs/howto/long-runs.md says.
        act: Gives it, and gives what was said or counted; an assertion fails where it ended otherwise.
    """

    documented: str
    act: Callable[[Place], str]


CASES: dict[str, Case] = {}


def case(name: str, documented: str) -> Callable[[Callable[[Place], str]], Callable[[Place], str]]:
    """Put a fault into the table."""

    def add(act: Callable[[Place], str]) -> Callable[[Place], str]:
        CASES[name] = Case(documented, act)
        return act

    return add


def ends(group: Group, *codes: int, seconds: float = 180) -> str:
    """Wait for the ends, which must be with these codes, one for all or one each, and without a traceback."""
    found, said = group.wait(seconds), group.said()
    wanted = list(codes) * len(found) if len(codes) == 1 else list(codes)
    assert found == wanted, f"exit codes {found}, not {wanted}: {said[-600:]}"
    assert "Traceback" not in said, f"a traceback: {said[-600:]}"
    return said


def told(said: str, *patterns: str) -> str:
    """Find what must have been said; gives the line of the first."""
    lines = said.splitlines()
    found = [next((line for line in lines if re.search(pattern, line)), None) for pattern in patterns]
    missing = [pattern for pattern, line in zip(patterns, found, strict=True) if line is None]
    assert not missing, f"nobody said {missing}: {said[-600:]}"
    return re.sub(r"/\S*/(run|alone|[\w.-]+)(?=[/:; ]|$)", r"\1", found[0] or "").strip()


def newest(run: Path) -> Path:
    """Give the newest checkpoint."""
    return run / "checkpoints" / f"step-{runs.saved(run)[-1]:07d}"


def harm(place: Place, damage: Callable[[Path, random.Random], str], times: int) -> str:
    """Damage each file of the newest checkpoint in turn; the one before must be taken, and the file named."""
    import logging

    from medmoe import checkpoint

    run, rng, tried, heard = place.copy(), random.Random(3), 0, []
    handler = logging.Handler()
    handler.emit = lambda record: heard.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("medmoe.checkpoint").addHandler(handler)
    files = sorted(newest(run).iterdir())
    before = runs.saved(run)[-2]
    try:
        for path in files:
            content = path.read_bytes()
            for _ in range(times):
                heard.clear()
                what = damage(path, rng)
                found = checkpoint.load_latest(run)
                assert found is not None, f"{path.name}, {what}: nothing was found"
                assert found.step == before, f"{path.name}, {what}: step {found.step} was taken"
                named = path.name in "".join(heard) or (path.name == "manifest.json" and newest(run).name in str(heard))
                assert named, f"{path.name}, {what}: nobody said so: {heard}"
                path.write_bytes(content)
                tried += 1
    finally:
        logging.getLogger("medmoe.checkpoint").removeHandler(handler)
    return f"{tried} of {tried} times in {len(files)} files"


def flip(path: Path, rng: random.Random) -> str:
    """Turn one bit of a file over."""
    content = bytearray(path.read_bytes())
    bit = rng.randrange(8 * len(content))
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
    return f"bit {bit}"


def cut(path: Path, rng: random.Random) -> str:
    """Cut a file off somewhere."""
    length = rng.randrange(path.stat().st_size)
    os.truncate(path, length)
    return f"cut to {length} bytes"


def remove(path: Path, _: random.Random) -> str:
    """Delete a file."""
    path.unlink()
    return "deleted"


PASSED = "the checkpoint before it is used; the broken file is named"


@case("a bit flips in the newest checkpoint (each file, 10 bits)", PASSED)
def bits(place: Place) -> str:
    return harm(place, flip, 10)


@case("a file of the newest checkpoint is cut off (each file, 5 lengths)", PASSED)
def truncation(place: Place) -> str:
    return harm(place, cut, 5)


@case("a file of the newest checkpoint is gone (each file)", "the checkpoint before it is used, and that is told")
def deletion(place: Place) -> str:
    return harm(place, remove, 1)


@case("the newest checkpoint is broken when a run goes on", f"{PASSED}; same end")
def broken_at_resume(place: Place) -> str:
    run = place.copy()
    flip(newest(run) / "optimizer.safetensors", random.Random(0))
    return told(place.goes_on(), "optimizer.safetensors: was changed or damaged")


@case("every checkpoint is broken", "exit 2, one line; nothing is written")
def all_broken(place: Place) -> str:
    run = place.copy()
    for step in runs.saved(run):
        cut(run / "checkpoints" / f"step-{step:07d}" / "model.safetensors", random.Random(step))
    before = (run / "metrics.jsonl").read_bytes()
    said = ends(place.start(runs.train(run, *STEPS)), 2)
    assert (run / "metrics.jsonl").read_bytes() == before
    return told(said, "error: .*no checkpoint can be read")


@case("the disk is full when a checkpoint is written", "exit 2, one line; what was saved is whole; with room: same end")
def full_disk(place: Place) -> str:
    run = place.disk(2)
    said = ends(place.start(runs.train(run, *STEPS)), 2)
    assert runs.whole(run) == runs.saved(run) != [], f"{runs.saved(run)} saved, {runs.whole(run)} whole"
    assert not runs.half_written(run), "half a checkpoint was left"
    place.remount("size=64m")
    place.goes_on()
    return told(said, "error: .*checkpoint can't be written .No space left.*; the checkpoint of step . is whole")


@case("the disk is full when metrics are written", "exit 2, one line; what was saved is whole; with room: same end")
def full_metrics(place: Place) -> str:
    run = place.disk(16)
    group = place.start(runs.train(run, "train.steps=10", "train.save_every=4", "train.keep=3"))
    assert group.until(lambda: runs.whole(run) == [4]), group.said()
    group.send(signal.SIGSTOP)
    with contextlib.suppress(OSError), (run / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 12))
    group.send(signal.SIGCONT)
    said = ends(group, 2)
    assert 4 in runs.whole(run)
    (run / "filler").unlink(missing_ok=True)
    ends(place.start(runs.train(run, *STEPS)), 0)
    assert runs.weights(run) == runs.weights(place.alone())
    return told(said, "error: .*No space left.*whole")


@case("the run folder is read-only", "exit 2, one line")
def read_only(place: Place) -> str:
    run = place.disk(16)
    shutil.copytree(place.alone(), run, dirs_exist_ok=True)
    place.remount("ro")
    return told(ends(place.start(runs.train(run, "train.steps=12")), 2), "error: .*can't be written .Read-only")


@case("the folder turns read-only while a run writes", "exit 2, one line; what was saved is whole; same end")
def turns_read_only(place: Place) -> str:
    run = place.disk(64)
    group = place.start(runs.train(run, *STEPS))
    assert group.until(lambda: runs.last_step(run) >= 3), group.said()
    group.send(signal.SIGSTOP)
    outcome = subprocess.run(["mount", "-o", "remount,ro", run], capture_output=True, check=False)
    group.send(signal.SIGCONT)
    if outcome.returncode:  # it is just writing
        raise Unable("the disk was busy")
    said = ends(group, 2)
    place.remount("rw")
    assert runs.whole(run) == runs.saved(run)
    place.goes_on()
    return told(said, "error: .*Read-only")


def after(place: Place, step: int, *settings: str, count: int = 1, workers: int = 1, data: str = runs.DATA) -> Group:
    """Start a run, and give it when it has done a step."""
    words = runs.train(place.run, *STEPS, *settings, workers=workers, data=data)
    group = place.start(words, count=count)
    assert group.until(lambda: runs.last_step(place.run) >= step), group.said()
    return group


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


@case("one image is not a number, in one of two processes", "the step is skipped and written down with its samples")
def nan_batch(place: Place) -> str:
    import json

    from medmoe.data.sources.concat import open_source

    key = open_source(runs.DATA).facts(7).key
    words = runs.train(place.run, *STEPS)
    ends(place.start(words, count=2, before=ills.image_is_nan(key)), 0)
    (row,) = map(json.loads, (place.run / "bad_steps.jsonl").read_text().splitlines())
    assert key in row["keys"], f"{key} isn't among {row['keys']}"
    assert len(row["keys"]) == 6, f"{len(row['keys'])} of 6 samples were written down"
    assert runs.rows(place.run)[-1]["bad_steps"] == 1
    assert finite(place.run)
    return f"step {row['step']} skipped, loss {row['loss']}, {len(row['keys'])} keys written down"


@case("many steps are not numbers", "exit 2 after train.bad_steps, one line; checkpoints hold numbers only")
def many_nan(place: Place) -> str:
    wild = ("train.lr=1e30", "train.warmup=0", "train.clip=1e30", "train.bad_steps=2", "train.save_every=1")
    said = ends(place.start(runs.train(place.run, "train.steps=20", *wild)), 2)
    assert finite(place.run)
    return told(said, r"error: the (loss|gradient's norm) is (nan|inf) at step \d+ \(3 bad steps in a row\)")


def finite(run: Path) -> bool:
    """Tell whether every weight of every checkpoint is a number."""
    from medmoe import checkpoint

    loaded = [checkpoint.load(path) for path in checkpoint.found(run)]
    return all(bool(v.isfinite().all()) for one in loaded for v in (*one.weights.values(), *one.optimizer.values()))


@case("a sample in a shard is broken", "exit 2 naming the tar and the sample; with --on-bad-sample skip it goes on")
def bad_shard(place: Place) -> str:
    data = place.folder / "shards"
    write_tars(place.folder / "phantoms", data)
    path = sorted(data.rglob("*.tar"))[0]
    content = bytearray(path.read_bytes())
    start = content.index(b"\x89PNG") + 40
    content[start : start + 60] = bytes(60)
    path.write_bytes(content)
    words = runs.train(place.run, *STEPS, data=str(data))
    said = ends(place.start(words), 2)
    ends(place.start([*words, "--on-bad-sample", "skip"]), 0)
    assert len((place.run / "quarantine.jsonl").read_text().splitlines()) == 1
    return told(said, rf"error: .*{path.name}")


@case("a shard is cut off", "exit 2 naming the tar, before anything is trained")
def cut_shard(place: Place) -> str:
    data = place.folder / "shards"
    write_tars(place.folder / "phantoms", data)
    path = sorted(data.rglob("*.tar"))[1]
    os.truncate(path, path.stat().st_size // 2 - 100)
    for index in data.rglob("*.index*"):
        index.unlink()
    return told(ends(place.start(runs.train(place.run, *STEPS, data=str(data))), 2), rf"error: .*{path.name}")


def write_tars(phantoms: Path, data: Path) -> None:
    """Write phantoms as three tars."""
    from medmoe.data.sources.phantom import write_phantoms
    from medmoe.data.sources.shard_write import write_shards

    write_shards(write_phantoms(phantoms, patients=40, size=32, seed=0), data, samples_per_shard=20)


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
    ends(group, 130)
    assert runs.whole(place.run) == runs.saved(place.run) != []
    place.goes_on()
    return f"step {runs.last_step(place.run)} at the end"


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


@case("a run goes on with other data", "exit 2, one line; with --allow-changes it goes on")
def other_data(place: Place) -> str:
    run, other = place.copy(), "phantom:patients=60,size=32,seed=9"
    words = runs.train(run, "train.steps=12", data=other)
    said = ends(place.start(words), 2)
    assert runs.last_step(run) == 10
    ends(place.start([*words, "--allow-changes"]), 0)
    assert runs.last_step(run) == 12
    return told(said, "error: .*training samples.*are others.*--allow-changes")


@case("a run goes on with another recipe", "exit 2, one line saying what differs; with --allow-changes it goes on")
def other_recipe(place: Place) -> str:
    run = place.copy()
    words = runs.train(run, "train.steps=12", "train.lr=0.5", "data.balance=0.5")
    said = ends(place.start(words), 2)
    ends(place.start([*words, "--allow-changes"]), 0)
    return told(said, r"error: .*data\.balance was 0\.0, now 0\.5; train\.lr was .*, now 0\.5.*--allow-changes")


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
