"""From stored values to what they measure: the modality transform, once, and which pixels are padding.

DICOM PS3.3 C.11.1 and C.7.5.1.1.2 (https://dicom.nema.org/medical/dicom/current/output/chtml/part03/).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmoe.data.dicom.header import get, group, has, number
from medmoe.data.dicom.stored import Layout
from medmoe.data.dicom.tables import look_up
from medmoe.errors import DataError

_HOUNSFIELD = ("", "HU", "HU_MOD")


@dataclass(frozen=True, slots=True)
class Transform:
    """The modality transform of a frame.

    Attributes:
        slope: What stored values are multiplied by.
        intercept: What is then added.
        table: A look-up table's item instead of both.
        hounsfield: Whether the result is in Hounsfield units.
    """

    slope: float = 1.0
    intercept: float = 0.0
    table: Any = None
    hounsfield: bool = False

    @property
    def identity(self) -> bool:
        """Whether it leaves every value as it is."""
        return self.table is None and self.slope == 1.0 and self.intercept == 0.0


def transform(header: Any, shape: Layout, frame: int, where: str) -> Transform:
    """Find the modality transform of a frame.

    It is the frame's functional group's, else the shared one's, else the header's: a look-up table, or slope and
    intercept (a dose's grid scaling is its slope). Values are in Hounsfield units if the modality is CT, an intercept
    is given, no other unit is, and negative values are possible at all.

    Raises:
        DataError: If a number is missing a finite value, or the slope is 0.
    """
    item = group(header, "PixelValueTransformationSequence", frame)
    item = header if item is None else item
    is_ct = get(header, "Modality") == "CT"
    tables = get(item, "ModalityLUTSequence")
    if tables:
        return Transform(table=tables[0], hounsfield=is_ct and get(tables[0], "ModalityLUTType") == "HU")
    slope, intercept = number(item, "RescaleSlope"), number(item, "RescaleIntercept")
    if slope is None and intercept is None:
        slope = number(header, "DoseGridScaling")
        if slope is None:
            return Transform()
    slope, offset = 1.0 if slope is None else slope, intercept or 0.0
    if not (math.isfinite(slope) and math.isfinite(offset)) or slope == 0.0:
        what = f"the rescale slope is {slope:g} and the intercept {offset:g}: values can't be told apart"
        raise DataError(what, where=where, remedy="correct the header, or take the row out")
    hounsfield = is_ct and intercept is not None and (shape.signed or shape.real or offset < 0)
    kind = str(get(item, "RescaleType") or "").strip().upper()
    return Transform(slope, offset, hounsfield=hounsfield and kind in _HOUNSFIELD)


def modality_values(stored: NDArray[Any], how: Transform) -> NDArray[Any]:
    """Apply the modality transform: [H, W], as stored where there is none, else what the table holds or float64."""
    if how.table is not None:
        return look_up(stored, how.table)[0]
    if how.identity:
        return stored
    values = stored.astype(np.float64)
    if how.slope != 1.0:
        values *= how.slope
    values += how.intercept
    return values


def padding(stored: NDArray[Any], header: Any, shape: Layout) -> NDArray[np.bool_] | None:
    """Find the pixels that only fill the frame: [H, W] bool; None where there are none.

    A padding value that is written with the other sign than the pixels (63536 for -2000) means the same 16 bits.
    """
    name = "PixelPadding"
    if shape.real:
        name = "FloatPixelPadding" if stored.itemsize == 4 else "DoubleFloatPixelPadding"
    if not has(header, f"{name}Value"):
        return None
    value, limit = number(header, f"{name}Value"), number(header, f"{name}RangeLimit")
    if value is None:
        return None
    if shape.real:
        if math.isnan(value):
            return _any(np.isnan(stored))
    else:
        value = _in_range(value, shape)
        limit = None if limit is None else _in_range(limit, shape)
    if limit is None:
        return _any(stored == value)
    return _any((stored >= min(value, limit)) & (stored <= max(value, limit)))


def _in_range(value: float, shape: Layout) -> float:
    """Read a number of 16 bits with the sign that the pixels have."""
    if shape.signed and value > 32767 and shape.bits <= 16:
        return value - 65536
    return value + 65536 if not shape.signed and value < 0 else value


def _any(mask: NDArray[np.bool_]) -> NDArray[np.bool_] | None:
    return mask if mask.any() else None
