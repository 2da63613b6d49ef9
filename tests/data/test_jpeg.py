"""JPEG by either decoder: the same pixels, whole and at a reduced scale."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medmoe.data import jpeg
from medmoe.data.images import read_image, read_image_bytes
from medmoe.data.jpeg import fast_decoder, read_jpeg
from medmoe.data.preprocess import Preprocess
from medmoe.errors import DataError
from medmoe.types import Sample

STORED = {
    "444": {"subsampling": 0, "quality": 95},
    "422": {"subsampling": 1, "quality": 80},
    "420": {"subsampling": 2, "quality": 70},
    "progressive": {"progressive": True, "quality": 85},
    "restarts": {"restart_marker_rows": 1},
}


def picture(height: int, width: int, *, seed: int = 0) -> Image.Image:
    """Make a colour picture with edges, gradients and grain, as a photograph has."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:height, 0:width]
    disc = (rows - height / 2) ** 2 + (columns - width / 3) ** 2 < (height / 3) ** 2
    channels = [rows * 200 // height, columns * 200 // width, 180 * disc]
    return Image.fromarray((np.stack(channels, -1) + rng.integers(0, 20, (height, width, 3))).astype(np.uint8))


def jpeg_bytes(image: Image.Image, **settings: object) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", **settings)
    return file.getvalue()


@pytest.fixture(params=["fast", "pillow"])
def decoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Read with the optional decoder, and without it."""
    if request.param == "fast":
        pytest.importorskip("simplejpeg")
        assert fast_decoder(), "simplejpeg gives other pixels than Pillow here"
    else:
        monkeypatch.setattr(jpeg, "fast_decoder", lambda: False)
    return str(request.param)


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("settings", STORED.values(), ids=STORED)
@pytest.mark.parametrize("shape", [(1, 1), (8, 16), (37, 53), (121, 90)])
def test_pixels_are_pillows_to_the_bit(decoder, shape, settings, mode):
    data = jpeg_bytes(picture(*shape).convert(mode), **settings)
    read = read_image_bytes(data, name="a.jpg", where="a.jpg")
    expected = np.array(Image.open(io.BytesIO(data)))
    assert read.dtype == np.uint8
    assert read.flags.writeable
    np.testing.assert_array_equal(read, expected)


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize(("at_least", "side"), [(None, 201), (201, 201), (101, 201), (100, 101), (50, 51), (9, 26)])
def test_a_reduced_scale_never_goes_below_what_is_needed(decoder, mode, at_least, side):
    data = jpeg_bytes(picture(201, 77).convert(mode))
    with io.BytesIO(data) as file:
        read = read_jpeg(Image.open(file), file, at_least=at_least)
    assert read is not None
    assert read.shape[:2] == (side, -(-77 * side // 201))
    assert max(read.shape) >= (at_least or 0)


def test_a_sliver_keeps_a_pixel_of_its_short_side(decoder):
    data = jpeg_bytes(picture(640, 3))
    assert read_image_bytes(data, name="a.jpg", where="a", at_least=32).shape == (320, 2, 3)


@pytest.mark.parametrize("settings", STORED.values(), ids=STORED)
def test_the_decoders_agree_at_every_scale(settings):
    pytest.importorskip("simplejpeg")
    data = jpeg_bytes(picture(203, 155), **settings)
    for scale in (1, 2, 4, 8):
        fast = jpeg._decode(data, (155, 203), "RGB", scale)
        np.testing.assert_array_equal(fast, jpeg._by_pillow(Image.open(io.BytesIO(data)), scale))


def test_a_reduced_picture_is_less_than_three_grey_levels_off(decoder):
    preprocess = Preprocess(64, mean=(0, 0, 0), std=(1, 1, 1))
    data = jpeg_bytes(picture(520, 440), quality=90)

    def prepared(at_least: int | None) -> np.ndarray:
        image = read_image_bytes(data, name="a.jpg", where="a", at_least=at_least)
        return preprocess(Sample(key="a", image=image))[0].numpy() * 255

    whole, reduced = prepared(None), prepared(64)
    off = np.abs(whole - reduced).mean()
    assert 0 < off < 3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_reduced_picture_stands_upright_too(tmp_path: Path, decoder, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    path = tmp_path / "a.jpg"
    picture(96, 64).save(path, quality=95, exif=exif)
    whole, reduced = read_image(path).astype(float), read_image(path, at_least=48).astype(float)
    assert reduced.shape == (whole.shape[0] // 2, whole.shape[1] // 2, 3)
    blocks = whole.reshape(reduced.shape[0], 2, reduced.shape[1], 2, 3).mean((1, 3))
    assert np.abs(blocks - reduced).mean() < 3


def test_damage_is_worded_alike_by_either_decoder(tmp_path: Path, decoder):
    path = tmp_path / "a.jpg"
    data = jpeg_bytes(picture(256, 256))
    path.write_bytes(data[: len(data) * 9 // 10])
    with pytest.raises(DataError, match=r"a\.jpg: the image is truncated or damaged \(.*truncated"):
        read_image(path)


def test_four_inks_and_other_formats_are_left_to_pillow():
    for image, kind in ((picture(16, 16).convert("CMYK"), "JPEG"), (picture(16, 16), "PNG")):
        file = io.BytesIO()
        image.save(file, kind)
        assert read_jpeg(Image.open(file), file) is None


def test_a_decoder_that_gives_other_pixels_is_not_used(monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("simplejpeg")
    own = jpeg._decode
    monkeypatch.setattr(jpeg, "_decode", lambda *given: own(*given) ^ 1)
    assert not fast_decoder.__wrapped__()


def test_without_the_package_pillow_decodes(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(jpeg.importlib.util, "find_spec", lambda name: None)
    assert not fast_decoder.__wrapped__()
