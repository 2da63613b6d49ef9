"""ROC and precision-recall curves as points to draw."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from medmoe.metrics.arrays import Floats, plain
from medmoe.metrics.classification import tally


@dataclass(frozen=True, slots=True)
class Curve:
    """Points of a curve, from the strictest threshold to the loosest.

    Attributes:
        x: [P] false positive rate (ROC) or recall (precision-recall).
        y: [P] true positive rate (ROC) or precision.
        thresholds: [P] scores of at least this are called positive; infinity, at the first point, calls nothing so.
    """

    x: Floats
    y: Floats
    thresholds: Floats

    def thinned(self, points: int = 200) -> Curve:
        """Keep at most about so many points, evenly along the curve, the first and last among them."""
        if len(self.x) <= points:
            return self
        length = np.r_[0.0, np.cumsum(np.abs(np.diff(self.x)) + np.abs(np.diff(self.y)))]
        kept = np.unique(np.r_[0, np.searchsorted(length, np.linspace(0, length[-1], points)), len(length) - 1])
        return Curve(self.x[kept], self.y[kept], self.thresholds[kept])

    def to_json(self) -> dict[str, Any]:
        """Give plain data; the infinite threshold is None."""
        return {
            "x": self.x.tolist(),
            "y": self.y.tolist(),
            "thresholds": [plain(threshold) for threshold in self.thresholds.tolist()],
        }


def roc_curve(scores: ArrayLike, truth: ArrayLike, weights: Floats | None = None) -> Curve:
    """Give the ROC curve with a point for each distinct score; without points where a class is absent.

    Args:
        scores: [n]; NaN counts against the model.
        truth: [n] bool.
        weights: [n] weight of each item.
    """
    values, above, below = tally(scores, truth, weights)
    if not (above.sum() > 0 and below.sum() > 0):
        return _empty()
    wrong, found = np.cumsum(below[::-1]) / below.sum(), np.cumsum(above[::-1]) / above.sum()
    return Curve(np.r_[0.0, wrong], np.r_[0.0, found], np.r_[np.inf, values[::-1]])


def pr_curve(scores: ArrayLike, truth: ArrayLike, weights: Floats | None = None) -> Curve:
    """Give the precision-recall curve with a point for each distinct score; without points where no item is positive.

    It starts at recall 0 and, by convention, precision 1.

    Args:
        scores: [n]; NaN counts against the model.
        truth: [n] bool.
        weights: [n] weight of each item.
    """
    values, above, below = tally(scores, truth, weights)
    if not above.sum() > 0:
        return _empty()
    found, called = np.cumsum(above[::-1]), np.cumsum((above + below)[::-1])
    drawn = called > 0
    precision = found[drawn] / called[drawn]
    return Curve(np.r_[0.0, found[drawn] / above.sum()], np.r_[1.0, precision], np.r_[np.inf, values[::-1][drawn]])


def _empty() -> Curve:
    return Curve(np.empty(0), np.empty(0), np.empty(0))
