"""DICOM images: one frame, its values measured once, shown as a reader would first see them.

The order is the standard's (DICOM PS3.3 C.11, https://dicom.nema.org/medical/dicom/current/output/chtml/part03/):
stored values, modality transform, window, polarity. Overlays are never drawn into the pixels.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, BinaryIO

from numpy.typing import NDArray

from medmoe.data.dicom.display import colour, grey
from medmoe.data.dicom.geometry import Geometry, geometry
from medmoe.data.dicom.header import first_line, get, has, is_dicom, read_header, refusals, syntax
from medmoe.data.dicom.one_frame import cut, has_frames_apart, is_large
from medmoe.data.dicom.stored import Layout, layout, stored
from medmoe.data.dicom.values import modality_values, transform
from medmoe.data.reading import USUAL, Reading
from medmoe.errors import DataError, UserError

__all__ = ["Geometry", "dicom_geometry", "dicom_size", "is_dicom", "read_dicom", "read_dicom_values"]


def dicom_size(file: BinaryIO, *, where: str) -> tuple[int, int]:
    """Read (width, height) of a DICOM image from its header; `where` names the file in an error.

    Raises:
        DataError: If the file isn't a DICOM image.
    """
    header = read_header(file, where, pixels=False)
    try:
        width, height = int(get(header, "Columns")), int(get(header, "Rows"))
        if min(width, height) < 1:
            raise ValueError(f"{width} × {height} pixels")
    except refusals() as error:
        raise DataError("the DICOM file has no image", where=where, remedy="take the row out") from error
    return width, height


def dicom_geometry(file: BinaryIO, *, where: str, frame: int | None = None) -> Geometry:
    """Read where a frame's pixels lie in space, from the header alone.

    Args:
        file: The file, open.
        where: What to call it in an error.
        frame: Number of the frame; None for the middle one.

    Raises:
        DataError: If the file isn't DICOM.
    """
    header = read_header(file, where, pixels=False)
    try:
        return geometry(header, frame)
    except refusals() as error:
        what = f"the image's geometry can't be read ({first_line(error)})"
        raise DataError(what, where=where, remedy="export it again, or take the row out") from error


def read_dicom(file: BinaryIO, *, where: str, reading: Reading = USUAL) -> NDArray[Any]:
    """Read one frame of a DICOM image as a reader would first see it.

    Args:
        file: The file, open; it is read once.
        where: What to call it in an error.
        reading: The frame, and the window; see `medmoe.data.reading.Reading`.

    Returns:
        [H, W] or [H, W, 3]: uint8 for 8-bit colours, and for 8-bit grey that nothing transforms and no window is given
        for; else float32 in [0, 1]. Low is dark (MONOCHROME1 is inverted), padding black.

    Raises:
        DataError: If it isn't a DICOM image, or can't be decoded by what is installed.
        ConfigError: If there is no such window.
    """
    header = _header(file, where)
    try:
        shape, frame = _chosen(header, where, reading.frame)
        pixels = _stored(header, shape, frame, file, where)
        if pixels.ndim == 3:
            return colour(pixels, shape)
        return grey(pixels, header, shape, frame, reading.window, where)
    except UserError:
        raise
    except refusals() as error:
        raise _refusal(where, header, error) from error


def read_dicom_values(file: BinaryIO, *, where: str, frame: int | None = None) -> NDArray[Any]:
    """Read what the pixels of one frame measure: Hounsfield units of a CT, counts, dose, without any window.

    Args:
        file: The file, open.
        where: What to call it in an error.
        frame: Number of the frame; None for the middle one.

    Returns:
        [H, W], of the type that is stored, or float64 after a modality transform; [H, W, 3] for colours, as stored.

    Raises:
        DataError: As `read_dicom`.
    """
    header = _header(file, where)
    try:
        shape, number = _chosen(header, where, frame)
        pixels = _stored(header, shape, number, file, where)
        return pixels if pixels.ndim == 3 else modality_values(pixels, transform(header, shape, number, where))
    except UserError:
        raise
    except refusals() as error:
        raise _refusal(where, header, error) from error


def _header(file: BinaryIO, where: str) -> Any:
    """Read the data set with its pixels; without them where only one frame of a large file will be read."""
    if is_large(file):
        header = read_header(file, where, pixels=False)
        try:
            if has_frames_apart(header):
                return header
        except refusals() as error:
            raise _refusal(where, header, error) from error
    return read_header(file, where, pixels=True)


def _stored(header: Any, shape: Layout, frame: int, file: BinaryIO, where: str) -> NDArray[Any]:
    """Decode a frame, of the data set's pixels, or of those that are still in the file."""
    if has(header, "PixelData") or not has_frames_apart(header) or shape.real:
        return stored(header, shape, frame, where)
    return stored(cut(header, file, frame), replace(shape, frames=1), 0, where)


def _chosen(header: Any, where: str, frame: int | None) -> tuple[Layout, int]:
    """Give the layout, and the number of the frame that is asked for."""
    shape = layout(header, where)
    chosen = (shape.frames - 1) // 2 if frame is None else frame
    if not 0 <= chosen < shape.frames:
        what = f"no frame {frame}; the file has {shape.frames}, counted from 0"
        raise DataError(what, where=where, remedy="correct the column 'frame'")
    return shape, chosen


def _refusal(where: str, header: Any, error: Exception) -> DataError:
    """Word why a file can't be decoded: its compression where no decoder is installed, else what went wrong."""
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.uid import UID

    name = syntax(header)
    if name is None:
        what = "the DICOM file doesn't say its transfer syntax"
        return DataError(what, where=where, remedy="rewrite it with its file meta header")
    name = UID(str(name))
    compressed = name.is_transfer_syntax and name.is_compressed
    try:
        available = bool(get_decoder(name).is_available)
    except NotImplementedError:
        available = False
    if compressed and not available:
        what = f"no decoder is installed for transfer syntax {name.name} ({name})"
        return DataError(what, where=where, remedy="install one with: pip install 'medmoe[dicom]'")
    what = f"the pixels, of transfer syntax {name.name} ({name}), can't be decoded ({first_line(error)})"
    remedy = "export it again, or take the row out"
    if compressed:
        remedy = "export it uncompressed, or install more decoders with: pip install 'medmoe[dicom]'"
    return DataError(what, where=where, remedy=remedy)
