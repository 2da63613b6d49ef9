"""Pictures that no scanner made, drawn by rule: what a gate before a medical model must turn away.

They are no photographs: passing this test is necessary, not sufficient, for turning photographs away.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from medmoe.types import Sample

Picture = NDArray[np.float64]  # [H, W, 3]

# A picture's longest side, in pixels.
_LONGEST = 256


def gradient(height: int, width: int, rng: np.random.Generator) -> Picture:
    """Blend two colours along a random direction."""
    angle = rng.uniform(0, 2 * np.pi)
    y, x = _grid(height, width)
    along = np.cos(angle) * x + np.sin(angle) * y
    share = (along - along.min()) / max(float(np.ptp(along)), 1e-9)
    first, second = rng.random((2, 3))
    blended: Picture = first + share[..., None] * (second - first)
    return blended


def white_noise(height: int, width: int, rng: np.random.Generator) -> Picture:
    """Draw every pixel by itself, in grains of 1 to 8 pixels."""
    cell = int(rng.integers(1, 9))
    coarse = rng.random((-(-height // cell), -(-width // cell), 3))
    return coarse.repeat(cell, axis=0).repeat(cell, axis=1)[:height, :width]


def checkerboard(height: int, width: int, rng: np.random.Generator) -> Picture:
    """Tile two colours, 2 to 16 fields along the longest side."""
    fields = rng.uniform(2, 16)
    y, x = _grid(height, width)
    odd = (np.floor(x * fields) + np.floor(y * fields)) % 2
    first, second = rng.random((2, 3))
    board: Picture = np.where(odd[..., None] > 0, first, second)
    return board


def strokes(height: int, width: int, rng: np.random.Generator) -> Picture:
    """Write lines of short dark strokes on light paper, as a page of text looks from afar."""
    page = np.full((height, width), rng.uniform(0.85, 1.0))
    line = max(4, int(rng.integers(8, 20)) * max(height, width) // _LONGEST)
    tall, ink = max(1, line // 2), rng.uniform(0.0, 0.25)
    for top in range(line // 2, height - tall, line):
        left = line // 2
        while left < width - line // 2:
            wide = int(rng.integers(1, max(2, line // 3) + 1))
            below = int(rng.integers(0, tall))
            if rng.random() < 0.8:  # else a blank between words
                page[top + below : top + tall, left : left + wide] = ink
                page[top + below, left : left + 2 * wide] = ink
            left += 2 * wide + 1
    return page[..., None] * rng.uniform(0.9, 1.0, 3)


def blobs(height: int, width: int, rng: np.random.Generator) -> Picture:
    """Lay 3 to 12 evenly coloured discs and rectangles over each other, as a drawing or a logo has."""
    canvas = np.broadcast_to(rng.random(3), (height, width, 3)).copy()
    y, x = _grid(height, width)
    for _ in range(int(rng.integers(3, 13))):
        across, down = x - rng.random(), y - rng.random()
        radius, colour = rng.uniform(0.05, 0.3), rng.random(3)
        disc = across**2 + down**2 < radius**2
        rectangle = (np.abs(across) < radius) & (np.abs(down) < radius * rng.uniform(0.3, 1.5))
        canvas[disc if rng.random() < 0.5 else rectangle] = colour
    return canvas


def natural(height: int, width: int, rng: np.random.Generator) -> Picture:
    """Draw coloured noise whose amplitude falls with frequency as that of photographs does (1/f; Field, 1987)."""
    down, across = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :]
    falling = 1 / np.maximum(np.hypot(down, across), 1 / max(height, width)) ** rng.uniform(0.9, 1.5)
    falling[0, 0] = 0
    phase = np.exp(2j * np.pi * rng.random((3, *falling.shape)))
    planes = np.fft.irfft2(falling * phase, s=(height, width))
    planes /= np.maximum(planes.std(axis=(1, 2), keepdims=True), 1e-9)
    mixed = np.tensordot(np.eye(3) * 0.5 + 0.5, planes, axes=1)  # channels of photographs go together
    picture: Picture = np.moveaxis(0.5 + 0.2 * mixed, 0, -1)
    return picture


PICTURES: dict[str, Callable[[int, int, np.random.Generator], Picture]] = {
    "gradient": gradient,
    "white_noise": white_noise,
    "checkerboard": checkerboard,
    "strokes": strokes,
    "blobs": blobs,
    "natural": natural,
}


def picture_in(name: str, sample: Sample, rng: np.random.Generator) -> Sample:
    """Put a picture in a sample's place.

    It has the sample's proportions, so that the frame doesn't give it away, and is grey where the image was grey:
    whether an image has colour mustn't give it away either.

    Args:
        name: A row of `PICTURES`.
        sample: With its pixels.
        rng: The only source of randomness.

    Returns:
        The sample with another image, uint8, at most 256 pixels a side, and without mask and gaze.
    """
    height, width = sample.image.shape[:2]
    shrink = min(1.0, _LONGEST / max(height, width))
    picture = PICTURES[name](max(1, round(height * shrink)), max(1, round(width * shrink)), rng)
    if sample.image.ndim == 2:
        picture = picture.mean(axis=-1)
    image = np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8)
    return dataclasses.replace(sample, image=image, mask=None, gaze=None)


def _grid(height: int, width: int) -> tuple[Picture, Picture]:
    """Give the places of pixel centres, in units of the longest side: [H, W] each."""
    longest = max(height, width)
    y, x = np.meshgrid((np.arange(height) + 0.5) / longest, (np.arange(width) + 0.5) / longest, indexing="ij")
    return y, x
