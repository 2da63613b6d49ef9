"""Augmentation that keeps medical sense."""

import dataclasses

import numpy as np
import pytest

from medmoe.data.transforms import Augment
from medmoe.errors import ConfigError, DataError
from medmoe.types import Box, Sample

# Nothing on; each test turns on what it is about.
OFF = dict.fromkeys(("zoom", "shift", "rotate", "brightness", "contrast", "gamma", "colour", "noise", "blur"), 0.0)


def sample(height: int = 40, width: int = 30, colour: bool = False, **facts: object) -> Sample:
    shape = (height, width, 3) if colour else (height, width)
    return Sample("k", np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8), **facts)


def augmented(given: Sample, seed: int = 0, **options: object) -> Sample:
    return Augment(**(OFF | options))(given, np.random.default_rng(seed))


def test_no_strength_changes_nothing() -> None:
    given = sample(mask=np.ones((40, 30), np.bool_), boxes=(Box("a", 0.1, 0.1, 0.2, 0.2),))
    assert Augment(strength=0.0)(given, np.random.default_rng(0)) is given


@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_everything_off_gives_the_same_pixels(colour: bool, kind: type) -> None:
    given = sample(colour=colour)
    whole = given.image.astype(np.float32) / 255
    if kind is np.float32:
        given = dataclasses.replace(given, image=whole)
    np.testing.assert_allclose(augmented(given).image, whole, atol=1e-4)


@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_shape_type_and_range_are_kept(colour: bool, kind: type) -> None:
    given = sample(colour=colour)
    if kind is np.float32:
        given = dataclasses.replace(given, image=given.image.astype(np.float32) / 255)
    for seed in range(20):
        image = Augment(strength=2.0)(given, np.random.default_rng(seed)).image
        assert image.shape == given.image.shape
        assert image.dtype == np.float32
        assert 0 <= image.min() <= image.max() <= 1


def test_the_same_generator_gives_the_same_result() -> None:
    given, augment = sample(colour=True), Augment()
    one, other, third = (augment(given, np.random.default_rng(seed)).image for seed in (5, 5, 6))
    assert np.array_equal(one, other)
    assert not np.array_equal(one, third)


def test_the_sample_given_is_not_changed() -> None:
    given = sample()
    for image in (given.image, given.image.astype(np.float32) / 255):
        before = image.copy()
        Augment(strength=2.0, blur=0.5)(dataclasses.replace(given, image=image), np.random.default_rng(0))
        assert np.array_equal(image, before)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("flip", [False, True])
def test_image_mask_gaze_and_box_move_together(seed: int, flip: bool) -> None:
    image = np.zeros((60, 90), np.uint8)
    image[20:32, 15:45] = 255
    mask = image > 0
    box = Box("mass", 15 / 90, 20 / 60, 45 / 90, 32 / 60, phrase="a mass")
    given = Sample("k", image, boxes=(box,), mask=mask, gaze=mask.astype(np.float32))
    moved = augmented(given, seed, zoom=0.15, shift=0.06, rotate=10.0, flip=flip)
    np.testing.assert_array_equal(moved.mask, moved.image >= 0.5)
    np.testing.assert_allclose(moved.gaze, moved.image, atol=1e-6)
    rows, columns = np.nonzero(moved.mask)
    (found,) = moved.boxes
    assert (found.label, found.phrase) == ("mass", "a mass")
    assert columns.min() == pytest.approx(found.x0 * 90, abs=1.6)
    assert columns.max() + 1 == pytest.approx(found.x1 * 90, abs=1.6)
    assert rows.min() == pytest.approx(found.y0 * 60, abs=1.6)
    assert rows.max() + 1 == pytest.approx(found.y1 * 60, abs=1.6)


def test_rotation_keeps_shapes_in_a_wide_image() -> None:
    row, column = np.mgrid[0:60, 0:120]
    disc = ((row - 29.5) ** 2 + (column - 59.5) ** 2 < 20**2).astype(np.uint8) * 255
    moved = augmented(Sample("k", disc), rotate=45.0)
    assert np.abs(moved.image - disc / 255).mean() < 0.01


def test_sides_are_never_swapped_unless_asked() -> None:
    image = np.zeros((32, 32), np.uint8)
    image[:, :8] = 255
    sides = {flip: set() for flip in (False, True)}
    for flip, found in sides.items():
        for seed in range(30):
            moved = Augment(flip=flip, brightness=0)(Sample("k", image), np.random.default_rng(seed)).image
            found.add("left" if moved[:, :16].sum() > moved[:, 16:].sum() else "right")
    assert sides == {False: {"left"}, True: {"left", "right"}}


def test_what_comes_in_from_outside_has_the_fill_level() -> None:
    given = Sample("k", np.full((20, 20), 255, np.uint8), mask=np.ones((20, 20), np.bool_))
    out = [augmented(given, seed, zoom=0.4, fill=0.5) for seed in range(10)]
    smallest = min(out, key=lambda one: one.mask.sum())
    assert smallest.image[0, 0] == pytest.approx(0.5)
    assert not smallest.mask[0, 0]


def test_a_box_that_leaves_the_image_is_dropped_and_others_are_clipped() -> None:
    edge, middle = Box("edge", 0.0, 0.0, 0.06, 0.06), Box("middle", 0.1, 0.1, 0.9, 0.9)
    given = sample(boxes=(edge, middle))
    out = [augmented(given, seed, shift=0.3).boxes for seed in range(40)]
    assert {len(boxes) for boxes in out} == {1, 2}
    assert all(0 <= box.x0 < box.x1 <= 1 and 0 <= box.y0 < box.y1 <= 1 for boxes in out for box in boxes)
    assert all(boxes[-1].label == "middle" for boxes in out)
    strict = [augmented(given, seed, shift=0.3, min_box=1.0).boxes for seed in range(40)]
    assert sum(map(len, strict)) < sum(map(len, out))
    assert () in strict


def test_images_without_boxes_or_maps_have_none_afterwards() -> None:
    moved = Augment()(sample(), np.random.default_rng(0))
    assert (moved.boxes, moved.mask, moved.gaze) == (None, None, None)


@pytest.mark.parametrize("name", ["brightness", "contrast", "gamma"])
@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_intensity_changes_keep_the_order_of_grey_levels(name: str, kind: type) -> None:
    ramp = np.tile(np.arange(64, 192, dtype=np.uint8), (2, 1))
    image = ramp if kind is np.uint8 else ramp.astype(np.float32) / 255
    changed = augmented(Sample("k", image), **{name: 0.2}).image
    assert np.abs(changed - ramp / 255).max() > 0.005
    assert (np.diff(changed[0]) > 0).all()


def test_bytes_and_floats_change_alike() -> None:
    given = sample(colour=True)
    whole = augmented(given, 3, brightness=0.1, contrast=0.2, gamma=0.2, colour=0.1).image
    real = dataclasses.replace(given, image=given.image.astype(np.float32) / 255)
    np.testing.assert_allclose(
        augmented(real, 3, brightness=0.1, contrast=0.2, gamma=0.2, colour=0.1).image, whole, atol=1e-4
    )


def test_colour_changes_each_channel_by_itself_and_leaves_grey_grey() -> None:
    given = sample(colour=True)
    ratio = augmented(given, colour=0.1).image.mean((0, 1)) / given.image.mean((0, 1))
    assert len(set(ratio.round(5).tolist())) == 3
    grey = dataclasses.replace(given, image=np.repeat(given.image[..., :1], 3, axis=-1))
    changed = augmented(grey, colour=0.1, noise=0.1, contrast=0.2).image
    assert np.array_equal(changed[..., 0], changed[..., 1])
    assert np.array_equal(changed[..., 0], changed[..., 2])


def test_noise_and_blur_do_what_they_say() -> None:
    flat = Sample("k", np.full((40, 40), 128, np.uint8))
    assert 0 < augmented(flat, noise=0.05).image[5:-5, 5:-5].std() < 0.05
    np.testing.assert_allclose(augmented(flat, blur=1.0).image, 128 / 255, atol=1e-4)
    rough = sample()
    assert augmented(rough, blur=1.0).image.std() < augmented(rough).image.std()


def test_a_single_pixel_survives() -> None:
    assert Augment(strength=2.0, blur=0.5)(sample(1, 1), np.random.default_rng(0)).image.shape == (1, 1)


def test_a_bad_image_is_told() -> None:
    with pytest.raises(DataError, match="k: image has NaN"):
        Augment()(Sample("k", np.full((4, 4), np.nan, np.float32)), np.random.default_rng(0))


@pytest.mark.parametrize(("name", "value"), [("strength", -1), ("zoom", 0.6), ("blur", 1.2), ("rotate", float("nan"))])
def test_a_wrong_setting_is_told(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"augment.{name}"):
        Augment(**{name: value})
