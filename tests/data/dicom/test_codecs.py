"""Compressed files: each codec gives the stored values, and a damaged stream ends no process but GDCM's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate, get_frame
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import UID, JPEG2000Lossless

from dicom_files import write
from medmoe.data import dicom
from medmoe.data.dicom import gdcm_decoder, one_frame, read_dicom_values
from medmoe.data.images import read_image
from medmoe.data.reading import Reading
from medmoe.errors import DataError

# High-throughput JPEG 2000 of 1000 × row + 77 × column, 8 × 6, 16 bits, as OpenJPH encodes it without loss.
HIGH_THROUGHPUT = bytes.fromhex(
    "ff4fff5100294000000000060000000800000000000000000000000600000008000000000000000000010f0101ff50000800020000000aff52000c"
    "00020001000504044001ff5c00132088909090909090909090909090888888ff64001700014f70656e4a50482056657220302e32362e332eff9000"
    "0a00000000005b0001ff93c00026ebec050774000000c00013400013008cfe02077400a4e304077400c000134000150031fe00cb7400925132fe00"
    "e35400c0002a6000154098180ce697e10b7500ce77def9c029408cb600ffd9"
)


def raw(path: Path) -> np.ndarray:
    with path.open("rb") as file:
        return read_dicom_values(file, where=str(path))


def with_stream(path: Path, code: bytes, syntax: str) -> Path:
    """Put a codestream in the place of a file's pixels."""
    data = pydicom.dcmread(path)
    data.PixelData = encapsulate([code])
    data["PixelData"].VR, data["PixelData"].is_undefined_length = "OB", True
    data.file_meta.TransferSyntaxUID = UID(syntax)
    data.save_as(path)
    return path


def test_high_throughput_jpeg_2000_gives_the_stored_values_or_says_what_is_missing(tmp_path):
    values = np.add.outer(np.arange(8) * 1000, np.arange(6) * 77).astype(np.uint16)
    path = with_stream(write(tmp_path / "a.dcm", values), HIGH_THROUGHPUT, "1.2.840.10008.1.2.4.201")
    if get_decoder(UID("1.2.840.10008.1.2.4.201")).is_available:
        np.testing.assert_array_equal(raw(path), values)
    else:
        with pytest.raises(
            DataError, match=r"no decoder is installed for transfer syntax High-Throughput.*medmoe\[dicom\]"
        ):
            raw(path)


@pytest.mark.parametrize("name", ["RLE", "jp2klossless", "jpeg_ls_lossless"])
def test_lossless_codecs_give_the_values_of_the_uncompressed_file(name):
    if name == "jpeg_ls_lossless":
        pytest.importorskip("gdcm", reason="GDCM isn't installed")
    plain = raw(Path(get_testdata_file("MR_small.dcm", download=False)))
    np.testing.assert_array_equal(raw(Path(get_testdata_file(f"MR_small_{name}.dcm", download=False))), plain)


def test_12_bit_jpeg_is_decoded(tmp_path):
    pytest.importorskip("gdcm", reason="GDCM isn't installed")
    values = raw(Path(get_testdata_file("JPGExtended.dcm", download=False)))
    assert values.shape == (1024, 256)
    assert values.dtype == np.uint16
    assert 255 < values.max() < 4096


def test_a_stream_that_ends_gdcm_is_refused_and_the_next_one_decoded(tmp_path):
    pytest.importorskip("gdcm", reason="GDCM isn't installed")
    good = Path(get_testdata_file("JPEGLSNearLossless_16.dcm", download=False))
    expected = raw(good)
    data = pydicom.dcmread(good)
    code = bytearray(get_frame(data.PixelData, 0, number_of_frames=1))
    code[30] = 0  # the marker before the scan
    path = tmp_path / "a.dcm"
    data.PixelData = encapsulate([bytes(code)])
    data.save_as(path)
    with pytest.raises(DataError, match=r"a\.dcm: the pixels, of transfer syntax JPEG-LS.*GDCM can't decode it"):
        read_image(path)
    np.testing.assert_array_equal(raw(good), expected)


def test_one_process_decodes_many_frames():
    pytest.importorskip("gdcm", reason="GDCM isn't installed")
    good = Path(get_testdata_file("JPEGLSNearLossless_16.dcm", download=False))
    raw(good)
    first = dict(gdcm_decoder._children)
    raw(good)
    assert first == gdcm_decoder._children
    assert len(first) == 1


def test_colours_in_ybr_of_more_than_8_bits_are_refused(tmp_path):
    path = write(tmp_path / "a.dcm", np.zeros((2, 4, 3), np.uint8), BitsAllocated=16, BitsStored=12, HighBit=11)
    data = pydicom.dcmread(path)
    data.PhotometricInterpretation = "YBR_FULL"
    data.save_as(path)
    with pytest.raises(DataError, match="YBR_FULL of 12 bits"):
        raw(path)


def test_a_decoder_that_fails_is_told_with_its_reason(tmp_path):
    path = with_stream(write(tmp_path / "a.dcm"), b"\xff\x4f\xff\x51" + b"\0" * 40, JPEG2000Lossless)
    with pytest.raises(DataError, match=r"a\.dcm: "):
        raw(path)


def large(path: Path, values: np.ndarray, syntax: str, **more: object) -> Path:
    """Write frames."""
    colour = values.ndim == 4
    data = {"NumberOfFrames": len(values), "Rows": values.shape[1], "Columns": values.shape[2], **more}
    if colour:
        data |= {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}
    stored = values.astype(values.dtype.newbyteorder(">")) if syntax.endswith("1.2.2") else values
    flat = values.reshape(len(values), values.shape[1], -1)
    return write(path, flat.astype(np.uint16), PixelData=stored.tobytes(), syntax=UID(syntax), **data)


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"])
def test_of_a_large_file_only_the_frame_is_read(tmp_path, monkeypatch, syntax):
    values = np.random.default_rng(0).integers(0, 4096, (4, 5, 6)).astype(np.uint16)
    path = large(tmp_path / "a.dcm", values, syntax)
    whole = [read_image(path, reading=Reading(frame=at)) for at in range(4)]
    monkeypatch.setattr(one_frame, "LARGE", 100)
    calls, real = [], one_frame.cut
    monkeypatch.setattr(dicom, "cut", lambda *given: calls.append(1) or real(*given))
    for at in range(4):
        np.testing.assert_array_equal(read_image(path, reading=Reading(frame=at)), whole[at])
        np.testing.assert_allclose(
            whole[at], (values[at] - values[at].min()) / np.ptp(values[at].astype(int)), atol=1e-6
        )
    assert len(calls) == 4
    path.write_bytes(path.read_bytes()[:-70])
    np.testing.assert_array_equal(read_image(path, reading=Reading(frame=1)), whole[1])
    with pytest.raises(DataError, match=r"a\.dcm: .*frame 3 is cut off after"):
        read_image(path, reading=Reading(frame=3))


@pytest.mark.parametrize("name", ["emri_small.dcm", "SC_rgb_2frame.dcm", "OBXXXX1A_2frame.dcm", "eCT_Supplemental.dcm"])
def test_large_files_of_pydicom_are_read_as_a_whole_would_be(monkeypatch, name):
    data_store = pytest.importorskip("data_store", reason="pydicom-data isn't installed")
    path = Path(data_store.__file__).parent / "data" / name
    for at in range(2):
        monkeypatch.setattr(one_frame, "LARGE", 10**9)
        whole = read_image(path, reading=Reading(frame=at))
        monkeypatch.setattr(one_frame, "LARGE", 100)
        np.testing.assert_array_equal(read_image(path, reading=Reading(frame=at)), whole)
