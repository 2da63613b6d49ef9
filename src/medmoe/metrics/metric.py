"""A figure with what is needed to judge it: its interval, how many items it is of, and its controls."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from medmoe.metrics.arrays import plain


@dataclass(frozen=True, slots=True)
class Metric:
    """A figure with what is needed to judge it.

    Attributes:
        value: The figure.
        low: Lower end of its interval.
        high: Upper end.
        n: Items (images, reports or findings) it was computed from.
        controls: The same figure by chance, for a constant answer, for shuffled pairs, by name.
    """

    value: float
    low: float
    high: float
    n: int
    controls: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Give plain data; what is undefined (NaN) or unbounded is None, which JSON can hold."""
        return {
            "value": plain(self.value),
            "low": plain(self.low),
            "high": plain(self.high),
            "n": int(self.n),
            "controls": {name: plain(value) for name, value in self.controls.items()},
        }
