"""JPEG, PNG and NIfTI files without what is written beside their pixels, which stay as they are coded."""

from __future__ import annotations

import gzip
import io
import struct
import zlib
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from medmoe.data.curation.deidentify_burned import Box, find_text
from medmoe.data.curation.deidentify_stream import clean_stream
from medmoe.errors import DataError

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_KEPT = (b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"gAMA", b"cHRM", b"sRGB", b"sBIT", b"pHYs", b"bKGD")
_ORIENTATION = 0x0112
# Text fields of the headers of NIfTI-1 and NIfTI-2: where each begins, and how long it is.
_NIFTI = {348: ((4, 10), (14, 18), (148, 80), (228, 24), (328, 16)), 540: ((240, 80), (320, 24), (508, 16))}
_MOST_PIXELS = 1 << 25
_MOST_HEADER, _MOST_UNPACKED = 1 << 24, 1 << 29  # bytes of a volume's header with extensions, and of packed voxels


def kind_of(path: Path) -> str | None:
    """Tell a file's kind by what it begins with and its name: dicom, jpeg, png or nifti; None for others."""
    try:
        with path.open("rb") as file:
            start = file.read(132)
    except OSError:
        return None
    name = path.name.lower()
    if start[128:132] == b"DICM" or name.endswith((".dcm", ".dicom", ".ima")):
        return "dicom"
    if start[:3] == b"\xff\xd8\xff":
        return "jpeg"
    if start[:8] == _PNG:
        return "png"
    if name.endswith((".nii", ".nii.gz")):
        return "nifti"
    headless = len(start) > 8 and struct.unpack("<HH", start[:4]) in ((8, 0), (8, 5), (8, 8), (8, 16), (2, 0), (2, 16))
    return "dicom" if headless else None


def clean_image(data: bytes, kind: str, *, where: str) -> bytes:
    """Take everything out of a file that isn't picture.

    Args:
        data: The file.
        kind: jpeg, png or nifti.
        where: What to call it in an error.

    Returns:
        JPEG: no comments and application data; a turn that Exif asks for is kept. PNG: without text, time, Exif
        and colour profile. NIfTI: without the text fields of the header and without extensions; the affine stays.

    Raises:
        DataError: If it is broken.
    """
    cleaners = {"jpeg": _clean_jpeg, "png": _clean_png, "nifti": _clean_nifti}
    try:
        return cleaners[kind](data)
    except (ValueError, IndexError, struct.error, zlib.error, OSError, EOFError, OverflowError, SyntaxError) as error:
        what = f"a broken {kind} file ({type(error).__name__})"
        raise DataError(what, where=where, remedy="export it again") from None


def blank_image(data: bytes, *, where: str) -> tuple[bytes, list[Box]]:
    """Make lines that look like text black.

    Returns:
        A PNG, and the regions; the file as it was where there are none.

    Raises:
        DataError: If it can't be decoded.
    """
    from PIL import Image, ImageOps

    boxes = text_in(data, where=where)
    if not boxes:
        return data, []
    picture = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    if picture.mode not in ("L", "RGB", "RGBA", "I;16"):
        picture = picture.convert("RGB")
    values = np.array(picture)
    for x0, y0, x1, y1 in boxes:
        values[y0:y1, x0:x1, ...] = 0
        if picture.mode == "RGBA":
            values[y0:y1, x0:x1, 3] = 255
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG")
    return buffer.getvalue(), boxes


def text_in(data: bytes, *, where: str) -> list[Box]:
    """Find lines that look like text in a JPEG or PNG, turned as Exif says.

    Raises:
        DataError: If it can't be decoded.
    """
    from PIL import Image, ImageOps

    try:
        picture: Image.Image = Image.open(io.BytesIO(data))
        if picture.width * picture.height > _MOST_PIXELS:
            raise ValueError("too large")
        picture = ImageOps.exif_transpose(picture)
        if picture.mode in ("P", "CMYK", "LA", "1"):
            picture = picture.convert("RGB")
        return find_text(np.asarray(picture))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        what = f"the picture can't be decoded ({type(error).__name__})"
        raise DataError(what, where=where, remedy="export it again") from None


def _clean_jpeg(data: bytes) -> bytes:
    """Clean the stream; a turn is written as the only entry of a new Exif segment."""
    from PIL import Image

    turn = Image.open(io.BytesIO(data)).getexif().get(_ORIENTATION, 1)
    fresh = clean_stream(data)
    if turn not in range(2, 9):
        return fresh
    entry = struct.pack(">HHIHH", _ORIENTATION, 3, 1, turn, 0)
    body = b"Exif\0\0MM\0*\0\0\0\x08\0\x01" + entry + b"\0\0\0\0"
    return fresh[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + fresh[2:]


def _clean_png(data: bytes) -> bytes:
    """Keep the chunks that make the picture, and of the pixels' stream what belongs to it."""
    if data[:8] != _PNG:
        raise ValueError("not a PNG")
    chunks: list[tuple[bytes, bytes]] = []
    at = 8
    while not chunks or chunks[-1][0] != b"IEND":
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        body = data[at + 8 : at + 8 + length]
        if len(body) < length:
            raise ValueError("a chunk is cut off")
        if kind in _PNG_KEPT:
            chunks.append((kind, body))
        at += 12 + length
    pixels = b"".join(body for kind, body in chunks if kind == b"IDAT")
    stream = zlib.decompressobj()
    rest = pixels
    while rest and not stream.eof:
        stream.decompress(rest, 1 << 24)
        rest = stream.unconsumed_tail
    pixels = pixels[: len(pixels) - len(stream.unused_data)]
    first = next((place for place, (kind, _) in enumerate(chunks) if kind == b"IDAT"), None)
    if first is None:
        raise ValueError("no pixels")
    kept = [*chunks[:first], (b"IDAT", pixels)]
    kept += [chunk for chunk in chunks[first:] if chunk[0] not in (b"IDAT", b"IEND")] + [(b"IEND", b"")]
    return _PNG + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in kept
    )


def _clean_nifti(data: bytes) -> bytes:
    """Clear the text fields, leave extensions out, cut what follows the voxels."""
    packed = data[:2] == b"\x1f\x8b"
    source: Any = gzip.GzipFile(fileobj=io.BytesIO(data)) if packed else io.BytesIO(data)
    head = bytearray(source.read(max(_NIFTI)))
    order = "<" if struct.unpack("<i", head[:4])[0] in _NIFTI else ">"
    size = struct.unpack(f"{order}i", head[:4])[0]
    if size not in _NIFTI:
        raise ValueError("not NIfTI")
    for start, length in _NIFTI[size]:
        head[start : start + length] = bytes(length)
    if size == 348:
        shape = struct.unpack(f"{order}8h", head[40:56])
        bits, offset = struct.unpack(f"{order}h", head[72:74])[0], int(struct.unpack(f"{order}f", head[108:112])[0])
    else:
        shape = struct.unpack(f"{order}8q", head[16:80])
        bits, offset = struct.unpack(f"{order}h", head[14:16])[0], struct.unpack(f"{order}q", head[168:176])[0]
    if not 1 <= shape[0] <= 7 or offset < size + 4:
        raise ValueError("no voxels in the same file")
    count = int(np.prod([max(side, 1) for side in shape[1 : shape[0] + 1]], dtype=object)) * bits // 8
    if offset > _MOST_HEADER or not 0 <= count <= (_MOST_UNPACKED if packed else len(data)):
        raise ValueError("a volume that is cut off or too large")
    fresh = io.BytesIO()
    target: Any = gzip.GzipFile(fileobj=fresh, mode="wb", mtime=0) if packed else fresh
    with target if packed else nullcontext():
        target.write(bytes(head[:size]) + bytes(offset - size))
        source.seek(offset)
        while count and (part := source.read(min(count, 1 << 20))):  # never the whole volume at once
            target.write(part)
            count -= len(part)
    if count:
        raise ValueError("voxels are cut off")
    return fresh.getvalue()
