"""Damaged and hostile DICOM files: pydicom's test files with other bytes, elements, pixels, fragments and sequences."""

from __future__ import annotations

import io
import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from fuzzing.damage import Case, damage, pick
from fuzzing.dicom_files import (
    deflated_bomb,
    element,
    encapsulated,
    fragments_of,
    image,
    item,
    packed,
    parsed,
    put,
    seeds,
    written,
)  # fmt: skip

SHORTS = (
    b"",
    b"\0\0",
    b"\1\0",
    b"\2\0",
    b"\3\0",
    b"\x08\0",
    b"\x10\0",
    b"\xff\xff",
    b"\0\x80",
    b"\xff\x7f",
    b"\0\x40",
    b"\x01",
    b"\1\0\1\0",
    b"\x20\x4e",
    b"ab",
)
TEXTS = (
    b"", b"0", b"1", b"-1", b"nan", b"inf", b"-inf", b"1e308", b"-1e308", b"1e-320", b"1e400", b"0.0000000001",
    b"99999999999999999999", b"2147483647",
    b"1\\2\\3", b"\\", b"\\\\\\", b"abc", b"\0\0", b"\xff\xfe", b"1 ", b"9" * 2000, b"1\\" * 2000, b" ", b"1,5",
    b"0x10",
)  # fmt: skip
SHAPES = (0x00280002, 0x00280006, 0x00280010, 0x00280011, 0x00280100, 0x00280101, 0x00280102, 0x00280103)
NUMBERS = (
    0x00280008, 0x00281050, 0x00281051, 0x00281052, 0x00281053, 0x00280030, 0x00200032, 0x00200037, 0x00181164,
    0x00200013, 0x00101010, 0x00180050,
    0x3004000E, 0x00080020, 0x00080030, 0x00100030, 0x00082112, 0x00280009, 0x00281054, 0x00281055, 0x00281056,
    0x00080005, 0x00080060, 0x00080008,
)  # fmt: skip
TABLES = (
    0x00281101,
    0x00281102,
    0x00281103,
    0x00281201,
    0x00281202,
    0x00281203,
    0x00281221,
    0x00281222,
    0x00281223,
    0x00283002,
    0x00283006,
    0x00280120,
    0x00280121,
    0x00280106,
    0x00280107,
)
WORDS = (
    b"MONOCHROME1", b"MONOCHROME2", b"PALETTE COLOR", b"RGB", b"YBR_FULL", b"YBR_FULL_422", b"YBR_ICT",
    b"YBR_RCT", b"ARGB", b"CMYK", b"HSV", b"", b"RGB\\RGB", b"\xff",
)  # fmt: skip
SYNTAXES = (
    "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99",
    "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.50",
    "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.80",
    "1.2.840.10008.1.2.4.81",
    "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91", "1.2.840.10008.1.2.4.92", "1.2.840.10008.1.2.4.100",
    "1.2.840.10008.1.2.4.201", "1.2.3", "",
    "1.2.840.10008.1.1", "x" * 70,
)  # fmt: skip
VRS = ("SQ", "US", "SS", "UL", "FD", "OB", "OW", "UN", "DS", "IS", "LO", "AT", "UT", "OF", "UI", "PN", "DA", "ZZ")


def make_dicom(rng: np.random.Generator, folder: Path) -> Case:
    """Write a damaged or hostile DICOM file."""
    seed = pick(rng, seeds())
    ways = (_bytes, _bytes, _bytes, _elements, _elements, _elements, _syntax, _pixels, _pixels, _fragments,
        _fragments, _stream, _stream,
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


def _bytes(seed: bytes, rng: np.random.Generator) -> bytes:
    return damage(seed, rng, pick(rng, seeds()), head=3000)[0]


def _elements(seed: bytes, rng: np.random.Generator) -> bytes:
    """Give one to four elements of the image's shape, its numbers or its tables another value, some another type."""
    header = parsed(seed)
    for _ in range(int(rng.integers(1, 5))):
        where = rng.random()
        if where < 0.45:
            tag, kind, value = pick(rng, SHAPES), "US", pick(rng, SHORTS)
        elif where < 0.7:
            tag, kind, value = pick(rng, NUMBERS), "DS", pick(rng, TEXTS)
        elif where < 0.85:
            tag, kind, value = (
                pick(rng, TABLES),
                pick(rng, ("US", "SS", "OW")),
                b"".join(pick(rng, SHORTS) for _ in range(3)),
            )
        else:
            tag, kind, value = 0x00280004, "CS", pick(rng, WORDS)
        put(header, tag, pick(rng, VRS) if rng.random() < 0.1 else kind, value)
    return written(header)


def _syntax(seed: bytes, rng: np.random.Generator) -> bytes:
    """Say another transfer syntax than the file has."""
    old = bytes(parsed(seed).file_meta.TransferSyntaxUID, "ascii")
    new = pick(rng, SYNTAXES).encode()
    at = seed.index(old)
    size = len(old) + len(old) % 2
    stated = struct.pack("<H", len(new) + len(new) % 2) if rng.random() < 0.7 else seed[at - 2 : at]
    return seed[: at - 2] + stated + new + b"\0" * (len(new) % 2) + seed[at + size :]


def _pixels(seed: bytes, rng: np.random.Generator) -> bytes:
    """Give an image other pixel data: cut, longer, empty, of another element, or damaged."""
    header = parsed(seed)
    data = bytes(header.PixelData)
    changed = pick(
        rng, (b"", b"\0", data[: len(data) // 2], data[:-2], data + bytes(int(rng.integers(1, 5000))), data * 2, None)
    )
    if changed is None:
        changed = damage(data, rng, data)[0]
    if rng.random() < 0.25:
        del header[0x7FE00010]
        tag, kind = pick(rng, ((0x7FE00008, "OF"), (0x7FE00009, "OD"), (0x7FE00001, "OV"), (0x7FE00002, "OV")))
        put(header, tag, kind, changed)
        return written(header)
    header.PixelData = changed
    return written(header)


def _fragments(seed: bytes, rng: np.random.Generator) -> bytes:
    """Lie about the fragments of compressed pixels: their lengths, their table, their end, their number."""
    seed = pick(rng, packed())
    parts = fragments_of(seed)[1:] or [b""]
    table = pick(
        rng,
        (
            b"",
            struct.pack("<I", 0),
            struct.pack("<2I", 0, 2**32 - 2),
            struct.pack("<3I", 4, 0, 8),
            b"\0" * 4000,
            b"\1\2\3",
        ),
    )
    body = b"".join(item(part) for part in parts)
    end = pick(
        rng, (b"\xfe\xff\xdd\xe0\0\0\0\0", b"", b"\xfe\xff\xdd\xe0\xff\xff\xff\xff", b"\xfe\xff\x0d\xe0\0\0\0\0")
    )
    body = pick(rng, (
        body, body, item(parts[0], 2**32 - 1), item(parts[0], len(parts[0]) + 2), item(parts[0], 2**31),
        item(b"") * 5000 + body, b"", body[:-9],
        item(parts[0][:2]) * 3, b"".join(item(parts[0][at : at + 2]) for at in range(0, min(len(parts[0]),
            20_000), 2)), item(item(item(parts[0]))),
    ))  # fmt: skip
    frames = int(pick(rng, (1, 1, 2, 3, 1000, 2**31 - 1)))
    return encapsulated(seed, item(table) + body + end, NumberOfFrames=frames)


def _stream(seed: bytes, rng: np.random.Generator) -> bytes:
    """Damage a compressed codestream, most at its head; with the header made to agree with sizes that are claimed."""
    seed = pick(rng, packed())
    parts = fragments_of(seed)[1:] or [b""]
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
    return encapsulated(
        seed, item(b"") + item(bytes(stream) + b"\0" * (len(stream) % 2)) + b"\xfe\xff\xdd\xe0\0\0\0\0", None, **values
    )


def _nested(seed: bytes, rng: np.random.Generator) -> bytes:
    """Put in a sequence in a sequence, very many times, with lengths or without, or a very long one."""
    header = parsed(seed)
    deep, tag = (
        int(pick(rng, (10, 200, 3000, 30_000))),
        pick(rng, (b"\x40\x00\x30\xa7", b"\x08\x00\x40\x11", b"\x00\x52\x30\x92")),
    )
    body = b""
    if rng.random() < 0.6:
        body = (tag + b"SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff") * deep
        if rng.random() < 0.5:
            body += b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0" * deep
    else:
        body = tag + b"SQ\0\0\xff\xff\xff\xff" + (item(b"") * deep * 3) + b"\xfe\xff\xdd\xe0\0\0\0\0"
    start = written(header[:0x0008FFFF]) if rng.random() < 0.5 else written(header[:0x0028FFFF])
    rest = seed[seed.find(b"\x28\0\x02\0US") :] if rng.random() < 0.3 else b""
    meta = io.BytesIO()
    from pydicom.filewriter import write_file_meta_info

    write_file_meta_info(meta, header.file_meta, enforce_standard=False)
    return bytes(128) + b"DICM" + meta.getvalue() + start + body + rest


def _groups(seed: bytes, rng: np.random.Generator) -> bytes:
    """Put in functional groups that are empty, doubled, too few, or of other things, and look-up tables that lie."""
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence

    header = parsed(seed)
    table = Dataset()
    table.LUTDescriptor = [
        int(pick(rng, (0, 1, 3, 256, 65_535))),
        int(pick(rng, (0, 65_535, 100))),
        int(pick(rng, (0, 1, 8, 12, 16, 99))),
    ]
    table.add_new(
        0x00283006,
        pick(rng, ("US", "OW")),
        b"" if rng.random() < 0.3 else bytes(rng.integers(0, 256, int(rng.integers(0, 600)) * 2, np.uint8)),
    )
    window, change, group = Dataset(), Dataset(), Dataset()
    for each, name in (
        (window, "WindowCenter"),
        (window, "WindowWidth"),
        (change, "RescaleSlope"),
        (change, "RescaleIntercept"),
    ):
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
    return written(header)


def _put_raw(item_: Any, name: str, value: bytes) -> None:
    from pydicom.datadict import tag_for_keyword
    from pydicom.dataelem import RawDataElement
    from pydicom.tag import Tag

    tag = Tag(tag_for_keyword(name))
    value += b" " * (len(value) % 2)
    item_._dict[tag] = RawDataElement(tag, "DS", len(value), value, 0, False, True)


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
        lambda: image(side, side, b"", "1.2.840.10008.1.2.5", packed=True)
        + b"\xe0\x7f\x10\0OB\0\0\xff\xff\xff\xff" + item(b"") + item(runs) + b"\xfe\xff\xdd\xe0\0\0\0\0",
    ))()  # fmt: skip


def _kind(seed: bytes, rng: np.random.Generator) -> bytes:
    """Give some elements another type than they have, or another length."""
    header = parsed(seed)
    tags = list(header._dict)
    for _ in range(int(rng.integers(1, 6))):
        tag = pick(rng, tags)
        raw = header._dict[tag]
        if getattr(raw, "is_raw", False) and raw.value:
            value = raw.value if rng.random() < 0.6 else bytes(raw.value)[: int(rng.integers(len(raw.value)))]
            header._dict[tag] = raw._replace(VR=pick(rng, VRS), value=value, length=len(value))
    return written(header)


def _missing(seed: bytes, rng: np.random.Generator) -> bytes:
    """Leave out some elements."""
    header = parsed(seed)
    for tag in list(header.keys()):
        if rng.random() < pick(rng, (0.05, 0.3)):
            del header[tag]
    return written(header)


def _loose(seed: bytes, rng: np.random.Generator) -> bytes:
    """Leave out the preamble, the file meta or both, or have only these."""
    at = seed.find(b"DICM")
    return pick(
        rng,
        (
            seed[at + 4 :],
            seed[132:],
            seed[:132],
            b"DICM" + seed[132:],
            seed[: at + 40],
            bytes(128) + b"DICM" + seed[at + 4 + 200 :],
            bytes(200),
            seed[300:],
        ),
    )
