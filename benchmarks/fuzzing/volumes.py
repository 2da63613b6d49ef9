"""Damaged and hostile NIfTI volumes: their headers, their voxels, and compressed ones that unpack without end."""

from __future__ import annotations

import gzip
import struct
import zlib
from functools import lru_cache
from pathlib import Path

import numpy as np

from fuzzing.damage import Case, damage, deflated_zeros, pick

FLOATS = (0.0, -0.0, 1.0, -1.0, float("nan"), float("inf"), 1e38, -1e38, 1e-45, 2.0**31)


def make_volume(rng: np.random.Generator, folder: Path) -> Case:
    """Write a damaged or hostile volume."""
    seed = pick(rng, seeds())
    way = pick(rng, (_bytes, _bytes, _fields, _fields, _fields, _sides, _bomb, _cut))
    data = way(seed, rng)
    pack = way is not _bomb and rng.random() < 0.5
    if pack:
        data = gzip.compress(data, 1, mtime=0)
        if rng.random() < 0.2:
            data = damage(data, rng, seed)[0]
    path = folder / pick(
        rng, ("case.nii.gz", "case.nii") if rng.random() < 0.2 else (f"case.nii{'.gz' * (pack or way is _bomb)}",)
    )
    path.write_bytes(data)
    return Case(path, way.__name__.strip("_"))


@lru_cache(maxsize=1)
def seeds() -> tuple[bytes, ...]:
    """Make small whole volumes of several types and of both versions."""
    import nibabel

    rng, made = np.random.default_rng(0), []
    for dtype in ("u1", "i2", "f4", "f8", ">i2", "u2"):
        values = rng.integers(0, 100, (9, 8, 7)).astype(dtype)
        for kind in (nibabel.Nifti1Image, nibabel.Nifti2Image):
            volume = kind(values, np.diag([-1.0, 1.0, 2.5, 1.0]))
            volume.header.set_data_dtype(values.dtype)
            made.append(volume.to_bytes())
    made.append(nibabel.Nifti1Image(rng.integers(0, 9, (9, 8, 7, 2)).astype(np.int16), np.eye(4)).to_bytes())
    return tuple(made)


def _bytes(seed: bytes, rng: np.random.Generator) -> bytes:
    return damage(seed, rng, pick(rng, seeds()), head=360)[0]


def _is_first(seed: bytes) -> bool:
    return seed[:4] == struct.pack("<i", 348)


def _fields(seed: bytes, rng: np.random.Generator) -> bytes:
    """Change the type, the scaling, the affine, the codes, the display range or where the voxels begin."""
    changed = bytearray(seed)
    floats, shorts = (range(76, 124, 4), range(280, 328, 4), range(252, 280, 4)), (70, 72, 252, 254, 68)
    for _ in range(int(rng.integers(1, 4))):
        if not _is_first(seed):
            at = pick(rng, (12, 14, 104, 112, 120, 128, 168, 176, 184, 192, 344, 348, 400, 408, 500))
            changed[at : at + 8] = pick(
                rng, (struct.pack("<d", pick(rng, FLOATS)), struct.pack("<q", pick(rng, (0, -1, 2**62, 5))))
            )
        elif rng.random() < 0.6:
            at = pick(rng, pick(rng, floats))
            changed[at : at + 4] = struct.pack("<f", pick(rng, FLOATS))
        else:
            at = pick(rng, shorts)
            value = int(pick(rng, (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 768, 1024, 1536, 1792, 2048, 2304, -1, 7)))
            changed[at : at + 2] = struct.pack("<h", value)
    return bytes(changed)


def _sides(seed: bytes, rng: np.random.Generator) -> bytes:
    """Claim another number of axes or other sides."""
    changed = bytearray(seed)
    for _ in range(int(rng.integers(1, 5))):
        if _is_first(seed):
            at = 40 + 2 * int(rng.integers(8))
            changed[at : at + 2] = struct.pack("<h", int(pick(rng, (-1, 0, 1, 2, 3, 4, 7, 8, 500, 32_767, -32_768))))
        else:
            at = 16 + 8 * int(rng.integers(8))
            changed[at : at + 8] = struct.pack(
                "<q", int(pick(rng, (-1, 0, 1, 3, 4, 7, 8, 60_000, 2**40, 2**62, -(2**63))))
            )
    return bytes(changed)


def _bomb(seed: bytes, rng: np.random.Generator) -> bytes:
    """Pack very many zeros behind a header that asks for them, or doesn't."""
    seeds_ = [each for each in seeds() if _is_first(each)]
    head = bytearray(pick(rng, seeds_)[:352])
    side = int(pick(rng, (0, 100, 300, 300, 1600)))
    if side:
        head[40:48] = struct.pack("<4h", 3, side, side, pick(rng, (1, 30, 600)))
    stream = zlib.compressobj(9, zlib.DEFLATED, -15)
    start = stream.compress(bytes(head)) + stream.flush(zlib.Z_FULL_FLUSH)
    return (
        b"\x1f\x8b\x08\0\0\0\0\0\0\xff"
        + start
        + deflated_zeros(int(pick(rng, (10, 10, 300, 3000))), wrapped=False)
        + bytes(8)
    )


def _cut(seed: bytes, rng: np.random.Generator) -> bytes:
    return seed[: int(pick(rng, (0, 1, 2, 4, 100, 347, 348, 352, len(seed) // 2, len(seed) - 1)))]
