"""Grey levels deeper than 8 bits to [0, 1], by one arithmetic whatever file they come from; and the largest image.

A 16-bit PNG and a DICOM file of the same stored values must give the same floats to the last bit.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmoe.errors import DataError

# More pixels than Pillow itself accepts in one image: a decompression bomb or a whole slide.
MAX_PIXELS = 178_956_970


def stretch(
    pixels: NDArray[Any], *, where: str | Path | None = None, ends: tuple[float, float] | None = None
) -> NDArray[Any]:
    """Bring values deeper than 8 bits to float32 in [0, 1] by their own minimum and maximum.

    Args:
        pixels: [H, W] or [H, W, 3]; the channels of a colour image are stretched together. uint8 is left as it is.
        where: The file, for the error.
        ends: Values that become 0 and 1, where they aren't the minimum and maximum; what lies beyond is cut off.

    Raises:
        DataError: If a value is NaN or infinite.
    """
    if pixels.dtype == np.uint8:
        return pixels
    low, high = (float(pixels.min()), float(pixels.max())) if ends is None else ends  # NaN passes through both
    if not np.isfinite((low, high)).all():
        raise DataError(
            "the image has NaN or infinite pixels", where=str(where) if where else None, remedy="export it again"
        )
    if high <= low:
        return np.zeros(pixels.shape, np.float32)
    # 32-bit and wider values need float64 for the subtraction, 16-bit ones don't.
    exact: NDArray[Any] = pixels.astype(np.float64 if pixels.itemsize > 2 else np.float32)
    if not np.isfinite(high - low):  # further apart than the largest number
        np.multiply(exact, 0.5, out=exact)
        low, high = low / 2, high / 2
    np.subtract(exact, low, out=exact)
    np.divide(exact, high - low, out=exact)
    if ends is not None:
        np.clip(exact, 0.0, 1.0, out=exact)
    return exact.astype(np.float32, copy=False)
