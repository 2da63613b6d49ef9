"""JPEG by the fastest decoder that gives Pillow's pixels, and at a reduced scale where asked for.

Pillow and simplejpeg (an optional package) both decode with libjpeg-turbo. Pillow keeps four bytes a pixel, packs them
into three and hands over a copy; simplejpeg decodes straight into the array that is wanted. Their pixels are the same
where their libraries are, which is looked at once in each process; where they aren't, or a file is damaged, or
simplejpeg isn't installed (`pip install 'medmoe[fast]'`), Pillow decides.
"""

from __future__ import annotations

import importlib.util
import io
from functools import lru_cache
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_SCALES = (8, 4, 2)  # what both decoders can divide both sides by, decoding fewer coefficients of each block
_PROBES: tuple[dict[str, Any], ...] = (
    {"quality": 90, "subsampling": 0},
    {"quality": 75, "subsampling": 1},
    {"quality": 60, "subsampling": 2},
    {"quality": 80, "progressive": True},
)


def read_jpeg(image: Image.Image, file: BinaryIO, *, at_least: int | None = None) -> NDArray[np.uint8] | None:
    """Decode a JPEG that Pillow has opened and not loaded.

    Args:
        image: What Pillow made of the header.
        file: The file that it was opened from.
        at_least: Pixels that the longest side needs; None wants all there are. The scale is the smallest of 1/8, 1/4
            and 1/2 that leaves so many, else 1: grey levels then differ a little from those of a whole image that is
            resized, since each block is averaged on the way.

    Returns:
        [H, W] or [H, W, 3] as stored (not turned upright), the same whichever decoder is there; None for another kind
        of file, and for colours other than grey and RGB.
    """
    if image.format != "JPEG" or image.mode not in ("L", "RGB"):
        return None
    scale = _scale(image.size, at_least)
    if fast_decoder():
        file.seek(0)
        pixels = _decode(file.read(), image.size, image.mode, scale)
        if pixels is not None:
            return pixels
    return _by_pillow(image, scale)


def _scale(size: tuple[int, int], at_least: int | None) -> int:
    """Choose by what to divide the sides, so that the longest keeps `at_least` pixels and the other one at least 1."""
    if at_least is None:
        return 1
    return next((scale for scale in _SCALES if max(size) // scale >= at_least and min(size) >= scale), 1)


def _by_pillow(image: Image.Image, scale: int) -> NDArray[np.uint8]:
    if scale > 1:
        image.draft(None, (image.width // scale, image.height // scale))
    return np.array(image)


def _decode(data: bytes, size: tuple[int, int], mode: str, scale: int) -> NDArray[np.uint8] | None:
    """Decode with simplejpeg; None for a file it finds fault with, which Pillow may word or read all the same."""
    import simplejpeg

    width, height = (-(-side // scale) for side in size)
    least = {"min_height": height, "min_width": width, "min_factor": 1} if scale > 1 else {}
    try:
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(data, "GRAY" if mode == "L" else "RGB", **least)
    except ValueError:
        return None
    return (pixels[..., 0] if mode == "L" else pixels) if pixels.shape[:2] == (height, width) else None


@lru_cache(maxsize=1)
def fast_decoder() -> bool:
    """Tell whether simplejpeg is installed and gives Pillow's very pixels: looked at once, on small pictures."""
    if importlib.util.find_spec("simplejpeg") is None:
        return False
    rng = np.random.default_rng(0)
    smooth = np.add.outer(np.arange(45), np.arange(59))[..., None] * (2, 1, 1) + rng.integers(0, 60, (45, 59, 3))
    picture = Image.fromarray(smooth.astype(np.uint8))
    for settings in _PROBES:
        for mode in ("RGB", "L"):
            file = io.BytesIO()
            picture.convert(mode).save(file, "JPEG", **settings)
            for scale in (1, *_SCALES):
                fast = _decode(file.getvalue(), picture.size, mode, scale)
                if fast is None or not np.array_equal(fast, _by_pillow(Image.open(file), scale)):
                    return False
    return True
