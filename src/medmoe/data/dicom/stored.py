"""The stored values of one frame: decoded by what is installed, and never more of the file than that frame.

Colours come as RGB; grey as the integers or floats that the file holds, before any transform.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmoe.data.dicom.header import PIXELS, frames, get, has, short, syntax
from medmoe.data.dicom.tables import palette
from medmoe.data.levels import MAX_PIXELS
from medmoe.data.limits import MEMORY
from medmoe.errors import DataError

_LITTLE_ENDIAN = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1")  # implicit and explicit VR, uncompressed
GREY = ("MONOCHROME1", "MONOCHROME2")
PALETTE = "PALETTE COLOR"
COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT")
# Bytes a pixel at the peak of reading: stored, measured in float64, windowed, as float32; 8-bit colour stays as it is.
_BYTES_OF_GREY, _BYTES_OF_COLOUR = 30, 10
# Decoders in the order in which they are tried, so that two machines with the same ones see the same pixels.
# GDCM isn't among them: a damaged stream makes it end the process.
_DECODERS = ("pylibjpeg", "pyjpegls", "pillow", "pydicom")
_BY_GDCM = tuple(f"1.2.840.10008.1.2.4.{number}" for number in (51, 57, 70, 80, 81))  # the last two are JPEG-LS
_JPEG_SIZES = (*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0), 0xF7)


@dataclass(frozen=True, slots=True)
class Layout:
    """How a file's pixels are stored.

    Attributes:
        height: Rows of a frame.
        width: Columns of a frame.
        samples: Numbers a pixel, 1 or 3.
        photometric: What they mean, as DICOM names it.
        allocated: Bits a number takes in the file.
        bits: Bits that carry it.
        high: Number of the highest of these.
        signed: Whether the numbers have a sign.
        real: Whether they are floats.
        frames: Frames in the file.
    """

    height: int
    width: int
    samples: int
    photometric: str
    allocated: int
    bits: int
    high: int
    signed: bool
    real: bool
    frames: int


def layout(header: Any, where: str) -> Layout:
    """Read and check how the pixels are stored.

    Raises:
        DataError: If there are none, or they are stored in a way that isn't read, or there are too many.
    """
    height, width = short(header, "Rows") or 0, short(header, "Columns") or 0
    if min(height, width) < 1:
        raise DataError("the DICOM file has no image", where=where, remedy="take the row out")
    if height * width > MAX_PIXELS:
        what = f"the image claims {height:,} × {width:,} pixels, more than {MAX_PIXELS:,}"
        raise DataError(what, where=where, remedy="cut it into tiles or shrink it first")
    samples, allocated = short(header, "SamplesPerPixel") or 1, short(header, "BitsAllocated") or 0
    most = MEMORY // (_BYTES_OF_COLOUR if samples > 1 and allocated <= 8 else _BYTES_OF_GREY * samples)
    if height * width > most:
        what = f"the image claims {height:,} × {width:,} pixels; {most:,} of such are read, which takes 1 GiB"
        raise DataError(what, where=where, remedy="cut it into tiles or shrink it first")
    bits, high = short(header, "BitsStored") or allocated, short(header, "HighBit")
    photometric = str(get(header, "PhotometricInterpretation") or "").strip().upper()
    allowed = COLOURS if samples == 3 else (*GREY, PALETTE)
    if samples not in (1, 3) or photometric not in allowed:
        what = f"pixels of {samples} samples as {photometric or 'nothing named'}; allowed: {', '.join(allowed)}"
        raise DataError(what, where=where, remedy="convert it to MONOCHROME2 or RGB, or take the row out")
    if allocated not in (1, 8, 16, 32, 64) or not 1 <= bits <= allocated:
        what = f"pixels of {bits} bits in {allocated}; allowed are up to 8, 16, 32 or 64 in as many, or 1 in 1"
        raise DataError(what, where=where, remedy="export it again")
    if photometric.startswith("YBR_FULL") and bits > 8:
        what = f"{photometric} of {bits} bits; YBR colours of 8 bits are read"
        raise DataError(what, where=where, remedy="convert it to RGB")
    real = any(has(header, name) for name in PIXELS[1:])
    signed = short(header, "PixelRepresentation")
    if (signed is None and not real) or signed not in (None, 0, 1):
        raise DataError(f"a pixel representation of {signed}; 0 and 1 are", where=where, remedy="export it again")
    top = bits - 1 if high is None or not bits - 1 <= high < allocated else high
    return Layout(height, width, samples, photometric, allocated, bits, top, bool(signed), real, frames(header))


def stored(header: Any, shape: Layout, frame: int, where: str) -> NDArray[Any]:
    """Decode one frame.

    Args:
        header: The data set, with its pixels.
        shape: How they are stored.
        frame: Number of the frame, from 0.
        where: The file, for an error.

    Returns:
        [H, W] grey, or [H, W, 3] RGB: uint8, or uint16 and wider where the colours are deeper.

    Raises:
        DataError: If no installed decoder can, or the compressed image is of another size than the header says.
    """
    values = plain(header, shape)
    if values is not None:
        return values
    values = decode_frame(header, shape, frame, where)
    if values.ndim > 2 and shape.samples == 1:
        values = values[0]  # a single frame still stacked
    if values.shape[:2] != (shape.height, shape.width):
        raise ValueError(f"decoded to {values.shape[:2]} instead of {(shape.height, shape.width)}")
    if shape.photometric == PALETTE:
        return palette(values, header)
    return np.asarray(values)


def plain(header: Any, shape: Layout) -> NDArray[Any] | None:
    """Take uncompressed little-endian grey, one frame, as it lies in the file: [H, W]; None for whatever is else.

    The general way checks and describes far more than such a file needs, which takes longer than reading it.
    """
    if shape.photometric not in GREY or shape.frames != 1 or shape.real or shape.allocated not in (8, 16, 32):
        return None
    if syntax(header) not in _LITTLE_ENDIAN:
        return None
    count, data = shape.height * shape.width * shape.allocated // 8, get(header, "PixelData")
    if not isinstance(data, bytes) or len(data) != count + count % 2:
        return None
    kind = f"<{'ui'[shape.signed]}{shape.allocated // 8}"
    values = np.frombuffer(data, kind, shape.height * shape.width).reshape(shape.height, shape.width)
    return _carried(values, shape.bits, shape.high)


def _carried(values: NDArray[Any], bits: int, high: int) -> NDArray[Any]:
    """Keep the bits that carry the value: the others may hold anything (PS3.5 8.1.1), such as old overlays."""
    allocated = 8 * values.itemsize
    if bits == allocated:
        return values
    return values << (allocated - 1 - high) >> (allocated - bits)


def decode_frame(header: Any, shape: Layout, frame: int, where: str) -> NDArray[Any]:
    """Decode one frame the general way, by the first decoder that can: as stored, palettes not looked up.

    Raises:
        DataError: If the file doesn't say how, or the compressed image is of another size than the header says.
    """
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.pixels.utils import pixel_array

    options: dict[str, Any] = {"index": frame if shape.frames > 1 else None}
    name = syntax(header)
    if name is None:
        what = "the DICOM file doesn't say its transfer syntax"
        raise DataError(what, where=where, remedy="rewrite it with its file meta header")
    if not name.is_compressed or name.is_deflated:
        if shape.high == shape.bits - 1 or shape.real or shape.allocated == 1:
            return np.asarray(pixel_array(header, **options))
        values = pixel_array(header, correct_unused_bits=False, **options)
        return _carried(np.asarray(values), shape.bits, shape.high)
    code = _frame(header, shape, frame, where)
    available = get_decoder(name).available_plugins
    reasons: list[Exception] = []
    for plugin in (each for each in _DECODERS if each in available):
        try:
            return np.asarray(pixel_array(header, decoding_plugin=plugin, **options))
        except (RuntimeError, ValueError, NotImplementedError, OSError, SyntaxError, AttributeError, KeyError) as error:
            reasons.append(error)
    if name in _BY_GDCM:
        return _by_gdcm(code, shape, name)
    raise reasons[0] if reasons else RuntimeError(f"no decoder of {name}")


def _by_gdcm(code: bytes, shape: Layout, name: str) -> NDArray[Any]:
    """Decode one frame by GDCM, which gives colours as the codestream has them and numbers without their sign."""
    from pydicom.pixels.processing import convert_color_space

    from medmoe.data.dicom.gdcm_decoder import decode

    if name in _BY_GDCM[-2:] and shape.bits in (6, 7):
        raise ValueError("GDCM decodes no JPEG-LS of 6 or 7 bits")
    values = decode(
        code,
        shape=(shape.height, shape.width, shape.samples),
        allocated=shape.allocated,
        bits=shape.bits,
        signed=shape.signed,
        photometric=shape.photometric,
        syntax=str(name),
    )
    if shape.signed:
        values = values.view(f"<i{values.itemsize}")
    if shape.photometric.startswith("YBR_FULL"):
        return np.asarray(convert_color_space(values, "YBR_FULL", "RGB"))
    return _carried(values, min(shape.bits, 8 * values.itemsize), min(shape.bits, 8 * values.itemsize) - 1)


def _frame(header: Any, shape: Layout, frame: int, where: str) -> bytes:
    """Give a frame's codestream.

    Raises:
        DataError: If its image is of another size than the header says, before a decoder makes room for it.
    """
    from pydicom.encaps import get_frame

    code: bytes = get_frame(get(header, "PixelData"), frame, number_of_frames=shape.frames)
    said = compressed_size(code)
    if said is not None and said != (shape.height, shape.width):
        what = (
            f"the compressed image is {said[0]:,} × {said[1]:,} pixels, its header says {shape.height} × {shape.width}"
        )
        raise DataError(what, where=where, remedy="export it again, or take the row out")
    return code


def compressed_size(data: bytes) -> tuple[int, int] | None:
    """Read (height, width) from a JPEG, JPEG-LS or JPEG 2000 codestream; None where it doesn't say them.

    >>> compressed_size(bytes.fromhex("ffd8 ffc0 000b 08 0040 0020 01 011100"))
    (64, 32)
    """
    at = data.find(b"\xff\x4f\xff\x51", 0, 4096)
    if at >= 0 and (at == 0 or data[:2] != b"\xff\xd8"):
        size = struct.unpack_from(">4I", data, at + 8) if len(data) >= at + 24 else (0, 0, 0, 0)
        return size[1] - size[3], size[0] - size[2]
    at = 2
    while data[:2] == b"\xff\xd8" and at + 9 <= len(data) and data[at] == 0xFF:
        if data[at + 1] == 0xFF:  # fill
            at += 1
        elif data[at + 1] in _JPEG_SIZES:
            height, width = struct.unpack_from(">HH", data, at + 5)
            return (height, width) if height else None  # told later, by a DNL marker
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None
