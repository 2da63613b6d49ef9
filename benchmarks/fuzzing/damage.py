"""Damage to any bytes: bits flipped, bytes overwritten, parts cut, doubled, or taken from another file."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

INTERESTING = (
    b"\0", b"\xff", b"\x7f", b"\x80", b"\0\0", b"\xff\xff", b"\x7f\xff", b"\xff\x7f", b"\0\0\0\0", b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\x80", b"\x80\0\0\0", b"\xfe\xff\xff\xff",
    b"\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\0" * 16, b"-1", b"1e308", b"nan", b"%n", b"../",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Case:
    """A file to read.

    Attributes:
        path: The file.
        how: What was done to it, in a few words.
        names: Names one of which has to be in an error; the file's own where there are none.
    """

    path: Path
    how: str
    names: tuple[str, ...] = ()


def pick(rng: np.random.Generator, values: Sequence[Any]) -> Any:
    """Choose one of some values, which numpy would turn into an array."""
    return values[int(rng.integers(len(values)))]


def damage(data: bytes, rng: np.random.Generator, other: bytes = b"", *, head: int = 512) -> tuple[bytes, str]:
    """Damage bytes in one to three ways.

    Args:
        data: The bytes.
        rng: Where the choices come from.
        other: What parts of are put into it.
        head: Half of the places are among so many first bytes, where a file says what it is.

    Returns:
        The bytes, and the names of what was done.
    """
    names = []
    for _ in range(int(rng.integers(1, 4))):
        way = pick(rng, WAYS)
        names.append(way.__name__.removeprefix("_"))
        data = way(data, rng, other, head)
    return data, "+".join(names)


def _place(data: bytes, rng: np.random.Generator, head: int) -> int:
    reach = min(len(data), head) if rng.random() < 0.5 else len(data)
    return int(rng.integers(max(reach, 1)))


def _flip(data: bytes, rng: np.random.Generator, other: bytes, head: int) -> bytes:
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 9))):
        if changed:
            changed[_place(data, rng, head)] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def _overwrite(data: bytes, rng: np.random.Generator, other: bytes, head: int) -> bytes:
    at, value = _place(data, rng, head), pick(rng, INTERESTING)
    return data[:at] + value + data[at + len(value) :]


def _insert(data: bytes, rng: np.random.Generator, other: bytes, head: int) -> bytes:
    at = _place(data, rng, head)
    return data[:at] + pick(rng, INTERESTING) + data[at:]


def _truncate(data: bytes, rng: np.random.Generator, other: bytes, head: int) -> bytes:
    return data[: _place(data, rng, head)]


def _cut(data: bytes, rng: np.random.Generator, other: bytes, head: int) -> bytes:
    at = _place(data, rng, head)
    return data[:at] + data[at + int(rng.integers(1, 64)) :]


def _double(data: bytes, rng: np.random.Generator, other: bytes, head: int) -> bytes:
    at = _place(data, rng, head)
    part = data[at : at + int(rng.integers(1, 4096))]
    return data[:at] + part * int(rng.integers(2, 5)) + data[at:]


def _splice(data: bytes, rng: np.random.Generator, other: bytes, head: int) -> bytes:
    return data[: _place(data, rng, head)] + other[_place(other, rng, head) :]


def _number(data: bytes, rng: np.random.Generator, other: bytes, head: int) -> bytes:
    """Change two or four bytes by a little, or turn their order: lengths and offsets are such numbers."""
    at, size = _place(data, rng, head), pick(rng, (2, 4))
    order = pick(rng, ("little", "big"))
    old = int.from_bytes(data[at : at + size], order)
    new = pick(rng, (old + 1, old - 1, old * 2, old ^ 0x80, 2 ** (8 * size) - 1 - old))
    return data[:at] + (new % 2 ** (8 * size)).to_bytes(size, order) + data[at + size :]


WAYS: tuple[Callable[[bytes, np.random.Generator, bytes, int], bytes], ...] = (
    _flip, _overwrite, _insert, _truncate, _cut, _double, _splice, _number,
)  # fmt: skip


@lru_cache(maxsize=8)
def deflated_zeros(mebibytes: int, *, wrapped: bool) -> bytes:
    """Give a DEFLATE stream a thousandth as long as the zeros it stands for.

    Args:
        mebibytes: How many zeros, in MiB.
        wrapped: Whether zlib's header and checksum are round it, as in a PNG.
    """
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    part = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)  # parts that need none of the others
    stream = part * mebibytes + b"\x03\0"
    if not wrapped:
        return stream
    checksum = 1
    for _ in range(mebibytes):
        checksum = zlib.adler32(bytes(2**20), checksum)
    return b"\x78\xda" + stream + checksum.to_bytes(4, "big")
