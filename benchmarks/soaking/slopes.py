"""Whether a series grows: the Theil-Sen slope of its blocks' medians, with an interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import theilslopes

BLOCKS = 25  # neighbouring readings depend on each other; medians of blocks much less


@dataclass(frozen=True)
class Slope:
    """How fast a series grows: per minute, with its 95 % interval."""

    value: float
    low: float
    high: float


def slope(minutes: Sequence[float], values: Sequence[float]) -> Slope:
    """Give how fast a series grows, a few outliers or a sawtooth left aside.

    The slope is the median of those between all pairs of blocks (Theil, 1950; Sen, 1968); each block stands for a
    25th of the time by its median.

    Args:
        minutes: [n] times, rising, at least three.
        values: [n].
    """
    at, value = np.asarray(minutes, float), np.asarray(values, float)
    place = np.minimum((at - at[0]) / max(at[-1] - at[0], 1e-9) * BLOCKS, BLOCKS - 1).astype(int)
    blocks = [place == number for number in np.unique(place)]
    found = theilslopes([np.median(value[b]) for b in blocks], [np.median(at[b]) for b in blocks], alpha=0.95)
    return Slope(float(found[0]), float(found[2]), float(found[3]))
