"""Series over time as a picture."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw

WIDE, HIGH, LEFT, EDGE = 1000, 260, 70, 34
COLOURS = ("#1f4e9e", "#c0392b", "#2e7d32", "#8e44ad", "#b9770e", "#117a8b")

Lines = Mapping[str, tuple[Sequence[float], Sequence[float]]]


def draw(path: Path, panels: Mapping[str, Lines], *, warm: float) -> None:
    """Write a PNG of one panel for each title, in which each line is named; what is left of `warm` is warm-up.

    Args:
        path: The file.
        panels: Title → name of a line → its minutes and values.
        warm: Minutes.
    """
    names = dict.fromkeys(name for lines in panels.values() for name in lines)
    colours = dict(zip(names, itertools.cycle(COLOURS), strict=False))
    sheet = Image.new("RGB", (WIDE, HIGH * len(panels)), "white")
    pen = ImageDraw.Draw(sheet)
    for number, (title, lines) in enumerate(panels.items()):
        there = {name: line for name, line in lines.items() if len(line[0])}
        _panel(pen, number * HIGH, title, there, colours, warm)
    sheet.save(path)


def _panel(
    pen: ImageDraw.ImageDraw, top: int, title: str, lines: Lines, colours: Mapping[str, str], warm: float
) -> None:
    every = [value for _, values in lines.values() for value in values] or [0.0]
    last = max([minute for minutes, _ in lines.values() for minute in minutes] or [1.0])
    low, high = min(every), max(every)
    room = max(high - low, 1.0) * 0.05
    low, high = low - room, high + room

    def place(minute: float, value: float) -> tuple[float, float]:
        x = LEFT + (WIDE - LEFT - 10) * minute / max(last, 1e-9)
        return x, top + EDGE + (HIGH - 2 * EDGE) * (high - value) / (high - low)

    pen.rectangle((*place(0, high), *place(min(warm, last), low)), fill="#eeeeee")
    pen.text((LEFT, top + 4), title, fill="black")
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        value = low + share * (high - low)
        pen.line((*place(0, value), *place(last, value)), fill="#cccccc")
        pen.text((4, place(0, value)[1] - 5), f"{value:.0f}", fill="black")
        pen.text((place(share * last, low)[0] - 8, top + HIGH - EDGE + 4), f"{share * last:.1f}", fill="black")
    for number, (name, (minutes, values)) in enumerate(lines.items()):
        points = [place(minute, value) for minute, value in zip(minutes, values, strict=True)]
        pen.line(points, fill=colours[name], width=2)
        pen.text((LEFT + 250 + 110 * number, top + 4), name, fill=colours[name])
    pen.text((WIDE - 60, top + HIGH - EDGE + 16), "minutes", fill="black")
