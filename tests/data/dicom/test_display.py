"""What pixels look like: each rule of the standard against arithmetic written out, and the same pixels as a PNG has."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian

from dicom_files import VALUES, write
from medmoe.data.dicom import read_dicom_values
from medmoe.data.images import read_image, read_mask
from medmoe.data.reading import Reading
from medmoe.errors import ConfigError, DataError

RNG = np.random.default_rng(0)
EIGHT = RNG.integers(0, 256, (5, 6), np.uint8)
SIXTEEN = RNG.integers(0, 65536, (5, 6), np.uint16)
CT = {"Modality": "CT", "RescaleSlope": 1, "RescaleIntercept": -1024}


def png(path: Path, values: np.ndarray) -> np.ndarray:
    Image.fromarray(values).save(path)
    return read_image(path)


def same(one: np.ndarray, other: np.ndarray) -> None:
    assert one.dtype == other.dtype
    np.testing.assert_array_equal(one, other)


def raw(path: Path, frame: int | None = None) -> np.ndarray:
    with path.open("rb") as file:
        return read_dicom_values(file, where=str(path), frame=frame)


def linear(values: np.ndarray, centre: float, width: float) -> np.ndarray:
    return np.clip((values - (centre - 0.5)) / (width - 1) + 0.5, 0, 1)


# --- the same pixels whatever the format ------------------------------------------------------------------------


def test_8_bit_grey_is_what_a_png_of_it_is(tmp_path):
    same(read_image(write(tmp_path / "a.dcm", EIGHT)), png(tmp_path / "a.png", EIGHT))
    identity = {"RescaleSlope": 1, "RescaleIntercept": 0}
    same(read_image(write(tmp_path / "b.dcm", EIGHT, **identity)), EIGHT)
    inverted = read_image(write(tmp_path / "c.dcm", EIGHT, PhotometricInterpretation="MONOCHROME1"))
    same(inverted, png(tmp_path / "c.png", 255 - EIGHT))


def test_8_bit_grey_is_the_same_by_every_window(tmp_path):
    path = write(tmp_path / "a.dcm", EIGHT, Modality="CT", RescaleSlope=1, RescaleIntercept=0)
    for window in ("header", "usual", "full", "lung", "lung+bone+brain"):
        same(read_image(path, reading=Reading(window)), EIGHT)


def test_a_window_makes_8_bit_grey_float(tmp_path):
    read = read_image(write(tmp_path / "a.dcm", EIGHT, WindowCenter=100, WindowWidth=50))
    same(read, linear(EIGHT.astype(float), 100, 50).astype(np.float32))
    same(read_image(tmp_path / "a.dcm", reading=Reading("full")), EIGHT)


def test_fewer_bits_are_brought_to_white_as_in_picture_files(tmp_path):
    four = EIGHT % 16
    same(read_image(write(tmp_path / "a.dcm", four, BitsStored=4, HighBit=3)), four * 17)


def test_deep_grey_is_what_a_png_of_it_is_to_the_last_bit(tmp_path):
    same(read_image(write(tmp_path / "a.dcm", SIXTEEN)), png(tmp_path / "a.png", SIXTEEN))
    twelve = SIXTEEN % 4096
    same(read_image(write(tmp_path / "b.dcm", twelve, BitsStored=12, HighBit=11)), png(tmp_path / "b.png", twelve))
    inverted = read_image(write(tmp_path / "c.dcm", SIXTEEN, PhotometricInterpretation="MONOCHROME1"))
    same(inverted, png(tmp_path / "c.png", 65535 - SIXTEEN))


def test_8_bit_colour_is_what_a_png_of_it_is(tmp_path):
    rgb = RNG.integers(0, 256, (4, 6, 3), np.uint8)
    same(read_image(write(tmp_path / "a.dcm", rgb)), png(tmp_path / "a.png", rgb))
    planes = write(tmp_path / "b.dcm", rgb, PlanarConfiguration=1, PixelData=rgb.transpose(2, 0, 1).tobytes())
    same(read_image(planes), rgb)


def test_ybr_becomes_rgb(tmp_path):
    ybr = RNG.integers(0, 256, (4, 6, 3), np.uint8)
    read = read_image(write(tmp_path / "a.dcm", ybr, PhotometricInterpretation="YBR_FULL"))
    y, b, r = (ybr[..., at].astype(float) - (0, 128, 128)[at] for at in range(3))
    rgb = np.stack([y + 1.402 * r, y - 0.344136 * b - 0.714136 * r, y + 1.772 * b], -1)
    assert read.dtype == np.uint8
    assert np.abs(read - np.clip(rgb, 0, 255)).max() <= 1


def test_a_palette_is_read_in_the_byte_order_of_its_file(tmp_path):
    entries = RNG.integers(0, 256, (3, 4), np.uint8)
    for name, order, syntax in (("a", "<", None), ("b", ">", ExplicitVRBigEndian)):
        tables = {}
        for at, colour in enumerate(("Red", "Green", "Blue")):
            tables[f"{colour}PaletteColorLookupTableDescriptor"] = [4, 0, 16]
            tables[f"{colour}PaletteColorLookupTableData"] = (
                (entries[at].astype(np.uint16) << 8).astype(f"{order}u2").tobytes()
            )
        if syntax:
            tables["syntax"] = syntax
        stored = EIGHT % 4
        path = write(tmp_path / f"{name}.dcm", stored, PhotometricInterpretation="PALETTE COLOR", **tables)
        same(read_image(path), entries[:, stored].transpose(1, 2, 0))


# --- values -----------------------------------------------------------------------------------------------------


def test_slope_and_intercept_count_once_each_also_alone(tmp_path):
    for name, slope, intercept in (("a", 2.5, -100.0), ("b", 3.0, None), ("c", None, 7.0), ("d", -1.0, 5.0)):
        given = {"RescaleSlope": slope, "RescaleIntercept": intercept}
        path = write(tmp_path / f"{name}.dcm", **{key: value for key, value in given.items() if value is not None})
        np.testing.assert_array_equal(raw(path), VALUES * (slope or 1) + (intercept or 0))


@pytest.mark.parametrize("slope", ["0", "inf", "nan"])
def test_a_slope_that_tells_nothing_apart_is_refused(tmp_path, slope):
    path = write(tmp_path / "a.dcm", RescaleSlope="4321", RescaleIntercept=0)
    path.write_bytes(path.read_bytes().replace(b"4321", slope.ljust(4).encode()))
    with pytest.raises(DataError, match=r"a\.dcm"):
        read_image(path)


def test_a_modality_table_is_looked_up(tmp_path):
    table = Dataset()
    table.LUTDescriptor, table.LUTData, table.ModalityLUTType = [3, 65534, 16], [10, 20, 300], "US"
    table["LUTDescriptor"].VR = table["LUTData"].VR = "US"
    stored = np.array([[-9, -2, -1], [0, 1, 99]], np.int16)  # 65534 is -2 to signed pixels
    path = write(tmp_path / "a.dcm", stored, ModalityLUTSequence=Sequence([table]))
    np.testing.assert_array_equal(raw(path), [[10, 10, 20], [300, 300, 300]])
    np.testing.assert_allclose(read_image(path), (raw(path) - 10.0) / 290, atol=1e-6)


def test_a_voi_table_of_bytes_is_looked_up_after_the_modality_transform(tmp_path):
    table = Dataset()
    table.LUTDescriptor, table.LUTData = [4, 5, 8], bytes([0, 10, 100, 255])
    table["LUTDescriptor"].VR, table["LUTData"].VR = "US", "OW"
    given = {"RescaleSlope": 2, "RescaleIntercept": 1, "WindowCenter": 3, "WindowWidth": 2}
    path = write(tmp_path / "a.dcm", np.array([[0, 2], [3, 9]], np.uint16), VOILUTSequence=Sequence([table]), **given)
    np.testing.assert_allclose(read_image(path), np.array([[0, 0], [100, 255]]) / 255, atol=1e-6)


def test_a_dose_is_scaled_by_its_grid(tmp_path):
    dose = np.array([[0, 1000], [2000, 4_000_000_000]], np.uint32)
    path = write(tmp_path / "a.dcm", dose, Modality="RTDOSE", DoseGridScaling="1e-6")
    np.testing.assert_allclose(raw(path), dose * 1e-6)
    np.testing.assert_allclose(read_image(path), dose / 4e9, atol=1e-6)


@pytest.mark.parametrize(("kind", "name"), [("<f4", "FloatPixelData"), ("<f8", "DoubleFloatPixelData")])
def test_floats_are_read(tmp_path, kind, name):
    values = RNG.normal(size=(2, 3)).astype(kind)
    path = write(tmp_path / "a.dcm", BitsAllocated=8 * values.itemsize)
    data = pydicom.dcmread(path)
    del data.PixelData, data.BitsStored, data.HighBit, data.PixelRepresentation
    setattr(data, name, values.tobytes())
    data.save_as(path)
    same(raw(path), values)
    np.testing.assert_allclose(read_image(path), (values - values.min()) / np.ptp(values), atol=1e-6)


def test_bits_that_do_not_end_at_the_low_end_are_moved_there(tmp_path):
    twelve = SIXTEEN % 4096
    path = write(tmp_path / "a.dcm", twelve << 4 | 5, BitsStored=12, HighBit=15)
    np.testing.assert_array_equal(raw(path), twelve)
    frames = write(tmp_path / "b.dcm", np.stack([twelve << 4, twelve << 4 | 9]), BitsStored=12, HighBit=15)
    np.testing.assert_array_equal(raw(frames, 1), twelve)


def test_overlays_are_never_in_the_pixels(tmp_path):
    overlaid = SIXTEEN % 4096 | RNG.integers(0, 2, SIXTEEN.shape, np.uint16) << 15
    path = write(tmp_path / "a.dcm", overlaid, BitsStored=12, HighBit=11)
    np.testing.assert_array_equal(raw(path), SIXTEEN % 4096)


def test_big_endian_and_deflated_files_give_the_same_pixels(tmp_path):
    plain = read_image(write(tmp_path / "a.dcm", SIXTEEN))
    same(read_image(write(tmp_path / "b.dcm", SIXTEEN.byteswap(), syntax=ExplicitVRBigEndian)), plain)
    same(read_image(write(tmp_path / "c.dcm", SIXTEEN, syntax=DeflatedExplicitVRLittleEndian)), plain)


# --- padding ----------------------------------------------------------------------------------------------------


def test_padding_counts_for_nothing_and_is_black(tmp_path):
    stored = np.array([[-2000, 0, 50], [100, 100, -2000]], np.int16)
    seen = np.array([[0, 0, 0.5], [1, 1, 0]])
    for name, value in (("a", -2000), ("b", 63536)):  # the second is written without its sign
        path = write(tmp_path / f"{name}.dcm", stored)
        data = pydicom.dcmread(path)
        data.add_new(0x00280120, "US" if value > 0 else "SS", value)
        data.save_as(path)
        np.testing.assert_allclose(read_image(path), seen, atol=1e-6)
    data.PhotometricInterpretation = "MONOCHROME1"
    data.save_as(path)
    np.testing.assert_allclose(read_image(path), [[0, 1, 0.5], [0, 0, 0]], atol=1e-6)


def test_padding_can_be_a_range_either_way_round(tmp_path):
    stored = np.array([[10, 11, 12], [50, 60, 9]], np.uint16)
    for name, pair in (("a", (10, 12)), ("b", (12, 10))):
        path = write(tmp_path / f"{name}.dcm", stored)
        data = pydicom.dcmread(path)
        data.add_new(0x00280120, "US", pair[0])
        data.add_new(0x00280121, "US", pair[1])
        data.save_as(path)
        expected = np.array([[0, 0, 0], [41 / 51, 1, 0]])
        np.testing.assert_allclose(read_image(path), expected, atol=1e-6)


def test_padding_of_a_windowed_or_8_bit_image_is_black_too(tmp_path):
    path = write(tmp_path / "a.dcm", EIGHT, PhotometricInterpretation="MONOCHROME1")
    data = pydicom.dcmread(path)
    data.add_new(0x00280120, "US", int(EIGHT[0, 0]))
    data.save_as(path)
    same(read_image(path), np.where(EIGHT[0, 0] == EIGHT, 0, 255 - EIGHT).astype(np.uint8))
    data.WindowCenter, data.WindowWidth = 100, 50
    data.save_as(path)
    expected = np.where(EIGHT[0, 0] == EIGHT, 0, 1 - linear(EIGHT.astype(float), 100, 50))
    np.testing.assert_allclose(read_image(path), expected, atol=1e-6)


def test_nothing_but_padding_is_black(tmp_path):
    path = write(tmp_path / "a.dcm", np.full((2, 3), 7, np.uint16))
    data = pydicom.dcmread(path)
    data.add_new(0x00280120, "US", 7)
    data.save_as(path)
    assert read_image(path).max() == 0


# --- windows ----------------------------------------------------------------------------------------------------


def test_a_named_window_counts_for_hounsfield_units(tmp_path):
    path = write(tmp_path / "a.dcm", WindowCenter=1, WindowWidth=5000, **CT)
    units = VALUES - 1024.0
    np.testing.assert_allclose(read_image(path, reading=Reading("lung")), linear(units, -600, 1500), atol=1e-6)
    np.testing.assert_allclose(read_image(path, reading=Reading("usual")), linear(units, 40, 400), atol=1e-6)
    np.testing.assert_allclose(read_image(path, reading=Reading("full")), VALUES / 4000, atol=1e-6)
    three = read_image(path, reading=Reading("lung+soft_tissue+bone"))
    expected = [linear(units, *pair) for pair in ((-600, 1500), (40, 400), (400, 1800))]
    np.testing.assert_allclose(three, np.stack(expected, -1), atol=1e-6)


@pytest.mark.parametrize("window", ["lung", "usual", "lung+soft_tissue+bone"])
def test_other_values_than_hounsfield_units_are_read_by_the_header(tmp_path, window):
    others = {
        "a": {"Modality": "MR", "RescaleSlope": 1, "RescaleIntercept": -1024},
        "b": {**CT, "RescaleType": "US"},
        "c": {"Modality": "CT"},
        "d": {"Modality": "CT", "RescaleSlope": 1, "RescaleIntercept": 0},  # unsigned: no room for air
    }
    for name, more in others.items():
        stored = VALUES.astype(np.uint16) if name == "d" else VALUES
        path = write(tmp_path / f"{name}.dcm", stored, WindowCenter=1, WindowWidth=5000, **more)
        same(read_image(path, reading=Reading(window)), read_image(path))


def test_one_window_that_shows_nothing_gives_way_and_one_of_three_does_not(tmp_path):
    path = write(tmp_path / "a.dcm", np.array([[2000, 3000], [4000, 4000]], np.int16), **CT)
    np.testing.assert_allclose(read_image(path, reading=Reading("brain")), [[0, 0.5], [1, 1]], atol=1e-6)
    three = read_image(path, reading=Reading("brain+lung+bone"))
    assert (three[..., :2] == 1).all()


def test_a_window_that_is_none_is_refused_whatever_the_image(tmp_path):
    for name, more in {"a": CT, "b": {"Modality": "MR"}}.items():
        with pytest.raises(ConfigError, match=r"lungs.*lung"):
            read_image(write(tmp_path / f"{name}.dcm", **more), reading=Reading("lungs"))


def test_each_frame_has_its_own_transform_and_window(tmp_path):
    groups = []
    for slope, centre in ((1, 0.5), (2, 500.5)):
        rescale, window, frame = Dataset(), Dataset(), Dataset()
        rescale.RescaleSlope, rescale.RescaleIntercept, rescale.RescaleType = slope, -1024, "HU"
        window.WindowCenter, window.WindowWidth = centre, 2001
        frame.PixelValueTransformationSequence, frame.FrameVOILUTSequence = Sequence([rescale]), Sequence([window])
        groups.append(frame)
    path = write(tmp_path / "a.dcm", np.stack([VALUES, VALUES]), PerFrameFunctionalGroupsSequence=Sequence(groups))
    for at, (slope, centre) in enumerate(((1, 0.5), (2, 500.5))):
        np.testing.assert_array_equal(raw(path, at), VALUES * slope - 1024.0)
        read = read_image(path, reading=Reading(frame=at))
        np.testing.assert_allclose(read, linear(VALUES * slope - 1024.0, centre, 2001), atol=1e-6)
    with pytest.raises(DataError, match=r"a\.dcm: no frame 2; the file has 2"):
        read_image(path, reading=Reading(frame=2))


# --- segmentations ----------------------------------------------------------------------------------------------


def test_one_bit_is_black_or_white_and_a_mask(tmp_path):
    bits = RNG.integers(0, 2, (3, 4, 6), np.uint8)
    data = {"BitsAllocated": 1, "BitsStored": 1, "HighBit": 0, "NumberOfFrames": 3, "SamplesPerPixel": 1}
    packed = np.packbits(bits.ravel(), bitorder="little").tobytes()
    path = write(tmp_path / "a.dcm", bits.astype(np.uint16), PixelData=packed + b"\0" * (len(packed) % 2), **data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for at in range(3):
            same(read_image(path, reading=Reading(frame=at)), bits[at] * np.uint8(255))
            same(read_mask(path, reading=Reading(frame=at)), bits[at] > 0)
