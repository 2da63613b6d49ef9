"""The one deterministic way from a sample to the model's input, the same in evaluation, search and service.

Its steps travel with a saved model; `medmoe.data.contract` tells whether two of them see the same pixels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from medmoe.data.reading import HEADER
from medmoe.data.windows import check_window
from medmoe.errors import ConfigError, DataError, unknown
from medmoe.types import Box, Sample

VERSION = 2
INTERPOLATIONS = ("bilinear", "bicubic")
NO_PIXELS: NDArray[np.uint8] = np.zeros((0, 0), np.uint8)
NO_PIXELS.flags.writeable = False

# ImageNet's statistics, which timm's Swin weights expect.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True)
class Preprocess:
    """Resizes with the aspect kept (longest side to `size`, antialiased), pads centred, and normalises.

    Attributes:
        size: Side of the square result, in pixels.
        mean: Mean of each channel, in units where white is 1.
        std: Standard deviation of each channel.
        pad_value: Grey level of the padding, in [0, 1], before normalising.
        interpolation: `bilinear` or `bicubic`.
        window: How DICOM and NIfTI values become grey levels; see `medmoe.data.reading.Reading`.

    Raises:
        ConfigError: If a value isn't allowed.
    """

    size: int
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    pad_value: float = 0.0
    interpolation: str = "bilinear"
    window: str = HEADER

    def __post_init__(self) -> None:
        check_window(self.window, where="preprocess.window")
        checks = {
            "size": self.size >= 1,
            "mean": len(self.mean) == 3,
            "std": len(self.std) == 3 and min(self.std) > 0,
            "pad_value": 0 <= self.pad_value <= 1,
            "interpolation": self.interpolation in INTERPOLATIONS,
        }
        allowed = {
            "size": "1 or more",
            "mean": "3 values",
            "std": "3 values above 0",
            "pad_value": "from 0 to 1",
            "interpolation": ", ".join(INTERPOLATIONS),
        }
        for name, holds in checks.items():
            if not holds:
                raise ConfigError(
                    f"{getattr(self, name)!r} isn't allowed; {allowed[name]} is", where=f"preprocess.{name}"
                )

    def to_dict(self) -> dict[str, Any]:
        """Give the steps, in their order, as JSON-ready values."""
        return {
            "version": VERSION,
            "steps": [
                read_step(self.window),
                {
                    "step": "resize",
                    "longest_side": self.size,
                    "interpolation": self.interpolation,
                    "antialias": True,
                },
                {"step": "pad", "side": self.size, "place": "centre", "value": self.pad_value},
                {"step": "normalise", "mean": list(self.mean), "std": list(self.std)},
            ],
        }

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> Preprocess:
        """Build from what `to_dict` gave, or from the flat settings of version 1.

        Raises:
            ConfigError: For a version, step or setting that this release doesn't do, or a missing size.
        """
        version = settings.get("version", 1)
        if version not in (1, VERSION):
            what = f"{version!r} isn't allowed; 1 to {VERSION} are in this release of medmoe"
            raise ConfigError(what, where="preprocess.version")
        own = [field.name for field in dataclasses.fields(cls)]
        for key in settings if version == VERSION else ():
            if key not in ("version", "steps"):
                raise ConfigError(unknown("entry", key, ("version", "steps")), where="preprocess")
        flat = _flat(settings) if version == VERSION else {k: v for k, v in settings.items() if k != "version"}
        for key in flat:
            if key not in own:
                raise ConfigError(unknown("setting", key, own), where="preprocess")
        if "size" not in flat:
            raise ConfigError("size is missing", where="preprocess", remedy="add it, in pixels")
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in flat.items()}
        try:
            made = cls(**values)
        except TypeError as error:
            raise ConfigError(f"a value is of the wrong type ({error})", where="preprocess") from error
        if version == VERSION:
            _refuse_other_steps(settings["steps"], made.to_dict()["steps"])
        return made

    def fingerprint(self) -> str:
        """Hash the steps, the libraries and what they make of a probe; see `medmoe.data.contract`: 16 hex digits."""
        from medmoe.data.contract import declare

        return str(declare(self)["fingerprint"])

    def __call__(self, sample: Sample) -> tuple[Tensor, Sample]:
        """Prepare one sample.

        Returns:
            The image, [3, size, size] float32, normalised; and the sample with boxes, mask and gaze in the new frame
            ([size, size]) and no pixels (`image` is an empty (0, 0) array).

        Raises:
            DataError: If the image has a wrong shape, type or range, or isn't finite; the sample's key is named.
        """
        pixels = check(sample)
        height, width = pixels.shape[-2:]
        new_height, new_width = self._fit(height, width)
        top, left = (self.size - new_height) // 2, (self.size - new_width) // 2
        inside = (slice(None), slice(top, top + new_height), slice(left, left + new_width))

        image = torch.full((3, self.size, self.size), self.pad_value)
        resized = _interpolate(pixels, new_height, new_width, self.interpolation)
        if len(resized) == 3 and resized.dtype == torch.uint8:  # in place of its own float copy
            image[inside].copy_(resized).div_(255)
        else:
            image[inside] = _unit(resized)  # grey fills all three channels
        mean, std = _column(self.mean), _column(self.std)
        image.sub_(mean).div_(std)

        def place(field: NDArray[Any] | None) -> NDArray[Any] | None:
            if field is None:
                return None
            canvas = np.zeros((self.size, self.size), field.dtype)
            canvas[inside[1:]] = _resize_field(field, new_height, new_width)
            return canvas

        boxes = sample.boxes
        if boxes is not None:
            scale = (new_width / self.size, new_height / self.size)
            boxes = tuple(_shift(box, scale, (left / self.size, top / self.size)) for box in boxes)
        moved = dataclasses.replace(
            sample, image=NO_PIXELS, boxes=boxes, mask=place(sample.mask), gaze=place(sample.gaze)
        )
        return image, moved

    def shrink(self, sample: Sample) -> Sample:
        """Resize a sample that is larger than `size` to it, without padding, so that augmenting it is cheap.

        Boxes are fractions of the image, and stay.
        """
        pixels = check(sample)
        height, width = pixels.shape[-2:]
        if max(height, width) <= self.size:
            return sample
        new_height, new_width = self._fit(height, width)
        small = _interpolate(pixels, new_height, new_width, self.interpolation)
        image = small.permute(1, 2, 0).numpy() if len(small) == 3 else small[0].numpy()
        return dataclasses.replace(
            sample,
            image=image,
            mask=None if sample.mask is None else _resize_field(sample.mask, new_height, new_width),
            gaze=None if sample.gaze is None else _resize_field(sample.gaze, new_height, new_width),
        )

    def frame(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Give where an image of H × W pixels comes to lie in the square: its top, bottom, left and right end."""
        new_height, new_width = self._fit(height, width)
        top, left = (self.size - new_height) // 2, (self.size - new_width) // 2
        return top, top + new_height, left, left + new_width

    def _fit(self, height: int, width: int) -> tuple[int, int]:
        """Give the height and width that bring the longest side to `size`, at least 1 each."""
        longest = max(height, width)
        new_height, new_width = (max(1, (side * self.size + longest // 2) // longest) for side in (height, width))
        return new_height, new_width


def read_step(window: str) -> dict[str, Any]:
    """Describe how files become pictures: the first step, which shards have behind them."""
    return {
        "step": "read",
        "window": window,
        "frame": "middle",
        "deep_grey": "minimum to maximum",
        "orientation": "upright",
        "alpha": "on black",
    }


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Take the settings out of the steps of `Preprocess.to_dict`."""
    steps = settings.get("steps")
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        raise ConfigError("isn't a list of steps", where="preprocess.steps", remedy="restore the file")
    named = {step.get("step"): step for step in steps}
    places = {
        "window": ("read", "window"), "size": ("resize", "longest_side"), "interpolation": ("resize", "interpolation"),
        "pad_value": ("pad", "value"), "mean": ("normalise", "mean"), "std": ("normalise", "std"),
    }  # fmt: skip
    found = {name: named.get(step, {}).get(key) for name, (step, key) in places.items()}
    return {name: value for name, value in found.items() if value is not None}


def _refuse_other_steps(given: Any, ours: list[dict[str, Any]]) -> None:
    """Refuse steps that this release wouldn't do just so."""
    names = [step.get("step") for step in given]
    if names != [step["step"] for step in ours]:
        what = f"steps {names} aren't allowed; {[step['step'] for step in ours]} are in this release of medmoe"
        raise ConfigError(what, where="preprocess.steps")
    for theirs, own in zip(given, ours, strict=True):
        for key in {**theirs, **own}:
            if theirs.get(key) != own.get(key):
                what = f"{key}={theirs.get(key)!r} isn't allowed; {own.get(key)!r} is in this release of medmoe"
                raise ConfigError(what, where=f"preprocess.steps.{own['step']}")


def check(sample: Sample) -> Tensor:
    """Check a sample's pixels.

    Returns:
        [1 or 3, H, W], uint8, or float32 in [0, 1].

    Raises:
        DataError: If the image has a wrong shape, type or range, or isn't finite, or if a mask or gaze map is of
            another size.
    """
    image = sample.image
    grey, colour = image.ndim == 2, image.ndim == 3 and image.shape[-1] == 3
    if not (grey or colour) or image.size == 0:
        raise DataError(f"image of shape {image.shape}; allowed: (H, W) and (H, W, 3)", where=sample.key)
    for name, field in (("mask", sample.mask), ("gaze map", sample.gaze)):
        if field is not None and field.shape != image.shape[:2]:
            raise DataError(f"{name} of shape {field.shape} for an image of {image.shape[:2]}", where=sample.key)
    if image.dtype == np.uint8:
        pixels = torch.from_numpy(_owned(image))
    elif np.issubdtype(image.dtype, np.floating):
        pixels = torch.from_numpy(_owned(image.astype(np.float32, copy=False)))
        low, high = (value.item() for value in torch.aminmax(pixels))
        if not np.isfinite(low) or not np.isfinite(high):
            raise DataError("image has NaN or infinite values", where=sample.key, remedy="repair or drop the image")
        if low < -1e-3 or high > 1 + 1e-3:
            raise DataError(
                f"image values run from {low:g} to {high:g}; allowed: 0 to 1", where=sample.key, remedy="rescale them"
            )
        pixels = pixels.clamp(0, 1)
    else:
        raise DataError(
            f"image of type {image.dtype}; allowed: uint8, and floats from 0 to 1",
            where=sample.key,
            remedy="window or scale its values to floats from 0 to 1",
        )
    return pixels[None] if grey else pixels.permute(2, 0, 1)


def _owned(array: NDArray[Any]) -> NDArray[Any]:
    """Copy an array that torch can't share (read-only, or with negative strides)."""
    return array if array.flags.writeable and min(array.strides) > 0 else array.copy()


def _resize(pixels: Tensor, height: int, width: int, mode: str) -> Tensor:
    """Resize [C, H, W] and give float32 in [0, 1]."""
    return _unit(_interpolate(pixels, height, width, mode))


def _unit(pixels: Tensor) -> Tensor:
    """Bring uint8, or what resampling made of [0, 1], to float32 in [0, 1]."""
    return pixels.float().div_(255) if pixels.dtype == torch.uint8 else pixels.clamp(0, 1)


@lru_cache(maxsize=16)
def _column(values: tuple[float, float, float]) -> Tensor:
    """Give the channels' values as [3, 1, 1]; nobody writes into them."""
    return torch.tensor(values).view(3, 1, 1)


def _interpolate(pixels: Tensor, height: int, width: int, mode: str) -> Tensor:
    """Resize [C, H, W] in its own type; uint8 takes a fraction of float's time."""
    if pixels.shape[-2:] == (height, width):
        return pixels
    return F.interpolate(pixels[None], (height, width), mode=mode, antialias=True, align_corners=False)[0]


def _resize_field(field: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    """Resize a mask (True where at least half is covered) or a gaze map."""
    small = _resize(torch.from_numpy(field.astype(np.float32))[None], height, width, "bilinear")[0].numpy()
    return small >= 0.5 if field.dtype == np.bool_ else small.astype(field.dtype, copy=False)


def _shift(box: Box, scale: tuple[float, float], offset: tuple[float, float]) -> Box:
    """Scale a box and then shift it, each by (x, y)."""
    return dataclasses.replace(
        box,
        x0=box.x0 * scale[0] + offset[0],
        y0=box.y0 * scale[1] + offset[1],
        x1=box.x1 * scale[0] + offset[0],
        y1=box.y1 * scale[1] + offset[1],
    )
