"""What saving costs a run: python benchmarks/checkpoint_overhead.py --json F.

One process trains one model in short blocks of equally many steps on the same batches, in turn, in an order drawn anew
each round: without a checkpoint; with one, written beside the training (`train.save_beside`); with one that is waited
for. A block's time lasts until its last step is done and its checkpoint is on the disk, so that nothing of a checkpoint
is counted to the block after it. What a checkpoint costs is the time of its block less that of the round's block
without one; at one a minute, a run takes one and that many sixtieths of its time. The mean over all rounds is given
with a 95 % interval (bootstrap over rounds), also of the processor's seconds, which other jobs on the machine change
less. The caller's time (a copy in memory, and a thread started) is held against a step's.

Rows: the recipe `tiny`, and the recipe `medmoe` (Swin-T and BERT-base) on images of 64 pixels in batches of eight. Ends
with 1 where a checkpoint a minute costs `tiny` 2 % or more at the interval's upper end, or where the call that saves
takes longer than a step.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medmoe.checkpoint import Saver, Snapshot, Spare
from medmoe.config import RunConfig, override
from medmoe.recipes import RECIPES
from medmoe.rundir import git_commit
from medmoe.speed.workload import batches_of
from medmoe.state import snapshot
from medmoe.train import State, train_step
from medmoe.types import Batch

MINUTE, LIMIT = 60.0, 1.02
ARMS = ("none", "beside", "waiting")
MODELS: dict[str, tuple[str, ...]] = {
    "tiny": (),
    "medmoe": ("model.vision.image_size=64", "data.batch_size=8", "train.precision=fp32"),
}


class TimedSaver(Saver):
    """Notes how long the writing thread took, and how much of that it computed."""

    wrote: list[tuple[float, float]]

    def _write(self, taken: Snapshot, spare: Spare | None) -> None:
        begun, used = time.perf_counter(), time.thread_time()
        super()._write(taken, spare)
        self.wrote.append((time.perf_counter() - begun, time.thread_time() - used))


@dataclass
class Trained:
    """A model in training, and the batches of a block."""

    state: State
    config: RunConfig
    batches: list[Batch]
    step_seconds: dict[str, list[float]] = field(default_factory=lambda: {"alone": [], "while writing": []})

    def steps(self, count: int) -> None:
        """Take some steps, from the first batch on."""
        for number in range(count):
            begun, writing = time.perf_counter(), _writes()
            train_step(self.state, iter([self.batches[number % len(self.batches)]]), self.config, "cpu")
            self.state.step += 1
            self.step_seconds["while writing" if writing else "alone"].append(time.perf_counter() - begun)


def _writes() -> bool:
    return any(thread.name == "checkpoint" for thread in threading.enumerate())


def block(trained: Trained, saver: TimedSaver | None, steps: int) -> dict[str, float]:
    """Time a block: its seconds, the processor's, and those of the call that saves."""
    begun, used, call = time.perf_counter(), time.process_time(), 0.0
    if saver is not None:
        saver.save(snapshot(trained.state, trained.config))
        call = time.perf_counter() - begun
    trained.steps(steps)
    if saver is not None:
        saver.finish()
    return {"seconds": time.perf_counter() - begun, "cpu": time.process_time() - used, "call": call}


def steps_needed(trained: Trained, saver: TimedSaver) -> int:
    """Give how many steps outlast a checkpoint that is written beside them, twice over."""
    trained.steps(3)
    saver.save(snapshot(trained.state, trained.config))
    trained.steps(2)
    saver.finish()
    step = float(np.median(trained.step_seconds["alone"][1:] + trained.step_seconds["while writing"]))
    return max(4, int(np.ceil(2 * saver.wrote[-1][0] / step)))


def interval(values: np.ndarray, rng: np.random.Generator) -> list[float]:
    """Give the 95 % bootstrap interval of a mean."""
    means = values[rng.integers(0, len(values), (10_000, len(values)))].mean(1)
    return [float(value) for value in np.quantile(means, (0.025, 0.975))]


def measure(name: str, folder: Path, *, rounds: int, settings: list[str], steps: int | None = None) -> dict[str, Any]:
    """Measure one model.

    Args:
        name: A row of `MODELS`.
        folder: Where checkpoints are written.
        rounds: Blocks of each kind.
        settings: More settings of the recipe.
        steps: Steps of a block, instead of as many as outlast a checkpoint.
    """
    config = override(RECIPES[name](), [*MODELS[name], *settings])
    trained = Trained(*batches_of(config, patients=60, count=4))
    savers = {arm: TimedSaver(folder / arm, keep=2, beside=arm == "beside") for arm in ARMS[1:]}
    for saver in savers.values():
        saver.wrote = []
    steps = steps or steps_needed(trained, savers["beside"])
    savers["beside"].wrote.clear()
    for times in trained.step_seconds.values():
        times.clear()
    blocks: dict[str, list[dict[str, float]]] = {arm: [] for arm in ARMS}
    order, draw = list(ARMS), random.Random(0)
    for _ in range(rounds):
        draw.shuffle(order)
        for arm in order:
            blocks[arm].append(block(trained, savers.get(arm), steps))
    saved = max((folder / "beside" / "checkpoints").glob("step-*"))
    return {
        "parameters": sum(value.numel() for value in trained.state.model.parameters()),
        "checkpoint_mib": sum(path.stat().st_size for path in saved.iterdir()) / 2**20,
        "batch_size": trained.config.data.batch_size, "steps_of_a_block": steps, "rounds": rounds,
        "threads": torch.get_num_threads(), "step": _spread(trained.step_seconds["alone"]),
        "step_while_writing": _spread(trained.step_seconds["while writing"]),
        **{arm: _cost(blocks[arm], blocks["none"], savers[arm]) for arm in savers},
        "blocks": blocks,
    }  # fmt: skip


def _cost(blocks: list[dict[str, float]], without: list[dict[str, float]], saver: TimedSaver) -> dict[str, Any]:
    """Give what a checkpoint cost, in seconds, and a run's time with one a minute beside its time without."""
    rng, row = np.random.default_rng(0), dict[str, Any]()
    for what in ("seconds", "cpu"):
        more = np.array([one[what] - other[what] for one, other in zip(blocks, without, strict=True)])
        row[what] = {"mean": float(more.mean()), "interval": interval(more, rng), "median": float(np.median(more))}
    ends = (row["seconds"]["mean"], *row["seconds"]["interval"])
    row["ratio"], *row["ratio_interval"] = [1 + value / MINUTE for value in ends]
    row["call"] = _spread([one["call"] for one in blocks])
    row["write"], row["write_cpu"] = (_spread(values) for values in zip(*saver.wrote, strict=True))
    return row


def _spread(seconds: Any) -> dict[str, float]:
    """Give median and most, in ms."""
    values = 1e3 * np.asarray(list(seconds) or [float("nan")])
    return {"median_ms": float(np.median(values)), "most_ms": float(values.max()), "n": len(values)}


def tell(name: str, row: dict[str, Any]) -> None:
    """Print a model's rows."""
    size = f"{row['parameters'] / 1e6:.1f} M parameters, checkpoint {row['checkpoint_mib']:.1f} MiB"
    print(f"\n{name}: {size}, batch {row['batch_size']}, {row['rounds']} rounds of {row['steps_of_a_block']} steps\n")
    print(
        "| | a checkpoint costs (s) | of the processor (s) | run time at one a minute | the call (ms) | writing (ms) |"
    )
    print("| --- | --- | --- | --- | --- | --- |")
    for arm in ARMS[1:]:
        cost = row[arm]
        seconds, cpu = (
            "{:.3f} ({:.3f} to {:.3f})".format(cost[what]["mean"], *cost[what]["interval"])
            for what in ("seconds", "cpu")
        )
        cells = [
            arm,
            seconds,
            cpu,
            "{:.4f} ({:.4f} to {:.4f})".format(cost["ratio"], *cost["ratio_interval"]),
            f"{cost['call']['median_ms']:.1f}, at most {cost['call']['most_ms']:.1f}",
            f"{cost['write']['median_ms']:.0f}, computing {cost['write_cpu']['median_ms']:.0f}",
        ]
        print(f"| {' | '.join(cells)} |")
    step, beside = row["step"], row["step_while_writing"]
    print(f"\na step: {step['median_ms']:.0f} ms, while a checkpoint is written {beside['median_ms']:.0f}", flush=True)


def main() -> None:
    """Measure, print, and end with 1 where saving costs too much."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=tuple(MODELS))
    parser.add_argument("--rounds", type=int, default=30, help="blocks of each kind for tiny; a third for the other")
    parser.add_argument("--steps", type=int, help="of a block; by default twice what a checkpoint takes to be written")
    parser.add_argument("--out", type=Path, help="a folder of the disk to write to; the system's temporary by default")
    parser.add_argument("--set", action="append", default=[], help="another setting, as for medmoe train")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    found: dict[str, Any] = {
        "commit": git_commit(), "torch": torch.__version__, "python": platform.python_version(),
        "cores": os.cpu_count(), "settings": asked.set, "models": {},
    }  # fmt: skip
    for name in asked.only or MODELS:
        with tempfile.TemporaryDirectory(prefix="medmoe-overhead-", dir=asked.out) as folder:
            rounds = asked.rounds if name == "tiny" else max(3, asked.rounds // 3)
            row = measure(name, Path(folder), rounds=rounds, settings=asked.set, steps=asked.steps)
        row["never_more_than_a_step"] = row["beside"]["call"]["most_ms"] < row["step"]["median_ms"]
        found["models"][name] = row
        tell(name, row)
        print(f"the call that saves never takes longer than a step: {row['never_more_than_a_step']}")
    rows = found["models"]
    found["holds"] = all(row["never_more_than_a_step"] for row in rows.values()) and (
        "tiny" not in rows or rows["tiny"]["beside"]["ratio_interval"][1] < LIMIT
    )
    if asked.json is not None:
        asked.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print("\nholds" if found["holds"] else "\nFAILS")
    raise SystemExit(not found["holds"])


if __name__ == "__main__":
    main()
