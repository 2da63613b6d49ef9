"""Image files of every kind must come out as the picture they hold."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from medmoe.data.images import flatten_grey, image_size, read_gaze, read_image, read_mask, stretch
from medmoe.errors import DataError

RAMP = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
COLOUR = np.stack([RAMP, RAMP[::-1], RAMP // 2], -1)


def save(path: Path, pixels: np.ndarray, **options: object) -> Path:
    Image.fromarray(pixels).save(path, **options)
    return path


def png16(path: Path, pixels: np.ndarray) -> Path:
    """Write [H, W, C] uint16 as a 16-bit PNG (C = 2: grey and alpha, 3: RGB, 4: RGBA)."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, channels = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 16, {2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )
    return path


def tiff16(
    path: Path, pixels: np.ndarray, *, compression: int = 1, predictor: int = 1, extra: int = 0, planar: int = 1
) -> Path:
    """Write [H, W, C] uint16 as a little-endian RGB TIFF of one strip."""
    height, width, channels = pixels.shape
    stored = pixels.copy()
    if predictor == 2:
        stored[:, 1:] -= pixels[:, :-1]
    data = stored.astype("<u2").tobytes()
    data = zlib.compress(data) if compression == 8 else data
    tags = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, channels, 8), (259, 3, 1, compression), (262, 3, 1, 2)]
    tags += [(273, 4, 1, 8 + 2 * channels), (277, 3, 1, channels), (278, 4, 1, height), (279, 4, 1, len(data))]
    tags += [(284, 3, 1, planar), (317, 3, 1, predictor)] + ([(338, 3, 1, extra)] if channels > 3 else [])
    at = 8 + 2 * channels + len(data)
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4)
    path.write_bytes(b"II*\0" + struct.pack("<I", at) + struct.pack("<H", 16) * channels + data + directory)
    return path


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp", "webp"])
def test_eight_bit_pixels_come_back_as_they_are(tmp_path, suffix):
    options = {"lossless": True} if suffix == "webp" else {}
    read = read_image(save(tmp_path / f"a.{suffix}", COLOUR, **options))
    assert read.dtype == np.uint8
    assert read.flags.writeable
    np.testing.assert_array_equal(read, COLOUR)
    if suffix != "webp":
        np.testing.assert_array_equal(read_image(save(tmp_path / f"b.{suffix}", RAMP)), RAMP)


def test_jpeg_is_read_as_grey_where_it_is_grey(tmp_path):
    flat = np.full((16, 16), 90, np.uint8)
    assert read_image(save(tmp_path / "a.jpg", flat)).shape == (16, 16)
    assert read_image(save(tmp_path / "b.jpg", np.dstack([flat] * 3))).shape == (16, 16)
    assert read_image(save(tmp_path / "c.jpg", np.dstack([flat, flat // 2, flat]))).shape == (16, 16, 3)


def test_one_different_pixel_keeps_an_image_in_colour():
    pixels = np.zeros((40, 40, 3), np.uint8)
    pixels[5, 7, 2] = 1
    assert flatten_grey(pixels).shape == (40, 40, 3)


def test_one_bit_images_become_black_and_white(tmp_path):
    for name in ("a.png", "a.tif"):
        read = read_image(save(tmp_path / name, RAMP > 100))
        np.testing.assert_array_equal(read, np.where(RAMP > 100, 255, 0))
        assert read.dtype == np.uint8


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_twelve_bits_in_a_sixteen_bit_file_use_the_whole_range(tmp_path, suffix):
    stored = np.linspace(100, 4095, 12).reshape(3, 4).astype(np.uint16)
    read = read_image(save(tmp_path / f"a.{suffix}", stored))
    assert read.dtype == np.float32
    np.testing.assert_allclose(read, (stored - 100.0) / 3995.0, atol=1e-6)


def test_neighbouring_sixteen_bit_values_stay_apart(tmp_path):
    stored = np.arange(60000, 60400, dtype=np.uint16).reshape(20, 20)
    assert len(np.unique(read_image(save(tmp_path / "a.png", stored)))) == 400


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_wide_signed_tiff_values_are_stretched(tmp_path, dtype):
    stored = np.array([[-1000, 0, 3000]], dtype)
    np.testing.assert_allclose(read_image(save(tmp_path / "a.tif", stored)), [[0, 0.25, 1]], atol=1e-6)


def grey_tiff(path: Path, values: np.ndarray, *, kind: int, photometric: int = 1) -> Path:
    """Write grey values with a sample format (1 unsigned, 2 signed) that Pillow can't write."""
    data = values.tobytes()
    height, width = values.shape
    tags = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8 * values.itemsize), (259, 3, 1, 1)]
    tags += [(262, 3, 1, photometric), (273, 4, 1, 8), (277, 3, 1, 1), (278, 4, 1, height), (279, 4, 1, len(data))]
    tags += [(339, 3, 1, kind)]
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4)
    path.write_bytes(b"II*\0" + struct.pack("<I", 8 + len(data)) + data + directory)
    return path


def test_signed_sixteen_bit_tiff_is_not_wrapped(tmp_path):
    path = grey_tiff(tmp_path / "a.tif", np.array([[-1024, 0, 1024]], "<i2"), kind=2)
    np.testing.assert_allclose(read_image(path), [[0, 0.5, 1]])


def test_unsigned_thirty_two_bit_tiff_is_not_wrapped(tmp_path):
    path = grey_tiff(tmp_path / "a.tif", np.array([[0, 2**31, 2**32 - 1]], "<u4"), kind=1)
    np.testing.assert_allclose(read_image(path), [[0, 0.5, 1]], atol=1e-6)


def test_white_is_zero_tiff_is_turned_the_right_way(tmp_path):
    path = grey_tiff(tmp_path / "a.tif", np.array([[0, 500, 1000]], "<u2"), kind=1, photometric=0)
    np.testing.assert_allclose(read_image(path), [[1, 0.5, 0]])


def test_a_constant_deep_image_is_black():
    np.testing.assert_array_equal(stretch(np.full((2, 2), 700, np.uint16)), np.zeros((2, 2)))


@pytest.mark.parametrize("write", [png16, tiff16])
def test_sixteen_bit_colour_keeps_its_depth(tmp_path, write):
    stored = (np.arange(36, dtype=np.uint16).reshape(3, 4, 3) * 7) + 300
    read = read_image(write(tmp_path / ("a.png" if write is png16 else "a.tif"), stored))
    np.testing.assert_allclose(read, (stored - 300.0) / 245.0, atol=1e-6)


def test_deflated_tiff_with_predictor_is_the_same_picture(tmp_path):
    stored = np.random.default_rng(0).integers(0, 65536, (5, 6, 3)).astype(np.uint16)
    plain = read_image(tiff16(tmp_path / "a.tif", stored))
    packed = read_image(tiff16(tmp_path / "b.tif", stored, compression=8, predictor=2))
    np.testing.assert_array_equal(plain, packed)


def test_deep_alpha_is_laid_on_black(tmp_path):
    stored = np.full((1, 3, 4), 60000, np.uint16)
    stored[0, :, 3] = [0, 32768, 65535]
    for path in (png16(tmp_path / "a.png", stored), tiff16(tmp_path / "a.tif", stored, extra=2)):
        np.testing.assert_allclose(read_image(path), [[0, 0.5, 1]], atol=1e-4)
    np.testing.assert_allclose(read_image(png16(tmp_path / "b.png", stored[..., 2:])), [[0, 0.5, 1]], atol=1e-4)
    assert read_image(tiff16(tmp_path / "c.tif", stored, extra=0)).max() == 0  # a fourth channel that isn't alpha


def test_deep_tiff_in_a_layout_that_would_lose_depth_is_refused(tmp_path):
    path = tiff16(tmp_path / "a.tif", np.ones((2, 2, 3), np.uint16), planar=2)
    with pytest.raises(DataError, match=r"a\.tif.*in planes can't be read without losing depth; save it as a 16-bit"):
        read_image(path)


def test_palette_and_transparency_become_colours_on_black(tmp_path):
    palette = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "L").convert("P")
    palette.putpalette([10, 20, 30, 200, 0, 0, 0, 0, 250] + [0] * 759)
    palette.save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), [[[10, 20, 30], [200, 0, 0], [0, 0, 250]]])
    palette.save(tmp_path / "b.png", transparency=1)
    np.testing.assert_array_equal(read_image(tmp_path / "b.png")[0, 1], [0, 0, 0])


def test_alpha_is_laid_on_black(tmp_path):
    rgba = np.array([[[200, 100, 50, 0], [200, 100, 50, 255]]], np.uint8)
    np.testing.assert_array_equal(read_image(save(tmp_path / "a.png", rgba)), [[[0, 0, 0], [200, 100, 50]]])
    grey = np.array([[[200, 0], [200, 255]]], np.uint8)
    Image.fromarray(grey, "LA").save(tmp_path / "b.png")
    np.testing.assert_array_equal(read_image(tmp_path / "b.png"), [[0, 200]])


def test_cmyk_becomes_rgb(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.tif")
    assert read_image(tmp_path / "a.tif")[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "tif", "jpg"])
def test_pictures_stand_upright_and_the_header_says_so(tmp_path, orientation, suffix):
    blocks = np.kron(np.array([[0, 80, 160], [240, 40, 120]], np.uint8), np.ones((16, 16), np.uint8))
    turns = {1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: np.transpose}
    turns |= {6: np.rot90, 7: lambda a: np.rot90(a, 2).T, 8: lambda a: np.rot90(a, -1)}
    exif = Image.Exif()
    exif[274] = orientation
    path = save(tmp_path / f"a.{suffix}", np.ascontiguousarray(turns[orientation](blocks)), exif=exif)
    read = read_image(path)
    assert np.abs(read.astype(int) - blocks).max() <= (6 if suffix == "jpg" else 0)
    assert image_size(path) == (48, 32)


def test_an_orientation_that_makes_no_sense_is_ignored(tmp_path):
    exif = Image.Exif()
    exif[274] = 77
    assert read_image(save(tmp_path / "a.png", RAMP, exif=exif)).shape == RAMP.shape


def test_only_the_first_page_of_a_tiff_is_read(tmp_path):
    pages = [Image.fromarray(RAMP), Image.fromarray(RAMP[::-1].copy())]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), RAMP)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinite_pixels_are_refused(tmp_path, bad):
    with pytest.raises(DataError, match=r"a\.tif: the image has NaN or infinite pixels; export it again"):
        read_image(save(tmp_path / "a.tif", np.array([[0, bad, 1]], np.float32)))


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
def test_a_truncated_file_is_refused_and_named(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    path = save(tmp_path / f"a.{suffix}", noise)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises(DataError, match=rf"a\.{suffix}: "):
        read_image(path)
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow warns of cut metadata
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "bmp", "gif", "webp"])
def test_a_file_cut_anywhere_is_refused_or_gives_the_same_picture(tmp_path, suffix):
    path = save(tmp_path / f"a.{suffix}", np.random.default_rng(0).integers(0, 256, (8, 8)).astype(np.uint8))
    whole, pixels = path.read_bytes(), read_image(path)
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        try:
            np.testing.assert_array_equal(read_image(path), pixels)
        except DataError:
            continue


def test_a_truncated_deep_png_is_refused(tmp_path):
    path = png16(tmp_path / "a.png", np.random.default_rng(0).integers(0, 65536, (32, 32, 3)).astype(np.uint16))
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(DataError, match=r"a\.png: the image is truncated or damaged"):
        read_image(path)


def test_what_is_no_image_is_refused_in_words(tmp_path):
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("not pixels")
    for name, words in {
        "none.png": "no such image file; check the path",
        "none.dat": "no such image file; check the path",
        "empty.png": "the file is empty",
        "text.png": "not a readable image; allowed: JPEG",
        ".": "is a folder, not an image",
    }.items():
        with pytest.raises(DataError, match=words):
            read_image(tmp_path / name)


def test_an_unreadable_file_is_refused_in_words(tmp_path, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError("denied")

    monkeypatch.setattr(Image, "open", refuse)
    with pytest.raises(DataError, match="may not be read; check its permissions"):
        read_image(save(tmp_path / "a.png", RAMP))


def test_a_decompression_bomb_is_refused(tmp_path):
    small = io.BytesIO()
    Image.new("1", (1, 1)).save(small, "PNG")
    data = small.getvalue()
    header = struct.pack(">II", 60000, 60000) + data[24:29]
    data = data[:16] + header + struct.pack(">I", zlib.crc32(b"IHDR" + header)) + data[33:]
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(DataError, match=r"a\.png: the image claims more than 178,956,970 pixels; cut it into tiles"):
        read_image(tmp_path / "a.png")


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow warns of odd metadata
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
def test_random_damage_gives_a_picture_or_a_data_error_and_nothing_else(tmp_path, suffix):
    rng = np.random.default_rng(1)
    path = save(tmp_path / f"a.{suffix}", rng.integers(0, 256, (24, 24, 3)).astype(np.uint8))
    whole, messages = path.read_bytes(), []
    for _ in range(60):
        data = bytearray(whole)
        for at in rng.integers(0, min(len(data), 400), 3):
            data[at] = rng.integers(0, 256)
        path.write_bytes(bytes(data))
        try:
            assert read_image(path).ndim in (2, 3)
        except DataError as error:
            messages.append(str(error))
    assert len(messages) > 10
    assert all(f"a.{suffix}" in message and "\n" not in message for message in messages)


def test_any_value_above_zero_is_foreground(tmp_path):
    mask = read_mask(save(tmp_path / "a.png", np.array([[0, 1, 255]], np.uint8)))
    assert mask.dtype == np.bool_
    assert mask.tolist() == [[False, True, True]]
    assert read_mask(save(tmp_path / "b.png", np.array([[[0, 0, 0], [0, 9, 0]]], np.uint8))).tolist() == [[False, True]]
    assert read_mask(save(tmp_path / "c.png", np.full((2, 2), 3, np.uint16))).all()
    assert read_mask(save(tmp_path / "d.png", np.array([[False, True]]))).tolist() == [[False, True]]


def test_gaze_maps_keep_their_zero(tmp_path):
    assert read_gaze(save(tmp_path / "a.png", np.array([[51, 255]], np.uint8))).tolist() == [[np.float32(0.2), 1.0]]
    assert read_gaze(save(tmp_path / "b.png", np.array([[500, 1000]], np.uint16))).tolist() == [[0.5, 1.0]]
    assert read_gaze(save(tmp_path / "c.png", np.zeros((1, 2), np.uint16))).max() == 0
    assert read_gaze(save(tmp_path / "d.png", COLOUR)).shape == RAMP.shape


def test_negative_gaze_is_refused(tmp_path):
    with pytest.raises(DataError, match="finite and not negative"):
        read_gaze(save(tmp_path / "a.tif", np.array([[-1.0, 1.0]], np.float32)))
