"""From what pixels measure to what is looked at: window or look-up table, polarity, padding black.

DICOM PS3.3 C.11.2 (https://dicom.nema.org/medical/dicom/current/output/chtml/part03/sect_C.11.2.html). An image of 8
bits that nothing transforms and no window is given for stays as it is stored, as a PNG of the same values would;
a deeper one is stretched as such a PNG would be.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmoe.data.dicom.header import get, group, number
from medmoe.data.dicom.stored import PALETTE, Layout
from medmoe.data.dicom.tables import look_up
from medmoe.data.dicom.values import Transform, modality_values, padding, transform
from medmoe.data.levels import stretch
from medmoe.data.windows import FULL, USUAL_WINDOW, curve, ranges
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
    voi = _choice(header, frame, how, window)
    inverted = shape.photometric == "MONOCHROME1"
    if not voi.pairs and voi.table is None and _is_shallow(shape, how):
        return _eight_bits(stored, pad, shape, inverted=inverted)
    values = modality_values(stored, how)
    if values.dtype.kind == "f":
        seen = values if pad is None else values[~pad]
        if seen.size and not np.isfinite(seen).all():
            raise DataError("the image has NaN or infinite pixels", where=where, remedy="export it again")
    shown = _windowed(values, voi)
    if shown is None or (shown.ndim == 2 and not _shows(shown, values, pad)):
        return _full(values, stored, pad, shape, how, inverted=inverted)
    if inverted:
        np.subtract(1.0, shown, out=shown)
    if pad is not None:
        shown[pad] = 0.0
    return shown.astype(np.float32, copy=False)


@dataclass(frozen=True, slots=True)
class _Voi:
    """What says which values to show: windows (centre, width) with their function, or a table that goes before them."""

    pairs: tuple[tuple[float, float], ...] = ()
    function: str = "LINEAR"
    table: Any = None


def _choice(header: Any, frame: int, how: Transform, window: str) -> _Voi:
    """Choose by which windows or table values are shown; none stands for minimum to maximum."""
    named, usual = ranges(window), None
    if window == FULL:
        return _Voi()
    if how.hounsfield:
        if named:
            return _Voi(named)
        modality = get(header, "Modality")
        usual = next((row.window for row in MODALITIES.values() if modality in row.dicom), None)
        if usual is not None and window == USUAL_WINDOW:
            return _Voi((usual,))
    item = group(header, "FrameVOILUTSequence", frame)
    item = header if item is None else item
    tables = get(item, "VOILUTSequence")
    table = tables[0] if tables else None
    centre, width = number(item, "WindowCenter"), number(item, "WindowWidth")
    if centre is not None and width is not None and math.isfinite(centre) and math.isfinite(width) and width > 0:
        return _Voi(((centre, width),), str(get(item, "VOILUTFunction") or "LINEAR").strip().upper(), table)
    return _Voi((usual,) if usual else (), table=table)


def _windowed(values: Pixels, voi: _Voi) -> Pixels | None:
    """Show values by a table, if they are whole numbers, else by one window or by several as channels."""
    if voi.table is not None and (values.dtype.kind in "iu" or np.array_equal(values, np.rint(values))):
        looked, bits = look_up(values, voi.table)
        return np.clip(looked / float(2**bits - 1), 0.0, 1.0)
    if not voi.pairs:
        return None
    if len(voi.pairs) == 1:
        return curve(values, *voi.pairs[0], function=voi.function)
    shown = np.empty((*values.shape, len(voi.pairs)), np.float32)
    for channel, pair in enumerate(voi.pairs):
        shown[..., channel] = curve(values, *pair, function=voi.function)
    return shown


def _full(
    values: Pixels, stored: Pixels, pad: NDArray[np.bool_] | None, shape: Layout, how: Transform, *, inverted: bool
) -> Pixels:
    """Show all values: those of 8 bits that nothing transforms as they are."""
    if _is_shallow(shape, how):
        return _eight_bits(stored, pad, shape, inverted=inverted)
    return _stretched(values, pad, inverted=inverted)


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


def _shows(shown: Pixels, values: Pixels, pad: NDArray[np.bool_] | None) -> bool:
    """Tell whether a window leaves something to see, as far as there is something."""
    if pad is not None:
        shown, values = shown[~pad], values[~pad]
    if not shown.size:
        return True
    return bool(shown.max() > shown.min() or values.max() == values.min())
