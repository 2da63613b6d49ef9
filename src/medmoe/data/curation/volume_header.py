"""A NIfTI volume's header without its voxels: size, spacing, the plane it was acquired in, what it calls itself.

The fields are those of the format's own header file (nifti1.h and nifti2.h, https://nifti.nimh.nih.gov).
"""

from __future__ import annotations

import gzip
import itertools
import math
import struct
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BufferedReader
from pathlib import Path

from medmoe.errors import DataError

_LENGTHS = {348: 1, 540: 2}  # of the header → version
_LABELS = 1002  # intent code: values are labels
_AXES = ("sagittal", "coronal", "axial")  # by the axis of the patient that slices follow: right, front, head
_MOST = 1 << 15  # slices or pixels along a side, beyond which a header is damaged


@dataclass(frozen=True, slots=True)
class VolumeHeader:
    """What the header of a three-dimensional volume says.

    Attributes:
        width: Of a slice in voxels, once oriented to right, front, head.
        height: As width.
        slices: How many there are along the normal of `plane`.
        plane: `axial`, `coronal` or `sagittal`, the one it was acquired in: across the axis with the largest spacing,
            axial where spacings are equal.
        spacing: (between rows, between columns) of a slice in mm.
        thickness: Distance of slices in mm.
        description: Its own text, such as the program that wrote it.
        labels: Whether its values are labels, by the header.
        bytes: How many the unpacked file must have at least.
    """

    width: int
    height: int
    slices: int
    plane: str
    spacing: tuple[float, float]
    thickness: float
    description: str | None = None
    labels: bool = False
    bytes: int = 0


def check_voxels(path: str | Path, header: VolumeHeader) -> None:
    """Read a volume's file to its end, to know that nothing of it is missing.

    Raises:
        DataError: If it is damaged, or shorter than its header says.
    """
    found = 0
    try:
        with _open(path) as file:
            while part := file.read(1 << 20):
                found += len(part)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"is damaged ({error})", where=str(path), remedy="copy it again") from error
    if found < header.bytes:
        what = f"has {found} bytes where its header promises {header.bytes}"
        raise DataError(what, where=str(path), remedy="copy it again")


def read_volume_header(path: str | Path) -> VolumeHeader:
    """Read the header of a `.nii` or `.nii.gz` file.

    Raises:
        DataError: If it is missing, damaged, or has more than three dimensions.
    """
    where = str(path)
    try:
        with _open(path) as file:
            data = file.read(540)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"can't be read ({error})", where=where, remedy="copy it again") from error
    for order in "<>":
        version = _LENGTHS.get(struct.unpack_from(f"{order}i", data)[0]) if len(data) >= 348 else None
        if version is not None and (version == 1 or len(data) == 540):
            return _parse(data, order, version, where)
    raise DataError("not a NIfTI file, or cut off within its header", where=where, remedy="export it again")


@contextmanager
def _open(path: str | Path) -> Iterator[gzip.GzipFile | BufferedReader]:
    """Open a file, and unpack it on the way where it is packed."""
    with Path(path).open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        yield gzip.GzipFile(fileobj=file) if packed else file


def _parse(data: bytes, order: str, version: int, where: str) -> VolumeHeader:
    """Take the fields out of a header of one version and byte order."""
    if version == 1:
        dim = struct.unpack_from(f"{order}8h", data, 40)
        pixdim = struct.unpack_from(f"{order}8f", data, 76)
        intent, _, bits = struct.unpack_from(f"{order}3h", data, 68)
        start = struct.unpack_from(f"{order}f", data, 108)[0]
        description, forms = data[148:228], struct.unpack_from(f"{order}2h", data, 252)
        numbers = struct.unpack_from(f"{order}18f", data, 256)
    else:
        dim = struct.unpack_from(f"{order}8q", data, 16)
        pixdim = struct.unpack_from(f"{order}8d", data, 104)
        intent, bits = struct.unpack_from(f"{order}i", data, 504)[0], struct.unpack_from(f"{order}h", data, 14)[0]
        start = struct.unpack_from(f"{order}q", data, 168)[0]
        description, forms = data[240:320], struct.unpack_from(f"{order}2i", data, 344)
        numbers = struct.unpack_from(f"{order}18d", data, 352)
    sides = list(dim[1 : 1 + min(max(dim[0], 0), 7)])
    if not 1 <= dim[0] <= 7 or any(not 1 <= side <= _MOST for side in sides):
        raise DataError(f"the header gives the impossible size {sides}", where=where, remedy="export it again")
    if any(side > 1 for side in sides[3:]):
        what = f"{len(sides)}-D data ({'x'.join(map(str, sides))}), allowed: one 3-D volume"
        raise DataError(what, where=where, remedy="split it into volumes")
    size = [*sides[:3], 1, 1][:3]
    axes, steps = _orient(forms, numbers, pixdim)
    view = _view(size, axes, steps)
    length = int(start) + math.prod(size) * bits // 8 if math.isfinite(start) else 0
    return replace(view, description=_words(description), labels=intent == _LABELS, bytes=length)


def _view(size: list[int], axes: list[int], steps: list[float]) -> VolumeHeader:
    """Look at the volume in the plane it was acquired in."""
    count = {axis: size[voxel] for voxel, axis in enumerate(axes)}
    step = {axis: steps[voxel] for voxel, axis in enumerate(axes)}
    widest = max(step.values())
    through = next(axis for axis in (2, 1, 0) if step[axis] >= widest * 0.999)
    across, down = {2: (0, 1), 1: (0, 2), 0: (1, 2)}[through]
    spacing = (step[down], step[across])
    return VolumeHeader(count[across], count[down], count[through], _AXES[through], spacing, widest)


def _orient(
    forms: tuple[int, ...], numbers: tuple[float, ...], pixdim: tuple[float, ...]
) -> tuple[list[int], list[float]]:
    """Give, for each axis of the voxels, the patient's axis that it lies along, and its spacing in mm."""
    if forms[1] > 0:
        rows = [numbers[6:9], numbers[10:13], numbers[14:17]]
    elif forms[0] > 0:
        rows = _rotation(numbers[:3], pixdim)
    else:
        rows = [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)]
    columns = [[row[voxel] for row in rows] for voxel in range(3)]
    lengths = [math.hypot(*column) for column in columns]
    steps = [abs(step) if math.isfinite(step) and step else 1.0 for step in pixdim[1:4]]
    if forms[1] > 0 and all(math.isfinite(length) and length > 0 for length in lengths):
        steps = lengths

    def fit(order: Iterable[int]) -> float:
        return sum(abs(columns[voxel][axis]) / (lengths[voxel] or 1.0) for voxel, axis in enumerate(order))

    # The best of the six ways to pair the voxels' axes with the patient's.
    return list(max(itertools.permutations(range(3)), key=fit)), steps


def _rotation(quaternion: tuple[float, ...], pixdim: tuple[float, ...]) -> list[tuple[float, ...]]:
    """Give the rotation of a quaternion's last three numbers."""
    b, c, d = quaternion
    a = math.sqrt(max(0.0, 1.0 - (b * b + c * c + d * d)))
    sign = -1.0 if pixdim[0] < 0 else 1.0
    return [
        (a * a + b * b - c * c - d * d, 2 * (b * c - a * d), sign * 2 * (b * d + a * c)),
        (2 * (b * c + a * d), a * a + c * c - b * b - d * d, sign * 2 * (c * d - a * b)),
        (2 * (b * d - a * c), 2 * (c * d + a * b), sign * (a * a + d * d - b * b - c * c)),
    ]


def _words(field: bytes) -> str | None:
    return field.split(b"\0")[0].decode("latin-1").strip() or None
