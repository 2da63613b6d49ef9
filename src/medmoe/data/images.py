"""Any image file to an array of pixels, without losing depth, turning the picture or hiding damage.

Grey values deeper than 8 bits are stretched linearly from the image's own minimum and maximum to
[0, 1]. Dividing by the largest value the container can hold would be wrong: a 12-bit radiograph in a
16-bit file would use a sixteenth of the range and look black; so would cutting it to 8 bits.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from medmoe.data.deep import is_deep_colour, read_deep_colour
from medmoe.data.dicom import dicom_size, is_dicom, read_dicom, read_dicom_values
from medmoe.data.jpeg import read_jpeg
from medmoe.data.levels import MAX_PIXELS as MAX_PIXELS
from medmoe.data.levels import stretch as stretch
from medmoe.data.limits import BombError, open_file, refuse_bomb, refuse_scans
from medmoe.data.nifti import is_nifti, nifti_size, read_nifti, read_nifti_values
from medmoe.data.reading import USUAL, Reading
from medmoe.errors import DataError

Pixels = NDArray[Any]

# Formats that hold pixels and nothing to execute (Pillow would run Ghostscript on an EPS file).
FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "DIB", "GIF", "WEBP", "PPM", "JPEG2000")

_WIDTH_TAG, _HEIGHT_TAG, _ORIENTATION_TAG = 256, 257, 274
_SIDEWAYS = (5, 6, 7, 8)
_UPRIGHT: dict[int, Callable[[Pixels], Pixels]] = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a.swapaxes(0, 1)[:, ::-1],
    7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],
    8: lambda a: a.swapaxes(0, 1)[::-1],
}
_DAMAGE = (
    OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, ArithmeticError, RuntimeError,
    AttributeError, AssertionError, struct.error, zlib.error,
)  # fmt: skip


class _EmptyFileError(UnidentifiedImageError):
    """No image, since there is nothing in the file."""


def read_image(path: str | Path, *, at_least: int | None = None, reading: Reading = USUAL) -> Pixels:
    """Read an image file: upright, without alpha, grey where it is grey.

    Args:
        path: JPEG, PNG, TIFF (first page), BMP, GIF, WebP, PPM, JPEG 2000, DICOM or NIfTI (.nii, .nii.gz) file.
        at_least: Pixels that the longest side needs. A JPEG that has twice as many or more is then read at 1/2, 1/4 or
            1/8 of its size, which is faster and a little off: for training only.
        reading: What of a DICOM or NIfTI file is read, and how it is windowed.

    Returns:
        [H, W] grey or [H, W, 3] RGB; uint8 where the file has at most 8 bits, else float32 in [0, 1].

    Raises:
        DataError: If the file is missing, damaged, too large, of another kind, or has NaN or infinite pixels.
    """
    path = Path(path)
    with _reading(str(path)), open_file(path) as file:
        # A JPEG's decoder wants all of it at once; reading it in pieces first, for the header, would only cost calls.
        whole = path.suffix.lower() in (".jpg", ".jpeg")
        return _read(io.BytesIO(file.read()) if whole else file, path.name, str(path), at_least, reading)


def read_image_bytes(
    data: bytes | memoryview, *, name: str, where: str, at_least: int | None = None, reading: Reading = USUAL
) -> Pixels:
    """Read an image from the bytes of its file, as `read_image` would have read that file.

    Args:
        data: The file's bytes.
        name: The file's name; its suffix counts as it does for a path.
        where: What to call it in an error.
        at_least: As for `read_image`.
        reading: As for `read_image`.

    Raises:
        DataError: As `read_image`.
    """
    with _reading(where):
        return _read(io.BytesIO(data), name, where, at_least, reading)


def _read(file: BinaryIO, name: str, where: str, at_least: int | None, reading: Reading) -> Pixels:
    if is_nifti(name):
        return flatten_grey(read_nifti(file, where=where, reading=reading))
    if is_dicom(file, Path(name).suffix):
        return flatten_grey(read_dicom(file, where=where, reading=reading))
    return stretch(decode(file, where=where, at_least=at_least), where=where)


def decode(file: BinaryIO, *, where: str, at_least: int | None = None) -> Pixels:
    """Read the values of an open image file as they are stored: [H, W] or [H, W, 3], any dtype, upright."""
    image = _open(file)
    deep = is_deep_colour(image)
    # Pillow turns a TIFF upright by itself when it loads it.
    orientation = 1 if image.format == "TIFF" else _orientation(image)
    if image.format == "JPEG":
        refuse_scans(image, file)
    pixels: Pixels | None = read_jpeg(image, file, at_least=at_least)
    if pixels is None:
        pixels = read_deep_colour(lambda: _open(file), where=where) if deep else _values(image)
    return flatten_grey(_upright(pixels, orientation))


def from_pillow(image: Image.Image, *, where: str = "image") -> Pixels:
    """Take over an image that is open in Pillow, as `read_image` would have read it from a file.

    Args:
        image: An image of any mode; colours deeper than 8 bits have been lost by Pillow already.
        where: What to call it in an error.

    Raises:
        DataError: If it is damaged, or has NaN or infinite pixels.
    """
    with _reading(where):
        orientation = 1 if image.format == "TIFF" else _orientation(image)
        return stretch(flatten_grey(_upright(_values(image), orientation)), where=where)


def flatten_grey(pixels: Pixels) -> Pixels:
    """Give [H, W] for an RGB image whose three channels are equal, else the image itself."""
    if pixels.ndim == 2:
        return pixels
    sparse = pixels[::16, ::16]  # a colour image nearly always shows here, for 1/256 of the work
    for part in (sparse, pixels):
        red = part[..., 0]
        if not (np.array_equal(red, part[..., 1]) and np.array_equal(red, part[..., 2])):
            return pixels
    return np.ascontiguousarray(pixels[..., 0])


def image_size(path: str | Path, *, reading: Reading = USUAL) -> tuple[int, int]:
    """Read the (width, height) of an image as `read_image` would return it, from the header alone.

    Args:
        path: As for `read_image`.
        reading: The plane of a volume.

    Raises:
        DataError: If the file is missing or isn't an image.
    """
    path = Path(path)
    with _reading(str(path)), open_file(path) as file:
        return _size(file, path.name, str(path), reading)


def image_size_bytes(data: bytes | memoryview, *, name: str, where: str, reading: Reading = USUAL) -> tuple[int, int]:
    """Read (width, height) from the bytes of an image file; arguments as for `read_image_bytes`.

    Raises:
        DataError: If it isn't an image.
    """
    with _reading(where):
        return _size(io.BytesIO(data), name, where, reading)


def _size(file: BinaryIO, name: str, where: str, reading: Reading) -> tuple[int, int]:
    if is_nifti(name):
        return nifti_size(file, where=where, reading=reading)
    if is_dicom(file, Path(name).suffix):
        return dicom_size(file, where=where)
    image = _open(file)
    width, height = image.size
    if image.format == "TIFF":  # Pillow's size may already be the turned one
        tags = image.tag_v2  # type: ignore[attr-defined]
        width, height = tags[_WIDTH_TAG], tags[_HEIGHT_TAG]
    may_turn = image.format != "PNG" or _has_metadata(file)
    return (height, width) if may_turn and _orientation(image) in _SIDEWAYS else (width, height)


def read_mask(path: str | Path, *, reading: Reading = USUAL) -> NDArray[np.bool_]:
    """Read a mask: [H, W] bool, True wherever any channel is above zero.

    Args:
        path: An image, or a label map: a slice of a NIfTI volume, a frame of a DICOM segmentation.
        reading: The slice or frame, which should be that of the image.

    Raises:
        DataError: As `read_image`.
    """
    path = Path(path)
    with _reading(str(path)), open_file(path) as file:
        return _mask(file, path.name, str(path), reading)


def read_mask_bytes(data: bytes, *, where: str, reading: Reading = USUAL) -> NDArray[np.bool_]:
    """Read a mask from the bytes of its file, as `read_mask` would have read that file; `where` ends with its name."""
    with _reading(where):
        return _mask(io.BytesIO(data), where, where, reading)


def _mask(file: BinaryIO, name: str, where: str, reading: Reading) -> NDArray[np.bool_]:
    if is_nifti(name):
        values = read_nifti_values(file, where=where, reading=reading)
    elif is_dicom(file, Path(name).suffix):
        values = read_dicom_values(file, where=where, frame=reading.frame)
    else:
        values = decode(file, where=where)
    return np.asarray((values if values.ndim == 2 else values.max(-1)) > 0)


def read_gaze(path: str | Path) -> NDArray[np.float32]:
    """Read a gaze map: [H, W] float32 in [0, 1], 1 where the file has its largest possible or actual value.

    8-bit files are divided by 255, deeper ones by their maximum: the zero of a gaze map means "not looked at".

    Raises:
        DataError: As `read_image`, or if a value is negative.
    """
    path = Path(path)
    with _reading(str(path)), open_file(path) as file:
        return _gaze(file, str(path))


def read_gaze_bytes(data: bytes, *, where: str) -> NDArray[np.float32]:
    """Read a gaze map from the bytes of its file, as `read_gaze` would have read that file."""
    with _reading(where):
        return _gaze(io.BytesIO(data), where)


def _gaze(file: BinaryIO, where: str) -> NDArray[np.float32]:
    values = decode(file, where=where)
    values = values if values.ndim == 2 else values.max(-1)
    top = 255.0 if values.dtype == np.uint8 else float(values.max())
    if not np.isfinite(top) or values.min() < 0:
        raise DataError("a gaze map must be finite and not negative", where=where, remedy="export it again")
    shown = np.empty(values.shape, np.float32)  # divided as float64, but never held as such
    return np.divide(values, top or 1.0, out=shown, dtype=np.float64, casting="unsafe")


@contextmanager
def _reading(where: str) -> Iterator[None]:
    """Tell every way in which a file can fail to be an image in one line that names it."""
    try:
        yield
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError("no such image file", where=where, remedy="check the path") from error
    except IsADirectoryError as error:
        raise DataError("is a folder, not an image", where=where, remedy="name the file in it") from error
    except PermissionError as error:
        raise DataError("the image may not be read", where=where, remedy="check its permissions") from error
    except UnidentifiedImageError as error:
        allowed = "JPEG, PNG, TIFF, BMP, GIF, WebP, PPM, JPEG 2000, DICOM or NIfTI"
        empty = isinstance(error, _EmptyFileError)
        what = "the file is empty" if empty else f"not a readable image; allowed: {allowed}"
        raise DataError(what, where=where, remedy="convert it, or take the row out") from error
    except Image.DecompressionBombError as error:
        what = str(error) if isinstance(error, BombError) else f"the image claims more than {MAX_PIXELS:,} pixels"
        raise DataError(what, where=where, remedy="cut it into tiles or shrink it first") from error
    except MemoryError as error:
        what = "the image takes more memory to read than there is"
        raise DataError(what, where=where, remedy="cut it into tiles or shrink it first") from error
    except _DAMAGE as error:
        what = f"the image is truncated or damaged ({str(error).splitlines()[0] if str(error) else error!r})"
        raise DataError(what, where=where, remedy="copy or export it again, or take the row out") from error


def _open(file: BinaryIO) -> Image.Image:
    """Open an image without loading it.

    From a file object, not a path: Pillow maps uncompressed TIFFs opened by path into memory, and scrambles those that
    lie sideways.
    """
    file.seek(0)
    try:
        image = Image.open(file, formats=FORMATS)
    except UnidentifiedImageError as error:
        raise _EmptyFileError if file.seek(0, io.SEEK_END) == 0 else error from None
    refuse_bomb(image)
    return image


def _upright(pixels: Pixels, orientation: int) -> Pixels:
    return pixels if orientation == 1 else np.ascontiguousarray(_UPRIGHT[orientation](pixels))


def _orientation(image: Image.Image) -> int:
    """Read the EXIF orientation (1 to 8); 1 where there is none, or where the EXIF block itself is damaged."""
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    except (SyntaxError, ValueError, KeyError, TypeError, struct.error):
        return 1
    return value if value in _UPRIGHT else 1


def _has_metadata(file: BinaryIO) -> bool:
    """Walk a PNG's chunks for one that could hold an orientation; Pillow would decode all pixels to tell."""
    file.seek(8)
    while len(head := file.read(8)) == 8:
        if head[4:] in (b"eXIf", b"tEXt", b"zTXt", b"iTXt"):
            return True
        file.seek(int.from_bytes(head[:4], "big") + 4, 1)
    return False


def _values(image: Image.Image) -> Pixels:
    """Decode an opened image to [H, W] or [H, W, 3]: palettes looked up, alpha laid on black, CMYK to RGB."""
    mode = image.mode
    if mode in ("L", "RGB") and "transparency" not in image.info:
        return np.array(image)
    if mode == "1":
        return np.array(image.convert("L"))
    if mode.startswith(("I", "F")):
        return _deep_grey(image)
    if mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        straight = image.convert("RGBA") if mode != "La" else image.convert("LA").convert("RGBA")
        return np.array(Image.alpha_composite(black, straight).convert("RGB"))
    return np.array(image.convert("RGB"))


def _deep_grey(image: Image.Image) -> Pixels:
    """Decode grey of 12 bits or more, undoing what the TIFF tags say and Pillow leaves as it is."""
    values = np.array(image)
    if image.format != "TIFF":
        return values
    tags = image.tag_v2  # type: ignore[attr-defined]
    bits, kind = tags.get(258, (1,))[0], tags.get(339, (1,))[0]
    if bits == 32 and kind == 1:
        values = values.view(np.uint32)  # Pillow holds unsigned values in a signed array
    if tags.get(262) == 0:  # WhiteIsZero
        values = values.max() - values
    return values
