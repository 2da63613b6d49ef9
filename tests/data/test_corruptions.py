"""Named corruptions at five levels."""

import dataclasses
import io

import numpy as np
import pytest
from PIL import Image

from medmoe.data.corruptions import CORRUPTIONS, LEVELS, corrupt
from medmoe.data.preprocess import Preprocess
from medmoe.errors import ConfigError, DataError
from medmoe.modalities import MODALITIES
from medmoe.types import Box, Sample

KINDS = (np.uint8, np.uint16, np.float32)
BOXES = (Box("a", 0.4, 0.4, 0.6, 0.7), Box("b", 0.0, 0.0, 0.02, 0.02))


@pytest.fixture(params=sorted(CORRUPTIONS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def textured(height: int = 64, width: int = 48, colour: bool = True, kind: type = np.uint8) -> Sample:
    """Give a smooth picture with a little grain, most of it in the middle of the range."""
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    planes = [0.5 + 0.3 * np.sin(9 * x + 5 * y + phase) for phase in ((0, 1, 2) if colour else (0,))]
    unit = np.stack(planes, axis=-1) + np.random.default_rng(0).normal(0, 0.03, (height, width, 1))
    unit = np.clip(unit if colour else unit[..., 0], 0, 1)
    top = np.iinfo(kind).max if kind is not np.float32 else 1
    image = np.rint(unit * top).astype(kind) if kind is not np.float32 else unit.astype(kind)
    return Sample("k", image, "a report", labels=("a",), boxes=BOXES, patient="p")


def unit(sample: Sample) -> np.ndarray:
    kind = sample.image.dtype
    return sample.image.astype(np.float64) / (1 if kind == np.float32 else np.iinfo(kind).max)


def hurt(name: str, given: Sample, level: int = 3, seed: int = 0) -> Sample:
    return corrupt(name, given, np.random.default_rng(seed), level)


@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_shape_type_and_range_are_kept(name: str, kind: type, colour: bool) -> None:
    given = textured(colour=colour, kind=kind)
    for level in LEVELS:
        found = hurt(name, given, level)
        assert found.image.shape == given.image.shape
        assert found.image.dtype == kind
        assert 0 <= unit(found).min() <= unit(found).max() <= 1
        assert not np.array_equal(found.image, given.image)


def test_damage_grows_with_the_level(name: str) -> None:
    given = textured()
    damage = [
        np.mean([np.abs(unit(hurt(name, given, level, seed)) - unit(given)).mean() for seed in range(12)])
        for level in LEVELS
    ]
    assert damage[0] > 0
    assert np.all(np.diff(damage) > 0), damage


@pytest.mark.parametrize("kind", KINDS)
def test_grey_stays_grey(name: str, kind: type) -> None:
    flat = textured(colour=False, kind=kind)
    triple = dataclasses.replace(flat, image=np.repeat(flat.image[..., None], 3, axis=2))
    for seed in range(4):
        found = hurt(name, triple, 4, seed).image
        assert np.array_equal(found[..., 0], found[..., 1])
        assert np.array_equal(found[..., 0], found[..., 2])
        assert np.array_equal(found[..., 0], hurt(name, flat, 4, seed).image)


def test_the_same_generator_gives_the_same_picture(name: str) -> None:
    given = textured()
    assert np.array_equal(hurt(name, given, 3, 7).image, hurt(name, given, 3, 7).image)


@pytest.mark.parametrize("name", sorted(set(CORRUPTIONS) - {"blur", "contrast", "jpeg"}))
def test_another_generator_gives_another_picture(name: str) -> None:
    given = textured()
    assert len({hurt(name, given, 3, seed).image.tobytes() for seed in range(9)}) > 1


def test_what_is_given_is_not_changed(name: str) -> None:
    given = textured()
    given.image.flags.writeable = False
    before = given.image.copy()
    hurt(name, given, 5)
    assert np.array_equal(given.image, before)


@pytest.mark.parametrize("name", sorted(set(CORRUPTIONS) - {"crop"}))
def test_only_the_pixels_change(name: str) -> None:
    given = dataclasses.replace(textured(), mask=np.ones((64, 48), np.bool_))
    found = hurt(name, given, 5)
    assert dataclasses.replace(found, image=given.image) == given


@pytest.mark.parametrize("level", [0, 6, -1])
def test_a_level_beyond_the_five_is_an_error(name: str, level: int) -> None:
    with pytest.raises(ConfigError, match="1 to 5"):
        hurt(name, textured(), level)


def test_an_unknown_name_is_an_error_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'speckle'"):
        hurt("speckel", textured())


@pytest.mark.parametrize(
    "image", [np.zeros((0, 0), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4), np.int32)]
)
def test_an_image_of_another_kind_is_an_error(name: str, image: np.ndarray) -> None:
    with pytest.raises(DataError, match="allowed"):
        hurt(name, Sample("k", image))


def test_tiny_pictures_survive(name: str) -> None:
    for shape in ((1, 1), (1, 5), (2, 2, 3)):
        assert hurt(name, Sample("k", np.full(shape, 100, np.uint8)), 5).image.shape == shape


def test_rows_name_modalities_that_there_are() -> None:
    for row in CORRUPTIONS.values():
        assert set(row.modalities or ()) <= set(MODALITIES)
    assert CORRUPTIONS["blur"].suits(None)
    assert CORRUPTIONS["stain"].suits("pathology")
    assert not CORRUPTIONS["stain"].suits("ct")
    assert not CORRUPTIONS["stain"].suits(None)


def test_noise_has_the_spread_it_says_at_every_resolution() -> None:
    for side in (100, 600):
        given = Sample("k", np.full((side, side), 0.5, np.float32))
        found, _ = Preprocess(50, mean=(0, 0, 0), std=(1, 1, 1))(hurt("noise", given, 2))
        spread = found[0].std().item()
        assert hurt("noise", given, 2).image.std() == pytest.approx(0.08, rel=0.1)
        assert spread > 0.01  # it doesn't average away where a large picture is made small


def test_speckle_keeps_the_mean_and_leaves_black_alone() -> None:
    given = np.full((200, 200), 0.3, np.float32)
    given[:50] = 0
    found = hurt("speckle", Sample("k", given), 1).image
    assert not found[:50].any()
    assert found[50:].mean() == pytest.approx(0.3, rel=0.02)
    assert found[50:].std() == pytest.approx(0.3 * 0.12, rel=0.05)


def test_blur_is_a_gaussian_of_a_share_of_the_longest_side() -> None:
    given = np.zeros((201, 101), np.float32)
    given[100, 50] = 1
    found = hurt("blur", Sample("k", given), 3).image.astype(np.float64)
    down, across = np.mgrid[-100:101, -50:51]
    assert found.sum() == pytest.approx(1, abs=1e-4)
    assert np.sqrt((found * down**2).sum()) == pytest.approx(0.017 * 201, rel=0.03)
    assert np.sqrt((found * across**2).sum()) == pytest.approx(0.017 * 201, rel=0.03)


def test_contrast_keeps_the_mean_and_scales_the_spread() -> None:
    given = textured(kind=np.float32)
    found = hurt("contrast", given, 2)
    np.testing.assert_allclose(unit(found).mean(axis=(0, 1)), unit(given).mean(axis=(0, 1)), atol=1e-5)
    np.testing.assert_allclose(unit(found).std(axis=(0, 1)), 0.5 * unit(given).std(axis=(0, 1)), atol=1e-5)


def test_jpeg_is_that_of_the_library_for_small_pictures() -> None:
    given = textured()
    file = io.BytesIO()
    Image.fromarray(given.image).save(file, format="JPEG", quality=15)
    assert np.array_equal(hurt("jpeg", given, 3).image, np.asarray(Image.open(file)))


def test_jpeg_shows_in_large_pictures_too() -> None:
    large = textured(900, 700)
    assert hurt("jpeg", large, 5).image.shape == large.image.shape
    assert np.abs(unit(hurt("jpeg", large, 5)) - unit(large)).mean() > 0.02


def test_a_crop_moves_boxes_with_the_pixels_and_drops_lost_ones() -> None:
    image = np.zeros((200, 300), np.float32)
    image[80:140, 120:180] = 1
    mask = image > 0
    given = Sample("k", image, boxes=BOXES, mask=mask, gaze=image)
    for seed in range(6):
        found = hurt("crop", given, 4, seed)
        assert [box.label for box in found.boxes or ()] == ["a"]
        rows, columns = np.flatnonzero(found.mask.any(axis=1)), np.flatnonzero(found.mask.any(axis=0))
        box = found.boxes[0]
        seen = (columns[0] / 300, rows[0] / 200, (columns[-1] + 1) / 300, (rows[-1] + 1) / 200)
        assert (box.x0, box.y0, box.x1, box.y1) == pytest.approx(seen, abs=0.01)
        assert np.array_equal(found.image >= 0.5, found.mask)
        np.testing.assert_allclose(found.gaze, found.image, atol=1e-6)


def test_a_crop_enlarges_what_is_left() -> None:
    found = hurt("crop", Sample("k", np.zeros((100, 100)), boxes=BOXES[:1]), 5)
    box = found.boxes[0]
    assert (box.x1 - box.x0) == pytest.approx(0.2 / 0.64)
    assert (box.y1 - box.y0) == pytest.approx(0.3 / 0.64)
    assert hurt("crop", Sample("k", np.zeros((9, 9)))).boxes is None


def test_a_window_clips_what_falls_outside() -> None:
    ramp = Sample("k", np.linspace(0, 1, 101, dtype=np.float32)[None])
    for seed in range(6):
        found = hurt("window_shift", ramp, 5, seed).image[0]
        inside = (found > 0) & (found < 1)
        assert inside.mean() < 0.62
        np.testing.assert_allclose(np.diff(found[inside]), 0.01 / 0.6, rtol=1e-3)


def test_gain_is_a_straight_line() -> None:
    ramp = Sample("k", np.linspace(0.35, 0.45, 11, dtype=np.float32)[None])
    slopes, offsets = set(), set()
    for seed in range(12):
        found = hurt("gain", ramp, 1, seed).image[0]
        slope = (found[-1] - found[0]) / 0.1
        np.testing.assert_allclose(found, found[0] + slope * (ramp.image[0] - 0.35), atol=1e-6)
        slopes.add(round(float(slope), 3))
        offsets.add(round(float(found[0] - slope * 0.35), 3))
    assert slopes == {round(float(np.exp(0.1)), 3), round(float(np.exp(-0.1)), 3)}
    assert offsets == {0.03, -0.03}


def test_stain_turns_colours_but_leaves_white_white() -> None:
    image = np.ones((4, 4, 3), np.float32)
    image[0] = (0.6, 0.3, 0.6)
    found = hurt("stain", Sample("k", image), 4).image
    np.testing.assert_allclose(found[1:], 1)
    before, after = -np.log(image[0, 0]), -np.log(found[0, 0])
    cosine = before @ after / np.linalg.norm(before) / np.linalg.norm(after)
    assert 0.7 < cosine < 0.99


def test_a_vignette_darkens_the_border_and_not_the_middle() -> None:
    found = hurt("vignette", Sample("k", np.full((60, 60), 200, np.uint8)), 5).image
    assert found.max() > 195
    assert min(found[0, 0], found[0, -1], found[-1, 0], found[-1, -1]) < 80
