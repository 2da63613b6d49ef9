"""The deterministic way from a sample to the model's input."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from medmoe.data.preprocess import Preprocess
from medmoe.errors import ConfigError, DataError
from medmoe.types import Box, Sample

PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def test_an_image_of_the_right_size_is_only_normalised() -> None:
    image = noise(8, 8, 3)
    out, _ = Preprocess(8)(Sample("k", image))
    expected = (image / 255 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    assert out.dtype == torch.float32
    np.testing.assert_allclose(out.permute(1, 2, 0), expected, atol=1e-6)


def test_grey_fills_three_equal_channels() -> None:
    out, _ = Preprocess(8, **PLAIN)(Sample("k", noise(8, 8)))
    assert torch.equal(out[0], out[1])
    assert torch.equal(out[0], out[2])


@pytest.mark.parametrize(
    ("shape", "inside"),
    [((4, 8), (2, 6, 0, 8)), ((16, 4), (0, 8, 3, 5)), ((100, 1), (0, 8, 3, 4)), ((16, 15), (0, 8, 0, 8))],
)
def test_the_aspect_is_kept_and_the_rest_padded(shape: tuple[int, int], inside: tuple[int, ...]) -> None:
    out, _ = Preprocess(8, pad_value=0.25, **PLAIN)(Sample("k", np.full(shape, 255, np.uint8)))
    top, bottom, left, right = inside
    expected = torch.full((3, 8, 8), 0.25)
    expected[:, top:bottom, left:right] = 1.0
    assert torch.equal(out, expected)


def test_whole_factors_average_blocks() -> None:
    # Antialiased bilinear at 1/2 weighs 4 neighbours 1:3:3:1 along each axis, away from the border.
    image = noise(16, 16).astype(np.float32) / 255
    out, _ = Preprocess(8, **PLAIN)(Sample("k", image))
    weights = np.outer([1, 3, 3, 1], [1, 3, 3, 1]) / 64
    assert out[0, 3, 4].item() == pytest.approx((image[5:9, 7:11] * weights).sum(), abs=1e-6)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_bytes_and_floats_give_nearly_the_same(interpolation: str) -> None:
    image = noise(37, 53, 3)
    prepare = Preprocess(16, interpolation=interpolation, **PLAIN)
    whole, _ = prepare(Sample("k", image))
    real, _ = prepare(Sample("k", image.astype(np.float32) / 255))
    assert (whole - real).abs().max() < 1.1 / 255
    assert whole.min() >= 0
    assert whole.max() <= 1


def test_the_result_does_not_depend_on_threads() -> None:
    sample, threads = Sample("k", noise(333, 251, 3)), torch.get_num_threads()
    try:
        results = []
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(Preprocess(64)(sample)[0])
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*results)


def test_boxes_masks_and_gaze_move_with_the_image() -> None:
    image = np.zeros((20, 40), np.uint8)
    image[4:12, 10:30] = 255
    mask = image > 0
    box = Box("mass", 10 / 40, 4 / 20, 30 / 40, 12 / 20)
    out, moved = Preprocess(20, **PLAIN)(Sample("k", image, boxes=(box,), mask=mask, gaze=mask.astype(np.float32)))
    assert moved.image.size == 0
    assert moved.boxes == (dataclasses.replace(box, x0=0.25, y0=7 / 20, x1=0.75, y1=11 / 20),)
    assert moved.mask.dtype == np.bool_
    rows, columns = np.nonzero(moved.mask)
    assert (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1) == (7, 11, 5, 15)
    np.testing.assert_allclose(moved.gaze, out[0], atol=2 / 255)
    assert moved.gaze.dtype == np.float32


def test_absent_facts_stay_absent() -> None:
    _, moved = Preprocess(8)(Sample("k", noise(8, 8)))
    assert (moved.boxes, moved.mask, moved.gaze) == (None, None, None)


def test_the_sample_given_is_not_changed() -> None:
    image = noise(8, 8).astype(np.float32) / 255
    image.flags.writeable = False
    before = image.copy()
    Preprocess(8)(Sample("k", image))
    Preprocess(8)(Sample("k", image[::-1]))
    assert np.array_equal(image, before)


def test_a_flipped_view_is_read_as_it_looks() -> None:
    image = noise(8, 8)
    assert torch.equal(Preprocess(8)(Sample("k", image[::-1]))[0], Preprocess(8)(Sample("k", image))[0].flip(1))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.full((4, 4), np.nan, np.float32), "file:3: image has NaN or infinite values; repair"),
        (np.full((4, 4), np.inf, np.float32), "NaN or infinite"),
        (np.full((4, 4), 200.0, np.float32), "run from 200 to 200; allowed: 0 to 1"),
        (np.full((4, 4), -1.0, np.float32), "run from -1 to -1"),
        (np.zeros((4, 4), np.uint16), "image of type uint16"),
        (np.zeros((4, 4, 4), np.uint8), r"image of shape \(4, 4, 4\)"),
        (np.zeros((0, 0), np.uint8), r"image of shape \(0, 0\)"),
    ],
)
def test_a_bad_image_is_told_with_its_key(image: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Preprocess(8)(Sample("file:3", image))


@pytest.mark.parametrize("name", ["mask", "gaze"])
def test_a_map_of_another_size_is_told(name: str) -> None:
    field = np.zeros((3, 4), np.bool_ if name == "mask" else np.float32)
    with pytest.raises(DataError, match=rf"file:3: {name}.*\(3, 4\) for an image of \(4, 4\)"):
        Preprocess(8)(Sample("file:3", noise(4, 4), **{name: field}))


def test_rounding_a_hair_beyond_white_is_clipped() -> None:
    out, _ = Preprocess(4, **PLAIN)(Sample("k", np.full((4, 4), 1.0005, np.float32)))
    assert out.max() == 1


@pytest.mark.parametrize("colour", [False, True])
def test_shrinking_keeps_type_aspect_and_maps(colour: bool) -> None:
    image = noise(32, 20, 3) if colour else noise(32, 20)
    mask = np.ones((32, 20), np.bool_)
    small = Preprocess(16).shrink(Sample("k", image, mask=mask, gaze=mask.astype(np.float32)))
    assert small.image.shape == ((16, 10, 3) if colour else (16, 10))
    assert small.image.dtype == np.uint8
    assert small.mask.shape == small.gaze.shape == (16, 10)
    prepare = Preprocess(16)
    assert torch.equal(prepare(small)[0], prepare(Sample("k", image))[0])


def test_shrinking_leaves_small_samples_alone() -> None:
    sample = Sample("k", noise(10, 16))
    assert Preprocess(16).shrink(sample) is sample
    plain = Preprocess(8).shrink(sample)
    assert (plain.mask, plain.gaze) == (None, None)


@pytest.mark.parametrize(
    ("number", "change", "message"),
    [
        (
            0,
            {"deep_grey": "by 255"},
            "steps.read: deep_grey='by 255' isn't allowed; 'minimum to maximum' is",
        ),
        (1, {"antialias": False}, "preprocess.steps.resize: antialias=False isn't allowed; True is"),
        (2, {"side": 9}, "preprocess.steps.pad: side=9 isn't allowed; 8 is"),
        (3, {"also": 1}, "preprocess.steps.normalise: also=1 isn't allowed; None is"),
    ],
)
def test_a_step_that_would_be_done_otherwise_is_refused(number: int, change: dict, message: str) -> None:
    settings = Preprocess(8).to_dict()
    settings["steps"][number].update(change)
    with pytest.raises(ConfigError, match=message):
        Preprocess.from_dict(settings)


def test_settings_of_the_first_version_are_taken_over() -> None:
    flat = {"size": 24, "mean": [0.1, 0.2, 0.3], "std": [1, 1, 1], "pad_value": 0.5, "interpolation": "bicubic"}
    expected = Preprocess(24, (0.1, 0.2, 0.3), (1, 1, 1), 0.5, "bicubic")
    assert Preprocess.from_dict({**flat, "version": 1}) == expected


def test_settings_survive_json() -> None:
    prepare = Preprocess(24, mean=(0.1, 0.2, 0.3), pad_value=0.5, interpolation="bicubic", window="lung")
    again = Preprocess.from_dict(json.loads(json.dumps(prepare.to_dict())))
    assert again == prepare
    assert again.fingerprint() == prepare.fingerprint()


def test_the_fingerprint_tells_settings_apart() -> None:
    different = [
        Preprocess(16),
        Preprocess(17),
        Preprocess(16, interpolation="bicubic"),
        Preprocess(16, pad_value=0.5),
        Preprocess(16, mean=(0.5, 0.5, 0.5)),
        Preprocess(16, window="lung"),
    ]
    prints = {one.fingerprint() for one in different}
    assert len(prints) == 6
    assert all(len(one) == 16 and int(one, 16) >= 0 for one in prints)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 8, "men": [0, 0, 0]}, "unknown setting 'men'.*did you mean 'mean'"),
        ({"size": 8, "version": 3}, "preprocess.version: 3 isn't allowed; 1 to 2 are in this release"),
        ({"version": 2}, "preprocess.steps: isn't a list of steps"),
        ({"version": 2, "steps": [], "size": 8}, "unknown entry 'size'; allowed: steps, version"),
        ({"version": 2, "steps": [{"step": "resize", "longest_side": 8}]}, r"steps \['resize'\] aren't allowed"),
        ({}, "size is missing"),
        ({"size": 0}, "preprocess.size: 0"),
        ({"size": "8"}, "wrong type"),
        ({"size": 8, "std": [1, 0, 1]}, "preprocess.std"),
        ({"size": 8, "mean": [1, 0]}, "preprocess.mean"),
        ({"size": 8, "pad_value": 2}, "preprocess.pad_value"),
        ({"size": 8, "interpolation": "nearest"}, "'nearest' isn't allowed; bilinear, bicubic is"),
    ],
)
def test_wrong_settings_are_told(settings: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Preprocess.from_dict(settings)
