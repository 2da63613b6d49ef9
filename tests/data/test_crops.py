"""Random parts: of the image, never beyond it, and told by the generator alone."""

from __future__ import annotations

import numpy as np
import pytest

from medmoe.data.crops import RandomCrop
from medmoe.data.preprocess import NO_PIXELS
from medmoe.errors import ConfigError, DataError
from medmoe.types import Box, Sample

# Every pixel's value tells its place.
PLACES = (np.arange(40)[:, None] * 50 + np.arange(50)).astype(np.float32) / 2000


def sample(image: np.ndarray = PLACES) -> Sample:
    return Sample(key="one", image=image, boxes=(Box(0.1, 0.1, 0.4, 0.4, "mass"),), mask=image > 0.5)


def test_the_same_state_gives_the_same_part_and_another_gives_another():
    crop = RandomCrop(chance=1.0)
    one, again, other = (crop(sample(), np.random.default_rng(seed)).image for seed in (3, 3, 4))
    assert np.array_equal(one, again)
    assert one.shape != other.shape or not np.array_equal(one, other)


def test_a_part_is_a_block_of_the_image_mirrored_or_not():
    crop = RandomCrop(chance=1.0, coarse=0.0)
    for seed in range(20):
        part = crop(sample(), np.random.default_rng(seed)).image
        steps = np.round(np.diff(part, axis=1) * 2000).astype(int)
        assert np.unique(steps).tolist() in ([1], [-1])
        assert (np.round(np.diff(part, axis=0) * 2000) == 50).all()


def test_parts_have_at_least_the_least_area():
    crop = RandomCrop(chance=1.0, area=0.5, aspect=0.0, coarse=0.0)
    areas = [crop(sample(), np.random.default_rng(seed)).image.size / PLACES.size for seed in range(50)]
    assert 0.47 < min(areas) < 0.7
    assert max(areas) <= 1


def test_a_coarse_part_keeps_the_mean_of_its_blocks():
    image = np.random.default_rng(0).random((192, 192)).astype(np.float32)
    found = RandomCrop(chance=0.0, coarse=1.0, least=96)(sample(image), np.random.default_rng(1)).image
    blocks = image.reshape(96, 2, 96, 2).mean(axis=(1, 3))
    assert any(np.allclose(found, one, atol=1e-6) for one in (blocks, blocks[:, ::-1]))


def test_a_coarse_image_of_bytes_stays_of_bytes():
    image = np.full((200, 200, 3), 77, np.uint8)
    found = RandomCrop(chance=0.0, coarse=1.0)(sample(image), np.random.default_rng(0)).image
    assert found.dtype == np.uint8
    assert (found == 77).all()
    assert found.shape[0] < 200


def test_truth_that_would_not_follow_is_left_out():
    found = RandomCrop()(sample(), np.random.default_rng(0))
    assert (found.boxes, found.mask, found.gaze) == (None, None, None)


def test_an_image_of_one_pixel_survives():
    image = np.zeros((1, 1), np.uint8)
    for seed in range(10):
        assert RandomCrop(chance=1.0)(sample(image), np.random.default_rng(seed)).image.shape == (1, 1)


@pytest.mark.parametrize("options", [{"chance": 1.5}, {"area": 0.0}, {"aspect": -0.1}, {"coarse": 2.0}, {"least": 0}])
def test_values_that_make_no_sense_are_refused(options: dict[str, float]):
    name = next(iter(options))
    with pytest.raises(ConfigError, match=f"crop.{name}"):
        RandomCrop(**options)  # type: ignore[arg-type]


def test_an_image_without_pixels_is_refused_by_its_key():
    with pytest.raises(DataError, match="one"):
        RandomCrop()(Sample(key="one", image=NO_PIXELS), np.random.default_rng(0))


def test_the_smallest_part_of_an_image_as_large_as_needed_has_the_size():
    crop = RandomCrop(chance=1.0, coarse=0.0)
    for seed in range(200):
        part = crop(Sample(key="a", image=np.zeros((crop.needs(64), 150), np.uint8)), np.random.default_rng(seed))
        assert max(part.image.shape) >= 64
