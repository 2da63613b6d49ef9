"""Time the ways of an item in turn, and each one's peak memory in a process of its own."""

from __future__ import annotations

import gc
import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from medmoe.errors import UserError
from medmoe.speed.item import Call, Check, Item, Row, Size, Target

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def measure(item: Item, size: Size, *, rounds: int | None = None) -> Row:
    """Run one item.

    Args:
        item: What to run.
        size: On what inputs.
        rounds: Interleaved repetitions, instead of the item's own.

    Returns:
        The figures beside the targets, or why there are none.
    """
    reason = _why_not(item, size)
    if reason:
        return Row(item.name, item.about, item.floor, skipped=reason)
    peaks = {way: peak_memory(item, way, size) for way in item.memory}
    times = interleave(
        {name: build() for name, build in item.ways(size).items()}, rounds=rounds or item.rounds, device=size.device
    )
    figures = {} if item.figures is None else dict(item.figures(size))
    checks = tuple(_check(target, times, peaks, figures) for target in item.targets)
    return Row(
        name=item.name,
        about=item.about,
        floor=item.floor,
        checks=checks,
        seconds={name: quartiles(values) for name, values in times.items()},
        peak_bytes=peaks,
        figures=figures,
    )


def _why_not(item: Item, size: Size) -> str:
    if size.device not in item.devices:
        return f"runs on {' or '.join(item.devices)} only"
    missing = [name for name in item.needs if importlib.util.find_spec(name) is None]
    return f"{', '.join(missing)} not installed" if missing else ""


def interleave(calls: Mapping[str, Call], *, rounds: int, device: str = "cpu") -> dict[str, list[float]]:
    """Call every one in turn, round after round, so that whatever else the machine does hits all alike.

    Args:
        calls: What to time, by name; each is called once before, off the clock.
        rounds: Timed calls of each.
        device: A CUDA device is waited for before the clock is read.

    Returns:
        Seconds of each call, round by round.
    """
    for call in calls.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            gc.collect()
            _wait(device)
            begun = time.perf_counter()
            call()
            _wait(device)
            times[name].append(time.perf_counter() - begun)
    return times


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """Give the median, the lower and the upper quartile."""
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75]).tolist()
    return middle, low, high


def _check(
    target: Target, times: Mapping[str, list[float]], peaks: Mapping[str, int], figures: Mapping[str, float]
) -> Check:
    name = f"{target.figure} {target.way} / {target.over}" if target.over else target.figure
    spread: tuple[float, float] | None = None
    if target.figure in ("time", "rate"):
        assert target.over is not None
        pairs = zip(times[target.way], times[target.over], strict=True)
        ratios = [own / other if target.figure == "time" else other / own for own, other in pairs]
        value, *ends = quartiles(ratios)
        spread = (ends[0], ends[1])
    elif target.figure == "memory":
        value = peaks[target.way] / peaks[target.over] if target.over else float(peaks[target.way])
    else:
        value = figures[target.figure]
    met = value <= target.bound if target.at_most else value >= target.bound
    return Check(name, value, spread, f"{'≤' if target.at_most else '≥'} {target.bound:g}", met)


def peak_memory(item: Item, way: str, size: Size) -> int:
    """Measure the bytes that one call needs at its peak beyond what was there before it, in a new process.

    Raises:
        UserError: If the process fails, with its last line.
    """
    command = [sys.executable, "-m", "medmoe.speed.peak", item.name, way, size.device, str(int(size.small))]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode != 0:
        last = (run.stderr.strip() or "no message").splitlines()[-1]
        raise UserError(f"measuring the memory of {way} failed ({last})", where=item.name)
    return int(json.loads(run.stdout.splitlines()[-1]))


def peak_of(call: Call, device: str) -> int:
    """Give the bytes that a first call takes at its peak: of the device, or of this process on a CPU (Linux only)."""
    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    _CLEAR.write_text("5")  # forgets the peak so far
    resident = _status("VmRSS")
    call()
    return max(_status("VmHWM") - resident, 1)


def _status(key: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(f"{key}:"))
    return int(line.split()[1]) * 1024
