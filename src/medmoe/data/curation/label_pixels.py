"""What an image's own pixels tell of its modality: eleven measures, and rules of thumb over them, the weakest rules.

Nothing here was learned from data: each rule is a sentence about how such images are made. Ultrasound is sharper along
its beam than across it, a stain is purple, a fundus camera sees a disc, a film's corners aren't air. Where no sentence
fits, no rule fires; CT and MRI are told apart by nothing but clipped whites, and often not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medmoe.data.curation.label_rules import PIXELS, Clues, Vote

_SIDE = 128  # pixels that the longest side is brought to: measures then mean the same at any size
_COLOURED = 0.08  # difference of an image's strongest and weakest channel from which a pixel has a colour
_DARK, _BLACK, _WHITE = 0.12, 0.04, 0.96
_AIR = (-10_000.0, -900.0)  # least value of a volume in Hounsfield units
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)

Measures = Mapping[str, float]


def measure(pixels: NDArray[np.generic]) -> dict[str, float]:
    """Take the measures of an image.

    Args:
        pixels: [H, W] or [H, W, 3]; uint8, or floats in [0, 1].

    Returns:
        coloured: share of pixels with a colour. chroma: mean difference of strongest and weakest channel. warm, purple:
        shares of the coloured pixels whose hue is red to orange, blue to pink. dark_corners: share of the four corners
        that are dark. dark_frame: share of dark pixels along the border. black, white: shares of such pixels. mean:
        mean luminance. detail: mean absolute Laplacian where it isn't dark. anisotropy: mean step from column to column
        over that from row to row, where it isn't dark.
    """
    rgb = _shrunk(pixels)
    grey = rgb @ _LUMA
    chroma = rgb.max(-1) - rgb.min(-1)
    warm, purple = _hues(rgb[chroma > _COLOURED])
    height, width = grey.shape
    side = max(2, round(0.08 * min(height, width)))
    corners = [grey[rows, columns] for rows in _ends(side) for columns in _ends(side)]
    frame = np.concatenate([grey[:2].ravel(), grey[-2:].ravel(), grey[:, :2].ravel(), grey[:, -2:].ravel()])
    inner = grey[1:-1, 1:-1]
    bend = np.abs(4 * inner - grey[:-2, 1:-1] - grey[2:, 1:-1] - grey[1:-1, :-2] - grey[1:-1, 2:])
    lit = inner > _COLOURED
    across, down = _step(grey.T), _step(grey)
    measures = {
        "coloured": float((chroma > _COLOURED).mean()),
        "chroma": float(chroma.mean()),
        "warm": warm,
        "purple": purple,
        "dark_corners": float(np.mean([corner.mean() < _DARK for corner in corners])),
        "dark_frame": float((frame < _COLOURED).mean()),
        "black": float((grey < _BLACK).mean()),
        "white": float((grey > _WHITE).mean()),
        "mean": float(grey.mean()),
        "detail": float(bend[lit].mean()) if lit.any() else 0.0,
        "anisotropy": min(across / max(down, 1e-6), 99.0),
    }
    return {name: round(value, 4) for name, value in measures.items()}


def pixel_votes(clues: Clues) -> Iterator[Vote]:
    """Apply the rules of thumb to an image's measures."""
    if clues.measures is None:
        return
    if "least" in clues.measures:
        if _AIR[0] <= clues.measures["least"] <= _AIR[1]:
            yield Vote(PIXELS, "pixels-air", "ct", 0.9)
        return
    for name, modality, confidence, holds in RULES:
        if holds(clues.measures):
            yield Vote(PIXELS, name, modality, confidence)


def _is_fundus(m: Measures) -> bool:
    """A warm, smooth disc on black."""
    return _has_disc(m) and m["detail"] < 0.05 and m["black"] >= 0.2


def _is_endoscopy(m: Measures) -> bool:
    """A warm, glistening picture with cut-off corners."""
    return _has_disc(m) and not _is_fundus(m)


def _has_disc(m: Measures) -> bool:
    return m["coloured"] > 0.3 and m["warm"] > 0.9 and m["dark_corners"] >= 0.75


def _is_stained(m: Measures) -> bool:
    """Purple and pink from edge to edge."""
    return m["coloured"] > 0.55 and m["purple"] > 0.6 and m["dark_corners"] <= 0.25 and m["mean"] > 0.3


def _is_smear(m: Measures) -> bool:
    """Cells on a pale ground, which has little colour."""
    return 0.2 < m["coloured"] <= 0.55 and m["purple"] > 0.2 and m["dark_corners"] == 0 and m["mean"] > 0.55


def _is_skin(m: Measures) -> bool:
    """Warm and bright from edge to edge."""
    return m["coloured"] > 0.8 and m["warm"] > 0.9 and m["dark_corners"] <= 0.25 and m["mean"] > 0.4


def _is_grey(m: Measures) -> bool:
    return m["coloured"] < 0.02


def _is_speckle(m: Measures) -> bool:
    """Grey, and much sharper down than across."""
    return m["coloured"] < 0.1 and m["anisotropy"] < 0.75 and m["detail"] > 0.05


def _is_film(m: Measures) -> bool:
    """Grey, bright, smooth, without air around it."""
    return _is_grey(m) and m["mean"] > 0.38 and m["detail"] < 0.09 and m["black"] < 0.25 and m["anisotropy"] > 0.9


def _is_clipped(m: Measures) -> bool:
    """Grey on black air, with whites cut off by a window, or edges as hard as that makes them."""
    hard = m["white"] > 0.01 or m["detail"] > 0.21
    return _is_grey(m) and m["black"] > 0.2 and hard and 0.75 <= m["anisotropy"] < 1.1


def _is_soft(m: Measures) -> bool:
    """Grey on a dark but not black ground, nothing cut off."""
    return _is_grey(m) and m["black"] < 0.5 and m["white"] < 0.001 and m["mean"] < 0.32 and m["anisotropy"] > 1.0


RULES: tuple[tuple[str, str, float, Callable[[Measures], bool]], ...] = (
    ("pixels-disc", "fundus", 0.8, _is_fundus),
    ("pixels-stain", "pathology", 0.8, _is_stained),
    ("pixels-speckle", "ultrasound", 0.7, _is_speckle),
    ("pixels-film", "xray", 0.65, _is_film),
    ("pixels-lumen", "endoscopy", 0.6, _is_endoscopy),
    ("pixels-smear", "microscopy", 0.6, _is_smear),
    ("pixels-skin", "dermoscopy", 0.6, _is_skin),
    ("pixels-clipped", "ct", 0.55, _is_clipped),
    ("pixels-soft", "mri", 0.55, _is_soft),
)


def _shrunk(pixels: NDArray[np.generic]) -> NDArray[np.float32]:
    """Bring the longest side to 128 pixels, values to [0, 1], grey to three equal channels: [h, w, 3]."""
    eight = pixels if pixels.dtype == np.uint8 else np.rint(np.clip(pixels.astype(np.float32), 0, 1) * 255)
    image = Image.fromarray(eight.astype(np.uint8)).convert("RGB")
    scale = _SIDE / max(image.size)
    if scale < 1:
        image = image.resize(
            (max(8, round(image.width * scale)), max(8, round(image.height * scale))), Image.Resampling.BOX
        )
    elif min(image.size) < 8:
        image = image.resize((max(8, image.width), max(8, image.height)), Image.Resampling.NEAREST)
    return np.asarray(image, np.float32) / np.float32(255)


def _ends(side: int) -> tuple[slice, slice]:
    return slice(None, side), slice(-side, None)


def _step(grey: NDArray[np.float32]) -> float:
    """Give the mean step from row to row, between pixels that aren't dark: outlines against black would count most."""
    lit = np.minimum(grey[1:], grey[:-1]) > _COLOURED
    return float(np.abs(np.diff(grey, axis=0))[lit].mean()) if lit.any() else 0.0


def _hues(coloured: NDArray[np.float32]) -> tuple[float, float]:
    """Give the shares of pixels [n, 3] with a hue of 340 to 50 degrees, and of 240 to 350."""
    if not len(coloured):
        return 0.0, 0.0
    red, green, blue = coloured.T
    top = coloured.max(1)
    span = np.maximum(top - coloured.min(1), 1e-6)
    hue = 60 * np.where(
        top == red,
        ((green - blue) / span) % 6,
        np.where(top == green, (blue - red) / span + 2, (red - green) / span + 4),
    )
    return float(np.mean((hue < 50) | (hue > 340))), float(np.mean((hue >= 240) & (hue <= 350)))
