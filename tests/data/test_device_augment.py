"""Augmenting whole batches on the device: what each worker would have made of its sample."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from medmoe.data.collate import collate
from medmoe.data.device_augment import augmented, put_off, stack
from medmoe.data.loader import Loader
from medmoe.data.preprocess import Preprocess
from medmoe.data.transforms import Augment
from medmoe.errors import ConfigError
from medmoe.types import Batch, Box, Sample
from small_runs import Memory

SIDE = 32
PREPROCESS = Preprocess(size=SIDE, pad_value=0.25)
QUIET = {"noise": 0.0}  # the grain alone is drawn anew
SHAPES = [(32, 32), (32, 20), (21, 32), (32, 32, 3), (19, 32, 3), (64, 48), (64, 64, 3)]
LEVEL = 1 / 255


def picture(shape: tuple[int, ...], seed: int = 0, kind: type = np.uint8) -> NDArray[np.generic]:
    """Smooth blobs: resampling at another place must not be drowned in the pixels' noise."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.random((1, shape[2] if len(shape) == 3 else 1, 6, 6)))
    fine = torch.nn.functional.interpolate(coarse, shape[:2], mode="bicubic").clamp(0, 1)[0]
    image = (fine.permute(1, 2, 0) if len(shape) == 3 else fine[0]).numpy()
    return (image * 255).round().astype(np.uint8) if kind is np.uint8 else image.astype(np.float32)


def sample(number: int, shape: tuple[int, ...], kind: type = np.uint8, *, maps: bool = True) -> Sample:
    rng = np.random.default_rng(number)
    return Sample(
        key=str(number),
        image=picture(shape, number, kind),
        boxes=(Box("a", 0.2, 0.3, 0.6, 0.7), Box("b", 0.0, 0.0, 0.05, 0.05)),
        mask=picture(shape[:2], number) > 128 if maps else None,
        gaze=rng.random(shape[:2]).astype(np.float32) if maps else None,
    )


def by_workers(samples: list[Sample], augment: Augment, seed: int = 0) -> Batch:
    items = []
    for place, one in enumerate(samples):
        items.append(PREPROCESS(augment(PREPROCESS.shrink(one), np.random.default_rng([seed, place]))))
    return collate(items, None, modalities=())


def put_off_to_the_device(samples: list[Sample], augment: Augment, seed: int = 0, grain: int = 7) -> Batch:
    items, drawn = [], []
    for place, one in enumerate(samples):
        moved, change = put_off(augment, one, np.random.default_rng([seed, place]), PREPROCESS)
        items.append(PREPROCESS(moved))
        drawn.append(change)
    batch = collate(items, None, modalities=())
    return dataclasses.replace(batch, changes=stack(drawn, size=SIDE, seed=grain, fill=augment.fill))


def levels(batch: Batch) -> torch.Tensor:
    std, mean = (torch.tensor(values).view(3, 1, 1) for values in (PREPROCESS.std, PREPROCESS.mean))
    return batch.image * std + mean


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_device_makes_of_each_image_what_its_worker_would_have(shape: tuple[int, ...], kind: type):
    augment = Augment(strength=1.5, **(QUIET | {"blur": 0.6}))
    samples = [sample(number, shape, kind, maps=max(shape[:2]) <= SIDE) for number in range(12)]
    theirs = by_workers(samples, augment)
    waiting = put_off_to_the_device(samples, augment)
    assert (waiting.changes.sigma > 0).any()
    ours = augmented(waiting, PREPROCESS)
    assert (levels(ours) - levels(theirs)).abs().max() < LEVEL
    if theirs.gaze is not None:
        torch.testing.assert_close(ours.gaze, theirs.gaze, atol=1e-4, rtol=0)
        assert (ours.mask != theirs.mask).float().mean() < 1e-3
    for mine, its in zip(ours.samples, theirs.samples, strict=True):
        assert len(mine.boxes) == len(its.boxes)
        for one, other in zip(mine.boxes, its.boxes, strict=True):
            assert (one.x0, one.y0, one.x1, one.y1) == pytest.approx((other.x0, other.y0, other.x1, other.y1))


def test_what_comes_in_from_outside_is_filled_and_the_padding_stays():
    augment = Augment(**QUIET, fill=0.6, shift=0.5, blur=0)
    samples = [sample(number, (32, 20)) for number in range(6)]
    ours = augmented(put_off_to_the_device(samples, augment), PREPROCESS)
    assert (levels(ours) - levels(by_workers(samples, augment))).abs().max() < LEVEL
    assert (levels(ours)[:, :, :, :6] - 0.25).abs().max() < 1e-6


def test_grey_stays_grey_and_colour_is_tinted():
    augment = Augment(**QUIET, colour=0.5, blur=0)
    grey = np.repeat(picture((32, 32))[:, :, None], 3, 2)
    samples = [dataclasses.replace(sample(0, (32, 32)), image=grey), sample(1, (32, 32, 3))]
    made = levels(augmented(put_off_to_the_device(samples, augment), PREPROCESS))
    assert (made[0, 0] - made[0, 2]).abs().max() < 1e-6
    assert (made[1, 0] - made[1, 2]).abs().max() > 0.1


def test_no_change_leaves_the_image():
    off = Augment(zoom=0, shift=0, rotate=0, brightness=0, contrast=0, gamma=0, colour=0, noise=0, blur=0)
    waiting = put_off_to_the_device([sample(0, (32, 20)), sample(1, (32, 32, 3))], off)
    made = augmented(waiting, PREPROCESS)
    torch.testing.assert_close(made.image, waiting.image, atol=1e-4, rtol=0)
    assert made.changes is None


def test_the_grain_comes_from_the_batchs_seed_and_has_the_drawn_strength():
    flat = [dataclasses.replace(sample(n, (32, 32, 3)), image=np.full((32, 32, 3), 128, np.uint8)) for n in range(40)]
    only = Augment(zoom=0, shift=0, rotate=0, brightness=0, contrast=0, gamma=0, colour=0, blur=0, noise=0.1)
    waiting = put_off_to_the_device(flat, only)
    one, same, other = (
        levels(augmented(put_off_to_the_device(flat, only, grain=grain), PREPROCESS)) for grain in (1, 1, 2)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    spread = (one - 128 / 255)[:, 0].flatten(1).std(1)
    torch.testing.assert_close(spread, waiting.changes.noise, rtol=0.12, atol=1e-4)
    assert (one[:, 0] - one[:, 1]).abs().max() < 1e-6  # equal in all channels


def test_worker_and_device_spread_their_images_alike():
    augment, count = Augment(strength=1.5), 300
    samples = [sample(3, (32, 32, 3))] * count
    ours = levels(augmented(put_off_to_the_device(samples, augment, seed=1), PREPROCESS))
    theirs = levels(by_workers(samples, augment, seed=2))
    for statistic in (lambda x: x.mean((1, 2, 3)), lambda x: x.std((1, 2, 3)), lambda x: x[:, :, 16, 16].mean(1)):
        mine, its = statistic(ours), statistic(theirs)
        standard_error = float(its.std()) * (2 / count) ** 0.5
        assert abs(float(mine.mean() - its.mean())) < 4 * standard_error
        assert 0.8 < float(mine.std() / its.std()) < 1.25


def test_nothing_is_read_from_the_device():
    waiting = put_off_to_the_device([sample(number, (32, 20)) for number in range(3)], Augment())
    made = augmented(waiting.to("meta"), PREPROCESS)  # where there is no value to read
    assert made.image.shape == (3, 3, SIDE, SIDE)
    assert made.mask.shape == made.gaze.shape == (3, 1, SIDE, SIDE)


@pytest.mark.gpu
def test_cuda_makes_what_the_cpu_makes():
    waiting = put_off_to_the_device([sample(n, (32, 20)) for n in range(8)], Augment(**(QUIET | {"blur": 0.5})))
    made = augmented(waiting.to("cuda"), PREPROCESS)
    assert (levels(made.to("cpu")) - levels(augmented(waiting, PREPROCESS))).abs().max() < LEVEL


def loader(augment_on: str, *, workers: int = 0, start: int = 0, **more: object) -> Loader:
    source = Memory([sample(number, (32, 20)) for number in range(10)])
    augment = Augment(**QUIET)
    return Loader(
        source,
        PREPROCESS,
        None,
        modalities=(),
        batch_size=4,
        train=True,
        augment=augment,
        augment_on=augment_on,
        workers=workers,
        start=start,
        **more,
    )


def test_the_loader_draws_the_same_changes_wherever_they_are_done():
    mine, theirs = (next(iter(loader(place))) for place in ("device", "worker"))
    assert mine.keys == theirs.keys
    assert theirs.changes is None
    assert (levels(augmented(mine, PREPROCESS)) - levels(theirs)).abs().max() < LEVEL


def test_the_changes_of_a_step_depend_on_seed_and_step_only():
    steps = iter(loader("device"))
    next(steps)
    second = next(steps)
    resumed = next(iter(loader("device", start=1, workers=1)))
    assert torch.equal(second.image, resumed.image)
    for field in dataclasses.fields(second.changes):
        mine, its = (getattr(batch.changes, field.name) for batch in (second, resumed))
        assert torch.equal(mine, its) if isinstance(mine, torch.Tensor) else mine == its
    assert second.changes.seed != next(iter(loader("device"))).changes.seed


def test_an_unknown_place_is_told():
    with pytest.raises(ConfigError, match=r"data\.augment_on: unknown place 'gpu'.*allowed: device, worker"):
        loader("gpu")
