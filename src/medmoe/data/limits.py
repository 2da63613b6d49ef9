"""What is refused before it is read: pipes and devices, pictures too large for 1 GiB, JPEGs of scans without end.

A few hundred bytes can claim a picture of any size; a picture is refused by the memory that decoding it would take.
"""

from __future__ import annotations

import stat
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from medmoe.data.deep import is_deep_colour
from medmoe.data.levels import MAX_PIXELS
from medmoe.errors import DataError

# Bytes that reading an image may take at its peak, and bytes a pixel that it takes in each of Pillow's modes (its
# pixels, their copy, alpha laid on black, float64), rounded up from what was measured; and what is added for others.
MEMORY = 960 * 2**20
_BYTES_A_PIXEL = {"1": 6, "L": 6, "P": 10, "RGB": 10, "CMYK": 14, "YCbCr": 14, "LAB": 14, "I": 16, "F": 16}
_BYTES_A_DEEP_PIXEL, _BYTES_OTHERWISE = 12, 24
_BYTES_MORE, _BYTES_MORE_IF_DEEP = {"WEBP": 12, "JPEG2000": 12}, 20
_USUAL_SCANS, _SCANNED = 20, 10**9  # scans of a JPEG that are nothing odd, and pixels visited in all of them


class BombError(Image.DecompressionBombError):
    """An image that would take too much memory or time; the message says so."""


def open_file(path: Path) -> BinaryIO:
    """Open a file for reading, and nothing else: a pipe would be waited for, a device read without end.

    Raises:
        DataError: If it is a pipe or a device, or empty.
        OSError: If it can't be opened.
    """
    state = path.stat()
    if not stat.S_ISREG(state.st_mode) and not stat.S_ISDIR(state.st_mode):
        raise DataError("is a pipe or a device, not a file", where=str(path), remedy="name a file")
    if state.st_size == 0 and stat.S_ISREG(state.st_mode):  # some of the kernel's files are waited for like pipes
        raise DataError("the file is empty", where=str(path), remedy="convert it, or take the row out")
    return path.open("rb")


def refuse_bomb(image: Image.Image) -> None:
    """Refuse an image, opened and not loaded, that would take too much memory.

    Raises:
        BombError: If it would.
    """
    count, mode = image.width * image.height, image.mode
    if count > MAX_PIXELS:
        raise BombError(f"the image claims more than {MAX_PIXELS:,} pixels")
    cost = _BYTES_A_PIXEL.get(mode, _BYTES_A_DEEP_PIXEL if mode.startswith("I;16") else _BYTES_OTHERWISE)
    cost += _BYTES_MORE.get(image.format or "", _BYTES_MORE_IF_DEEP if is_deep_colour(image) else 0)
    if count * cost > MEMORY:
        raise BombError(f"the image has {image.width:,} x {image.height:,} pixels, too many to be read in 1 GiB")


def refuse_scans(image: Image.Image, file: BinaryIO) -> None:
    """Refuse a JPEG of so many scans that decoding it takes minutes: each is a pass over all its pixels.

    Args:
        image: What Pillow made of the header.
        file: The file that it was opened from.

    Raises:
        BombError: If it has.
    """
    file.seek(0)
    scans = file.read().count(b"\xff\xda")
    if scans > _USUAL_SCANS and scans * image.width * image.height > _SCANNED:
        raise BombError(f"the JPEG has {scans:,} scans of {image.width:,} x {image.height:,} pixels, too many")
