"""Kills: is a run that is killed again and again, also inside a write, the run that nobody disturbed?

    python benchmarks/kills.py --json kills.json

`kills` trains a small model in `--processes` processes that share every batch, and ends all of them, with their loader
processes, by SIGKILL: in turn at a random moment and at a random moment after a checkpoint was begun. After each kill
it looks, without the library's reader, for the newest checkpoint that is whole. It counts the steps lost and compares
where the next life began. The end is held against a run in as many processes that was left alone: weights,
optimiser, losses of every step.

`counts` goes on from the same checkpoints for one step in one, two and three processes with the same batch, so that
losses are compared from equal weights. It also trains one run in two, then one, then three processes; there the
rounding of sums in another order is in the weights too, and grows with the steps.

`elastic` lets torchrun start the processes and start them again: one of them, drawn at random, is ended by SIGKILL
again and again, in turn at a random moment of the training and of the start before it, and nobody else does anything.
The end is held against a run that torchrun started and nobody disturbed.

The processes of `kills` are forks of this one, joined by the variables that torchrun sets; with `--torchrun` torchrun
starts them, which takes longer. All processes have one thread (or OMP_NUM_THREADS), as torchrun gives them: sums of
another number of threads round otherwise.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from faulting import runs
from faulting.processes import Group, children, command

EVERY = 3  # steps between checkpoints


class Torchrun(Group):
    """The same, started by torchrun; found, to be killed, by a variable that all that come from it have."""

    def __init__(self, words: list[str], log: Path, count: int, *, restarts: int = 0) -> None:
        self.logs = [log]
        self.mark = f"MEDMOE_KILLS={random.getrandbits(64):x}"
        name, _, value = self.mark.partition("=")
        start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
        start += ["--max-restarts", str(restarts)]
        with log.open("wb") as out:
            self.started = subprocess.Popen(
                [*start, "-m", "medmoe", *words],
                stdout=out,
                stderr=out,
                env={**os.environ, name: value},
                start_new_session=True,
            )

    @property
    def ranks(self) -> list[int]:
        """The numbers of the processes that torchrun has started and that are there."""
        found = []
        for pid in children(self.started.pid):
            with contextlib.suppress(OSError):
                if b"medmoe" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                    found.append(pid)
        return found

    @property
    def alive(self) -> bool:
        """Whether torchrun still runs."""
        return self.started.poll() is None

    def kill(self, rank: int | None = None) -> None:
        """End torchrun and all that came of it."""
        for _ in range(2):  # what was being started while the first look was taken
            for path in Path("/proc").glob("[0-9]*/environ"):
                with contextlib.suppress(OSError):
                    if self.mark.encode() in path.read_bytes().split(b"\0"):
                        os.kill(int(path.parent.name), signal.SIGKILL)
        self.started.wait()

    def wait(self, seconds: float = 600) -> list[int | str]:
        """Wait for the end, and give the exit code."""
        try:
            return [self.started.wait(seconds)]
        except subprocess.TimeoutExpired:
            self.kill()
            return ["hung"]


def begin(words: list[str], log: Path, count: int, torchrun: bool) -> Group:
    """Start a life of a run."""
    return Torchrun(words, log, count) if torchrun else Group(partial(command, words), log, count=count)


def left_alone(run: Path, words: list[str], count: int, torchrun: bool) -> float:
    """Train without disturbing; gives the seconds it took."""
    begun = time.perf_counter()
    life = begin(words, run.with_suffix(".log"), count, torchrun)
    if set(life.wait(3600)) != {0}:
        raise SystemExit(f"the run that nobody disturbs failed:\n{life.said()}")
    return time.perf_counter() - begun


def kill(life: Group, run: Path, rng: random.Random, inside: bool, since: int) -> bool:
    """Kill a life at a random moment, or at one after a checkpoint was begun; gives whether it lived."""
    target = since + rng.randint(0, EVERY + 1)
    life.until(lambda: runs.last_step(run) > target, pause=0.002)
    if inside:
        life.until(lambda: bool(runs.half_written(run)), pause=0.0002)
        time.sleep(rng.uniform(0, 0.02))
    else:
        time.sleep(rng.uniform(0, 0.4 if since else 0.1))
    lived = life.alive
    life.kill()
    return lived


def kills(folder: Path, *, count: int, processes: int, steps: int, torchrun: bool) -> dict[str, Any]:
    """Kill a run `count` times, and compare it with one that was left alone."""
    words = (f"train.steps={steps}", f"train.save_every={EVERY}")
    alone, run, rng = folder / "alone", folder / "killed", random.Random(5)
    seconds = left_alone(alone, runs.train(alone, *words), processes, torchrun)
    lives: list[dict[str, Any]] = []
    begun_at, begun_right = 0, 0
    while len(lives) < count:
        life = begin(runs.train(run, *words), folder / "killed.log", processes, torchrun)
        before = runs.last_step(run)
        life.until(lambda before=before: runs.last_step(run) != before)
        if not kill(life, run, rng, len(lives) % 2 == 1 and len(lives) > 1, begun_at):
            break  # it was done, or it failed, which the comparison tells
        told = json.loads((run / "run.json").read_text()).get("from_step") if (run / "run.json").exists() else None
        begun_right += told == begun_at
        done, whole = runs.last_step(run), runs.whole(run)
        newest = max(whole, default=0)
        half = [len(list(path.iterdir())) for path in runs.half_written(run)]
        row = {
            "began_at": told, "expected": begun_at, "done": done, "newest_whole": newest, "lost": done - newest,
            "all_whole": whole == runs.saved(run), "inside_a_write": bool(half), "files_of_it": half,
        }  # fmt: skip
        lives.append(row)
        print(json.dumps(row), flush=True)
        begun_at = newest
    last = begin(runs.train(run, *words), folder / "killed.log", processes, torchrun)
    code = last.wait(3600)
    told = json.loads((run / "run.json").read_text()).get("from_step")
    final = f"checkpoints/step-{steps:07d}/optimizer.safetensors"
    return {
        "processes": processes, "steps": steps, "save_every": EVERY, "started_by": "torchrun" if torchrun else "fork",
        "kills": len(lives), "inside_a_write": sum(row["inside_a_write"] for row in lives),
        "before_the_first_checkpoint": sum(row["newest_whole"] == 0 for row in lives),
        "began_where_expected": begun_right + (told == begun_at), "of_lives": len(lives) + 1,
        "most_steps_lost": max((row["lost"] for row in lives), default=0),
        "broken_checkpoints": sum(not row["all_whole"] for row in lives), "exit_codes": code,
        "same_weights": code_ok(code) and runs.weights(run) == runs.weights(alone),
        "same_optimizer": code_ok(code) and (run / final).read_bytes() == (alone / final).read_bytes(),
        "same_losses": runs.losses(run) == runs.losses(alone),
        "seconds_undisturbed": round(seconds, 1), "lives": lives, "said_last": last.said()[-500:],
    }  # fmt: skip


def code_ok(codes: list[int | str]) -> bool:
    """Tell whether all processes ended well."""
    return set(codes) == {0}


def elastic(folder: Path, *, count: int, processes: int, steps: int) -> dict[str, Any]:
    """Kill one of the processes that torchrun started, again and again, and compare with a run that was left alone."""
    words = (f"train.steps={steps}", f"train.save_every={EVERY}")
    alone, run, rng = folder / "elastic-alone", folder / "elastic", random.Random(6)
    left_alone(alone, runs.train(alone, *words), processes, True)
    life = Torchrun(runs.train(run, *words), folder / "elastic.log", processes, restarts=count)
    killed: list[dict[str, Any]] = []
    gone: set[int] = set()
    start = 5.0  # seconds from a process's start to its first step
    while len(killed) < count:
        if not life.until(lambda: len(life.ranks) == processes and gone.isdisjoint(life.ranks)):
            break
        ranks, begun, starting = life.ranks, time.monotonic(), len(killed) % 2 == 1
        if starting:
            time.sleep(rng.uniform(0, start))
        else:
            told = _began(run)
            life.until(lambda told=told: _began(run) != told)  # what it does again is cut off the metrics
            target = runs.last_step(run) + rng.randint(0, EVERY)
            life.until(lambda target=target: runs.last_step(run) > target, pause=0.002)
            start = time.monotonic() - begun
            time.sleep(rng.uniform(0, 0.2))
        if not life.alive or not set(ranks) <= set(life.ranks):
            break  # it was done, or it failed, which the comparison tells
        rank = rng.randrange(processes)
        os.kill(ranks[rank], signal.SIGKILL)
        gone.update(ranks)
        killed.append({"rank": rank, "at_step": runs.last_step(run), "while_it_started": starting})
        print(json.dumps(killed[-1]), flush=True)
    code = life.wait(3600)
    return {
        "processes": processes, "steps": steps, "save_every": EVERY, "kills": len(killed), "exit_codes": code,
        "while_it_started": sum(row["while_it_started"] for row in killed),
        "same_weights": code_ok(code) and runs.weights(run) == runs.weights(alone),
        "same_losses": runs.losses(run) == runs.losses(alone), "each": killed,
        "said_last": "" if code_ok(code) else life.said()[-1500:],
    }  # fmt: skip


def _began(run: Path) -> float | None:
    """Give when a life of a run wrote that it begins."""
    with contextlib.suppress(OSError):
        return (run / "run.json").stat().st_mtime
    return None


def counts(folder: Path, *, steps: int) -> dict[str, Any]:
    """Compare losses of one, two and three processes with the same batch."""
    folder.mkdir(parents=True)
    run = folder / "two"
    words = (f"train.steps={steps}", "train.save_every=1", "train.keep=1000")
    left_alone(run, runs.train(run, *words), 2, False)
    truth = {row["step"]: row["loss"] for row in runs.rows(run)}
    equal: dict[int, list[float]] = {1: [], 2: [], 3: []}
    for step in range(1, steps - 1, max(1, (steps - 2) // 3)):
        for count, found in equal.items():
            one = folder / f"one-{step}-{count}"
            shutil.copytree(run / "checkpoints" / f"step-{step:07d}", one / "checkpoints" / f"step-{step:07d}")
            shutil.copy(run / "config.json", one)
            left_alone(
                one, runs.train(one, f"train.steps={step + 1}", *words[1:], more=("--allow-changes",)), count, False
            )
            found.append(abs(runs.rows(one)[-1]["loss"] - truth[step + 1]) / abs(truth[step + 1]))
    chain, third = folder / "chain", steps // 3
    for count, upto in ((2, third), (1, 2 * third), (3, steps)):
        # stopped by Ctrl-C where the count changes, so that the schedule of the learning rate is the whole run's
        life = Group(partial(command, runs.train(chain, *words)), folder / "chain.log", count=count)
        if upto < steps:
            life.until(lambda upto=upto: runs.last_step(chain) >= upto)
            life.send(signal.SIGINT)
        life.wait()
    apart = [abs(row["loss"] - truth[row["step"]]) / abs(truth[row["step"]]) for row in runs.rows(chain)]
    return {
        "steps": steps, "from_equal_weights": {str(k): {"n": len(v), "largest": max(v)} for k, v in equal.items()},
        "chain_2_1_3": {
            "steps_within_1e-5": sum(value <= 1e-5 for value in apart), "of": len(apart), "largest": max(apart),
            "of_each": [float(f"{value:.1e}") for value in apart],
        },
    }  # fmt: skip


def main() -> None:
    """Run what is asked for, and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", choices=("kills", "counts", "elastic"), action="append")
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--steps", type=int, help="of the run that is killed; five a kill")
    parser.add_argument("--torchrun", action="store_true")
    asked = parser.parse_args()
    threads = os.environ.setdefault("OMP_NUM_THREADS", "1")
    import torch

    torch.set_num_threads(int(threads))
    import medmoe.cli.train
    import medmoe.train  # noqa: F401 - once, for all forks

    parts = asked.only or ["kills", "counts", "elastic"]
    found: dict[str, Any] = {"machine": platform.processor() or platform.machine(), "python": platform.python_version()}
    with tempfile.TemporaryDirectory(prefix="medmoe-kills-") as scratch:
        if "kills" in parts:
            steps = asked.steps or max(12, 5 * asked.kills)
            found["kills"] = kills(
                Path(scratch), count=asked.kills, processes=asked.processes, steps=steps, torchrun=asked.torchrun
            )
            print(json.dumps({k: v for k, v in found["kills"].items() if k != "lives"}), flush=True)
        if "elastic" in parts:
            steps = asked.steps or max(12, 3 * asked.kills)
            found["elastic"] = elastic(Path(scratch), count=asked.kills, processes=asked.processes, steps=steps)
            print(json.dumps(found["elastic"]), flush=True)
        if "counts" in parts:
            found["counts"] = counts(Path(scratch) / "counts", steps=12)
            print(json.dumps(found["counts"]), flush=True)
    if asked.json is not None:
        asked.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
