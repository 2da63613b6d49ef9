"""What a published percentage can be at all: a share of n images, or an AUROC over so many pairs?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import ROUND_DOWN, ROUND_HALF_UP, Decimal

# With finer steps than these nearly every percentage of two decimals is possible, and the question tells nothing.
_FINEST = 3000


def possible(percent: float, steps: int, *, decimals: int = 2) -> bool:
    """Tell whether some k / steps, rounded or cut off, is this percentage.

    >>> possible(79.16, 72), possible(71.35, 72)
    (True, False)
    """
    unit = Decimal(1).scaleb(-decimals)
    wanted = Decimal(str(percent)).quantize(unit)
    near = int(wanted * steps / 100)
    for k in range(near - 1, near + 3):
        exact = Decimal(100 * k) / Decimal(steps)
        if wanted in (exact.quantize(unit, ROUND_HALF_UP), exact.quantize(unit, ROUND_DOWN)):
            return True
    return False


def readings(percents: Mapping[str, float | None], counts: Sequence[int]) -> dict[str, dict[str, bool]]:
    """Tell for each model which figures its percentage can be on a set with so many images of each class.

    Args:
        percents: Figure by model, in percent.
        counts: Images of each class, every image being of one.

    Returns:
        By model: `accuracy` and, for two classes, `auroc` (a tie counting half). Left out where the set is so large
        that nearly every percentage is possible.
    """
    steps = {"accuracy": sum(counts)}
    if len(counts) == 2:
        steps["auroc"] = 2 * counts[0] * counts[1]
    told = {name: size for name, size in steps.items() if 0 < size <= _FINEST}
    if not told:
        return {}
    return {
        model: {name: possible(percent, size) for name, size in told.items()}
        for model, percent in percents.items()
        if percent is not None
    }
