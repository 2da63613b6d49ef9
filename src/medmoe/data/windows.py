"""Windows: the ranges of Hounsfield units in which a reader looks at a CT, as rows of data; and their arithmetic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmoe.data.reading import HEADER
from medmoe.errors import ConfigError, unknown

USUAL_WINDOW, FULL, JOIN = "usual", "full", "+"
CHANNELS = 3


@dataclass(frozen=True, slots=True)
class Window:
    """A range of values that is shown from black to white.

    Attributes:
        name: What it is asked for by.
        centre: Its middle, in Hounsfield units.
        width: Its width, in Hounsfield units.
        shows: What is looked at in it.
    """

    name: str
    centre: float
    width: float
    shows: str


# The article Windowing (CT) of Radiopaedia (https://radiopaedia.org/articles/windowing-ct); where it gives a range, a
# value within it. `soft_tissue` is the window that `medmoe.modalities` calls CT's usual one.
WINDOWS: Mapping[str, Window] = {
    row.name: row
    for row in (
        Window("lung", -600.0, 1500.0, "lungs"),
        Window("soft_tissue", 40.0, 400.0, "soft tissues; the usual window of a CT"),
        Window("mediastinum", 50.0, 350.0, "soft tissues of the chest"),
        Window("abdomen", 50.0, 400.0, "soft tissues of the abdomen"),
        Window("liver", 30.0, 150.0, "lesions of the liver"),
        Window("bone", 400.0, 1800.0, "bones"),
        Window("brain", 40.0, 80.0, "grey and white matter"),
        Window("stroke", 40.0, 40.0, "early ischaemia of the brain"),
        Window("subdural", 75.0, 215.0, "blood along the skull"),
        Window("temporal_bone", 600.0, 2800.0, "the inner ear"),
        Window("vascular", 200.0, 600.0, "vessels with contrast, the heart"),
        Window("spine", 50.0, 250.0, "soft tissues of the spine"),
    )
}


def check_window(window: str, *, where: str | None = None) -> str:
    """Check what `Reading.window` can be.

    Args:
        window: `header`, `usual`, `full`, a name of `WINDOWS`, or three of them joined by `+`.
        where: The key it was given for, for the error.

    Returns:
        The same.

    Raises:
        ConfigError: If it is none of these; the nearest known name is said.

    >>> check_window("lung+soft_tissue+bone")
    'lung+soft_tissue+bone'
    """
    if window in (HEADER, USUAL_WINDOW, FULL):
        return window
    names = window.split(JOIN)
    for name in names:
        if name not in WINDOWS:
            allowed = WINDOWS if len(names) > 1 else (HEADER, USUAL_WINDOW, FULL, *WINDOWS)
            raise ConfigError(unknown("window", name, allowed), where=where)
    if len(names) not in (1, CHANNELS):
        what = f"{len(names)} windows ({window}); one, or {CHANNELS} for the channels, are allowed"
        raise ConfigError(what, where=where, remedy=f"join {CHANNELS} by '{JOIN}', such as lung+soft_tissue+bone")
    return window


@lru_cache(maxsize=64)
def ranges(window: str) -> tuple[tuple[float, float], ...]:
    """Give (centre, width) of the windows that are named; none for `header`, `usual` and `full`.

    Raises:
        ConfigError: As `check_window`.
    """
    check_window(window)
    return tuple((WINDOWS[name].centre, WINDOWS[name].width) for name in window.split(JOIN) if name in WINDOWS)


def curve(values: NDArray[Any], centre: float, width: float, *, function: str = "LINEAR") -> NDArray[Any]:
    """Apply a window (DICOM PS3.3 C.11.2.1.2 and C.11.2.1.3).

    Args:
        values: Of any shape.
        centre: Middle of the window.
        width: Its width, above 0.
        function: `LINEAR`, `LINEAR_EXACT` or `SIGMOID`; whatever else counts as `LINEAR`.

    Returns:
        float64 in [0, 1].
    """
    shown: NDArray[Any] = np.subtract(values, centre, dtype=np.float64)  # changed in place: images are large
    if function == "SIGMOID":
        shown *= -4.0
        shown /= width
        np.exp(np.clip(shown, -60.0, 60.0, out=shown), out=shown)
        shown += 1.0
        return np.asarray(np.divide(1.0, shown, out=shown))
    if function == "LINEAR_EXACT" or width < 1:
        shown /= width
    elif width == 1:
        return np.asarray(shown > -0.5, np.float64)
    else:
        shown += 0.5
        shown /= width - 1.0
    shown += 0.5
    return np.clip(shown, 0.0, 1.0, out=shown)
