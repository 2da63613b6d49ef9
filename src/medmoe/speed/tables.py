"""A suite's rows as JSON-ready values, as a Markdown table, and as a chart of every figure beside its target."""

from __future__ import annotations

import math
import platform
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from medmoe.report.markup import Html, number, tag
from medmoe.rundir import git_commit, machine, versions
from medmoe.speed.item import Check, Row, Size

_WIDTH, _NAME, _LINE, _TOP = 760, 330, 22, 46


def about(size: Size) -> dict[str, Any]:
    """Say what made the figures: machine, threads, versions, commit."""
    device = torch.cuda.get_device_name() if size.device.startswith("cuda") else _processor()
    facts = {**machine(), "device": device, "threads": torch.get_num_threads()}
    return {"machine": facts, "versions": versions(), "git_commit": git_commit(), "small": size.small}


def _processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def as_json(row: Row) -> dict[str, Any]:
    """Give a row as JSON-ready values; its first target's figure also stands at the top."""
    values = asdict(row)
    first = row.checks[0] if row.checks else None
    values["ratio"] = None if first is None else first.ratio
    values["target"] = None if first is None else first.target
    values["spread"] = None if first is None else first.spread
    values["met"] = all(check.met for check in row.checks) if row.checks else None
    values["seconds"] = {
        way: {"median": median, "low": low, "high": high} for way, (median, low, high) in row.seconds.items()
    }
    return values


def markdown(rows: Sequence[Row]) -> str:
    """Write one line for each target of every row."""
    lines = [
        "| item | figure | measured | quartiles | target | met | floor |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        if row.skipped:
            lines.append(f"| {row.name} | – | not run: {row.skipped} | – | – | – | {row.floor or '–'} |")
        for check in row.checks:
            spread = "–" if check.spread is None else f"{_plain(check.spread[0])} – {_plain(check.spread[1])}"
            met = "yes" if check.met else "**no**"
            cells = (row.name, check.name, _plain(check.ratio), spread, check.target, met, row.floor or "–")
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def words(row: Row) -> Iterator[str]:
    """Give the lines that a terminal shows of a row."""
    yield f"{row.name}: {row.about}"
    if row.skipped:
        yield f"  not run: {row.skipped}"
    for check in row.checks:
        spread = "" if check.spread is None else f" [{_plain(check.spread[0])}, {_plain(check.spread[1])}]"
        met = "met" if check.met else "NOT MET"
        yield f"  {check.name} {_plain(check.ratio)}{spread}, target {check.target}: {met}"
    for way, (median, low, high) in row.seconds.items():
        peak = f", peak {_plain(row.peak_bytes[way])} bytes" if way in row.peak_bytes else ""
        yield f"  {way}: {_time(median)} ({_time(low)} to {_time(high)}){peak}"
    for name, value in row.figures.items():
        yield f"  {name}: {_plain(value)}"


def _plain(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1e6 else f"{value / 2**20:,.0f} Mi"


def _time(seconds: float) -> str:
    return (
        f"{seconds * 1e6:.3g} µs"
        if seconds < 1e-3
        else f"{seconds * 1e3:.3g} ms"
        if seconds < 1
        else f"{seconds:.3g} s"
    )


def chart(rows: Sequence[Row]) -> str:
    """Draw every checked figure as a share of its target, on a logarithmic axis; left of the line is better.

    Returns:
        An SVG document that needs nothing beside it.
    """
    drawn = [(row, check, _share(check)) for row in rows for check in row.checks]
    height = _TOP + _LINE * len(drawn) + 10
    ends = [value for _, check, share in drawn for value in (share, *_ends(check))]
    low, high = min([0.5, *ends]) / 1.1, max([2.0, *ends]) * 1.1

    def x(value: float) -> float:
        return round(
            _NAME + (math.log(value) - math.log(low)) / (math.log(high) - math.log(low)) * (_WIDTH - _NAME - 70), 1
        )

    parts = [
        tag("rect", width=_WIDTH, height=height, fill="white"),
        tag(
            "text",
            "Each figure divided by its target: left of the line the target is met",
            x=10,
            y=18,
            font_weight="bold",
        ),
        *_axis(x, low, high, height),
    ]
    for index, (row, check, share) in enumerate(drawn):
        y = _TOP + _LINE * index + 12
        colour = "#1a7f37" if check.met else "#cf222e"
        parts.append(tag("text", f"{row.name}: {check.name}", x=_NAME - 8, y=y + 4, text_anchor="end"))
        if check.spread is not None:
            left, right = sorted(_ends(check))
            parts.append(tag("line", x1=x(left), x2=x(right), y1=y, y2=y, stroke=colour, stroke_width=2))
        parts.append(tag("circle", cx=x(share), cy=y, r=4, fill=colour))
        parts.append(
            tag("text", number(check.ratio) if check.ratio < 1e6 else _plain(check.ratio), x=_WIDTH - 60, y=y + 4)
        )
    return tag(
        "svg",
        *parts,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {_WIDTH} {height}",
        font_family="sans-serif",
        font_size=12,
    )


def _axis(x: Any, low: float, high: float, height: int) -> list[Html]:
    parts = []
    for value in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0):
        if low <= value <= high:
            colour = "black" if value == 1 else "#dddddd"
            parts.append(tag("line", x1=x(value), x2=x(value), y1=_TOP - 8, y2=height - 6, stroke=colour))
            parts.append(tag("text", f"{value:g}", x=x(value), y=_TOP - 12, text_anchor="middle", fill="#555555"))
    return parts


def _bound(check: Check) -> float:
    return float(check.target.split()[1])


def _share(check: Check) -> float:
    return _over(check, check.ratio)


def _over(check: Check, value: float) -> float:
    share = value / _bound(check) if check.target.startswith("≤") else _bound(check) / max(value, 1e-9)
    return max(share, 1e-3)


def _ends(check: Check) -> tuple[float, ...]:
    return () if check.spread is None else tuple(_over(check, value) for value in check.spread)
