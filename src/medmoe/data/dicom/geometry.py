"""Where a frame's pixels lie in space: their spacing in millimetres, and the plane they were taken in.

DICOM PS3.3 10.7.1 and C.7.6.2; ultrasound regions C.8.5.5 and functional groups C.7.6.16
(https://dicom.nema.org/medical/dicom/current/output/chtml/part03/).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from medmoe.data.dicom.header import frames, get, group

_CENTIMETRES = 3  # of PhysicalUnitsXDirection
_REGION = {"x": 0x0018602C, "y": 0x0018602E, "x_units": 0x00186024, "y_units": 0x00186026}


@dataclass(frozen=True, slots=True)
class Geometry:
    """Where a frame's pixels lie.

    Attributes:
        spacing: Millimetres between the centres of neighbouring (rows, columns); None where the file doesn't say.
        source: The element that says it: `PixelSpacing` is in the patient, `ImagerPixelSpacing` at the detector, where
            things look larger than they are.
        position: The first pixel's centre in the patient, in mm; None where the file doesn't say.
        orientation: Directions of a row and of a column in the patient, three cosines each; None likewise.
    """

    spacing: tuple[float, float] | None
    source: str | None
    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None


def geometry(header: Any, frame: int | None = None) -> Geometry:
    """Read the geometry of a frame: its functional groups' if it has them, else the header's.

    Args:
        header: The data set.
        frame: Number of the frame; None for the middle one.
    """
    frame = (frames(header) - 1) // 2 if frame is None else frame
    measures = group(header, "PixelMeasuresSequence", frame)
    spacing, source = None, None
    for item, name in (
        (measures, "PixelSpacing"),
        (header, "PixelSpacing"),
        (header, "ImagerPixelSpacing"),
        (header, "NominalScannedPixelSpacing"),
    ):
        spacing = _numbers(item, name, 2) if item is not None else None
        if spacing is not None and min(spacing) > 0:
            source = name
            break
        spacing = None
    if spacing is None:
        spacing = _ultrasound(header)
        source = "SequenceOfUltrasoundRegions" if spacing else None
    place, turn = (group(header, name, frame) for name in ("PlanePositionSequence", "PlaneOrientationSequence"))
    return Geometry(
        spacing=(spacing[0], spacing[1]) if spacing else None,
        source=source,
        position=_numbers(header if place is None else place, "ImagePositionPatient", 3),
        orientation=_numbers(header if turn is None else turn, "ImageOrientationPatient", 6),
    )


def _numbers(item: Any, name: str, count: int) -> tuple[float, ...] | None:
    """Give an element's numbers; None unless there are `count` finite ones."""
    value = get(item, name)
    if value is None or isinstance(value, (str, bytes, float, int)) or len(value) != count:
        return None
    numbers = tuple(float(part) for part in value)
    return numbers if all(math.isfinite(part) for part in numbers) else None


def _ultrasound(header: Any) -> tuple[float, float] | None:
    """Give the spacing of the first region that is measured in centimetres both ways."""
    for region in get(header, "SequenceOfUltrasoundRegions") or ():
        found = {key: region[tag].value for key, tag in _REGION.items() if tag in region}
        if found.get("x_units") == found.get("y_units") == _CENTIMETRES and found.get("x") and found.get("y"):
            return 10.0 * abs(float(found["y"])), 10.0 * abs(float(found["x"]))
    return None
