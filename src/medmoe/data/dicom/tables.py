"""Look-up tables of DICOM: modality and VOI tables, and palettes, in whatever byte order the file has.

DICOM PS3.3 C.11.1.1 and C.7.6.3.1.5 (https://dicom.nema.org/medical/dicom/current/output/chtml/part03/).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmoe.data.dicom.header import get

_PALETTE = {"Red": 0x0028_1101, "Green": 0x0028_1102, "Blue": 0x0028_1103}  # descriptors; the data are 0x100 further
_SEGMENTED = 0x0028_1221


def look_up(values: NDArray[Any], table: Any) -> tuple[NDArray[np.uint16], int]:
    """Apply a modality or VOI table; values beyond its ends take the end's.

    Args:
        values: [H, W], whole numbers.
        table: An item with LUTDescriptor and LUTData.

    Returns:
        [H, W], and the bits of an entry.

    Raises:
        ValueError: If the table doesn't hold what it says, or a value is NaN or infinite.
    """
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise ValueError("a look-up table for values that are NaN or infinite")
    entries, first, bits = _entries(get(table, "LUTDescriptor"), get(table, "LUTData"), big=_is_big(table))
    if first > 32767 and values.size and values.min() < 0:
        first -= 65536  # written without the sign that the values have
    at = np.clip(np.rint(values).astype(np.int64) - first, 0, len(entries) - 1)
    return entries[at], bits


def palette(values: NDArray[Any], header: Any) -> NDArray[Any]:
    """Look palette colours up.

    Args:
        values: [H, W], whole numbers.
        header: The data set.

    Returns:
        [H, W, 3]: uint8, also where 16-bit entries hold 8-bit colours (in both bytes, or in the high one); else uint16.

    Raises:
        ValueError: If a table is missing or doesn't hold what it says.
    """
    if _SEGMENTED in header:
        from pydicom.pixels.processing import apply_color_lut

        return _shallow(np.asarray(apply_color_lut(values, header))[..., :3])
    colours, most = [], 0
    for name, tag in _PALETTE.items():
        if tag not in header or tag + 0x100 not in header:
            raise ValueError(f"the palette has no table of {name.lower()}")
        entries, first, bits = _entries(header[tag].value, header[tag + 0x100].value, big=_is_big(header))
        if first > 32767 and values.size and values.min() < 0:
            first -= 65536
        colours.append(entries[np.clip(values.astype(np.int64) - first, 0, len(entries) - 1)])
        most = max(most, bits)
    stacked = np.stack(colours, axis=-1)
    return stacked.astype(np.uint8) if most <= 8 else _shallow(stacked)


def _shallow(colours: NDArray[Any]) -> NDArray[Any]:
    """Take 8-bit colours out of 16-bit entries, where they are no deeper."""
    if colours.dtype != np.uint16:
        return colours
    low, high = colours & 255, colours >> 8
    return high.astype(np.uint8) if not low.any() or bool((low == high).all()) else colours


def _is_big(item: Any) -> bool:
    return bool(item.original_encoding[1] is False)


def _entries(descriptor: Any, data: Any, *, big: bool) -> tuple[NDArray[np.uint16], int, int]:
    """Give a table's entries, the value that the first of them is for, and the bits of an entry."""
    count, first, bits = (int(part) for part in descriptor)
    count = count % 65536 or 65536
    if isinstance(data, (bytes, bytearray)):
        bytewise = bits <= 8 and len(data) in (count, count + count % 2)
        data = np.frombuffer(data, "u1" if bytewise else f"{'>' if big else '<'}u2")
    entries = np.atleast_1d(np.asarray(data)).astype(np.int64) % 65536
    if not 1 <= bits <= 16 or len(entries) < count:
        raise ValueError(f"a look-up table of {len(entries)} entries of {bits} bits, said to be {count}")
    return entries[:count].astype(np.uint16), first, bits
