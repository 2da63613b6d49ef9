"""Does a long run grow? Trains for half an hour, and reads its memory and open files from outside every few seconds.

    python benchmarks/soak.py --minutes 30 --json soak.json --plot soak.png

Two runs of the recipe `tiny` train side by side, in batches of 16, so that there are many steps. They augment, save a
checkpoint every 25 steps, of which the last two and the best are kept, validate every 50, and log every 5. Both data
sets are small, so that they are gone through many times:

- `files` reads PNG, JPEG and DICOM files in two loader processes (and two more for validation), one of them broken and
  skipped each time; its text encoder is trained.
- `tars` reads tars tar by tar, keeps small images in memory, and augments on the model's device; its text encoder is a
  frozen BERT, whose features are kept on the disk.

With `--data` one run, `data`, reads that instead of both.

What is read, of the training process and of each loader process: resident memory (RSS, also mapped files and what
processes share after a fork), memory by share (PSS without mapped files, whose share changes with other jobs, and with
what is swapped out; that of all together counts each page once), open files, threads. Shared memory that no process has
mapped is seen as an open file only.

The verdict is over what comes after the warm-up; it ends with 1 where something of this fails:

- Each process's RSS grows by less than 1 MiB a minute, at the upper end of the slope's 95 % interval. PSS is told and
  not judged: pages that a process shared since the fork become its own when either side writes to them, so that PSS
  rises, in jumps too, without a leak; but no process's PSS can rise above its RSS.
- The open files of a process grow by less than one in two minutes, likewise: one for each checkpoint or each validation
  would be more. They differ by at most 48 in the last half: a tensor that is handed over is an open file until it is
  used, a batch has up to 16, and a loader has two batches ready besides the one that is being handed over.
- No process is lost or added.
- A SIGTERM at the end ends each run as documented.

Linux only.

In its first few hundred steps a run's memory does grow: oneDNN, which computes for torch on CPUs, keeps what it
compiled for the last 1024 shapes, and the numbers of an expert's images and of a batch's words differ from step to
step.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from soaking import files, watching
from soaking.picture import draw
from soaking.slopes import slope

from medmoe import checkpoint
from medmoe.rundir import RunFolder, git_commit

GROWTH = 1.0  # MiB a minute allowed
OPENED, FILES_APART = 0.5, 3 * 16  # open files of one process: allowed growth a minute, and most minus least
STOPPED = 128 + signal.SIGTERM
BERT = {
    "model_type": "bert", "vocab_size": 4000, "hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 256, "max_position_embeddings": 256,
}  # fmt: skip
ALWAYS = (
    "train.steps=1000000", "train.save_every=25", "train.val_every=50", "train.log_every=5", "train.keep_best=true",
    "data.augment=1", "data.batch_size=16",
)  # fmt: skip
RUNS = {
    "files": ("data.workers=2", "data.on_bad_sample=skip"),
    "tars": (
        "data.shuffle=shards", "data.shuffle_window=64", "data.cache_mb=16", "data.augment_on=device",
        "model.text.name=hf", "model.text.frozen=true", "model.text.last_layers=2", f"model.text.hf={json.dumps(BERT)}",
    ),
    "data": (),
}  # fmt: skip

Series = list[dict[str, Any]]


def begin(run: Path, data: str, settings: tuple[str, ...]) -> subprocess.Popen[bytes]:
    """Start a training process."""
    words = ["train", "tiny", "--train-data", data, "--val-data", data, "--out", str(run)]
    words += [word for setting in settings for word in ("--set", setting)]
    env = {"OMP_NUM_THREADS": "1", **os.environ}  # else the threads of two runs get in each other's way
    with run.with_suffix(".log").open("wb") as log:
        return subprocess.Popen([sys.executable, "-m", "medmoe", *words], stdout=log, stderr=log, env=env)


def until_they_train(runs: dict[str, subprocess.Popen[bytes]], folder: Path) -> None:
    """Wait for the first step of every run, or the end of one."""
    while all(run.poll() is None for run in runs.values()):
        if all((folder / name / "metrics.jsonl").is_file() for name in runs):
            return
        time.sleep(0.2)


def watch(runs: dict[str, subprocess.Popen[bytes]], *, minutes: float, every: float) -> dict[str, Series]:
    """Read all processes until the time is over, or one ends."""
    begun, series = time.monotonic(), {name: Series() for name in runs}
    while (now := (time.monotonic() - begun) / 60) < minutes and all(run.poll() is None for run in runs.values()):
        for name, run in runs.items():
            series[name].append({"minute": round(now, 4), **watching.read_all(run.pid)})
        time.sleep(every)
    return series


def stop(run: subprocess.Popen[bytes]) -> int | str:
    """Ask a run to stop; gives its exit code."""
    if run.poll() is None:
        run.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        return run.wait(120)
    run.kill()
    return "hung"


def line_of(series: Series, who: str, what: str) -> tuple[list[float], list[float]]:
    """Give the minutes and the values of one figure of one process."""
    there = [row for row in series if what in row.get(who, {})]
    return [row["minute"] for row in there], [row[who][what] for row in there]


def judge(series: Series, *, warm: float) -> list[dict[str, Any]]:
    """Judge each figure of a run after its warm-up."""
    after = [row for row in series if row["minute"] >= warm]
    names = dict.fromkeys(name for row in after for name in row if name != "minute")
    rows = []
    for who in names:
        for what in ("rss_mib", "pss_mib", "own_mib", "files", "threads", "children"):
            minutes, values = line_of(after, who, what)
            if len(values) < 3:
                continue
            grows, half = slope(minutes, values), values[len(values) // 2 :]
            row: dict[str, Any] = {
                "process": who, "what": what, "first": values[0], "last": values[-1], "most": max(values),
                "apart_in_last_half": max(half) - min(half), "per_minute": grows.value,
                "interval": [grows.low, grows.high], "readings": len(values),
            }  # fmt: skip
            if what == "rss_mib":
                row["holds"] = grows.high < GROWTH
            elif what == "files":
                row["holds"] = grows.high < OPENED and row["apart_in_last_half"] <= FILES_APART
            elif what == "children":
                row["holds"] = max(values) == min(values)
            rows.append(row)
    return rows


def summary_of(run: Path, code: int | str) -> dict[str, Any]:
    """Say what a run did, and whether it ended as documented: stopped, and its last step saved whole."""
    rows = RunFolder(run, resume=True).history()
    train = [row for row in rows if row["kind"] == "train"]
    saved = checkpoint.found(run)
    whole = bool(saved) and checkpoint.load_latest(run) is not None
    about: dict[str, Any] = {
        "steps": int(saved[-1].name[5:]) if saved else 0,
        "validations": sum(row["kind"] == "val" for row in rows),
        "skipped": train[-1]["skipped"] if train else 0,
        "loss": [row["loss"] for row in train[:: max(1, len(train) - 1)]],
        "exit_code": code,
        "holds": code == STOPPED and whole,
    }
    if train and "text_known" in train[-1]:
        about["text_known"] = train[-1]["text_known"]
    return about


def tell(name: str, about: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Print a run's table."""
    print(f"\n{name}: {json.dumps(about)}\n")
    print("| process | what | after warm-up | at the end | a minute | 95 % | apart in the last half | verdict |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for row in rows:
        low, high = row["interval"]
        verdict = {None: "", True: "holds", False: "FAILS"}[row.get("holds")]
        print(
            f"| {row['process']} | {row['what']} | {row['first']:.1f} | {row['last']:.1f} | {row['per_minute']:+.3f} "
            f"| {low:+.3f} to {high:+.3f} | {row['apart_in_last_half']:.1f} | {verdict} |",
            flush=True,
        )


def panels_of(found: dict[str, Series]) -> dict[str, Any]:
    """Give what is drawn."""
    panels: dict[str, Any] = {}
    for name, series in found.items():
        who = dict.fromkeys(key for row in series for key in row if key != "minute")
        panels[f"{name}: memory (MiB)"] = {
            key: line_of(series, key, "pss_mib" if key == "all" else "rss_mib") for key in who
        }
        panels[f"{name}: open files"] = {key: line_of(series, key, "files") for key in who if key != "all"}
    return panels


def soak(folder: Path, asked: argparse.Namespace) -> dict[str, Any]:
    """Train, watch and judge."""
    if asked.data is None:
        manifest, tars = files.make(folder / "images", patients=asked.patients, size=96)
        data = {"files": str(manifest), "tars": str(tars)}
        data = {name: data[name] for name in asked.only or data}
    else:
        data = {"data": asked.data}
    more = tuple(asked.set or ())
    runs = {name: begin(folder / name, where, (*ALWAYS, *RUNS[name], *more)) for name, where in data.items()}
    try:
        until_they_train(runs, folder)
        series = watch(runs, minutes=asked.minutes, every=asked.every)
    finally:
        codes = {name: stop(run) for name, run in runs.items()}
    found: dict[str, Any] = {
        "minutes": asked.minutes, "warm_up": asked.warm_up, "every_seconds": asked.every, "commit": git_commit(),
        "torch": torch.__version__, "python": platform.python_version(), "cores": os.cpu_count(), "settings": more,
        "runs": {},
    }  # fmt: skip
    for name in runs:
        about, rows = summary_of(folder / name, codes[name]), judge(series[name], warm=asked.warm_up)
        found["runs"][name] = {**about, "figures": rows, "series": series[name]}
        tell(name, about, rows)
        if not about["holds"]:
            print((folder / f"{name}.log").read_text(encoding="utf-8")[-2000:])
    parts = [part for run in found["runs"].values() for part in (run, *run["figures"])]
    found["holds"] = all(part.get("holds", True) for part in parts) and all(
        any("holds" in row for row in run["figures"]) for run in found["runs"].values()
    )
    if asked.plot is not None:
        draw(asked.plot, panels_of(series), warm=asked.warm_up)
    return found


def main() -> None:
    """Soak, print the verdict, and end with 1 where it fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--warm-up", type=float, help="minutes not judged; a sixth of all by default")
    parser.add_argument("--every", type=float, default=5, help="seconds between readings")
    parser.add_argument("--data", help="data to read, as for medmoe train; files and tars of phantoms by default")
    parser.add_argument("--only", action="append", choices=("files", "tars"), help="one of the two runs")
    parser.add_argument("--patients", type=int, default=90, help="of the phantoms")
    parser.add_argument("--set", action="append", help="another setting, as for medmoe train")
    parser.add_argument("--keep", type=Path, help="a folder to leave the runs in")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    asked = parser.parse_args()
    asked.warm_up = asked.minutes / 6 if asked.warm_up is None else asked.warm_up
    with tempfile.TemporaryDirectory(prefix="medmoe-soak-") as scratch:
        found = soak(Path(scratch), asked)
        if asked.keep is not None:
            shutil.copytree(scratch, asked.keep, dirs_exist_ok=True)
    if asked.json is not None:
        asked.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print("\nholds" if found["holds"] else "\nFAILS")
    raise SystemExit(not found["holds"])


if __name__ == "__main__":
    main()
