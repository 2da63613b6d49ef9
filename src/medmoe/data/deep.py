"""Colour images of 16 bits a channel, which Pillow silently cuts to 8: read twice, for the high and the low bytes.

Pillow has no mode for 16-bit colour; its raw modes `RGB;16B` and `RGB;16L` keep the first or the second of each pair
of bytes. Asking for one and then for the other gives both bytes, whatever the compression.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medmoe.errors import DataError

_BITS, _PLANAR = 258, 284
_NATIVE = "L" if sys.byteorder == "little" else "B"
_OPPOSITE = {"L": "B", "B": "L"}


def is_deep_colour(image: Image.Image) -> bool:
    """Tell whether an image, opened but not loaded, has more bits a colour than Pillow would read."""
    if image.format == "PNG":
        return _raw_mode(image).endswith(";16B") and image.mode != "I;16"
    if image.format == "TIFF":
        bits = _tags(image).get(_BITS, (1,))
        return len(bits) > 1 and max(bits) > 8
    return False


def read_deep_colour(reopen: Callable[[], Image.Image], *, where: str) -> NDArray[np.uint16]:
    """Read a 16-bit colour PNG or TIFF, or a 16-bit PNG of grey with alpha.

    Args:
        reopen: Opens the image afresh, not loaded.
        where: The file, for the error.

    Returns:
        [H, W, 3] uint16, alpha laid on black; turned as Pillow turns it on loading (a TIFF upright, a PNG not).

    Raises:
        DataError: If the layout is one that Pillow can't give both bytes of.
    """
    image = reopen()
    raw, planar = _raw_mode(image), image.format == "TIFF" and _tags(image).get(_PLANAR, 1) != 1
    kind, _, depth = raw.partition(";16")
    if planar or kind not in ("RGB", "RGBA", "RGBX", "RGBa", "LA") or depth not in ("L", "B", "N"):
        raise DataError(
            f"colours of more than 8 bits stored as {raw or image.mode}{' in planes' if planar else ''} can't be read "
            "without losing depth",
            where=where,
            remedy="save it as a 16-bit RGB PNG or TIFF",
        )
    if kind == "LA":
        return _grey_with_alpha(image)
    # RGBa holds colours already multiplied by alpha, which is to say laid on black.
    stored = "RGBA" if kind == "RGBa" else kind
    first = _NATIVE if depth == "N" else depth
    high = _load(image, f"{stored};16{first}")
    low = _load(reopen(), f"{stored};16{_OPPOSITE[first]}")
    pixels = high.astype(np.uint16)
    pixels <<= 8
    pixels |= low
    return _on_black(pixels) if kind == "RGBA" else np.ascontiguousarray(pixels[..., :3])


def _grey_with_alpha(image: Image.Image) -> NDArray[np.uint16]:
    """Read a 16-bit grey PNG with alpha: its four bytes a pixel are those of an 8-bit RGBA pixel."""
    pairs = np.ascontiguousarray(_load(image, "RGBA")).view(">u2").astype(np.uint16)  # [H, W, 2]
    return _on_black(pairs[..., [0, 0, 0, 1]])


def _load(image: Image.Image, raw: str) -> NDArray[np.uint8]:
    """Decode an opened image as if its pixels were stored in another raw mode."""
    tiles: Any = image.tile  # type: ignore[attr-defined]
    image.tile = [  # type: ignore[attr-defined]
        tile._replace(args=raw if isinstance(tile.args, str) else (raw, *tile.args[1:])) for tile in tiles
    ]
    image.load()
    return np.array(image)


def _raw_mode(image: Image.Image) -> str:
    tiles: Any = getattr(image, "tile", None)
    if not tiles:
        return ""
    return str(tiles[0].args if isinstance(tiles[0].args, str) else tiles[0].args[0])


def _tags(image: Image.Image) -> Any:
    return image.tag_v2  # type: ignore[attr-defined]


def _on_black(pixels: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Lay [H, W, 4] on black."""
    laid = pixels[..., :3].astype(np.uint32)
    laid *= pixels[..., 3:]
    laid += 32767  # to the nearest; the largest of all still fits
    laid //= 65535
    return laid.astype(np.uint16)
