"""The pixels of a DICOM file written anew: nothing beside, behind or between them, and regions blanked if asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmoe.data.curation.deidentify_stream import clean_stream
from medmoe.errors import DataError

Box = tuple[int, int, int, int]  # x0, y0, x1, y1 in pixels, the last ones not included

_EXPLICIT, _BIG, _DEFLATED = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"
_NATIVE = ("1.2.840.10008.1.2", _EXPLICIT, _BIG, _DEFLATED)
_RLE = "1.2.840.10008.1.2.5"
_STREAMS = tuple(
    f"1.2.840.10008.1.2.4.{part}" for part in (50, 51, 57, 70, 80, 81, 90, 91, 92, 93, 201, 202, 203)
)  # JPEG, JPEG-LS, JPEG 2000 and its parts
_FLOATS = {0x7FE00008: "f4", 0x7FE00009: "f8"}


@dataclass(frozen=True)
class Shape:
    """How pixels lie in a file, as the header says it."""

    frames: int
    rows: int
    columns: int
    samples: int
    allocated: int
    stored: int
    signed: bool
    photometric: str

    @classmethod
    def of(cls, header: Any) -> Shape:
        """Read it; ValueError, TypeError or AttributeError where it isn't there."""
        allocated = int(header.BitsAllocated)
        return cls(
            frames=max(int(header.get("NumberOfFrames") or 1), 1),
            rows=int(header.Rows),
            columns=int(header.Columns),
            samples=int(header.get("SamplesPerPixel") or 1),
            allocated=allocated,
            stored=int(header.get("BitsStored") or allocated),
            signed=int(header.get("PixelRepresentation") or 0) == 1,
            photometric=str(header.get("PhotometricInterpretation") or ""),
        )

    @property
    def bytes(self) -> int:
        """How many bytes uncompressed pixels take, without a byte to make them even."""
        values = self.frames * self.rows * self.columns * self.samples
        if self.photometric == "YBR_FULL_422" and self.samples == 3:
            values = values // 3 * 2
        return (values * self.allocated + 7) // 8


def write_pixels(old: Any, new: Any, syntax: str, *, where: str) -> str:
    """Write the pixels of one data set into another.

    Uncompressed pixels are cut to their size, and bits that carry no value are cleared (overlays were kept in them).
    JPEG, JPEG-LS and JPEG 2000 lose what isn't picture. RLE, where anything may lie behind a segment, is written
    uncompressed.

    Args:
        old: The data set as it was read.
        new: Gets the pixels; it has the rest of the header.
        syntax: The transfer syntax it was read in.
        where: What to call the file in an error.

    Returns:
        The transfer syntax of the new one.

    Raises:
        DataError: If the pixels can't be written anew.
    """
    for tag, kind in _FLOATS.items():
        if tag in old:
            element, size = old[tag], Shape.of(old)
            count = size.frames * size.rows * size.columns * int(kind[1])
            new.add_new(tag, element.VR, bytes(element.value)[:count])
    if "PixelData" not in old:
        return _EXPLICIT if syntax not in _NATIVE or syntax == _DEFLATED else syntax
    try:
        if syntax in _NATIVE:
            _write_native(old, new, big=syntax == _BIG)
            return _EXPLICIT if syntax == _DEFLATED else syntax
        if syntax == _RLE:
            write_array(decoded(old, where=where, raw=True), new)
            return _EXPLICIT
        if syntax in _STREAMS:
            _write_streams(old, new)
            return syntax
    except (ValueError, TypeError, AttributeError, KeyError, IndexError, RuntimeError, OverflowError) as error:
        what = f"its pixels can't be written anew ({type(error).__name__})"
        raise DataError(what, where=where, remedy="export it again, uncompressed") from None
    what = "pixels in a form that can't be looked into (video or an unknown transfer syntax)"
    raise DataError(what, where=where, remedy="export it uncompressed or as JPEG")


def decoded(header: Any, *, where: str, raw: bool = False, frame: int | None = None) -> NDArray[Any]:
    """Decode pixels: stored values, colour as RGB unless `raw` asks for it as it is coded.

    Args:
        header: A data set with pixels and file meta.
        where: What to call the file in an error.
        raw: Leave YBR as it is.
        frame: One frame, counted from 0; None for all.

    Returns:
        [F, H, W] or [F, H, W, C]; without F where one frame is asked for or there is no more.

    Raises:
        DataError: If what is installed can't decode it.
    """
    from pydicom.pixels.utils import pixel_array

    from medmoe.data.dicom.stored import decode_frame, layout

    try:
        if raw or not header.file_meta.TransferSyntaxUID.is_encapsulated:
            return np.asarray(pixel_array(header, index=frame, raw=raw))
        shape = layout(header, where)
        frames = [
            decode_frame(header, shape, each, where) for each in (range(shape.frames) if frame is None else [frame])
        ]
        return frames[0] if len(frames) == 1 else np.stack(frames)
    except Exception as error:  # decoders raise whatever they like on broken data
        what = f"its pixels can't be decoded ({type(error).__name__})"
        remedy = "export it again, or install decoders: pip install 'medmoe[dicom]'"
        raise DataError(what, where=where, remedy=remedy) from None


def write_array(values: NDArray[Any], new: Any, *, big: bool = False, rgb: bool = False) -> None:
    """Write decoded pixels uncompressed: colour by pixel, and as RGB where it became that."""
    from pydicom import DataElement

    new.BitsAllocated = 8 * values.itemsize
    if int(new.get("SamplesPerPixel") or 1) > 1:
        new.PlanarConfiguration = 0
        if rgb:
            new.PhotometricInterpretation = "RGB"
        elif new.PhotometricInterpretation == "YBR_FULL_422":
            new.PhotometricInterpretation = "YBR_FULL"
    data = values.astype(values.dtype.newbyteorder(">" if big else "<")).tobytes()
    kind = "OB" if values.itemsize == 1 else "OW"
    new[0x7FE00010] = DataElement(0x7FE00010, kind, data + bytes(len(data) % 2))


def blank(values: NDArray[Any], boxes: list[Box], photometric: str, palette_black: int = 0) -> NDArray[Any]:
    """Make boxes black in every frame.

    Args:
        values: [..., H, W] or [..., H, W, 3] stored values.
        boxes: Regions.
        photometric: As the header has it; MONOCHROME1 is black at its highest value.
        palette_black: Which entry of a palette is the darkest.

    Returns:
        A copy.
    """
    fresh = values.copy()
    colour = photometric not in ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR")
    black: Any = {"MONOCHROME1": values.max(), "MONOCHROME2": values.min(), "PALETTE COLOR": palette_black}.get(
        photometric, 0
    )
    for x0, y0, x1, y1 in boxes:
        if colour:
            fresh[..., y0:y1, x0:x1, :] = black
        else:
            fresh[..., y0:y1, x0:x1] = black
    return fresh


def darkest_entry(header: Any) -> int:
    """Find the darkest entry of a palette."""
    from pydicom.pixels.processing import apply_color_lut

    entries = int(header.RedPaletteColorLookupTableDescriptor[0]) or 65536
    kind = np.uint8 if int(header.BitsAllocated) == 8 else np.uint16
    shown = apply_color_lut(np.arange(min(entries, np.iinfo(kind).max + 1), dtype=kind)[None], header)
    return int(shown[0, :, :3].sum(axis=-1, dtype=np.int64).argmin())


def _write_native(old: Any, new: Any, *, big: bool) -> None:
    """Cut uncompressed pixels to their size and clear the bits that carry no value."""
    from pydicom import DataElement

    shape, element = Shape.of(old), old["PixelData"]
    if len(element.value) < shape.bytes:
        raise ValueError("cut off")
    swapped = big and shape.allocated == 8 and element.VR == "OW"  # bytes in words: the odd last one lies second
    data = bytes(element.value)[: shape.bytes + (shape.bytes % 2 if swapped else 0)]
    if swapped and shape.bytes % 2 and len(data) > shape.bytes:
        data = data[:-2] + b"\0" + data[-1:]
    unused = shape.allocated - shape.stored
    if shape.allocated in (8, 16, 32) and 0 < unused < shape.allocated and _low_bits(old, shape):
        kind = np.dtype(f"{'>' if big else '<'}{'i' if shape.signed else 'u'}{shape.allocated // 8}")
        whole = len(data) // kind.itemsize * kind.itemsize
        values = np.frombuffer(data[:whole], kind)
        data = (values << unused >> unused).astype(kind).tobytes()
    new[0x7FE00010] = DataElement(0x7FE00010, element.VR, data + bytes(len(data) % 2))


def _low_bits(old: Any, shape: Shape) -> bool:
    """Tell whether values lie in the low bits, as they have to nowadays."""
    return int(old.get("HighBit", shape.stored - 1)) == shape.stored - 1


def _write_streams(old: Any, new: Any) -> None:
    """Clean each frame's coded picture and pack them again."""
    from pydicom import DataElement
    from pydicom.encaps import encapsulate, generate_frames

    offsets = None
    if "ExtendedOffsetTable" in old and "ExtendedOffsetTableLengths" in old:
        offsets = (bytes(old.ExtendedOffsetTable), bytes(old.ExtendedOffsetTableLengths))
    count = Shape.of(old).frames
    frames = [
        clean_stream(frame)
        for frame in generate_frames(bytes(old.PixelData), number_of_frames=count, extended_offsets=offsets)
    ]
    if len(frames) != count:
        raise ValueError("another number of frames")
    packed = encapsulate(frames, has_bot=sum(map(len, frames)) < 2**31)
    new[0x7FE00010] = DataElement(0x7FE00010, "OB", packed)
    new["PixelData"].is_undefined_length = True
