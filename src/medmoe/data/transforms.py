"""Augmentation that keeps medical sense: no swapped sides, aspect kept, intensities changed mildly.

One affine resampling moves image, mask and gaze together; boxes follow by the same matrix.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from medmoe.data.preprocess import check
from medmoe.errors import ConfigError
from medmoe.types import Box, Sample

Matrix = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Change:
    """What was drawn for one sample; `Augment` does it to the sample, `device_augment` to a batch.

    Attributes:
        gamma: Exponent of the grey levels.
        gain: Factor of the distance from the image's mean.
        offset: Added grey level, in [0, 1] units.
        tint: [3] factor of each channel, where they aren't all equal.
        matrix: [2, 3] map from old to new pixel coordinates about the centre.
        sigma: Standard deviation of the blur in pixels, 0 for none.
        noise: Standard deviation of the noise.
    """

    gamma: float
    gain: float
    offset: float
    tint: NDArray[np.float64]
    matrix: Matrix
    sigma: float
    noise: float


@dataclass(frozen=True, slots=True)
class Augment:
    """Draws one mild change of geometry and intensity for each sample, in training only.

    All ranges and probabilities are multiplied by `strength`; at 0 a sample comes back as it is.

    Attributes:
        strength: 0 to 2; 1 is the default amount.
        zoom: Largest change of scale: the factor is from 1 - zoom (padded around) to 1 + zoom (cropped).
        shift: Largest shift along each axis, as a fraction of that side.
        rotate: Largest rotation, in degrees.
        flip: Mirror left and right in half of the samples. Off by default: a report that says "left" would become
            false, and so would the side of the heart. Turn it on only where neither matters (histology, say).
        brightness: Largest added grey level, in [0, 1] units.
        contrast: Largest relative change of the distance from the image's mean.
        gamma: Largest natural logarithm of the gamma exponent.
        colour: Largest relative change of each channel of an RGB image by itself (stain, white balance).
        noise: Largest standard deviation of Gaussian noise, equal in all channels.
        blur: Probability of a slight blur (standard deviation 0.3 to 1 pixel).
        fill: Grey level of what the geometry brings in from outside, in [0, 1].
        min_box: A box is dropped when less than this share of its area stays inside.

    Raises:
        ConfigError: If a value isn't allowed.
    """

    strength: float = 1.0
    zoom: float = 0.15
    shift: float = 0.06
    rotate: float = 10.0
    flip: bool = False
    brightness: float = 0.1
    contrast: float = 0.2
    gamma: float = 0.2
    colour: float = 0.08
    noise: float = 0.02
    blur: float = 0.1
    fill: float = 0.0
    min_box: float = 0.2

    def __post_init__(self) -> None:
        limits = {"strength": 2.0, "zoom": 0.45, "shift": 0.5, "rotate": 180.0, "brightness": 0.5, "contrast": 0.5}
        limits |= {"gamma": 1.0, "colour": 0.5, "noise": 0.5, "blur": 1.0, "fill": 1.0, "min_box": 1.0}
        for name, limit in limits.items():
            value = getattr(self, name)
            if not 0 <= value <= limit:
                raise ConfigError(f"{value!r} isn't allowed; 0 to {limit:g} is", where=f"augment.{name}")

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Change one sample.

        Args:
            sample: The sample, with its pixels.
            rng: The only source of randomness: the same generator state gives the same result.

        Returns:
            A sample of the same height and width, its image float32 in [0, 1] ([H, W] or [H, W, 3]), with boxes, mask
            and gaze moved along; the sample itself when `strength` is 0.

        Raises:
            DataError: As `medmoe.data.preprocess.check`.
        """
        if self.strength == 0:
            return sample
        pixels = check(sample)
        height, width = pixels.shape[-2:]
        change = self.draw(rng, height, width)
        pixels = _intensity(pixels, change)  # [C, H, W] float32
        fields = [field for field in (sample.mask, sample.gaze) if field is not None]
        extra = [torch.from_numpy(field.astype(np.float32))[None] for field in fields]
        moved = _warp(torch.cat([pixels.sub_(self.fill), *extra]), change.matrix)
        image = moved[: len(pixels)].add_(self.fill)
        image = _degrade(image, change, rng).clamp_(0, 1)

        maps = iter(moved[len(pixels) :].numpy())
        mask = next(maps) >= 0.5 if sample.mask is not None else None
        gaze = next(maps) if sample.gaze is not None else None
        array = image[0] if len(image) == 1 else image.permute(1, 2, 0)
        boxes = self.move_boxes(sample.boxes, change, height, width)
        return dataclasses.replace(sample, image=array.numpy(), boxes=boxes, mask=mask, gaze=gaze)

    def draw(self, rng: np.random.Generator, height: int, width: int) -> Change:
        """Draw the change of a sample of H × W pixels."""
        gamma = math.exp(self._spread(rng, self.gamma))
        gain = 1 + self._spread(rng, self.contrast)
        offset = self._spread(rng, self.brightness)
        tint = 1 + self._spread(rng, self.colour, 3)
        matrix = self._matrix(height, width, rng)
        blurred, sigma = rng.random() < self.blur * self.strength, rng.uniform(0.3, 1.0)
        noise = rng.uniform(0, self.noise) * self.strength
        return Change(gamma, gain, offset, tint, matrix, sigma if blurred else 0.0, noise)

    def move_boxes(
        self, boxes: tuple[Box, ...] | None, change: Change, height: int, width: int
    ) -> tuple[Box, ...] | None:
        """Move boxes along with an image of H × W pixels; those of which too little stays inside are dropped."""
        if boxes is None:
            return None
        moved = (_move(box, change.matrix, height, width, self.min_box) for box in boxes)
        return tuple(box for box in moved if box is not None)

    def _spread(self, rng: np.random.Generator, amount: float, size: int | None = None) -> Any:
        """Draw evenly from ± amount·strength."""
        return rng.uniform(-amount, amount, size) * self.strength

    def _matrix(self, height: int, width: int, rng: np.random.Generator) -> Matrix:
        """Draw the map from old to new pixel coordinates about the centre: [2, 3]."""
        scale = 1 + self._spread(rng, self.zoom)
        angle = math.radians(self._spread(rng, self.rotate))
        shift = self._spread(rng, self.shift, 2) * (width, height)
        mirror = -1.0 if self.flip and rng.random() < 0.5 else 1.0
        cosine, sine = scale * math.cos(angle), scale * math.sin(angle)
        return np.array([[mirror * cosine, -sine, shift[0]], [mirror * sine, cosine, shift[1]]])


def _intensity(pixels: Tensor, change: Change) -> Tensor:
    """Change brightness, contrast, gamma and colour: [C, H, W] of uint8 or float32 to a new float32."""
    gain, tint = change.gain, change.tint[: len(pixels)]
    if all(torch.equal(pixels[0], other) for other in pixels[1:]):
        tint = np.ones(len(pixels))  # grey stays grey, also where it is stored as RGB
    whole = pixels.dtype == torch.uint8
    mean = (float(pixels.float().mean()) / (255 if whole else 1)) ** change.gamma
    slope, level = gain * tint, (mean * (1 - gain) + change.offset) * tint  # [C]
    if not whole:
        return pixels.pow(change.gamma).mul_(_column(slope)).add_(_column(level))
    # A table of the 256 levels saves taking a power for every pixel.
    table = (np.linspace(0, 1, 256) ** change.gamma * slope[:, None] + level[:, None]).astype(np.float32)
    return torch.from_numpy(np.stack([np.take(*pair) for pair in zip(table, pixels.numpy(), strict=True)]))


def _degrade(image: Tensor, change: Change, rng: np.random.Generator) -> Tensor:
    """Blur now and then, and add noise: [C, H, W]."""
    if change.sigma > 0:
        kernel = torch.exp(-0.5 * (torch.arange(-2.0, 3.0) / change.sigma) ** 2)
        kernel /= kernel.sum()
        padded = F.pad(image[:, None], (2, 2, 2, 2), mode="replicate")
        image = F.conv2d(F.conv2d(padded, kernel.view(1, 1, 5, 1)), kernel.view(1, 1, 1, 5))[:, 0]
    if change.noise > 0:
        grain = rng.standard_normal(tuple(image.shape[-2:]), dtype=np.float32)
        image = image.add_(torch.from_numpy(grain), alpha=change.noise)
    return image


def _column(values: NDArray[np.float64]) -> Tensor:
    return torch.from_numpy(values).float().view(-1, 1, 1)


def _warp(stack: Tensor, forward: Matrix) -> Tensor:
    """Resample [C, H, W] so that the pixel at p (from the centre) goes to forward·p; zero comes in from outside."""
    height, width = stack.shape[-2:]
    # grid_sample asks where each new pixel comes from, in units of half the image's sides.
    half = np.array([width / 2, height / 2])
    inverse = np.linalg.inv(forward[:, :2])
    theta = np.column_stack([inverse * half / half[:, None], -(inverse @ forward[:, 2]) / half])
    grid = F.affine_grid(torch.from_numpy(theta).float()[None], [1, 1, height, width], align_corners=False)
    return F.grid_sample(stack[None], grid, padding_mode="zeros", align_corners=False)[0]


def _move(box: Box, forward: Matrix, height: int, width: int, min_share: float) -> Box | None:
    """Move a box's corners, and take the upright box around them, clipped; None when too little stays inside."""
    side = np.array([width, height])
    corners = np.array([(x, y) for x in (box.x0, box.x1) for y in (box.y0, box.y1)])  # [4, 2]
    moved = ((corners - 0.5) * side @ forward[:, :2].T + forward[:, 2]) / side + 0.5
    low, high = moved.min(axis=0), moved.max(axis=0)
    inner_low, inner_high = np.clip(low, 0, 1), np.clip(high, 0, 1)
    whole, inside = np.prod(high - low), np.prod(inner_high - inner_low)
    if inside <= 0 or inside < min_share * whole:
        return None
    (x0, y0), (x1, y1) = inner_low.tolist(), inner_high.tolist()
    return dataclasses.replace(box, x0=x0, y0=y0, x1=x1, y1=y1)
