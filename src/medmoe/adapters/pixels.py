"""From a sample to another library's input: its own transform of the pixels, and the same frame for boxes and masks."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from medmoe.data.preprocess import NO_PIXELS, check
from medmoe.types import Box, Sample

# A probe's normalised values are hashed in steps of 1/64: finer than a grey level of any usual normalisation.
_STEPS = 64


@dataclass(frozen=True, slots=True)
class Frame:
    """How an image comes to lie in the model's input: resized, then centred in a window that crops or pads it.

    Attributes:
        fit: `shortest` (that side becomes `size`'s), `longest` or `squash` (both sides do).
        size: Height and width to resize to.
        window: Height and width of the input.
    """

    fit: str
    size: tuple[int, int]
    window: tuple[int, int]

    def place(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Give the resized height and width, and where its top and left lie in the window (negative: cropped)."""
        if self.fit == "squash":
            new_height, new_width = self.size
        else:
            ratios = (self.size[0] / height, self.size[1] / width)
            ratio = max(ratios) if self.fit == "shortest" else min(ratios)
            new_height, new_width = (max(1, round(side * ratio)) for side in (height, width))
        return new_height, new_width, (self.window[0] - new_height) // 2, (self.window[1] - new_width) // 2

    def move_box(self, box: Box, height: int, width: int) -> Box | None:
        """Move a box into the window, to a pixel; None where nothing of it is left."""
        new_height, new_width, top, left = self.place(height, width)
        x0, x1 = (min(max((x * new_width + left) / self.window[1], 0.0), 1.0) for x in (box.x0, box.x1))
        y0, y1 = (min(max((y * new_height + top) / self.window[0], 0.0), 1.0) for y in (box.y0, box.y1))
        return dataclasses.replace(box, x0=x0, y0=y0, x1=x1, y1=y1) if x1 > x0 and y1 > y0 else None

    def move_field(self, field: NDArray[Any]) -> NDArray[Any]:
        """Move a mask or gaze map [H, W] into the window by the nearest pixel; zero where the image doesn't reach."""
        height, width = field.shape
        new_height, new_width, top, left = self.place(height, width)
        row = np.floor((np.arange(self.window[0]) + 0.5 - top) * height / new_height).astype(int)
        column = np.floor((np.arange(self.window[1]) + 0.5 - left) * width / new_width).astype(int)
        moved: NDArray[Any] = field[row.clip(0, height - 1)[:, None], column.clip(0, width - 1)[None, :]].copy()
        moved[(row < 0) | (row >= height)] = 0
        moved[:, (column < 0) | (column >= width)] = 0
        return moved


class Prepare:
    """Prepares samples as another library does; stands in for `medmoe.data.preprocess.Preprocess`.

    Args:
        render: Pixels [1 or 3, H, W], uint8 or float32 in [0, 1], to the model's input [3, h, w] float32.
        frame: What that does to the image's coordinates.
        settings: What it was made from, JSON-ready.
    """

    def __init__(self, render: Callable[[Tensor], Tensor], frame: Frame, settings: dict[str, Any]) -> None:
        self.render, self.frame, self.settings = render, frame, settings

    def __call__(self, sample: Sample) -> tuple[Tensor, Sample]:
        """Prepare one sample.

        Returns:
            The input, [3, h, w] float32, and the sample without pixels, its boxes, mask and gaze in the input's frame;
            a box that the crop leaves nothing of is dropped.

        Raises:
            DataError: If the image has a wrong shape, type or range, or isn't finite.
        """
        pixels = check(sample)
        height, width = pixels.shape[-2:]
        boxes = None
        if sample.boxes is not None:
            moved = (self.frame.move_box(box, height, width) for box in sample.boxes)
            boxes = tuple(box for box in moved if box is not None)
        return self.render(pixels), dataclasses.replace(
            sample,
            image=NO_PIXELS,
            boxes=boxes,
            mask=None if sample.mask is None else self.frame.move_field(sample.mask),
            gaze=None if sample.gaze is None else self.frame.move_field(sample.gaze),
        )

    def fingerprint(self) -> str:
        """Hash the settings and what becomes of a probe image, so that a changed library shows too: 16 hex digits."""
        row, column = np.mgrid[0:61, 0:47]
        channels = [row * 4 + column, row * column // 11, (row // 5 + column // 7) % 2 * 255]
        image, _ = self(Sample(key="probe", image=np.stack(channels, axis=-1).astype(np.uint8)))
        digest = hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode())
        digest.update((image * _STEPS).round().int().numpy().tobytes())
        return digest.hexdigest()[:16]


def eight_bit(pixels: Tensor) -> NDArray[np.uint8]:
    """Give pixels [C, H, W], uint8 or float in [0, 1], as uint8 [H, W, C]."""
    levels = pixels if not pixels.is_floating_point() else (pixels * 255).round()
    array: NDArray[np.uint8] = np.ascontiguousarray(levels.permute(1, 2, 0).numpy().astype(np.uint8))
    return array


def picture(pixels: Tensor) -> Image.Image:
    """Give pixels [1 or 3, H, W] as an RGB picture of 8 bits; grey fills all three channels."""
    array = eight_bit(pixels)
    return Image.fromarray(np.repeat(array, 3, axis=2) if array.shape[2] == 1 else array)


def grey_picture(pixels: Tensor) -> Image.Image:
    """Give pixels [1 or 3, H, W] as a grey picture of 8 bits."""
    array = eight_bit(pixels)
    return Image.fromarray(array[:, :, 0]) if array.shape[2] == 1 else Image.fromarray(array).convert("L")
