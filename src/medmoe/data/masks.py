"""What the masks of public data sets show: often not what the label says, and once only an outline; see masks.json."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from medmoe.data.templates import readable


@dataclass(frozen=True, slots=True)
class Shown:
    """What a data set's masks show.

    Attributes:
        shows: Phrases that name it in a report, the best one first.
        outline: Whether only the outline is drawn, of a region without dents.
    """

    shows: tuple[str, ...]
    outline: bool = False


@lru_cache(maxsize=1)
def known() -> dict[str, Shown]:
    """Load masks.json, once: data set → what its masks show."""
    rows = json.loads(files("medmoe.data").joinpath("masks.json").read_text(encoding="utf-8"))
    return {name: Shown(tuple(row["shows"]), row.get("outline", False)) for name, row in rows.items()}


def phrases_of(source: str | None, labels: tuple[str, ...] | None) -> tuple[str, ...]:
    """Give the phrases that name what a mask shows.

    Args:
        source: The image's data set.
        labels: Its findings. In a data set that masks.json doesn't list, a mask shows the image's only finding; where
            there are several, or none, nobody knows what it shows.

    >>> phrases_of("nih-pancreas-ct", ("abdomen_pancreas",)), phrases_of("mine", ("polyp",)), phrases_of("mine", ())
    (('pancreas',), ('polyp',), ())
    """
    if source in known():
        return known()[source].shows
    return namings(labels[0]) if labels is not None and len(labels) == 1 else ()


def namings(label: str) -> tuple[str, ...]:
    """Give the ways in which a report may name a label: as it is spelled, and as template reports say it.

    >>> namings("RBC"), namings("lung_adenocarcinoma")
    (('rbc', 'red blood cells'), ('lung adenocarcinoma', 'adenocarcinoma of the lung'))
    """
    said = readable(label)
    article = next((word for word in ("a ", "an ", "the ") if said.startswith(word)), "")
    spelled = " ".join(label.replace("_", " ").split()).lower()
    return tuple(dict.fromkeys([spelled, said.removeprefix(article)]))


def region(mask: NDArray[np.bool_], source: str | None) -> NDArray[np.bool_]:
    """Give the region that a mask [H, W] means: its convex hull where the data set draws only an outline."""
    if source not in known() or not known()[source].outline or mask.sum() < 3:
        return mask
    corners = _hull(np.argwhere(mask)[:, ::-1])
    if len(corners) < 3:
        return mask
    canvas = Image.new("L", (mask.shape[1], mask.shape[0]))
    ImageDraw.Draw(canvas).polygon([(int(x), int(y)) for x, y in corners], fill=1, outline=1)
    return np.asarray(canvas) > 0


def _hull(points: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Give the corners of the convex hull of points [n, 2] in order (Andrew's monotone chain, 1979)."""
    ordered = sorted({(int(x), int(y)) for x, y in points})

    def half(along: list[tuple[int, int]]) -> list[tuple[int, int]]:
        chain: list[tuple[int, int]] = []
        for x, y in along:
            while len(chain) > 1 and _turn(chain[-2], chain[-1], (x, y)) <= 0:
                chain.pop()
            chain.append((x, y))
        return chain[:-1]

    return half(ordered) + half(ordered[::-1])


def _turn(a: tuple[int, int], b: tuple[int, int], c: tuple[int, int]) -> int:
    """Give the sign of the turn at b on the way from a to c, times the parallelogram's area."""
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
