"""A simple DICOM read: values once through the modality transform, the window, the polarity."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGLosslessSV1, RLELossless

from dicom_files import VALUES, write
from medmoe.data.dicom.stored import layout, plain
from medmoe.data.images import image_size, read_image
from medmoe.errors import DataError


def test_the_window_of_the_header_is_applied_after_the_modality_transform(tmp_path):
    path = write(tmp_path / "a.dcm", RescaleSlope=2, RescaleIntercept=-1024, WindowCenter=0.5, WindowWidth=2001)
    expected = np.clip((VALUES * 2.0 - 1024) / 2000 + 0.5, 0, 1)
    read = read_image(path)
    assert read.dtype == np.float32
    np.testing.assert_allclose(read, expected, atol=1e-6)
    assert image_size(path) == (3, 2)


def test_the_first_of_several_windows_counts(tmp_path):
    several = read_image(write(tmp_path / "a.dcm", WindowCenter=[1000, 0], WindowWidth=[500, 9]))
    one = read_image(write(tmp_path / "b.dcm", WindowCenter=1000, WindowWidth=500))
    np.testing.assert_array_equal(several, one)


WINDOWS = {
    "LINEAR_EXACT": lambda x: np.clip((x - 1000) / 2000 + 0.5, 0, 1),
    "SIGMOID": lambda x: 1 / (1 + np.exp(-4 * (x - 1000) / 2000)),
}


@pytest.mark.parametrize("function", WINDOWS)
def test_other_window_functions_follow_the_standard(tmp_path, function):
    read = read_image(write(tmp_path / "a.dcm", WindowCenter=1000, WindowWidth=2000, VOILUTFunction=function))
    np.testing.assert_allclose(read, WINDOWS[function](VALUES.astype(float)), atol=1e-6)


def test_ct_without_a_window_gets_the_usual_one(tmp_path):
    path = write(tmp_path / "a.dcm", Modality="CT", RescaleSlope=1, RescaleIntercept=-1024)
    np.testing.assert_allclose(read_image(path), np.clip((VALUES - 1024 - 39.5) / 399 + 0.5, 0, 1), atol=1e-6)


def test_without_any_window_minimum_and_maximum_count(tmp_path):
    for name, more in {"a": {}, "b": {"Modality": "CT"}, "c": {"WindowCenter": 40, "WindowWidth": 0}}.items():
        np.testing.assert_allclose(read_image(write(tmp_path / f"{name}.dcm", **more)), VALUES / 4000, atol=1e-6)


def test_a_window_that_shows_nothing_gives_way(tmp_path):
    read = read_image(write(tmp_path / "a.dcm", WindowCenter=90000, WindowWidth=10))
    np.testing.assert_allclose(read, VALUES / 4000, atol=1e-6)


def test_a_constant_image_is_black(tmp_path):
    assert read_image(write(tmp_path / "a.dcm", np.full((2, 2), 7, np.int16))).max() == 0


def test_monochrome1_is_inverted(tmp_path):
    read = read_image(write(tmp_path / "a.dcm", PhotometricInterpretation="MONOCHROME1"))
    np.testing.assert_allclose(read, 1 - VALUES / 4000, atol=1e-6)


def test_a_voi_table_is_looked_up(tmp_path):
    table = Dataset()
    table.LUTDescriptor, table.LUTData = [4, 0, 8], [0, 10, 100, 255]
    table["LUTDescriptor"].VR = table["LUTData"].VR = "US"
    stored = np.array([[0, 1], [2, 9]], np.uint16)
    read = read_image(write(tmp_path / "a.dcm", stored, VOILUTSequence=Sequence([table])))
    np.testing.assert_allclose(read, np.array([[0, 10], [100, 255]]) / 255, atol=1e-6)


def test_the_middle_frame_is_read(tmp_path):
    frames = np.stack([VALUES, VALUES.T.reshape(2, 3).copy(), VALUES[::-1]])
    read = read_image(write(tmp_path / "a.dcm", frames))
    np.testing.assert_allclose(read, frames[1] / 4000, atol=1e-6)
    assert read_image(write(tmp_path / "b.dcm", frames[:1])).shape == (2, 3)


def test_enhanced_files_keep_their_window_in_the_functional_groups(tmp_path):
    window, rescale, shared, frame = Dataset(), Dataset(), Dataset(), Dataset()
    window.WindowCenter, window.WindowWidth = 0.5, 2001
    rescale.RescaleSlope, rescale.RescaleIntercept = 1, -1024
    frame.FrameVOILUTSequence = Sequence([window])
    shared.PixelValueTransformationSequence = Sequence([rescale])
    read = read_image(
        write(
            tmp_path / "a.dcm",
            np.stack([VALUES, VALUES]),
            PerFrameFunctionalGroupsSequence=Sequence([frame, Dataset()]),
            SharedFunctionalGroupsSequence=Sequence([shared]),
        )
    )
    np.testing.assert_allclose(read, np.clip((VALUES - 1024) / 2000 + 0.5, 0, 1), atol=1e-6)


def test_colour_stays_colour_and_grey_in_colour_becomes_grey(tmp_path):
    rgb = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    read = read_image(write(tmp_path / "a.dcm", rgb))
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, rgb)
    assert read_image(write(tmp_path / "b.dcm", np.dstack([rgb[..., 0]] * 3))).shape == (2, 4)


def test_a_palette_is_looked_up(tmp_path):
    tables = {}
    for at, name in enumerate(("Red", "Green", "Blue")):
        tables[f"{name}PaletteColorLookupTableDescriptor"] = [2, 0, 16]
        tables[f"{name}PaletteColorLookupTableData"] = np.array([0, 65535 if at == 0 else 0], "<u2").tobytes()
    path = write(tmp_path / "a.dcm", np.array([[0, 1]], np.uint8), PhotometricInterpretation="PALETTE COLOR", **tables)
    read = read_image(path)
    assert read.dtype == np.uint8  # 16-bit entries that hold 8-bit colours
    np.testing.assert_array_equal(read, [[[0, 0, 0], [255, 0, 0]]])


def test_dicom_is_known_by_its_content_too(tmp_path):
    path = write(tmp_path / "a.dcm")
    np.testing.assert_array_equal(read_image(path.rename(tmp_path / "IM0001")), VALUES.astype(np.float32) / 4000)


def test_a_lossless_compression_gives_the_same_picture(tmp_path):
    path = write(tmp_path / "a.dcm")
    data = pydicom.dcmread(path)
    data.compress(RLELossless)
    data.save_as(tmp_path / "b.dcm")
    np.testing.assert_array_equal(read_image(tmp_path / "b.dcm"), read_image(path))


def test_a_missing_decoder_is_named_with_its_extra(tmp_path):
    from pydicom.encaps import encapsulate
    from pydicom.pixels.decoders.base import get_decoder

    if get_decoder(JPEGLosslessSV1).is_available:
        pytest.skip("a decoder for JPEG Lossless is installed")
    path = write(tmp_path / "a.dcm")
    data = pydicom.dcmread(path)
    data.PixelData = encapsulate([b"\xff\xd8\xff\xd9"])
    data["PixelData"].VR = "OB"
    data["PixelData"].is_undefined_length = True
    data.file_meta.TransferSyntaxUID = JPEGLosslessSV1
    data.save_as(tmp_path / "b.dcm")
    with pytest.raises(
        DataError, match=r"b\.dcm: no decoder.*JPEG Lossless.*1\.2\.840\.10008\.1\.2\.4\.70.*medmoe\[dicom\]"
    ):
        read_image(tmp_path / "b.dcm")


def test_broken_pixel_data_is_refused(tmp_path):
    path = write(tmp_path / "a.dcm", PixelData=b"\0" * 4)
    with pytest.raises(DataError, match=r"a\.dcm: the pixels, of transfer syntax Explicit VR Little Endian"):
        read_image(path)
    path = write(tmp_path / "b.dcm")
    data = pydicom.dcmread(path)
    data.compress(RLELossless)
    data.PixelData = pydicom.encaps.encapsulate([b"\0" * 70])
    data.save_as(path)
    with pytest.raises(DataError, match=r"RLE Lossless.*export it uncompressed, or install more decoders"):
        read_image(path)


def test_nan_pixels_are_refused(tmp_path):
    path = write(tmp_path / "a.dcm")
    data = pydicom.dcmread(path)
    data.BitsAllocated = 32
    del data.PixelData, data.BitsStored, data.HighBit, data.PixelRepresentation
    data.FloatPixelData = np.full((2, 3), np.nan, "<f4").tobytes()
    data.save_as(path)
    with pytest.raises(DataError, match="NaN or infinite"):
        read_image(path)


def test_what_is_no_dicom_image_is_refused_in_words(tmp_path):
    (tmp_path / "a.dcm").write_text("nothing")
    with pytest.raises(DataError, match=r"a\.dcm: not a DICOM file"):
        read_image(tmp_path / "a.dcm")
    with pytest.raises(DataError, match="no such image file"):
        read_image(tmp_path / "none.dcm")
    path = write(tmp_path / "b.dcm")
    data = pydicom.dcmread(path)
    del data.Rows, data.Columns
    data.save_as(path)
    with pytest.raises(DataError, match="has no image"):
        image_size(path)
    whole = write(tmp_path / "c.dcm").read_bytes()
    (tmp_path / "c.dcm").write_bytes(whole[:150])
    with pytest.raises(DataError, match=r"c\.dcm: "):
        read_image(tmp_path / "c.dcm")


def test_a_file_without_transfer_syntax_is_refused(tmp_path):
    path = write(tmp_path / "a.dcm")
    data = pydicom.dcmread(path)
    path.write_bytes(b"\0" * 128 + b"DICM" + path.read_bytes()[132:])
    del data.file_meta.TransferSyntaxUID
    pydicom.dcmwrite(path, data, implicit_vr=False, little_endian=True)
    whole = path.read_bytes()
    if whole[128:132] != b"DICM":
        path.write_bytes(b"\0" * 128 + b"DICM" + whole)
    with pytest.raises(DataError, match="doesn't say its transfer syntax"):
        read_image(path)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
@pytest.mark.parametrize("stored", [8, 5, 16, 12, 32])
@pytest.mark.parametrize("signed", [0, 1])
def test_plain_grey_is_taken_from_the_file_as_pydicom_would(tmp_path, syntax, stored, signed):
    size = 1 if stored <= 8 else 2 if stored <= 16 else 4
    values = np.random.default_rng(stored).integers(0, 256, (5, 7 * size), np.uint8).view(f"<{'ui'[signed]}{size}")
    high = {"BitsStored": stored, "HighBit": stored - 1}  # bits above it hold rubbish
    path = write(tmp_path / "a.dcm", values, syntax=syntax, PixelRepresentation=signed, **high)
    header = pydicom.dcmread(path)
    taken = plain(header, layout(header, "a"))
    expected = pydicom.dcmread(path).pixel_array
    assert taken is not None
    assert taken.dtype == expected.dtype
    np.testing.assert_array_equal(taken, expected)


def test_what_is_not_plain_grey_goes_the_general_way(tmp_path):
    colour = write(tmp_path / "a.dcm", np.zeros((2, 4, 3), np.uint8))
    frames = write(tmp_path / "b.dcm", np.zeros((3, 2, 4), np.int16))
    short = write(tmp_path / "c.dcm", Rows=9)
    for path in (colour, frames, short):
        header = pydicom.dcmread(path)
        assert plain(header, layout(header, "a")) is None


def test_pixels_that_do_not_say_their_sign_are_refused(tmp_path):
    path = write(tmp_path / "a.dcm")
    header = pydicom.dcmread(path)
    del header.PixelRepresentation
    header.save_as(path)
    with pytest.raises(DataError, match=r"a\.dcm: a pixel representation of None"):
        read_image(path)


def test_a_file_is_parsed_once(tmp_path, monkeypatch):
    path, calls, real = write(tmp_path / "a.dcm"), [], pydicom.dcmread
    monkeypatch.setattr(pydicom, "dcmread", lambda *given, **more: calls.append(1) or real(*given, **more))
    read_image(path.rename(tmp_path / "IM0001"))
    assert len(calls) == 1
