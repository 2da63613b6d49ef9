"""Random parts of an image: what shows an image's kind at any scale and place, and hides where a site puts its frame.

Not for training with reports: a finding may be cropped away, or change sides.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmoe.data.preprocess import NO_PIXELS
from medmoe.errors import ConfigError, DataError
from medmoe.types import Sample


@dataclass(frozen=True, slots=True)
class RandomCrop:
    """Takes a random part of some samples, mirrors half of them, and makes a few coarse.

    Boxes, masks and gaze maps don't follow: the result has none.

    Attributes:
        chance: Probability that a part is taken, in [0, 1].
        area: Least share of the image's area, in (0, 1]; shares are drawn evenly on a logarithmic scale.
        aspect: Largest natural logarithm of the change of height over width, in [0, 1].
        coarse: Probability that the part is reduced to `least` to 96 pixels a side, as pictures from the web are.
        least: Least side of a coarse part, in pixels.

    Raises:
        ConfigError: If a value isn't allowed.
    """

    chance: float = 0.75
    area: float = 0.3
    aspect: float = 0.3
    coarse: float = 0.15
    least: int = 24

    def __post_init__(self) -> None:
        for name, low, high in (("chance", 0, 1), ("area", 0.01, 1), ("aspect", 0, 1), ("coarse", 0, 1)):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ConfigError(f"{value!r} isn't allowed; {low:g} to {high:g} is", where=f"crop.{name}")
        if not 1 <= self.least <= 96:
            raise ConfigError(f"{self.least!r} isn't allowed; 1 to 96 is", where="crop.least")

    def needs(self, size: int) -> int:
        """Give the pixels of an image's longest side of which the smallest part still has `size`."""
        return math.ceil(size / math.sqrt(self.area) * math.exp(self.aspect / 2))

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Take a part of one sample; the same generator state gives the same part.

        Raises:
            DataError: If the image has no pixels.
        """
        image = sample.image
        if image is NO_PIXELS or image.size == 0:
            raise DataError("image without pixels", where=sample.key)
        height, width = image.shape[:2]
        if rng.random() < self.chance:
            side = math.exp(rng.uniform(math.log(self.area), 0) / 2)
            stretch = math.exp(rng.uniform(-self.aspect, self.aspect) / 2)
            tall = min(height, max(1, round(height * side * stretch)))
            wide = min(width, max(1, round(width * side / stretch)))
            top, left = int(rng.integers(height - tall + 1)), int(rng.integers(width - wide + 1))
            image = image[top : top + tall, left : left + wide]
        if rng.random() < 0.5:
            image = image[:, ::-1]
        if rng.random() < self.coarse:
            image = _coarse(image, int(rng.integers(self.least, 97)))
        return dataclasses.replace(sample, image=np.ascontiguousarray(image), boxes=None, mask=None, gaze=None)


def _coarse(image: NDArray[Any], longest: int) -> NDArray[Any]:
    """Keep every n-th row and column, so that the longest side has about so many pixels, each the mean of its block."""
    step = max(image.shape[:2]) // longest
    height, width = (side // step * step if step else 0 for side in image.shape[:2])
    if step < 2 or not height or not width:
        return image
    blocks = image[:height, :width].reshape(height // step, step, width // step, step, *image.shape[2:])
    means = blocks.mean(axis=(1, 3))
    coarse: NDArray[Any] = (np.rint(means) if image.dtype == np.uint8 else means).astype(image.dtype)
    return coarse
