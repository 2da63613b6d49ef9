"""What DICOM cases are made of: pydicom's test files, elements and fragments as bytes, and small files made by hand."""

from __future__ import annotations

import importlib.util
import io
import logging
import struct
import zlib
from functools import lru_cache
from pathlib import Path
from typing import Any

from fuzzing.damage import deflated_zeros

MOST = 2 << 20  # bytes of a file to start from


@lru_cache(maxsize=1)
def seeds() -> tuple[bytes, ...]:
    """Read pydicom's test files, those that aren't large."""
    import pydicom

    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    folders = [Path(pydicom.__file__).parent / "data"]
    more = importlib.util.find_spec("data_store")  # of the package pydicom-data
    folders += [Path(place) for place in more.submodule_search_locations or ()] if more is not None else []
    paths = {path.name: path for folder in folders for path in folder.rglob("*.dcm") if path.stat().st_size <= MOST}
    return tuple(paths[name].read_bytes() for name in sorted(paths))


def parsed(data: bytes) -> Any:
    """Parse a file as far as it goes."""
    import pydicom

    return pydicom.dcmread(io.BytesIO(data), force=True)


def written(header: Any) -> bytes:
    """Write a data set, whatever it lacks."""
    file = io.BytesIO()
    header.save_as(file, enforce_file_format=False)
    return file.getvalue()


def put(header: Any, tag: int, kind: str, value: bytes) -> None:
    """Put in an element as its bytes, whatever they are."""
    from pydicom.dataelem import RawDataElement
    from pydicom.tag import Tag

    implicit, little = header.original_encoding
    value += b"\0" * (len(value) % 2 and tag != 0x00280010)
    header._dict[Tag(tag)] = RawDataElement(Tag(tag), kind, len(value), value, 0, bool(implicit), bool(little))


def item(data: bytes, size: int | None = None, tag: bytes = b"\xfe\xff\x00\xe0") -> bytes:
    """Give an item of a sequence, with its length or another."""
    return tag + struct.pack("<I", len(data) if size is None else size % 2**32) + data


def encapsulated(seed: bytes, parts: bytes, syntax: str | None = None, **values: int) -> bytes:
    """Give a file with other encapsulated pixel data, an offset table and its fragments, and other numbers."""
    header = parsed(seed)
    for name, value in values.items():
        setattr(header, name, value)
    if syntax is not None:
        header.file_meta.TransferSyntaxUID = syntax
    del header[0x7FE00010]
    header.preamble = header.preamble or bytes(128)
    start = written(header)
    return start + b"\xe0\x7f\x10\x00OB\0\0\xff\xff\xff\xff" + parts


@lru_cache(maxsize=1)
def packed() -> tuple[bytes, ...]:
    """List the seeds with compressed pixels in explicit little endian."""
    found = []
    for data in seeds():
        header = parsed(data)
        name = getattr(getattr(header, "file_meta", None), "TransferSyntaxUID", None)
        if name is not None and name.is_transfer_syntax and name.is_encapsulated and "PixelData" in header:
            found.append(data)
    return tuple(found)


def fragments_of(seed: bytes) -> list[bytes]:
    """List the items of a file's pixel data, the offset table first."""
    from pydicom.encaps import generate_fragments

    return list(generate_fragments(parsed(seed).PixelData))


def element(tag: int, kind: str, value: bytes, size: int | None = None) -> bytes:
    """Give an element in explicit little endian, with its length or another."""
    length = len(value) if size is None else size
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + kind.encode()
    long = kind in ("OB", "OW", "OF", "OD", "SQ", "UN", "UT")
    return head + (b"\0\0" + struct.pack("<I", length) if long else struct.pack("<H", length)) + value


def image(
    rows: int, columns: int, pixels: bytes, syntax: str = "1.2.840.10008.1.2.1", *, bits: int = 8, packed: bool = False
) -> bytes:
    """Give a small whole file, made by hand: its pixels plain, or the whole data set deflated."""
    uid = syntax.encode() + b"\0" * (len(syntax) % 2)
    meta = element(0x00020010, "UI", uid)
    meta = element(0x00020000, "UL", struct.pack("<I", len(meta))) + meta
    body = element(0x00080016, "UI", b"1.2.840.10008.5.1.4.1.1.7\0") + element(0x00080060, "CS", b"CT")
    body += b"".join(element(tag, "US", struct.pack("<H", value)) for tag, value in ((0x00280002, 1),))
    body += element(0x00280004, "CS", b"MONOCHROME2 ")
    for tag, value in (
        (0x00280010, rows),
        (0x00280011, columns),
        (0x00280100, bits),
        (0x00280101, bits),
        (0x00280102, bits - 1),
        (0x00280103, 0),
    ):
        body += element(tag, "US", struct.pack("<H", value))
    return bytes(128) + b"DICM" + meta + (body if packed else body + element(0x7FE00010, "OW", pixels))


def deflated_bomb(mebibytes: int, rows: int, columns: int) -> bytes:
    """Give a deflated file whose pixel data is very many zeros."""
    whole = image(rows, columns, b"", "1.2.840.10008.1.2.1.99", packed=True)
    at = whole.index(b"\x08\0\x16\0UI")
    head = whole[at:] + element(0x7FE00010, "OW", b"", (mebibytes << 20) % 2**32)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return (
        whole[:at] + packer.compress(head) + packer.flush(zlib.Z_FULL_FLUSH) + deflated_zeros(mebibytes, wrapped=False)
    )
