"""From what pixels measure to what is looked at: window or look-up table, polarity, padding black.

DICOM PS3.3 C.11.2 (https://dicom.nema.org/medical/dicom/current/output/chtml/part03/sect_C.11.2.html). An image of 8
bits that nothing transforms and no window is given for stays as it is stored, as a PNG of the same values would;
a deeper one is stretched as such a PNG would be.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmoe.data.dicom.header import get, group, number
from medmoe.data.dicom.stored import PALETTE, Layout
from medmoe.data.dicom.values import Transform, look_up, modality_values, padding, transform
from medmoe.data.levels import stretch
from medmoe.data.windows import FULL, JOIN, USUAL_WINDOW, WINDOWS, curve
from medmoe.errors import DataError
from medmoe.modalities import MODALITIES

Pixels = NDArray[Any]


def colour(stored: Pixels, shape: Layout) -> Pixels:
    """Show colours: [H, W, 3] uint8 as stored, or float32 in [0, 1] by the bits that carry deeper ones."""
    bits = 8 * stored.itemsize if shape.photometric == PALETTE else shape.bits
    if bits == 8 and stored.dtype == np.uint8:
        return stored
    return np.clip(stored / float(2**bits - 1), 0.0, 1.0).astype(np.float32)


def grey(stored: Pixels, header: Any, shape: Layout, frame: int, window: str, where: str) -> Pixels:
    """Show grey values.

    Args:
        stored: [H, W].
        header: The data set.
        shape: How its pixels are stored.
        frame: Number of the frame, for its functional groups.
        window: As `Reading.window`.
        where: The file, for an error.

    Returns:
        [H, W], or [H, W, 3] for three windows: uint8, or float32 in [0, 1]; low is dark, padding is black.

    Raises:
        DataError: If values that aren't padding are NaN or infinite, or the header's numbers are.
    """
    how = transform(header, shape, frame, where)
    pad = padding(stored, header, shape)
    named = [WINDOWS[name] for name in window.split(JOIN) if name in WINDOWS] if how.hounsfield else []
    inverted = shape.photometric == "MONOCHROME1"
    if len(named) < 2 and window != FULL and _has_no_window(header, frame, how, window, named):
        window = FULL
    if window == FULL and _is_shallow(shape, how):
        return _eight_bits(stored, pad, shape, inverted=inverted)
    values = modality_values(stored, how)
    if values.dtype.kind == "f":
        seen = values if pad is None else values[~pad]
        if seen.size and not np.isfinite(seen).all():
            raise DataError("the image has NaN or infinite pixels", where=where, remedy="export it again")
    if len(named) > 1:
        shown = np.stack([curve(values, each.centre, each.width) for each in named], axis=-1)
    else:
        pair = (named[0].centre, named[0].width) if named else None
        one = None if window == FULL else _windowed(values, header, frame, how, window, pair)
        if one is None or not _shows(one, values, pad):
            return _stretched(values, pad, inverted=inverted)
        shown = one
    shown = 1.0 - shown if inverted else shown
    if pad is not None:
        shown[pad] = 0.0
    return shown.astype(np.float32)


def _is_shallow(shape: Layout, how: Transform) -> bool:
    return shape.bits <= 8 and not shape.signed and not shape.real and how.identity


def _eight_bits(stored: Pixels, pad: NDArray[np.bool_] | None, shape: Layout, *, inverted: bool) -> NDArray[np.uint8]:
    """Keep 8-bit values as they are; of fewer bits, bring the largest to white, as picture files of few bits do."""
    top = 2**shape.bits - 1
    values = stored.astype(np.uint8)
    if inverted:
        values = np.subtract(top, values, dtype=np.uint8, casting="unsafe")
    if top < 255:
        values = np.rint(values * (255.0 / top)).astype(np.uint8)
    if pad is not None:
        values[pad] = 0
    return values


def _stretched(values: Pixels, pad: NDArray[np.bool_] | None, *, inverted: bool) -> Pixels:
    """Stretch from the least to the greatest value that isn't padding."""
    if values.dtype == np.uint8:
        values = values.astype(np.uint16)
    if inverted:
        values = -values.astype(np.int64 if values.dtype.kind in "iu" else np.float64)
    if pad is None:
        return stretch(values)
    seen = values[~pad]
    if not seen.size:
        return np.zeros(values.shape, np.float32)
    ends = (float(seen.min()), float(seen.max()))
    shown = stretch(np.where(pad, seen[0], values), ends=ends)
    shown[pad] = 0.0
    return shown


def _voi(header: Any, frame: int) -> Any:
    item = group(header, "FrameVOILUTSequence", frame)
    return header if item is None else item


def _given(voi: Any) -> tuple[float, float] | None:
    """Give the first window of the header, if it has one that a value can lie in."""
    centre, width = number(voi, "WindowCenter"), number(voi, "WindowWidth")
    if centre is None or width is None or not (np.isfinite(centre) and np.isfinite(width)) or width <= 0:
        return None
    return centre, width


def _usual(header: Any, how: Transform) -> tuple[float, float] | None:
    modality = get(header, "Modality")
    return next((row.window for row in MODALITIES.values() if modality in row.dicom), None) if how.hounsfield else None


def _has_no_window(header: Any, frame: int, how: Transform, window: str, named: list[Any]) -> bool:
    """Tell whether nothing says which values to show."""
    if named or _usual(header, how) is not None:
        return False
    voi = _voi(header, frame)
    return not get(voi, "VOILUTSequence") and _given(voi) is None


def _windowed(
    values: Pixels, header: Any, frame: int, how: Transform, window: str, named: tuple[float, float] | None
) -> Pixels | None:
    """Show values by one window: that named, else the usual, else the header's table or window."""
    usual = _usual(header, how)
    if named is None and window == USUAL_WINDOW:
        named = usual
    if named is not None:
        return curve(values, *named)
    voi = _voi(header, frame)
    tables = get(voi, "VOILUTSequence")
    if tables and _whole(values):
        looked, bits = look_up(values, tables[0])
        return np.clip(looked / float(2**bits - 1), 0.0, 1.0)
    given = _given(voi)
    if given is not None:
        return curve(values, *given, function=str(get(voi, "VOILUTFunction") or "LINEAR").strip().upper())
    return None if usual is None else curve(values, *usual)


def _whole(values: Pixels) -> bool:
    return values.dtype.kind in "iu" or bool(np.array_equal(values, np.rint(values)))


def _shows(shown: Pixels, values: Pixels, pad: NDArray[np.bool_] | None) -> bool:
    """Tell whether a window leaves something to see, as far as there is something."""
    if pad is not None:
        shown, values = shown[~pad], values[~pad]
    if not shown.size:
        return True
    return bool(shown.max() > shown.min() or values.max() == values.min())
