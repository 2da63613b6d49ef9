"""Pictures inside the page: images as data URIs, with a heatmap laid over them."""

from __future__ import annotations

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_MOST_PIXELS = 320  # longest side embedded; the page shows pictures smaller than that

# Our own map from cold to hot: dark violet, purple, red, orange, pale yellow; its lightness only rises.
_ANCHORS = np.array(
    [(10, 8, 40), (76, 18, 108), (158, 40, 100), (222, 82, 56), (248, 160, 40), (252, 246, 170)], dtype=np.float64
)


def picture(image: NDArray[np.uint8], heatmap: NDArray[np.floating] | None = None) -> str:
    """Encode an image as a PNG data URI, under a heatmap if there is one.

    Args:
        image: [H, W, 3] uint8.
        heatmap: [G, G] of any range; its smallest value shows the bare image, its largest the hottest colour.
    """
    base = Image.fromarray(image).convert("RGB")
    scale = _MOST_PIXELS / max(base.size)
    if scale < 1:
        base = base.resize(
            (max(1, round(base.width * scale)), max(1, round(base.height * scale))), Image.Resampling.BOX
        )
    if heatmap is not None:
        heat = _resize(unit_range(heatmap), base.size)
        alpha = (0.15 + 0.6 * heat)[..., None]
        blended = np.asarray(base, dtype=np.float64) * (1 - alpha) + colours(heat) * alpha
        base = Image.fromarray(blended.round().astype(np.uint8))
    file = io.BytesIO()
    base.save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def unit_range(heatmap: NDArray[np.floating]) -> NDArray[np.float64]:
    """Stretch a heatmap to [0, 1]; a constant one is 0, a value that isn't finite counts as the coldest."""
    heat = np.asarray(heatmap, dtype=np.float64)
    known = np.isfinite(heat)
    if not known.any():
        return np.zeros_like(heat)
    low, high = heat[known].min(), heat[known].max()
    unit: NDArray[np.float64] = np.clip(np.where(known, heat - low, 0.0) / max(high - low, 1e-12), 0.0, 1.0)
    return unit


def colours(heat: NDArray[np.float64]) -> NDArray[np.float64]:
    """Colour [...] values in [0, 1] as [..., 3] RGB in [0, 255]."""
    places = np.linspace(0, 1, len(_ANCHORS))
    return np.stack([np.interp(heat, places, _ANCHORS[:, channel]) for channel in range(3)], axis=-1)


def gradient() -> str:
    """Write the colour map as a CSS gradient, for the legend."""
    stops = ", ".join(f"rgb({r:.0f} {g:.0f} {b:.0f})" for r, g, b in _ANCHORS)
    return f"linear-gradient(90deg, {stops})"


def _resize(heat: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.float64]:
    wide = Image.fromarray(heat.astype(np.float32)).resize(size, Image.Resampling.BILINEAR)
    return np.clip(np.asarray(wide, dtype=np.float64), 0.0, 1.0)
