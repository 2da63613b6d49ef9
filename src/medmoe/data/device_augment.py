"""The augmentation of `transforms`, done to a whole prepared batch on whatever device it is on.

The worker that reads a sample draws its change from the same numbers as if it were to do it itself, moves the boxes and
leaves the pixels as they are. The device then does all changes of a batch at once. Of images that are no smaller
than the model's input it makes what the worker would have, but for the grain of the noise, which the device draws
from the batch's seed; smaller ones are enlarged before they are changed, and not after.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from medmoe.data.preprocess import Preprocess
from medmoe.data.transforms import Augment, Change
from medmoe.types import Batch, Changes, Sample

Frame = tuple[int, int, int, int]
"""Top, bottom, left and right end of an image within its padding, in pixels."""

_GREY = 1 / 512  # channels that differ by less than half a grey level are equal


def put_off(
    augment: Augment, sample: Sample, rng: np.random.Generator, preprocess: Preprocess
) -> tuple[Sample, tuple[Change, Frame]]:
    """Draw a sample's change, and do to it only what the device can't: move the boxes."""
    frame = preprocess.frame(*sample.image.shape[:2])
    height, width = frame[1] - frame[0], frame[3] - frame[2]
    change = augment.draw(rng, height, width)
    boxes = augment.move_boxes(sample.boxes, change, height, width)
    return dataclasses.replace(sample, boxes=boxes), (change, frame)


def stack(drawn: Sequence[tuple[Change, Frame]], *, size: int, seed: int, fill: float) -> Changes:
    """Put the changes of B samples into tensors, for images of `size` × `size` pixels."""

    def column(values: list[Any]) -> Tensor:
        return torch.from_numpy(np.array(values, np.float32))

    changes = [change for change, _ in drawn]
    return Changes(
        gamma=column([change.gamma for change in changes]),
        gain=column([change.gain for change in changes]),
        offset=column([change.offset for change in changes]),
        tint=column([change.tint for change in changes]),
        theta=column([_theta(change, frame, size) for change, frame in drawn]),
        inside=torch.tensor([frame for _, frame in drawn]),
        sigma=column([change.sigma for change in changes]),
        noise=column([change.noise for change in changes]),
        seed=seed,
        fill=fill,
    )


def _theta(change: Change, frame: Frame, size: int) -> NDArray[np.float64]:
    """Say where each new place comes from, in halves of the square's side from its middle: [2, 3]."""
    top, bottom, left, right = frame
    centre = np.array([left + right - size, top + bottom - size]) / 2  # of the image, from the square's
    inverse = np.linalg.inv(change.matrix[:, :2])
    shift = centre - inverse @ (centre + change.matrix[:, 2])
    return np.column_stack([inverse, shift / (size / 2)])


@torch.no_grad()
def augmented(batch: Batch, preprocess: Preprocess) -> Batch:
    """Do the changes that a batch brings along; no value is read from the device.

    Args:
        batch: Its `changes` must be set.
        preprocess: How its images were normalised and padded.

    Returns:
        The batch with its image, mask and gaze changed, and no changes left.
    """
    changes = batch.changes
    assert changes is not None
    device, side = batch.image.device, batch.image.shape[-1]
    mean, std = _channels(preprocess.mean, device), _channels(preprocess.std, device)
    within = _within(changes.inside, side)  # [B, 1, S, S]
    grey = _intensity((batch.image * std + mean).clamp(0, 1), within, changes)
    maps = [value for value in (batch.mask, batch.gaze) if value is not None]
    moved = torch.cat([(grey - changes.fill) * within, *maps], 1)
    grid = F.affine_grid(changes.theta, [len(moved), 1, side, side], align_corners=False)
    moved = F.grid_sample(moved, grid, padding_mode="zeros", align_corners=False)
    image = _blurred(moved[:, :3] + changes.fill, changes)
    generator = torch.Generator(device).manual_seed(changes.seed) if device.type != "meta" else None
    grain = torch.randn(len(image), 1, side, side, device=device, generator=generator)
    image = image.addcmul(grain, _each(changes.noise)).clamp_(0, 1)
    image = torch.where(within, image, preprocess.pad_value).sub_(mean).div_(std)
    rest = iter(torch.split(moved[:, 3:] * within, 1, 1))
    mask = None if batch.mask is None else (next(rest) >= 0.5).to(batch.mask.dtype)
    gaze = None if batch.gaze is None else next(rest)
    return dataclasses.replace(batch, image=image, mask=mask, gaze=gaze, changes=None)


@functools.cache
def _channels(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Bring values of the channels to a device, once: such a copy waits for it."""
    return torch.tensor(values, device=device).view(3, 1, 1)


def _within(inside: Tensor, side: int) -> Tensor:
    """Mark the pixels of the images themselves, not of their padding: [B, 1, S, S] bool."""
    place = torch.arange(side, device=inside.device)
    top, bottom, left, right = inside[:, :, None].unbind(1)  # [B, 1]
    rows, columns = (place >= top) & (place < bottom), (place >= left) & (place < right)  # [B, S]
    return (rows[:, :, None] & columns[:, None, :])[:, None]


def _intensity(grey: Tensor, within: Tensor, changes: Changes) -> Tensor:
    """Change brightness, contrast, gamma and colour of [B, 3, S, S] in [0, 1]."""
    low, high = (grey * within).aminmax(dim=1)  # equal everywhere in a grey image
    tint = torch.where(((high - low).amax((1, 2)) < _GREY)[:, None], 1.0, changes.tint)[:, :, None, None]
    mean = (grey * within).sum((1, 2, 3)) / (3 * within.sum((1, 2, 3)))
    level = mean.pow(changes.gamma) * (1 - changes.gain) + changes.offset
    return (grey.pow(_each(changes.gamma)) * _each(changes.gain) + _each(level)) * tint


def _blurred(image: Tensor, changes: Changes) -> Tensor:
    """Blur the images that are to be; an accelerator, which couldn't say which without waiting, goes over all."""
    if image.device.type != "cpu":
        return _blur(image, changes.sigma, changes.inside)
    rows = changes.sigma.nonzero()[:, 0]
    some = _blur(image[rows], changes.sigma[rows], changes.inside[rows]) if len(rows) else image[rows]
    return image.index_copy(0, rows, some)


def _blur(image: Tensor, sigma: Tensor, inside: Tensor) -> Tensor:
    """Blur each of [B, C, S, S] by its own sigma; beyond its ends an image goes on as at its last pixel."""
    batch, channels, side, _ = image.shape
    place = torch.arange(-2, side + 2, device=image.device)  # [S + 4]
    taps = torch.arange(-2.0, 3.0, device=image.device)
    kernel = torch.exp(-0.5 * (taps / sigma.clamp_min(1e-3)[:, None]) ** 2)  # sigma 0: the middle tap alone
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(channels, 0)  # [B·C, 5]
    for dim in (2, 3):
        first, last = inside[:, 2 * (dim - 2)], inside[:, 2 * (dim - 2) + 1] - 1
        index = torch.minimum(torch.maximum(place, first[:, None]), last[:, None])  # [B, S + 4]
        index = index[:, None, :, None] if dim == 2 else index[:, None, None, :]
        shape = [batch, channels, side, side]
        shape[dim] = side + 4
        longer = image.gather(dim, index.expand(shape)).view(1, batch * channels, *shape[2:])
        weight = kernel.view(-1, 1, 5, 1) if dim == 2 else kernel.view(-1, 1, 1, 5)
        image = F.conv2d(longer, weight, groups=batch * channels).view_as(image)
    return image


def _each(values: Tensor) -> Tensor:
    return values[:, None, None, None]
