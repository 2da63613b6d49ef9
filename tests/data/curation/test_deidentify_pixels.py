"""Pixels and coded pictures: what isn't picture goes, what is stays bit by bit; text is found, and blanked where asked for."""

# ruff: noqa: E501 - rows of examples stay on one line
from __future__ import annotations

import gzip
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from dicom_files import write as write_dicom
from medmoe.data.curation.deidentify_burned import find_text
from medmoe.data.curation.deidentify_dicom import clean_dicom
from medmoe.data.curation.deidentify_images import blank_image, clean_image, kind_of
from medmoe.data.curation.deidentify_key import Key
from medmoe.data.curation.deidentify_pixels import blank
from medmoe.data.curation.deidentify_rules import Options
from medmoe.data.curation.deidentify_stream import clean_stream
from medmoe.errors import DataError

KEY = Key(bytes(range(32)))
FILES = Path(pydicom.__file__).parent / "data" / "test_files"


def picture(size: int = 96, seed: int = 0) -> np.ndarray:
    """Paint soft noise: a scanner's picture without anything written on it."""
    noise = np.random.default_rng(seed).normal(size=(size // 8, size // 8))
    soft = Image.fromarray(noise.astype(np.float32)).resize((size, size), Image.Resampling.BICUBIC)
    values = np.asarray(soft)
    return ((values - values.min()) / np.ptp(values) * 120 + 30).astype(np.uint8)


def lettered(
    values: np.ndarray, text: str = "DOE JANE 1957", at: tuple[int, int] = (10, 12), grey: int = 255
) -> np.ndarray:
    """Burn text into a picture, 12 pixels high."""
    image = Image.fromarray(values)
    ImageDraw.Draw(image).text(
        at, text, fill=grey if image.mode == "L" else (grey,) * 3, font=ImageFont.load_default(12)
    )
    return np.asarray(image)


def covered(values: np.ndarray, before: np.ndarray) -> float:
    """Give the share of the burned-in pixels that lie in a box."""
    marks = np.abs(values.astype(int) - before) > 60
    inside = np.zeros(values.shape[:2], bool)
    for x0, y0, x1, y1 in find_text(values):
        inside[y0:y1, x0:x1] = True
    return float(inside[marks].mean())


# Burned-in text


def test_text_on_a_picture_is_found_and_a_picture_without_it_has_none():
    for seed in range(4):
        plain = picture(128, seed)
        assert find_text(plain) == []
        assert covered(lettered(plain), plain) > 0.95


def test_dark_text_on_a_bright_picture_is_found():
    bright = 255 - picture(128) // 2
    assert covered(lettered(bright, grey=0), bright) > 0.95


def test_what_is_found_does_not_depend_on_the_kind_of_numbers():
    values = lettered(picture(128))
    boxes = find_text(values)
    assert boxes
    assert find_text(values.astype(np.uint16) * 16) == boxes
    assert find_text(values.astype(np.float64) - 1024) == boxes


@pytest.mark.parametrize("shape", [(4, 4), (1, 300), (64, 64), (64, 64, 3)])
def test_a_picture_of_one_grey_has_no_text(shape: tuple[int, ...]):
    assert find_text(np.full(shape, 7)) == []
    assert find_text(np.full(shape, np.nan)) == []


@pytest.mark.parametrize(("photometric", "value"), [("MONOCHROME1", 90), ("MONOCHROME2", -5), ("PALETTE COLOR", 3)])
def test_boxes_become_black_in_every_frame(photometric: str, value: int):
    frames = np.arange(2 * 6 * 8).reshape(2, 6, 8) % 96 - 5
    fresh = blank(frames, [(2, 1, 5, 4)], photometric, palette_black=3)
    assert (fresh[:, 1:4, 2:5] == value).all()
    outside = np.ones((6, 8), bool)
    outside[1:4, 2:5] = False
    assert (fresh[:, outside] == frames[:, outside]).all()


@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small_RLE.dcm", "examples_palette.dcm", "MR_small_bigendian.dcm"])
def test_burned_in_text_is_blanked_and_all_else_stays(tmp_path: Path, name: str):
    old = pydicom.dcmread(FILES / name)
    if old.file_meta.TransferSyntaxUID.is_compressed:
        old.decompress()
    if "SequenceOfUltrasoundRegions" in old:
        del old.SequenceOfUltrasoundRegions
    values = old.pixel_array.copy()
    top = values.max() if values.ndim == 2 else 255
    mask = Image.new("L", values.shape[1::-1])
    ImageDraw.Draw(mask).text((4, 20), "DOE JANE", fill=255, font=ImageFont.load_default(14))
    if old.PhotometricInterpretation == "PALETTE COLOR":
        top = 255
    values[np.asarray(mask) > 127] = top
    old.PixelData = values.tobytes()
    old.save_as(tmp_path / "in.dcm")
    file = clean_dicom(tmp_path / "in.dcm", KEY, Options(), burned_in="blank")
    new = pydicom.dcmread(io.BytesIO(file.content)).pixel_array
    assert file.blanked
    inside = np.zeros(values.shape[:2], bool)
    for x0, y0, x1, y1 in file.boxes:
        inside[y0:y1, x0:x1] = True
    assert inside[np.asarray(mask) > 127].mean() > 0.9
    assert (new[~inside] == values[~inside]).all()
    assert len(np.unique(new[inside])) == 1
    with pytest.raises(DataError, match="text seems to be burned in"):
        clean_dicom(tmp_path / "in.dcm", KEY, Options(), burned_in="refuse")
    assert clean_dicom(tmp_path / "in.dcm", KEY, Options()).boxes == file.boxes


@pytest.mark.parametrize("planar", [0, 1])
def test_colour_is_blanked_in_either_order_of_its_planes(tmp_path: Path, planar: int):
    old = (
        pydicom.dcmread(FILES / "SC_rgb.dcm")
        if (FILES / "SC_rgb.dcm").exists()
        else pydicom.dcmread(FILES / "SC_rgb_rle.dcm")
    )
    if old.file_meta.TransferSyntaxUID.is_compressed:
        old.decompress()
    values = lettered(np.stack([picture(128)] * 3, -1))
    old.Rows, old.Columns = 128, 128
    old.PlanarConfiguration, old.PhotometricInterpretation = planar, "RGB"
    old.PixelData = (values.transpose(2, 0, 1) if planar else values).tobytes()
    old.save_as(tmp_path / "in.dcm")
    file = clean_dicom(tmp_path / "in.dcm", KEY, Options(), burned_in="blank")
    new = pydicom.dcmread(io.BytesIO(file.content)).pixel_array
    inside = np.zeros((128, 128), bool)
    for x0, y0, x1, y1 in file.boxes:
        inside[y0:y1, x0:x1] = True
    assert inside.any()
    assert (new[inside] == 0).all()
    assert (new[~inside] == values[~inside]).all()


def test_outside_of_the_regions_of_ultrasound_all_is_blanked(tmp_path: Path):
    from pydicom import Dataset

    old = pydicom.dcmread(FILES / "examples_palette.dcm")
    region = Dataset()
    region.RegionLocationMinX0, region.RegionLocationMinY0, region.RegionLocationMaxX1, region.RegionLocationMaxY1 = (
        100,
        90,
        199,
        189,
    )
    old.SequenceOfUltrasoundRegions = [region]
    old.save_as(tmp_path / "in.dcm")
    file = clean_dicom(tmp_path / "in.dcm", KEY, Options(), burned_in="blank")
    new = pydicom.dcmread(io.BytesIO(file.content)).pixel_array
    outside = np.ones(new.shape, bool)
    outside[90:190, 100:200] = False
    assert len(np.unique(new[outside])) == 1


def test_a_header_that_says_burned_in_is_refused_or_told(tmp_path: Path):
    old = pydicom.dcmread(FILES / "CT_small.dcm")
    old.BurnedInAnnotation = "YES"
    old.save_as(tmp_path / "in.dcm")
    assert "BurnedInAnnotation YES" in clean_dicom(tmp_path / "in.dcm", KEY, Options()).risks
    with pytest.raises(DataError, match="its header says that text is burned in"):
        clean_dicom(tmp_path / "in.dcm", KEY, Options(), burned_in="refuse")
    old.PixelData = bytes(len(old.PixelData))
    old.save_as(tmp_path / "in.dcm")
    with pytest.raises(DataError, match="and none was found to blank"):
        clean_dicom(tmp_path / "in.dcm", KEY, Options(), burned_in="blank")


# Coded pictures


@pytest.mark.parametrize(
    "name",
    [
        "SC_rgb_jpeg_gdcm.dcm",
        "JPEG2000.dcm",
        "MR_small_jp2klossless.dcm",
        "MR_small_jpeg_ls_lossless.dcm",
        "examples_ybr_color.dcm",
        "US1_J2KR.dcm",
    ],
)
def test_a_coded_picture_decodes_to_the_same_pixels(name: str):
    found = sorted(FILES.rglob(name))
    if not found:
        pytest.skip(f"pydicom no longer has {name}")
    old = pydicom.dcmread(found[0])
    new = pydicom.dcmread(io.BytesIO(clean_dicom(found[0], KEY, Options(), look=False).content))
    assert new.file_meta.TransferSyntaxUID in (old.file_meta.TransferSyntaxUID, "1.2.840.10008.1.2.1")
    assert np.array_equal(new.pixel_array, old.pixel_array)


def jpeg(**more: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.stack([picture()] * 3, -1)).save(buffer, "JPEG", quality=90, **more)
    return buffer.getvalue()


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_loses_its_comments_exif_and_tail_but_no_pixel(progressive: bool):
    exif = Image.Exif()
    exif[0x010E], exif[0x013B] = "Quill study", "Ottoline Quill"
    data = (
        jpeg(exif=exif, comment=b"Quill comment", icc_profile=b"Quill profile" * 9, progressive=progressive)
        + b"Quill tail"
    )
    fresh = clean_image(data, "jpeg", where="x")
    assert data.count(b"Quill") > 3
    assert b"Quill" not in fresh
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(fresh))), np.asarray(Image.open(io.BytesIO(data))))


def test_a_jpeg_is_still_turned_as_its_exif_said():
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "Quill"
    fresh = clean_image(jpeg(exif=exif), "jpeg", where="x")
    assert b"Quill" not in fresh
    assert dict(Image.open(io.BytesIO(fresh)).getexif()) == {0x0112: 6}


def test_a_png_loses_text_time_and_tail_but_no_pixel():
    info = PngImagePlugin.PngInfo()
    info.add_text("Patient", "Ottoline Quill")
    info.add_text("Zipped", "Ottoline Quill", zip=True)
    info.add_itxt("More", "Ottoline Quill")
    buffer = io.BytesIO()
    Image.fromarray(picture()).save(buffer, "PNG", pnginfo=info)
    data = buffer.getvalue() + b"Quill tail"
    fresh = clean_image(data, "png", where="x")
    assert b"Quill" in data
    assert b"Quill" not in fresh
    assert Image.open(io.BytesIO(fresh)).info == {}
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(fresh))), picture())


def test_bytes_behind_the_stream_of_a_png_go():
    buffer = io.BytesIO()
    Image.fromarray(picture()).save(buffer, "PNG")
    hidden = b"Quill hidden"
    chunk = struct.pack(">I", len(hidden)) + b"IDAT" + hidden + struct.pack(">I", zlib.crc32(b"IDAT" + hidden))
    data = buffer.getvalue()
    fresh = clean_image(data[:-12] + chunk + data[-12:], "png", where="x")
    assert b"Quill" not in fresh
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(fresh))), picture())


@pytest.mark.parametrize("packed", [False, True])
def test_a_nifti_file_loses_its_texts_extensions_and_tail(packed: bool):
    header = bytearray(348)
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<8h", header, 40, 3, 2, 3, 4, 1, 1, 1, 1)
    struct.pack_into("<hh", header, 70, 4, 16)
    struct.pack_into("<f", header, 108, 384.0)
    header[148:153], header[228:233], header[14:19], header[344:348] = b"Quill", b"Quill", b"Quill", b"n+1\0"
    voxels = np.arange(24, dtype="<i2").tobytes()
    raw = bytes(header) + b"\1\0\0\0" + struct.pack("<ii", 32, 6) + b"Quill".ljust(24, b"\0") + voxels + b"Quill"
    fresh = clean_image(gzip.compress(raw) if packed else raw, "nifti", where="x")
    fresh = gzip.decompress(fresh) if packed else fresh
    assert b"Quill" not in fresh
    assert fresh[384:] == voxels
    assert fresh[40:112] == raw[40:112]


def test_the_unused_text_at_the_end_of_a_nifti_2_header_goes():
    header = bytearray(540)
    struct.pack_into("<i8s", header, 0, 540, b"n+2\0\r\n\x1a\n")
    struct.pack_into("<hh8q", header, 12, 4, 16, 3, 2, 3, 4, 1, 1, 1, 1)
    struct.pack_into("<q", header, 168, 544)
    header[525:540] = b"Ottoline Quill "
    voxels = np.arange(24, dtype="<i2").tobytes()
    fresh = clean_image(bytes(header) + bytes(4) + voxels, "nifti", where="x")
    assert b"Quill" not in fresh
    assert fresh[544:] == voxels


@pytest.mark.parametrize("kind", ["jpeg", "png", "nifti"])
def test_a_broken_file_is_told_as_such(kind: str):
    start = {"jpeg": b"\xff\xd8\xff\xe1\xff\xff", "png": b"\x89PNG\r\n\x1a\n\0\0\0\xff", "nifti": b"\0" * 400}[kind]
    with pytest.raises(DataError, match=f"x: a broken {kind} file"):
        clean_image(start, kind, where="x")


def test_what_is_no_coded_picture_is_refused():
    with pytest.raises(ValueError, match="neither JPEG"):
        clean_stream(b"Quill")


def test_text_in_a_png_is_blanked(tmp_path: Path):
    plain = picture(128)
    buffer = io.BytesIO()
    Image.fromarray(lettered(plain)).save(buffer, "PNG")
    fresh, boxes = blank_image(buffer.getvalue(), where="x")
    assert boxes
    assert find_text(np.asarray(Image.open(io.BytesIO(fresh)))) == []
    (tmp_path / "scan").write_bytes(fresh)
    assert kind_of(tmp_path / "scan") == "png"
    assert kind_of(tmp_path) is None


@pytest.mark.parametrize(("frames", "marked"), [(3, True), (4, False)])
def test_pixels_are_only_called_clean_where_every_frame_was_looked_at(tmp_path: Path, frames: int, marked: bool):
    values = np.zeros((frames, 32, 32), np.uint16)
    path = write_dicom(tmp_path / "cine.dcm", values, PatientID="1", Modality="US")
    found = clean_dicom(path, KEY, Options(), burned_in="blank")
    item = pydicom.dcmread(io.BytesIO(found.content))
    codes = [str(code.CodeValue) for code in item.DeidentificationMethodCodeSequence]
    assert ("113101" in codes) == marked
