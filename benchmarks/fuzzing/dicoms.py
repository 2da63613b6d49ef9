"""Damaged and hostile DICOM files: pydicom's test files with other bytes, elements, pixels, fragments and sequences."""

from __future__ import annotations

import importlib.util
import io
import logging
import struct
import warnings
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from fuzzing.damage import Case, damage, deflated_zeros, pick

MOST = 2 << 20  # bytes of a file to start from
SHORTS = (b"", b"\0\0", b"\1\0", b"\2\0", b"\3\0", b"\x08\0", b"\x10\0", b"\xff\xff", b"\0\x80", b"\xff\x7f", b"\0\x40", b"\x01", b"\1\0\1\0", b"\x20\x4e", b"ab")
TEXTS = (
    b"", b"0", b"1", b"-1", b"nan", b"inf", b"-inf", b"1e308", b"-1e308", b"1e-320", b"1e400", b"0.0000000001", b"99999999999999999999", b"2147483647",
    b"1\\2\\3", b"\\", b"\\\\\\", b"abc", b"\0\0", b"\xff\xfe", b"1 ", b"9" * 2000, b"1\\" * 2000, b" ", b"1,5", b"0x10",
)  # fmt: skip
SHAPES = (0x00280002, 0x00280006, 0x00280010, 0x00280011, 0x00280100, 0x00280101, 0x00280102, 0x00280103)
NUMBERS = (
    0x00280008, 0x00281050, 0x00281051, 0x00281052, 0x00281053, 0x00280030, 0x00200032, 0x00200037, 0x00181164, 0x00200013, 0x00101010, 0x00180050,
    0x3004000E, 0x00080020, 0x00080030, 0x00100030, 0x00082112, 0x00280009, 0x00281054, 0x00281055, 0x00281056, 0x00080005, 0x00080060, 0x00080008,
)  # fmt: skip
TABLES = (0x00281101, 0x00281102, 0x00281103, 0x00281201, 0x00281202, 0x00281203, 0x00281221, 0x00281222, 0x00281223, 0x00283002, 0x00283006, 0x00280120, 0x00280121, 0x00280106, 0x00280107)
WORDS = (
    b"MONOCHROME1", b"MONOCHROME2", b"PALETTE COLOR", b"RGB", b"YBR_FULL", b"YBR_FULL_422", b"YBR_ICT", b"YBR_RCT", b"ARGB", b"CMYK", b"HSV", b"", b"RGB\\RGB", b"\xff",
)  # fmt: skip
SYNTAXES = (
    "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.50",
    "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81",
    "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91", "1.2.840.10008.1.2.4.92", "1.2.840.10008.1.2.4.100", "1.2.840.10008.1.2.4.201", "1.2.3", "",
    "1.2.840.10008.1.1", "x" * 70,
)  # fmt: skip
VRS = ("SQ", "US", "SS", "UL", "FD", "OB", "OW", "UN", "DS", "IS", "LO", "AT", "UT", "OF", "UI", "PN", "DA", "ZZ")


def make_dicom(rng: np.random.Generator, folder: Path) -> Case:
    """Write a damaged or hostile DICOM file."""
    seed = pick(rng, seeds())
    ways = (_bytes, _bytes, _bytes, _elements, _elements, _elements, _syntax, _pixels, _pixels, _fragments, _fragments, _stream, _stream,
            _nested, _groups, _bomb, _kind, _missing, _loose)  # fmt: skip
    way = pick(rng, ways)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            data, how = way(seed, rng), way.__name__.strip("_")
        except Exception:  # pydicom doesn't write what it is asked for
            data, how = _bytes(seed, rng), "bytes"
    path = folder / pick(rng, ("case.dcm", "case.dcm", "case.dcm", "case", "case.DICOM", "IM0001.case"))
    path.write_bytes(data)
    return Case(path, how)


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


def _parsed(data: bytes) -> Any:
    import pydicom

    return pydicom.dcmread(io.BytesIO(data), force=True)


def _written(header: Any) -> bytes:
    file = io.BytesIO()
    header.save_as(file, enforce_file_format=False)
    return file.getvalue()


def _put(header: Any, tag: int, kind: str, value: bytes) -> None:
    """Put in an element as its bytes, whatever they are."""
    from pydicom.dataelem import RawDataElement
    from pydicom.tag import Tag

    implicit, little = header.original_encoding
    value += b"\0" * (len(value) % 2 and tag != 0x00280010)
    header._dict[Tag(tag)] = RawDataElement(Tag(tag), kind, len(value), value, 0, bool(implicit), bool(little))


def _bytes(seed: bytes, rng: np.random.Generator) -> bytes:
    return damage(seed, rng, pick(rng, seeds()), head=3000)[0]


def _elements(seed: bytes, rng: np.random.Generator) -> bytes:
    """Give one to four elements of the image's shape, its numbers or its tables another value, some another type."""
    header = _parsed(seed)
    for _ in range(int(rng.integers(1, 5))):
        where = rng.random()
        if where < 0.45:
            tag, kind, value = pick(rng, SHAPES), "US", pick(rng, SHORTS)
        elif where < 0.7:
            tag, kind, value = pick(rng, NUMBERS), "DS", pick(rng, TEXTS)
        elif where < 0.85:
            tag, kind, value = pick(rng, TABLES), pick(rng, ("US", "SS", "OW")), b"".join(pick(rng, SHORTS) for _ in range(3))
        else:
            tag, kind, value = 0x00280004, "CS", pick(rng, WORDS)
        _put(header, tag, pick(rng, VRS) if rng.random() < 0.1 else kind, value)
    return _written(header)


def _syntax(seed: bytes, rng: np.random.Generator) -> bytes:
    """Say another transfer syntax than the file has."""
    old = bytes(_parsed(seed).file_meta.TransferSyntaxUID, "ascii")
    new = pick(rng, SYNTAXES).encode()
    at = seed.index(old)
    size = len(old) + len(old) % 2
    stated = struct.pack("<H", len(new) + len(new) % 2) if rng.random() < 0.7 else seed[at - 2 : at]
    return seed[: at - 2] + stated + new + b"\0" * (len(new) % 2) + seed[at + size :]


def _pixels(seed: bytes, rng: np.random.Generator) -> bytes:
    """Give an image other pixel data: cut, longer, empty, of another element, or damaged."""
    header = _parsed(seed)
    data = bytes(header.PixelData)
    changed = pick(rng, (b"", b"\0", data[: len(data) // 2], data[:-2], data + bytes(int(rng.integers(1, 5000))), data * 2, None))
    if changed is None:
        changed = damage(data, rng, data)[0]
    if rng.random() < 0.25:
        del header[0x7FE00010]
        tag, kind = pick(rng, ((0x7FE00008, "OF"), (0x7FE00009, "OD"), (0x7FE00001, "OV"), (0x7FE00002, "OV")))
        _put(header, tag, kind, changed)
        return _written(header)
    header.PixelData = changed
    return _written(header)


def item(data: bytes, size: int | None = None, tag: bytes = b"\xfe\xff\x00\xe0") -> bytes:
    """Give an item of a sequence, with its length or another."""
    return tag + struct.pack("<I", len(data) if size is None else size % 2**32) + data


def encapsulated(seed: bytes, parts: bytes, syntax: str | None = None, **values: int) -> bytes:
    """Give a file with other encapsulated pixel data, an offset table and its fragments, and other numbers."""
    header = _parsed(seed)
    for name, value in values.items():
        setattr(header, name, value)
    if syntax is not None:
        header.file_meta.TransferSyntaxUID = syntax
    del header[0x7FE00010]
    header.preamble = header.preamble or bytes(128)
    start = _written(header)
    return start + b"\xe0\x7f\x10\x00OB\0\0\xff\xff\xff\xff" + parts


@lru_cache(maxsize=1)
def packed() -> tuple[bytes, ...]:
    """List the seeds with compressed pixels in explicit little endian."""
    found = []
    for data in seeds():
        header = _parsed(data)
        name = getattr(getattr(header, "file_meta", None), "TransferSyntaxUID", None)
        if name is not None and name.is_transfer_syntax and name.is_encapsulated and "PixelData" in header:
            found.append(data)
    return tuple(found)


def _frames(seed: bytes) -> list[bytes]:
    from pydicom.encaps import generate_fragments

    return list(generate_fragments(_parsed(seed).PixelData))


def _fragments(seed: bytes, rng: np.random.Generator) -> bytes:
    """Lie about the fragments of compressed pixels: their lengths, their table, their end, their number."""
    seed = pick(rng, packed())
    parts = _frames(seed)[1:] or [b""]
    table = pick(rng, (b"", struct.pack("<I", 0), struct.pack("<2I", 0, 2**32 - 2), struct.pack("<3I", 4, 0, 8), b"\0" * 4000, b"\1\2\3"))
    body = b"".join(item(part) for part in parts)
    end = pick(rng, (b"\xfe\xff\xdd\xe0\0\0\0\0", b"", b"\xfe\xff\xdd\xe0\xff\xff\xff\xff", b"\xfe\xff\x0d\xe0\0\0\0\0"))
    body = pick(rng, (
        body, body, item(parts[0], 2**32 - 1), item(parts[0], len(parts[0]) + 2), item(parts[0], 2**31), item(b"") * 5000 + body, b"", body[:-9],
        item(parts[0][:2]) * 3, b"".join(item(parts[0][at : at + 2]) for at in range(0, min(len(parts[0]), 20_000), 2)), item(item(item(parts[0]))),
    ))  # fmt: skip
    frames = int(pick(rng, (1, 1, 2, 3, 1000, 2**31 - 1)))
    return encapsulated(seed, item(table) + body + end, NumberOfFrames=frames)


def _stream(seed: bytes, rng: np.random.Generator) -> bytes:
    """Damage a compressed codestream, most at its head; with the header made to agree with sizes that are claimed."""
    seed = pick(rng, packed())
    parts = _frames(seed)[1:] or [b""]
    stream = bytearray(parts[0])
    side = int(pick(rng, (0, 1, 4096, 13_000, 20_000, 65_535)))
    values: dict[str, int] = {}
    how = rng.random()
    if stream[:4] == b"\xff\x4f\xff\x51" and how < 0.6:
        places = pick(rng, ((8, 12), (8, 12, 24, 28), (24, 28), (16, 20), (32, 36)))
        for at in places:
            stream[at : at + 4] = struct.pack(">I", side)
        values = {"Rows": side, "Columns": side}
    elif stream[:2] == b"\xff\xd8" and how < 0.6:
        for mark in (0xC0, 0xC1, 0xC2, 0xC3, 0xF7):
            at = bytes(stream).find(bytes([0xFF, mark]))
            if at > 0:
                stream[at + 5 : at + 9] = struct.pack(">HH", side, side)
                values = {"Rows": side, "Columns": side}
                break
    elif len(stream) > 64 and int.from_bytes(stream[:4], "little") < 16 and how < 0.6:
        at = 4 * int(rng.integers(16))
        stream[at : at + 4] = struct.pack("<I", int(pick(rng, (0, 1, 2, 15, 16, 255, 64, 2**31, 2**32 - 1))))
        if rng.random() < 0.4:
            values = {"Rows": side, "Columns": side}
    else:
        stream = bytearray(damage(bytes(stream), rng, parts[0], head=200)[0])
    if rng.random() < 0.3:
        values = {}
    return encapsulated(seed, item(b"") + item(bytes(stream) + b"\0" * (len(stream) % 2)) + b"\xfe\xff\xdd\xe0\0\0\0\0", None, **values)


def _nested(seed: bytes, rng: np.random.Generator) -> bytes:
    """Put in a sequence in a sequence, very many times, with lengths or without, or a very long one."""
    header = _parsed(seed)
    deep, tag = int(pick(rng, (10, 200, 3000, 30_000))), pick(rng, (b"\x40\x00\x30\xa7", b"\x08\x00\x40\x11", b"\x00\x52\x30\x92"))
    body = b""
    if rng.random() < 0.6:
        body = (tag + b"SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff") * deep
        if rng.random() < 0.5:
            body += b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0" * deep
    else:
        body = tag + b"SQ\0\0\xff\xff\xff\xff" + (item(b"") * deep * 3) + b"\xfe\xff\xdd\xe0\0\0\0\0"
    start = _written(header[:0x0008FFFF]) if rng.random() < 0.5 else _written(header[:0x0028FFFF])
    rest = seed[seed.find(b"\x28\0\x02\0US") :] if rng.random() < 0.3 else b""
    meta = io.BytesIO()
    from pydicom.filewriter import write_file_meta_info

    write_file_meta_info(meta, header.file_meta, enforce_standard=False)
    return bytes(128) + b"DICM" + meta.getvalue() + start + body + rest


def _groups(seed: bytes, rng: np.random.Generator) -> bytes:
    """Put in functional groups that are empty, doubled, too few, or of other things, and look-up tables that lie."""
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence

    header = _parsed(seed)
    table = Dataset()
    table.LUTDescriptor = [int(pick(rng, (0, 1, 3, 256, 65_535))), int(pick(rng, (0, 65_535, 100))), int(pick(rng, (0, 1, 8, 12, 16, 99)))]
    table.add_new(0x00283006, pick(rng, ("US", "OW")), b"" if rng.random() < 0.3 else bytes(rng.integers(0, 256, int(rng.integers(0, 600)) * 2, np.uint8)))
    window, change, group = Dataset(), Dataset(), Dataset()
    for each, name in ((window, "WindowCenter"), (window, "WindowWidth"), (change, "RescaleSlope"), (change, "RescaleIntercept")):
        if rng.random() < 0.8:
            _put_raw(each, name, pick(rng, TEXTS))
    group.FrameVOILUTSequence = Sequence(pick(rng, ([window], [], [window, window])))
    group.PixelValueTransformationSequence = Sequence(pick(rng, ([change], [])))
    if rng.random() < 0.6:
        header.SharedFunctionalGroupsSequence = Sequence(pick(rng, ([group], [], [Dataset()])))
    if rng.random() < 0.6:
        header.PerFrameFunctionalGroupsSequence = Sequence(pick(rng, ([group], [], [group] * 2000)))
    if rng.random() < 0.5:
        header.VOILUTSequence = Sequence(pick(rng, ([table], [], [Dataset()])))
    if rng.random() < 0.5:
        header.ModalityLUTSequence = Sequence(pick(rng, ([table], [], [Dataset()])))
    return _written(header)


def _put_raw(item_: Any, name: str, value: bytes) -> None:
    from pydicom.datadict import tag_for_keyword
    from pydicom.dataelem import RawDataElement
    from pydicom.tag import Tag

    tag = Tag(tag_for_keyword(name))
    value += b" " * (len(value) % 2)
    item_._dict[tag] = RawDataElement(tag, "DS", len(value), value, 0, False, True)


def element(tag: int, kind: str, value: bytes, size: int | None = None) -> bytes:
    """Give an element in explicit little endian, with its length or another."""
    length = len(value) if size is None else size
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + kind.encode()
    long = kind in ("OB", "OW", "OF", "OD", "SQ", "UN", "UT")
    return head + (b"\0\0" + struct.pack("<I", length) if long else struct.pack("<H", length)) + value


def image(rows: int, columns: int, pixels: bytes, syntax: str = "1.2.840.10008.1.2.1", *, bits: int = 8, packed: bool = False) -> bytes:
    """Give a small whole file, made by hand: its pixels plain, or the whole data set deflated."""
    uid = syntax.encode() + b"\0" * (len(syntax) % 2)
    meta = element(0x00020010, "UI", uid)
    meta = element(0x00020000, "UL", struct.pack("<I", len(meta))) + meta
    body = element(0x00080016, "UI", b"1.2.840.10008.5.1.4.1.1.7\0") + element(0x00080060, "CS", b"CT")
    body += b"".join(element(tag, "US", struct.pack("<H", value)) for tag, value in ((0x00280002, 1),))
    body += element(0x00280004, "CS", b"MONOCHROME2 ")
    for tag, value in ((0x00280010, rows), (0x00280011, columns), (0x00280100, bits), (0x00280101, bits), (0x00280102, bits - 1), (0x00280103, 0)):
        body += element(tag, "US", struct.pack("<H", value))
    return bytes(128) + b"DICM" + meta + (body if packed else body + element(0x7FE00010, "OW", pixels))


def deflated_bomb(mebibytes: int, rows: int, columns: int) -> bytes:
    """Give a deflated file whose pixel data is very many zeros."""
    import zlib

    whole = image(rows, columns, b"", "1.2.840.10008.1.2.1.99", packed=True)
    at = whole.index(b"\x08\0\x16\0UI")
    head = whole[at:] + element(0x7FE00010, "OW", b"", (mebibytes << 20) % 2**32)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return whole[:at] + packer.compress(head) + packer.flush(zlib.Z_FULL_FLUSH) + deflated_zeros(mebibytes, wrapped=False)


def _bomb(seed: bytes, rng: np.random.Generator) -> bytes:
    """Claim far more than there is: deflated zeros, huge sides, an element of four gigabytes, a run of one byte."""
    side = int(pick(rng, (64, 12_000, 20_000, 40_000)))
    runs = struct.pack("<16I", 1, 64, *[0] * 14) + b"\x81\0" * 40_000
    lies = element(0x7FE00010, "OW", b"\0" * 64, int(pick(rng, (2**32 - 2, 2**31, 2**30))))
    return pick(rng, (
        lambda: deflated_bomb(int(pick(rng, (100, 1500, 3000))), side, side),
        lambda: image(side, side, bytes(64)),
        lambda: image(side, side, b"", packed=True) + lies,
        lambda: image(8, 8, bytes(64), bits=8)[:-72] + element(0x00204000, "UT", b"a", 2**32 - 2),
        lambda: image(side, side, b"", "1.2.840.10008.1.2.5", packed=True) + b"\xe0\x7f\x10\0OB\0\0\xff\xff\xff\xff" + item(b"") + item(runs) + b"\xfe\xff\xdd\xe0\0\0\0\0",
    ))()  # fmt: skip


def _kind(seed: bytes, rng: np.random.Generator) -> bytes:
    """Give some elements another type than they have, or another length."""
    header = _parsed(seed)
    tags = list(header._dict)
    for _ in range(int(rng.integers(1, 6))):
        tag = pick(rng, tags)
        raw = header._dict[tag]
        if getattr(raw, "is_raw", False) and raw.value:
            value = raw.value if rng.random() < 0.6 else bytes(raw.value)[: int(rng.integers(len(raw.value)))]
            header._dict[tag] = raw._replace(VR=pick(rng, VRS), value=value, length=len(value))
    return _written(header)


def _missing(seed: bytes, rng: np.random.Generator) -> bytes:
    """Leave out some elements."""
    header = _parsed(seed)
    for tag in list(header.keys()):
        if rng.random() < pick(rng, (0.05, 0.3)):
            del header[tag]
    return _written(header)


def _loose(seed: bytes, rng: np.random.Generator) -> bytes:
    """Leave out the preamble, the file meta or both, or have only these."""
    at = seed.find(b"DICM")
    return pick(rng, (seed[at + 4 :], seed[132:], seed[:132], b"DICM" + seed[132:], seed[: at + 40], bytes(128) + b"DICM" + seed[at + 4 + 200 :], bytes(200), seed[300:]))
