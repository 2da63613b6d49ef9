"""Named corruptions at five levels: what goes wrong between a scanner and a model, as pure functions of a sample.

Sizes (of a blur, a grain, a JPEG block) are fractions of the picture, so that a level means the same at every
resolution. The named set at five levels follows Hendrycks and Dietterich, 2019 (https://arxiv.org/abs/1903.12261); the
amounts, and the corruptions that only one modality knows, are ours.
"""

from __future__ import annotations

import dataclasses
import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image

from medmoe.errors import ConfigError, DataError, unknown
from medmoe.types import Box, Sample

Unit = NDArray[np.float32]  # [H, W, 1] grey or [H, W, 3], in [0, 1]

LEVELS = (1, 2, 3, 4, 5)
# Grains of noise along the longest side, and its length in pixels when a picture is compressed.
_GRAINS, _EXPORTED = 256, 512
# A box is dropped when less than this share of its area survives a crop.
_LEFT = 0.2
_DARKEST = 1 / 255  # intensity at which optical density is cut off


def noise(sample: Sample, rng: np.random.Generator, level: int) -> Sample:
    """Add Gaussian noise; in a grey image the same to all channels."""
    amount = _at(level, 0.04, 0.08, 0.13, 0.19, 0.27)

    def change(unit: Unit) -> Unit:
        return unit + np.float32(amount) * _grain(unit, rng.standard_normal, unit.shape[-1])

    return _repainted(sample, change)


def blur(sample: Sample, rng: np.random.Generator, level: int) -> Sample:
    """Blur by a Gaussian; its standard deviation is a share of the longest side."""
    share = _at(level, 0.006, 0.011, 0.017, 0.025, 0.035)
    return _repainted(sample, lambda unit: _smooth(unit, share * max(unit.shape)))


def contrast(sample: Sample, rng: np.random.Generator, level: int) -> Sample:
    """Draw every channel towards its mean."""
    kept = np.float32(_at(level, 0.7, 0.5, 0.35, 0.22, 0.12))

    def change(unit: Unit) -> Unit:
        middle = unit.mean(axis=(0, 1), dtype=np.float64).astype(np.float32)
        drawn: Unit = middle + (unit - middle) * kept
        return drawn

    return _repainted(sample, change)


def jpeg(sample: Sample, rng: np.random.Generator, level: int) -> Sample:
    """Export as a JPEG of at most 512 pixels a side, of poor quality, and enlarge it back."""
    quality = int(_at(level, 40, 25, 15, 8, 4))
    return _repainted(sample, lambda unit: _recompressed(unit, quality))


def crop(sample: Sample, rng: np.random.Generator, level: int) -> Sample:
    """Lose a share of each side to the border and scale the rest back; boxes, mask and gaze follow.

    How much is lost left and right (above and below) of that share is drawn. A box of which less than a fifth is left
    is dropped.
    """
    lost = _at(level, 0.06, 0.12, 0.18, 0.26, 0.36)
    where = rng.random(2)
    height, width = _unit(sample).shape[:2]
    (top, tall), (left, wide) = (_kept(*side) for side in ((height, lost, where[0]), (width, lost, where[1])))

    def cut(field: NDArray[Any]) -> NDArray[Any]:
        part = torch.from_numpy(np.ascontiguousarray(field[top : top + tall, left : left + wide], dtype=np.float32))
        moved = part[None, None] if part.ndim == 2 else part.permute(2, 0, 1)[None]
        scaled = F.interpolate(moved, (height, width), mode="bilinear", align_corners=False)[0]
        back: NDArray[Any] = scaled.permute(1, 2, 0).numpy()
        return back[..., 0] if field.ndim == 2 else back

    frame = (left / width, top / height, wide / width, tall / height)
    boxes = None if sample.boxes is None else [_cropped(box, *frame) for box in sample.boxes]
    return dataclasses.replace(
        _repainted(sample, cut),
        boxes=None if boxes is None else tuple(box for box in boxes if box is not None),
        mask=None if sample.mask is None else cut(sample.mask) >= 0.5,
        gaze=None if sample.gaze is None else cut(sample.gaze),
    )


def window_shift(sample: Sample, rng: np.random.Generator, level: int) -> Sample:
    """Show through a narrower window whose centre is off, up or down: what falls outside is clipped."""
    shift, width = _at(level, 0.06, 0.12, 0.18, 0.24, 0.3), _at(level, 0.95, 0.88, 0.8, 0.7, 0.6)
    low = np.float32((1 - width) / 2 + _sign(rng) * shift)
    return _repainted(sample, lambda unit: (unit - low) / np.float32(width))


def gain(sample: Sample, rng: np.random.Generator, level: int) -> Sample:
    """Multiply by a wrong gain and add a wrong offset, each up or down."""
    factor = np.float32(math.exp(_sign(rng) * _at(level, 0.1, 0.2, 0.32, 0.46, 0.62)))
    offset = np.float32(_sign(rng) * _at(level, 0.03, 0.06, 0.1, 0.14, 0.18))
    return _repainted(sample, lambda unit: unit * factor + offset)


def speckle(sample: Sample, rng: np.random.Generator, level: int) -> Sample:
    """Multiply by gamma-distributed speckle of mean 1, the same in all channels."""
    spread = _at(level, 0.12, 0.24, 0.38, 0.54, 0.72)

    def drawn(size: tuple[int, ...]) -> NDArray[np.float64]:
        return rng.gamma(1 / spread**2, spread**2, size)

    return _repainted(sample, lambda unit: unit * _grain(unit, drawn, 1))


def stain(sample: Sample, rng: np.random.Generator, level: int) -> Sample:
    """Turn colours about the grey axis in optical density, and stain too much or too little; grey only gets the latter.

    Optical density is -log intensity, in which stains add up (Beer and Lambert's law; Ruifrok and Johnston, 2001).
    """
    angle = math.radians(_sign(rng) * _at(level, 8, 16, 25, 35, 46))
    factor = np.float32(math.exp(_sign(rng) * _at(level, 0.06, 0.12, 0.19, 0.27, 0.36)))

    def change(unit: Unit) -> Unit:
        density = -np.log(np.maximum(unit, np.float32(_DARKEST))) * factor
        if unit.shape[-1] == 3:
            density = density @ _about_grey(angle).T
        return np.exp(-np.maximum(density, 0))

    return _repainted(sample, change)


def vignette(sample: Sample, rng: np.random.Generator, level: int) -> Sample:
    """Let the light fall off with the square of the distance from a centre near the middle."""
    depth = _at(level, 0.25, 0.4, 0.55, 0.7, 0.85)
    x, y = 0.5 + 0.15 * rng.uniform(-1, 1, 2)

    def change(unit: Unit) -> Unit:
        height, width = unit.shape[:2]
        across, down = (np.arange(width) + 0.5) / width - x, (np.arange(height) + 0.5) / height - y
        distance = (across[None, :] ** 2 + down[:, None] ** 2) / 0.5  # 1 in a corner, seen from the middle
        light = (1 - depth * np.minimum(distance, 1)).astype(np.float32)
        dimmed: Unit = unit * light[:, :, None]
        return dimmed

    return _repainted(sample, change)


@dataclass(frozen=True, slots=True)
class Corruption:
    """A row of `CORRUPTIONS`.

    Attributes:
        change: Maps a sample, a generator and a level from 1 (slight) to 5 (severe) to a corrupted sample of the same
            size and type; the same generator state gives the same result, and the sample given isn't changed.
        modalities: Where it can happen; None: anywhere.
    """

    change: Callable[[Sample, np.random.Generator, int], Sample]
    modalities: tuple[str, ...] | None = None

    def suits(self, modality: str | None) -> bool:
        """Tell whether images of a modality can suffer it."""
        return self.modalities is None or modality in self.modalities


CORRUPTIONS: dict[str, Corruption] = {
    "noise": Corruption(noise),
    "blur": Corruption(blur),
    "contrast": Corruption(contrast),
    "jpeg": Corruption(jpeg),
    "crop": Corruption(crop),
    "window_shift": Corruption(window_shift, ("ct",)),
    "gain": Corruption(gain, ("xray", "mri", "ultrasound", "oct", "pet")),
    "speckle": Corruption(speckle, ("ultrasound", "oct")),
    "stain": Corruption(stain, ("pathology", "microscopy")),
    "vignette": Corruption(vignette, ("fundus", "endoscopy", "dermoscopy", "microscopy")),
}


def corrupt(name: str, sample: Sample, rng: np.random.Generator, level: int) -> Sample:
    """Corrupt a sample, whatever its modality.

    Args:
        name: A row of `CORRUPTIONS`.
        sample: With its pixels: [H, W] or [H, W, 3], uint8, uint16 or float in [0, 1].
        rng: The only source of randomness.
        level: 1 to 5.

    Raises:
        ConfigError: If the name or the level isn't known.
        DataError: If the image has another shape or type.
    """
    if name not in CORRUPTIONS:
        raise ConfigError(unknown("corruption", name, CORRUPTIONS))
    return CORRUPTIONS[name].change(sample, rng, level)


def _at(level: int, *amounts: float) -> float:
    """Give the amount of a level."""
    if level not in LEVELS:
        raise ConfigError(f"level {level!r} isn't allowed; {LEVELS[0]} to {LEVELS[-1]} are", where="corruption")
    return amounts[level - 1]


def _sign(rng: np.random.Generator) -> float:
    return 1.0 if rng.random() < 0.5 else -1.0


def _unit(sample: Sample) -> Unit:
    """Give the pixels as [H, W, 1 or 3] in [0, 1], a new array."""
    image = sample.image
    if image.size == 0 or not (image.ndim == 2 or (image.ndim == 3 and image.shape[-1] == 3)):
        raise DataError(f"image of shape {image.shape}; allowed: (H, W) and (H, W, 3)", where=sample.key)
    if image.dtype not in (np.uint8, np.uint16) and not np.issubdtype(image.dtype, np.floating):
        raise DataError(
            f"image of type {image.dtype}; allowed: uint8, uint16, and floats from 0 to 1", where=sample.key
        )
    unit = image.astype(np.float32) / np.float32(_top(image.dtype))
    return unit[..., None] if image.ndim == 2 else unit


def _top(dtype: np.dtype[Any]) -> float:
    return float(np.iinfo(dtype).max) if np.issubdtype(dtype, np.integer) else 1.0


def _repainted(sample: Sample, change: Callable[[Unit], Unit]) -> Sample:
    """Replace a sample's pixels by a function of them, kept in range, shape and type; grey stored as RGB stays grey."""
    unit, dtype = _unit(sample), sample.image.dtype
    grey = all(np.array_equal(unit[..., 0], unit[..., other]) for other in range(1, unit.shape[-1]))
    changed = np.clip(change(unit[..., :1] if grey else unit), 0, 1)
    changed = np.broadcast_to(changed, unit.shape).reshape(sample.image.shape)
    if np.issubdtype(dtype, np.integer):
        changed = np.rint(changed * _top(dtype))
    return dataclasses.replace(sample, image=changed.astype(dtype))


def _grain(unit: Unit, draw: Callable[[tuple[int, ...]], NDArray[np.float64]], channels: int) -> Unit:
    """Draw [H, W, channels] in square grains, at most 256 along the longest side."""
    height, width = unit.shape[:2]
    cell = -(-max(height, width) // _GRAINS)
    coarse = draw((-(-height // cell), -(-width // cell), channels)).astype(np.float32)
    return coarse.repeat(cell, axis=0).repeat(cell, axis=1)[:height, :width]


def _smooth(unit: Unit, sigma: float) -> Unit:
    radius = max(1, math.ceil(3 * sigma))
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, dtype=torch.float64) / sigma) ** 2)
    kernel = (kernel / kernel.sum()).float()
    planes = torch.from_numpy(unit).permute(2, 0, 1)[:, None]
    padded = F.pad(planes, (radius,) * 4, mode="replicate")
    smooth = F.conv2d(F.conv2d(padded, kernel.view(1, 1, -1, 1)), kernel.view(1, 1, 1, -1))
    result: Unit = smooth[:, 0].permute(1, 2, 0).numpy()
    return result


def _recompressed(unit: Unit, quality: int) -> Unit:
    """Export as a JPEG and read it back at the same size; a grey image as a grey one."""
    height, width, channels = unit.shape
    levels = np.rint(unit * 255).astype(np.uint8)
    picture = Image.fromarray(levels[..., 0] if channels == 1 else levels)
    longest = max(height, width)
    if longest > _EXPORTED:
        small = (max(1, width * _EXPORTED // longest), max(1, height * _EXPORTED // longest))
        picture = picture.resize(small, Image.Resampling.BOX)
    file = io.BytesIO()
    picture.save(file, format="JPEG", quality=quality)
    with Image.open(file) as read:
        levels = np.asarray(read.resize((width, height), Image.Resampling.BILINEAR))
    back: Unit = levels.astype(np.float32) / np.float32(255)
    return back[..., None] if channels == 1 else back


def _about_grey(angle: float) -> NDArray[np.float32]:
    """Give the rotation [3, 3] about the axis (1, 1, 1) by an angle in radians (Rodrigues' formula)."""
    axis = np.full(3, 1 / math.sqrt(3))
    x, y, z = axis
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    turned = np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross
    result: NDArray[np.float32] = turned.astype(np.float32)
    return result


def _kept(side: int, lost: float, where: float) -> tuple[int, int]:
    """Give the first pixel and the number of pixels that a crop keeps of a side."""
    kept = max(1, round(side * (1 - lost)))
    return min(side - kept, int(where * (side - kept + 1))), kept


def _cropped(box: Box, left: float, top: float, width: float, height: float) -> Box | None:
    """Express a box in the frame that is kept, clipped; None when too little of it is left."""
    low = np.array([(box.x0 - left) / width, (box.y0 - top) / height])
    high = np.array([(box.x1 - left) / width, (box.y1 - top) / height])
    (x0, y0), (x1, y1) = np.clip(low, 0, 1).tolist(), np.clip(high, 0, 1).tolist()
    left_over, whole = (x1 - x0) * (y1 - y0), float(np.prod(high - low))
    if left_over <= 0 or left_over < _LEFT * whole:
        return None
    return dataclasses.replace(box, x0=x0, y0=y0, x1=x1, y1=y1)
