"""Damaged and hostile tars of samples: their headers, names, links, records, members, index and `shards.json`."""

from __future__ import annotations

import json
import os
import struct
from functools import lru_cache
from pathlib import Path

import numpy as np

from fuzzing.damage import INTERESTING, Case, damage, pick
from fuzzing.pictures import make_jpeg, make_png, seeds

Members = list[tuple[str, bytes]]

NAMES = (
    b"../out.png", b"/etc/out.png", b"a/../../out.png", b"..", b"c:\\out.png", b"..\\out.png", b"caf\xe9.png",
    b"a\nb.png",
    b"\x1b[31mred.png", b"", b".", b"./a.png", b".hidden", b"noext", b"a.b.c.d.png", b"x" * 100, b"a.",
        b"a//b.png", b"a.PNG",
    b"\xff\xfe.txt", b"__a__/b.png", b"a.png/b.png", b"a.png\0b",
)  # fmt: skip
DEEP = (b"[" * 100_000, b'{"a":' * 100_000, b"[" * 900 + b"]" * 900)
OBJECTS = (
    *DEEP, b'{"text": "\\ud800 half"}', b"[]", b"3", b"", b"nan", b'{"text": NaN}', b'{"label": [1, [2]]}', b"\xff{}",
    b'{"boxes": [{"label": "a", "xyxy": [0, 0, 1e400, 2]}]}', b'{"boxes": [{"label": "a", "xyxy": [0, 0, '
        + b"9" * 400 + b", 2]}]}",
    b'{"boxes": ' + b"[" * 3000 + b"]" * 3000 + b"}",
    b'{"width": 0.5, "height": 0.5, "boxes": [{"label": "a", "xyxy": [0, 0, 2, 2]}]}',
    b'{"width": -3, "height": 1e300, "boxes": [{"label": "a", "xyxy": [0, 0, 2, 2]}]}', b'{"boxes": "'
        + b"[" * 50_000 + b'"}',
    b'{"boxes": [{"label": "a", "xyxy": [' + b"1," * 50_000 + b"1]}]}", b'{"offset_days": "1e999"}',
    b'{"offset_days": ' + b"9" * 5000 + b"}",
    b'{"modality": "' + b"x" * 100_000 + b'"}', b'{"label": "' + b"a;" * 50_000 + b'"}',
    b'{"text": "a\\u0000b"}', b'{"a": 1}{"b": 2}',
    b"\xef\xbb\xbf{}", b'{"text": {"a": {"b": 1}}}', b'{"modality": ["ct"]}', b'{"modality": "ct", "modality": 7}',
)  # fmt: skip
CLASSES = ("²".encode(), b"9" * 5000, b"-1", b"1.5", b"", b"7", b"\xff", "٣".encode(), b"a;b;c", b"nan", b"\0")


def make_tar(rng: np.random.Generator, folder: Path) -> Case:
    """Write a damaged or hostile tar."""
    path = folder / "case.tar"
    ways = (_bytes, _field, _field, _name, _link, _records, _records, _chain, _sparse, _member, _member, _array,
        _array, _object,
            _object, _picture, _extensions, _index, _index, _common)  # fmt: skip
    way = pick(rng, ways)
    path.write_bytes(tar_of(members()))
    way(path, rng)
    return Case(path, way.__name__.strip("_"), (path.name, "shards.json"))


def header(
    name: bytes,
    size: int | bytes,
    kind: bytes = b"0",
    *,
    link: bytes = b"",
    magic: bytes = b"ustar\x0000",
    prefix: bytes = b"",
) -> bytes:
    """Give a tar's header with a right checksum."""
    stated = size if isinstance(size, bytes) else b"%011o\0" % size
    return sealed(
        name[:100].ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2 + stated[:12].ljust(12, b"\0")
        + b"0" * 11 + b"\0"
        + b" " * 8 + kind + link[:100].ljust(100, b"\0") + magic + bytes(32 + 32 + 16) + prefix[:155].ljust(155,
            b"\0") + bytes(12)
    )  # fmt: skip


def sealed(block: bytes) -> bytes:
    """Put the right checksum into a header."""
    total = sum(block[:148]) + 8 * 32 + sum(block[156:512])
    return block[:148] + b"%06o\0 " % total + block[156:512]


def padded(data: bytes) -> bytes:
    """Fill up the last block."""
    return data + bytes(-len(data) % 512)


def tar_of(files: Members) -> bytes:
    """Give a whole tar."""
    return b"".join(header(name.encode(), len(data)) + padded(data) for name, data in files) + bytes(1024)


def members() -> Members:
    """List the files of a few good samples."""
    facts = {
        "modality": "ct",
        "label": "nodule",
        "boxes": [{"label": "nodule", "xyxy": [1, 1, 9, 9]}],
        "patient_id": "p1",
    }
    return [
        ("a.jpg", seeds("jpg")[0]), ("a.txt", b"A small nodule."), ("a.json", json.dumps(facts).encode()),
        ("b.png", seeds("png")[1]), ("b.cls", b"1"), ("b.txt", "Räume frei.".encode()),
        ("c.npy", array(np.arange(12, dtype=np.uint16).reshape(3, 4))), ("c.txt", b"An array."),
    ]  # fmt: skip


@lru_cache(maxsize=1)
def _whole() -> bytes:
    return tar_of(members())


def array(values: np.ndarray) -> bytes:
    """Give the bytes that numpy.save would write."""
    return npy(
        repr({"descr": values.dtype.str, "fortran_order": False, "shape": values.shape}).encode(), values.tobytes()
    )


def npy(about: bytes, data: bytes, version: tuple[int, int] = (1, 0), stated: int | None = None) -> bytes:
    """Give an array's file with any header."""
    size = len(about) if stated is None else stated
    return b"\x93NUMPY" + bytes(version) + struct.pack("<H" if version[0] == 1 else "<I", size % 2**16) + about + data


def _replace(path: Path, rng: np.random.Generator, name: str, data: bytes) -> None:
    path.write_bytes(tar_of([(each, data if each == name else old) for each, old in members()]))


def _bytes(path: Path, rng: np.random.Generator) -> None:
    path.write_bytes(damage(_whole(), rng, _whole(), head=2048)[0])


def _field(path: Path, rng: np.random.Generator) -> None:
    """Change a field of a header and seal it again: the size, the kind, the magic, the mode, times and owners."""
    data, at = _whole(), 0
    places = []
    for name, content in members():
        places.append((at, name))
        at += 512 + len(padded(content))
    at = pick(rng, places)[0]
    block = bytearray(data[at : at + 512])
    start, size = pick(
        rng, ((124, 12), (124, 12), (156, 1), (156, 1), (257, 8), (100, 8), (136, 12), (108, 8), (329, 16), (345, 155))
    )
    numbers = (b"\x80" + b"\0" * 10 + b"\1", b"\xff" * 12, b"\x80" + b"\x7f" + b"\xff" * 10, b"\x80\0\0\0"
        + b"\x7f" * 8, b"77777777777\0",
               b"99999999999\0", b"-0000000001\0", b"", b"            ", b"0" * 12, b"00000000001\0", b"\x80"
               + bytes(6) + b"\1" + bytes(4))  # fmt: skip
    value = (
        pick(rng, [bytes([each]) for each in b"01234567xgLKSDMNVXA\0\xff"])
        if size == 1
        else pick(rng, (*numbers, *INTERESTING))
    )
    block[start : start + size] = value[:size].ljust(size, b"\0")
    path.write_bytes(data[:at] + sealed(bytes(block)) + data[at + 512 :])


def _name(path: Path, rng: np.random.Generator) -> None:
    """Give a member a name that leads elsewhere, isn't text, or has no sense."""
    name, data = pick(rng, NAMES), seeds("png")[0]
    long = header(b"././@LongLink", len(name) + 1, b"L") + padded(name + b"\0")
    record = b"%d path=%s\n" % (len(name) + 6 + len(str(len(name) + 8)) + 1, name)
    head = pick(rng, (header(name, len(data)), long + header(b"short.png", len(data)), header(b"pax",
        len(record), b"x") + padded(record)
                      + header(b"short.png", len(data)), header(b"x.png", len(data), prefix=name)))  # fmt: skip
    path.write_bytes(head + padded(data) + _whole())


def _link(path: Path, rng: np.random.Generator) -> None:
    """Put in a link, a device, a pipe or a folder."""
    kind = pick(rng, (b"1", b"2", b"3", b"4", b"5", b"6", b"7"))
    target = pick(rng, (b"a.jpg", b"../../etc/passwd", b"/etc/passwd", b"loop.png", b""))
    path.write_bytes(header(b"loop.png", pick(rng, (0, 9)), kind, link=target) + _whole())


def _records(path: Path, rng: np.random.Generator) -> None:
    """Put in extended records that lie about their length, or say what can't be."""
    said = pick(rng, (
        b"999999999 path=x.png\n", b"0 path=x.png\n", b"-5 path=x.png\n", b"5 a=\n", b"16 path=x.png",
        b"path=x\n", b"9 =x.png\n", b"18 size=-1000000\n",
        b"28 size=9999999999999999999\n", b"12 size=x1\n", b"12 size=99\n", b"22 GNU.sparse.major=1\n",
        b"19 mtime=1e999999\n", b"13 mtime=nan\n",
        b"21 hdrcharset=BINARY\n", b"22 GNU.sparse.map=1,x\n22 GNU.sparse.size=99\n",
        b"25 GNU.sparse.numblocks=x\n24 GNU.sparse.realsize=-1\n",
        b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n26 GNU.sparse.realsize=10\n23 GNU.sparse.name=a.b\n",
        b"9" * 5000 + b" path=x\n",
        b"11 path=\xff\xfe\n", b"20 path=../../a.png\n", b"\0" * 30, b"9 path=\n", b"23 SCHILY.xattr.user=1\n" * 500,
    ))  # fmt: skip
    size = pick(rng, (len(said), len(said), 2**33 - 1, b"\x80" + b"\0" * 3 + b"\x7f" + b"\0" * 7, len(said) + 5, 0))
    kind = pick(rng, (b"x", b"x", b"g", b"L", b"K", b"X"))
    data = seeds("png")[0]
    path.write_bytes(header(b"pax", size, kind) + padded(said) + header(b"x.png", len(data)) + padded(data) + _whole())


def _chain(path: Path, rng: np.random.Generator) -> None:
    """Say names of names of names: each record is read within the one before it."""
    kind = pick(rng, (b"L", b"K", b"x", b"g"))
    said = b"9 path=a\n" if kind in (b"x", b"g") else b"a.png\0"
    path.write_bytes((header(b"long", len(said), kind) + padded(said)) * int(pick(rng, (50, 5000))) + _whole())


def _sparse(path: Path, rng: np.random.Generator) -> None:
    """Put in a sparse file of the old kind, whose map lies."""
    block = bytearray(header(b"s.png", 512, b"S", magic=b"ustar  \0"))
    for at in range(386, 482, 12):
        block[at : at + 12] = pick(
            rng, (b"77777777777\0", b"\x80" + b"\xff" * 11, bytes(12), b"00000000001\0", b"x" * 12)
        )
    block[482], block[483:495] = int(rng.integers(2)), pick(rng, (b"77777777777\0", b"\x80" + b"\x7f" * 11, bytes(12)))
    path.write_bytes(sealed(bytes(block)) + bytes(512) * int(rng.integers(3)) + _whole())


def _member(path: Path, rng: np.random.Generator) -> None:
    name, data = pick(rng, members())
    _replace(path, rng, name, damage(data, rng, seeds("png")[0], head=128)[0])


def _array(path: Path, rng: np.random.Generator) -> None:
    """Give an array a header that lies, or values that can't be shown."""
    kinds = (
        "'<f8'",
        "'|u1'",
        "'>u2'",
        "'|O'",
        "'<U9'",
        "'|V0'",
        "'<f2'",
        "'<f16'",
        "'<c8'",
        "'<M8[s]'",
        "'|b1'",
        "[('a', '<u1')]",
        "'|u0'",
        "7",
        "'" + "x" * 99 + "'",
    )
    shapes = ("(3, 4)", "(99999999999,)", "(1000000, 1000000)", "(50000, 50000, 3)", "(-3, 4)", "()", "(0, 5)",
        "(3, 4, 4)", "(2**63,)", "(True, 12)",
              "(3.0, 4)", "12", "None", "(" * 500 + "3" + ")" * 500, "(9223372036854775807, 2)",
              "(4294967296, 4294967296)", "(1, 12)", "(1,2,3,4)")  # fmt: skip
    kind, by_column = pick(rng, kinds[:3] if rng.random() < 0.6 else kinds), pick(rng, ("False", "True", "3"))
    about = f"{{'descr': {kind}, 'fortran_order': {by_column}, 'shape': {pick(rng, shapes)}}}"
    whole = pick(
        rng,
        (
            about,
            about,
            about,
            about,
            "{" * 3000,
            "(" * 9000,
            "",
            "{}",
            about + " " * 20_000,
            "__import__('os')",
            about[:-1],
            "[" * 90 + "]" * 90,
            "-" * 9000 + "1",
        ),
    )
    values = pick(
        rng,
        (
            np.array([1e308, -1e308] * 6),
            np.array([np.nan] * 12),
            np.array([np.inf] * 12),
            np.full(12, 5e-324),
            np.arange(12.0),
        ),
    )
    version = pick(rng, ((1, 0), (1, 0), (1, 0), (2, 0), (3, 0), (9, 9)))
    _replace(
        path, rng, "c.npy", npy(whole.encode(), values.tobytes(), version, pick(rng, (None, None, None, 0, 65_535)))
    )


def _object(path: Path, rng: np.random.Generator) -> None:
    """Say odd things in a sample's JSON, its class or its text."""
    name = pick(rng, ("a.json", "a.json", "b.cls", "b.txt"))
    _replace(
        path,
        rng,
        name,
        pick(
            rng,
            CLASSES
            if name == "b.cls"
            else OBJECTS
            if name == "a.json"
            else (b"\xff\xfe", b"\0" * 9, b"x" * 10**6, b""),
        ),
    )
    if name == "b.cls" and rng.random() < 0.5:
        (path.parent / "shards.json").write_text('{"classes": ["normal", "nodule"]}', encoding="utf-8")


def _picture(path: Path, rng: np.random.Generator) -> None:
    """Put a hostile picture in."""
    name, make = pick(rng, (("a.jpg", make_jpeg), ("b.png", make_png)))
    place = path.parent / "picture"
    place.mkdir()
    _replace(path, rng, name, make(rng, place).path.read_bytes())


def _extensions(path: Path, rng: np.random.Generator) -> None:
    """Give one sample very many files, as names with dots do."""
    count = int(pick(rng, (500, 1500)))
    path.write_bytes(b"".join(header(b"1.2.840.%d.png" % number, 0) for number in range(count)) + bytes(1024))


def _index(path: Path, rng: np.random.Generator) -> None:
    """Damage the index that lies beside a good tar, or make one up that fits its size and time."""
    import pyarrow as pa

    place = path.with_name(path.name + ".index")
    os.utime(path, ns=(10**18, 10**18))
    rows = {"key": ["a", "b"], "code": [[0, 1], [2]], "offset": [[512, 4096], [9216]], "length": [[100, 10], [50]]}
    odd = pick(rng, (
        {}, {"key": [None, "b"]}, {"code": [[0], [1, 2]]}, {"code": [[0, 9], [2]]}, {"offset": [[2**62, 1],
            [1]]}, {"length": [[2**62, 2**62], [5]]},
        {"code": [None, [1]]}, {"key": [1, 2]}, {"offset": [1, 2]}, {"code": ["x", "y"]}, {"length": [[], []]},
        {"offset": [[-5, 1], [1]]},
        {"key": [], "code": [], "offset": [], "length": []}, {"offset": [[1, 1], [None]]}, {"length": [[None,
            1], [1]]}, {"key": ["a.\n", "\x1b[31m"]},
    ))  # fmt: skip
    about = {
        "version": 1,
        "size": path.stat().st_size,
        "mtime_ns": 10**18,
        "extensions": pick(rng, (["jpg", "txt", "png"], "abc", 5, None, [1, 2, 3], [])),
    }
    stated = json.dumps(about) if rng.random() < 0.8 else pick(rng, ("[]", "{", "[" * 100_000, "5"))
    table = pa.table(rows | odd).replace_schema_metadata({"medmoe": stated})
    with pa.OSFile(str(place), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    if rng.random() < 0.5:
        place.write_bytes(damage(place.read_bytes(), rng, _whole())[0])


def _common(path: Path, rng: np.random.Generator) -> None:
    """Say odd things in `shards.json`."""
    said = (
        b'{"classes": 5}',
        b'{"classes": [""]}',
        b'{"modality": "xx"}',
        b"\xff",
        b'{"nonsense": 1}',
        b'{"offset_days": "x"}',
        b'{"boxes": 5}',
        b'{"classes": ["\\ud800"]}',
    )
    (path.parent / "shards.json").write_bytes(pick(rng, (*said, *OBJECTS)))
