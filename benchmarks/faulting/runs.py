"""Small runs, and what is in their folders as told without the library's own reader."""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any

DATA = "phantom:patients=60,size=32"
SMALL = (
    "model.vision.image_size=32",
    "model.vision.channels=[8,8,16,16]",
    "model.text.width=16",
    "model.experts.width=8",
    "model.experts.grid=4",
    "model.embed_dim=16",
    "data.batch_size=6",
    "train.val_every=100000",
    "train.log_every=1",
    "train.stall_seconds=30",
)


def train(out: Path, *settings: str, data: str = DATA, workers: int = 1, more: tuple[str, ...] = ()) -> list[str]:
    """Word a command that trains a small model, or goes on with it."""
    words = ["train", "tiny", "--train-data", data, "--out", str(out), "--resume", "latest", "--workers", str(workers)]
    return [*words, *more, *(word for setting in (*SMALL, *settings) for word in ("--set", setting))]


def rows(run: Path, kind: str = "train") -> list[dict[str, Any]]:
    """Read the whole lines of a run's metrics."""
    path, found = run / "metrics.jsonl", []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        with contextlib.suppress(json.JSONDecodeError):
            found.append(json.loads(line))
    return [row for row in found if row.get("kind") == kind]


def steps(run: Path) -> list[int]:
    """List the steps in a run's metrics."""
    return [row["step"] for row in rows(run)]


def losses(run: Path) -> list[tuple[int, float]]:
    """List steps and losses of a run's metrics, in the order of the file."""
    return [(row["step"], row["loss"]) for row in rows(run)]


def last_step(run: Path) -> int:
    """Give the last step in a run's metrics; 0: none."""
    return max(steps(run), default=0)


def saved(run: Path) -> list[int]:
    """List the steps whose checkpoints are there, whole or not."""
    return sorted(int(path.name[5:]) for path in (run / "checkpoints").glob("step-*"))


def whole(run: Path) -> list[int]:
    """List the steps whose checkpoints have every file that they list, in size and content."""
    return [step for step in saved(run) if _whole(run / "checkpoints" / f"step-{step:07d}")]


def half_written(run: Path) -> list[Path]:
    """List what is being written, or was when its process ended."""
    return sorted((run / "checkpoints").glob(".step-*.tmp"))


def weights(run: Path) -> bytes:
    """Give a finished run's weights."""
    return (run / "model" / "model.safetensors").read_bytes()


def _whole(folder: Path) -> bool:
    try:
        listed = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["files"]
        for name, facts in listed.items():
            content = (folder / name).read_bytes()
            if len(content) != facts["bytes"] or hashlib.sha256(content).hexdigest() != facts["sha256"]:
                return False
    except (OSError, ValueError, KeyError):
        return False
    return {"model.safetensors", "optimizer.safetensors", "state.json"} <= listed.keys()
