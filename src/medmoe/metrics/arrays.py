"""What the figures share: types of arrays, weights of items, and division that admits what is undefined."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]

# What would be large is worked through in blocks of at most this many numbers (16 MB).
BLOCK = 2_000_000


def ratio(above: NDArray[Any], below: NDArray[Any]) -> Floats:
    """Divide, giving NaN where the divisor is 0."""
    safe = np.where(below > 0, below, 1.0)
    return np.asarray(np.where(below > 0, above / safe, np.nan), dtype=np.float64)


def weighed(weights: Floats | None, size: int) -> Floats:
    """Give the weights [n] or [R, n], or ones [n] where there are none.

    Raises:
        ValueError: If there are weights, but not of `size` items.
    """
    if weights is None:
        return np.ones(size)
    if weights.shape[-1] != size:
        raise ValueError(f"weights of {weights.shape[-1]} items beside {size} items")
    return weights


def plain(value: float) -> float | None:
    """Give a number that JSON can hold: None for what is undefined or unbounded."""
    return float(value) if np.isfinite(value) else None
