"""A picture's way to the model as torchvision's documentation shows it: Pillow decodes and resizes, then floats."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from medmoe.data.preprocess import IMAGENET_MEAN, IMAGENET_STD


def picture_pipeline(size: int) -> Callable[[Path], Tensor]:
    """Give a function from a file to [3, size, size] float32, normalised."""
    from torchvision.transforms import v2

    steps = [
        v2.Resize((size, size), antialias=True),
        v2.ToImage(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(IMAGENET_MEAN, IMAGENET_STD),
    ]
    transform = v2.Compose(steps)

    def prepare(path: Path) -> Tensor:
        with Image.open(path) as image:
            prepared: Tensor = transform(image.convert("RGB"))
        return prepared

    return prepare
