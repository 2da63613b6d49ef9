"""Pictures that no scanner made."""

import numpy as np
import pytest

from medmoe.data.nonmedical import PICTURES, picture_in
from medmoe.data.preprocess import Preprocess
from medmoe.types import Sample


@pytest.fixture(params=sorted(PICTURES))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def drawn(name: str, sample: Sample, seed: int = 0) -> np.ndarray:
    return picture_in(name, sample, np.random.default_rng(seed)).image


@pytest.mark.parametrize("shape", [(40, 30), (40, 30, 3), (1, 1), (1, 300), (700, 350, 3), (8, 5)])
def test_a_picture_has_the_proportions_and_channels_of_the_image(name: str, shape: tuple[int, ...]) -> None:
    image = drawn(name, Sample("k", np.zeros(shape, np.float32)))
    assert image.dtype == np.uint8
    assert image.shape[2:] == shape[2:]
    assert max(image.shape[:2]) == min(max(shape[:2]), 256)
    assert image.shape[0] / image.shape[1] == pytest.approx(shape[0] / shape[1], rel=0.2)


def test_a_picture_varies_within_itself_and_with_the_generator(name: str) -> None:
    given = Sample("k", np.zeros((64, 80, 3), np.uint8))
    pictures = [drawn(name, given, seed) for seed in range(8)]
    assert all(picture.std() > 1 for picture in pictures)
    assert len({picture.tobytes() for picture in pictures}) == 8
    assert np.array_equal(pictures[3], drawn(name, given, 3))


def test_a_colour_picture_has_colour(name: str) -> None:
    image = drawn(name, Sample("k", np.zeros((64, 64, 3), np.uint8)))
    assert not np.array_equal(image[..., 0], image[..., 1])


def test_mask_and_gaze_go_so_that_the_picture_can_be_prepared(name: str) -> None:
    given = Sample("k", np.zeros((600, 300), np.uint8), "text", mask=np.ones((600, 300), bool), patient="p")
    found = picture_in(name, given, np.random.default_rng(0))
    assert (found.mask, found.gaze, found.report, found.patient) == (None, None, "text", "p")
    assert Preprocess(32)(found)[0].isfinite().all()


def test_a_natural_texture_has_more_power_at_low_frequencies() -> None:
    power = []
    for seed in range(5):
        image = drawn("natural", Sample("k", np.zeros((128, 128), np.uint8)), seed).astype(np.float64)
        power.append(np.abs(np.fft.fft2(image - image.mean())) ** 2)
    radius = np.hypot(*np.meshgrid(np.fft.fftfreq(128), np.fft.fftfreq(128)))
    means = [np.mean(power, axis=0)[(radius > low) & (radius <= 2 * low)].mean() for low in (0.02, 0.05, 0.1, 0.2)]
    assert np.all(np.diff(means) < 0)
