"""NIfTI volumes: one slice, turned as a radiologist looks at it, of a plane that the file's own affine names.

Nothing is resampled: where voxels aren't cubes, slices of another plane than the acquired one look squeezed. Rows and
columns run as in DICOM (PS3.3 C.7.6.2): the patient's right, or in a sagittal slice the front, is at the left of the
image; the front, or in coronal and sagittal slices the head, is at its top.
"""

from __future__ import annotations

import gzip
import io
import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from medmoe.data.levels import MAX_PIXELS, stretch
from medmoe.data.reading import USUAL, Reading
from medmoe.data.windows import FULL, USUAL_WINDOW, curve, ranges
from medmoe.errors import DataError, MissingDependencyError, UserError, unknown
from medmoe.modalities import MODALITIES

SUFFIXES = (".nii", ".nii.gz")
PLANES = {"axial": 2, "coronal": 1, "sagittal": 0}  # the axis of RAS that a slice lies across
_MOST_INFLATED = 2**31
_SIZES = {348: "Nifti1Image", 540: "Nifti2Image"}
_LABEL_INTENT = 1002
_AIR, _LEAST = -900.0, -10_000.0  # Hounsfield units between which the least value of a CT lies
_ALIKE = 0.5  # share of equal neighbours above which whole numbers are labels
_EVERY = 8  # slices between those that are looked at for air


@dataclass(frozen=True, slots=True)
class Volume:
    """What a NIfTI file's header says.

    Attributes:
        shape: Voxels along each axis, as stored.
        spacing: Millimetres between voxels along each of these.
        codes: Where each axis leads to (`("L", "A", "S")`); None where the file doesn't say, its codes being 0.
        affine: [4, 4], from voxel numbers to millimetres right, front and up; None likewise.
        plane: The plane it was acquired in: that of the finest pixels, axial where they are all the same.
        dtype: Type of the stored values.
        slope: What they are multiplied by; 1 where the file doesn't say.
        intercept: What is then added.
        labels: Whether it is a label map: said by the header, or seen in the middle slice.
    """

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    codes: tuple[str, str, str] | None
    affine: NDArray[np.float64] | None
    plane: str
    dtype: str
    slope: float
    intercept: float
    labels: bool


def is_nifti(name: str) -> bool:
    """Tell by a file's name whether it is a NIfTI volume."""
    return name.lower().endswith(SUFFIXES)


def read_nifti(file: BinaryIO, *, where: str, reading: Reading = USUAL) -> NDArray[Any]:
    """Read one slice of a volume.

    The window `header` is the file's display range (`cal_min`, `cal_max`), else minimum to maximum of the slice. A
    NIfTI file doesn't say its modality: named windows and the usual one count where the volume has air as CT does (a
    least value from -10,000 to -900); other volumes are read as with `header`.

    Args:
        file: The file, open; compressed or not.
        where: What to call it in an error.
        reading: Plane, slice and window. Slices count towards the head, the front or the right.

    Returns:
        [H, W], or [H, W, 3] for three windows: uint8 for unscaled 8-bit values without a display range, else float32
        in [0, 1].

    Raises:
        DataError: If it isn't a volume, holds several, is damaged, or the slice has NaN or infinite values.
        MissingDependencyError: If nibabel isn't installed.
    """
    with _opened(file, where) as image:
        values = _slice(image, where, reading)
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            what = "the slice has NaN or infinite values"
            raise DataError(what, where=where, remedy="replace them in the volume, with 0 for example")
        pairs, usual = ranges(reading.window), MODALITIES["ct"].window
        if reading.window == USUAL_WINDOW and usual is not None:
            pairs = (usual,)
        if pairs and _is_hounsfield(image, values):
            shown = [curve(values, *pair).astype(np.float32) for pair in pairs]
            if len(shown) > 1:
                return np.stack(shown, axis=-1)
            if shown[0].max() > shown[0].min():
                return shown[0]
        return _by_header(image, values, full=reading.window == FULL)


def nifti_size(file: BinaryIO, *, where: str, reading: Reading = USUAL) -> tuple[int, int]:
    """Read (width, height) of the slice that `read_nifti` gives, from the header alone.

    Raises:
        DataError: As `read_nifti`.
    """
    with _opened(file, where) as image:
        axis, order, _ = _axes(image, where, reading.plane)
        shape = _shape(image, where)
        width, height = (shape[order[each]] for each in range(3) if each != axis)
        return width, height


def read_nifti_values(file: BinaryIO, *, where: str, reading: Reading = USUAL) -> NDArray[Any]:
    """Read the scaled values of one slice, turned as `read_nifti` turns it, without any window.

    Raises:
        DataError: As `read_nifti`, but NaN and infinite values are given.
    """
    with _opened(file, where) as image:
        return _slice(image, where, reading)


def read_nifti_facts(file: BinaryIO, *, where: str) -> Volume:
    """Read what a volume is: its shape, where it lies in space, its scaling, and whether it is a label map.

    Raises:
        DataError: As `read_nifti`.
    """
    import nibabel

    with _opened(file, where) as image:
        shape, header, orientations = _shape(image, where), image.header, cast(Any, nibabel.orientations)
        known = _is_oriented(image)
        slope, intercept = header.get_slope_inter()
        axis, _, _ = _axes(image, where, None)
        spacing = tuple(float(size) for size in _spacing(image))
        return Volume(
            shape=shape,
            spacing=(spacing[0], spacing[1], spacing[2]),
            codes=orientations.aff2axcodes(image.affine) if known else None,
            affine=np.array(image.affine, np.float64) if known else None,
            plane=next(name for name, across in PLANES.items() if across == axis),
            dtype=str(header.get_data_dtype()),
            slope=1.0 if slope is None else float(slope),
            intercept=0.0 if intercept is None else float(intercept),
            labels=int(header["intent_code"]) == _LABEL_INTENT or _are_labels(_slice(image, where, USUAL)),
        )


@contextmanager
def _opened(file: BinaryIO, where: str) -> Iterator[Any]:
    """Open a volume without reading its values, and tell in one line how it can fail."""
    try:
        import nibabel
    except ImportError as error:
        what = "NIfTI volumes need nibabel, which isn't installed"
        raise MissingDependencyError(what, where=where, remedy="pip install 'medmoe[nifti]'") from error
    refusals = (
        nibabel.filebasedimages.ImageFileError, nibabel.spatialimages.HeaderDataError,
        nibabel.wrapstruct.WrapStructError, OSError, EOFError, ValueError,
        TypeError, KeyError, IndexError, OverflowError, MemoryError, ArithmeticError, zlib.error, AttributeError,
        RuntimeError,
    )  # fmt: skip
    try:
        yield _image(file, where)
    except UserError:
        raise
    except refusals as error:
        text = str(error).splitlines()
        what = f"the NIfTI volume can't be read ({text[0][:160] if text else type(error).__name__})"
        raise DataError(what, where=where, remedy="export it again, or take the row out") from error


def _image(file: BinaryIO, where: str) -> Any:
    import nibabel

    file.seek(0, io.SEEK_END)
    length = file.tell()
    file.seek(0)
    packed = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    stream: Any = gzip.GzipFile(fileobj=file) if packed else file
    start = stream.read(4)
    kind = _SIZES.get(int.from_bytes(start, "little")) or _SIZES.get(int.from_bytes(start, "big"))
    if kind is None:
        raise DataError("not a NIfTI volume", where=where, remedy="convert it, or take the row out")
    stream.seek(0)
    holder = nibabel.fileholders.FileHolder(fileobj=stream)
    image = getattr(nibabel, kind).from_file_map({"image": holder}, mmap=False)
    shape = _shape(image, where)
    needed = int(image.dataobj.offset) + math.prod(shape) * image.header.get_data_dtype().itemsize
    if min(shape) < 1 or image.dataobj.offset < 0 or needed > (_MOST_INFLATED if packed else length):
        what = f"a volume of {' × '.join(map(str, shape))} voxels needs {needed:,} bytes"
        what += f"; at most {_MOST_INFLATED:,} are read" if packed else f", the file has {length:,}"
        raise DataError(what, where=where, remedy="copy it again, or cut the volume")
    return image


def _shape(image: Any, where: str) -> tuple[int, int, int]:
    """Give the three sides of a volume; one of two sides is one slice."""
    shape = tuple(int(side) for side in image.shape)
    if len(shape) < 2 or math.prod(shape[3:]) != 1:
        what = f"{len(shape)}-D, {' × '.join(map(str, shape))} voxels; one volume of three dimensions is read"
        raise DataError(what, where=where, remedy="save the volume you want as a file of its own")
    sides = (*shape, 1)[:3]
    if math.prod(sides) // max(1, min(sides)) > MAX_PIXELS:
        raise DataError(f"a slice of more than {MAX_PIXELS:,} pixels", where=where, remedy="cut the volume")
    if image.header.get_data_dtype().kind not in "iuf":
        kind = image.header.get_data_dtype()
        raise DataError(f"voxels of type {kind}; numbers are read", where=where, remedy="save one channel of it")
    return sides[0], sides[1], sides[2]


def _is_oriented(image: Any) -> bool:
    """Tell whether the file says where its axes lead: a header with both codes 0 has no affine but an invented one."""
    return bool(int(image.header["sform_code"]) > 0 or int(image.header["qform_code"]) > 0)


def _spacing(image: Any) -> NDArray[np.float64]:
    """Give the millimetres between voxels along each stored axis."""
    if _is_oriented(image):
        return np.asarray(np.sqrt((np.asarray(image.affine, np.float64)[:3, :3] ** 2).sum(0)))
    return np.array([*image.header.get_zooms(), 1.0, 1.0][:3], np.float64)


def _axes(image: Any, where: str, plane: str | None) -> tuple[int, list[int], list[int]]:
    """Find the axis of RAS across a plane; which stored axis leads right, front and up; and whether it (1) or not (-1).

    Raises:
        DataError: If the plane has no such name, the affine is singular, or a plane is named and there is no affine.
    """
    import nibabel

    if plane is not None and plane not in PLANES:
        raise DataError(unknown("plane", plane, PLANES), where=where)
    spacing, order, signs = _spacing(image), [0, 1, 2], [1, 1, 1]
    if not _is_oriented(image):
        if plane is not None:
            what = f"no {plane} plane: the file doesn't say where its axes lead (sform and qform codes are 0)"
            raise DataError(what, where=where, remedy="set its affine, or name no plane")
        return 2, order, signs
    if not np.isfinite(spacing).all() or min(spacing) <= 0:
        raise DataError("the affine is singular", where=where, remedy="correct the volume's affine")
    turned = cast(Any, nibabel.orientations).io_orientation(image.affine)
    if np.isnan(turned).any():
        raise DataError("the affine is singular", where=where, remedy="correct the volume's affine")
    for stored, (ras, sign) in enumerate(turned):
        order[int(ras)], signs[int(ras)] = stored, int(sign)
    if plane is not None:
        return PLANES[plane], order, signs
    sides = _shape(image, where)
    single = [axis for axis in (2, 1, 0) if sides[order[axis]] == 1]
    if len(single) == 1:
        return single[0], order, signs
    # The axis of the largest step lies across the finest pixels; alike within 1 %, the first of this order counts.
    return max((2, 1, 0), key=lambda axis: round(math.log(spacing[order[axis]]) * 100)), order, signs


def _slice(image: Any, where: str, reading: Reading) -> NDArray[Any]:
    """Read one slice, scaled once, and turn it: [H, W]."""
    axis, order, signs = _axes(image, where, reading.plane)
    count = _shape(image, where)[order[axis]]
    chosen = (count - 1) // 2 if reading.frame is None else reading.frame
    if not 0 <= chosen < count:
        what = f"no slice {reading.frame}; the volume has {count} across this plane, counted from 0"
        raise DataError(what, where=where, remedy="correct the column 'frame'")
    across = order[axis]
    values = _read(image, across, chosen if signs[axis] > 0 else count - 1 - chosen)
    first, second = (each for each in range(3) if each != axis)  # along the columns, along the rows
    if order[first] < order[second]:
        values = values.T
    # Stored towards the right, the front or the head, it must run the other way; rows lie along the second.
    values = values[:: -signs[second], :: -signs[first]]
    return np.ascontiguousarray(values.astype(values.dtype.newbyteorder("="), copy=False))


def _read(image: Any, axis: int, at: int) -> NDArray[Any]:
    """Read a slice across a stored axis: [first other axis, second other axis]."""
    data, sides = image.dataobj, [*image.shape, 1, 1][:3]
    rest = (0,) * (len(image.shape) - 3)
    if len(image.shape) == 2:
        return np.asarray(np.take(np.asarray(data)[..., None], at, axis=axis))
    if axis == 2 or not isinstance(data.file_like, gzip.GzipFile):
        where: list[Any] = [slice(None)] * 3
        where[axis] = at
        return np.asarray(data[(*where, *rest)])
    # A compressed stream is read onwards slab by slab, so that the whole volume is never in memory.
    slabs = (np.asarray(data[(slice(None), slice(None), k, *rest)]) for k in range(sides[2]))
    return np.stack([slab[at] if axis == 0 else slab[:, at] for slab in slabs], axis=-1)


def _by_header(image: Any, values: NDArray[Any], *, full: bool) -> NDArray[Any]:
    """Show a slice by the file's display range, else from minimum to maximum; 8-bit values as they are."""
    low, high = float(image.header["cal_min"]), float(image.header["cal_max"])
    if not full and math.isfinite(low) and math.isfinite(high) and high > low:
        shown = stretch(values.astype(np.float64), ends=(low, high))
        if shown.max() > shown.min() or values.max() == values.min():
            return shown
    return stretch(values)


def _is_hounsfield(image: Any, values: NDArray[Any]) -> bool:
    """Tell whether a volume has air as a CT has: in the slice, else in one of every eighth as they are stored."""
    least = float(values.min())
    if _LEAST <= least <= _AIR:
        return True
    slope, intercept = image.header.get_slope_inter()
    if image.header.get_data_dtype().kind == "u" and (slope or 1.0) > 0 and (intercept or 0.0) > _AIR:
        return False
    others = (float(_read(image, 2, at).min()) for at in range(0, [*image.shape, 1][2], _EVERY))
    return any(_LEAST <= other <= _AIR for other in others)


def _are_labels(values: NDArray[Any]) -> bool:
    """Tell whether a slice is a map of labels: whole numbers, not negative, and mostly like their neighbours."""
    if values.size == 0 or not np.isfinite(values).all() or values.min() < 0 or values.max() == 0:
        return False
    if values.dtype.kind == "f" and not np.array_equal(values, np.rint(values)):
        return False
    left, right = values[:, :-1], values[:, 1:]
    marked = (left > 0) | (right > 0)
    return bool(marked.any() and (left == right)[marked].mean() >= _ALIKE)
