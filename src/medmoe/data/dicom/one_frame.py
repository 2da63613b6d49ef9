"""One frame of a large uncompressed file, without reading the others: an enhanced CT may have a thousand of them."""

from __future__ import annotations

import io
import struct
from typing import Any, BinaryIO

from medmoe.data.dicom.header import TAGS, frames, get, short, syntax

LARGE = 4_000_000  # bytes of a file that is looked at before it is read as a whole
_PIXEL_DATA = 0x7FE00010
_UNCOMPRESSED = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2")


def is_large(file: BinaryIO) -> bool:
    """Tell whether a file is large enough to look at its header first; leaves its position."""
    at = file.tell()
    length = file.seek(0, io.SEEK_END)
    file.seek(at)
    return length > LARGE


def has_frames_apart(header: Any) -> bool:
    """Tell whether a file's frames lie one after another, each in whole bytes."""
    return syntax(header) in _UNCOMPRESSED and frames(header) > 1 and short(header, "BitsAllocated") in (8, 16, 32)


def cut(header: Any, file: BinaryIO, frame: int) -> Any:
    """Read a frame's bytes.

    Args:
        header: The data set without its pixel data.
        file: The file, where the pixel data begins.
        frame: Number of the frame, from 0.

    Returns:
        The data set as if it had this frame alone.

    Raises:
        ValueError: If the pixel data isn't there, or is shorter than the header says.
    """
    import pydicom

    implicit, little = header.original_encoding
    order = "<" if little else ">"
    start = file.read(8 if implicit else 12)
    if len(start) < (8 if implicit else 12):
        raise ValueError("there is no pixel data")
    group, element = struct.unpack_from(f"{order}HH", start)
    if (group << 16 | element) != _PIXEL_DATA:
        raise ValueError("there is no pixel data")
    kind = "OW" if implicit else start[4:6].decode("ascii", "replace")
    length = struct.unpack_from(f"{order}I", start, len(start) - 4)[0]
    sides = [short(header, name) or 0 for name in ("Rows", "Columns", "BitsAllocated")]
    size = sides[0] * sides[1] * (short(header, "SamplesPerPixel") or 1) * sides[2] // 8
    if get(header, "PhotometricInterpretation") == "YBR_FULL_422":
        size = size // 3 * 2  # two pixels share their colours
    if size * frames(header) > length:
        raise ValueError(f"{frames(header)} frames need {size * frames(header):,} bytes, there are {length:,}")
    file.seek(frame * size, io.SEEK_CUR)
    data = file.read(size)
    if len(data) < size:
        raise ValueError(f"frame {frame} is cut off after {len(data):,} bytes of {size:,}")
    alone = pydicom.Dataset()
    for tag in header.keys():  # noqa: SIM118 - as they lie, unconverted
        if tag >> 16 == 0x0028 and tag != TAGS["NumberOfFrames"]:
            alone[tag] = header.get_item(tag)
    alone.file_meta = header.file_meta
    alone.set_original_encoding(implicit, little)
    alone[_PIXEL_DATA] = pydicom.DataElement(_PIXEL_DATA, kind, data + b"\0" * (size % 2))
    return alone
