"""Files that lie, bombs, and files without what should come first: one line that names the file, and no more room."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEG2000Lossless, RLELossless

from dicom_files import VALUES, write
from medmoe.data.dicom import dicom_geometry, is_dicom
from medmoe.data.dicom.stored import compressed_size
from medmoe.data.images import image_size, read_image
from medmoe.data.reading import Reading
from medmoe.errors import DataError

pytestmark = pytest.mark.filterwarnings("ignore")  # pydicom's, of what is wrong with the files


def changed(path: Path, name: str, value: bytes) -> Path:
    """Change the value of an element to any bytes, behind pydicom's back."""
    tag = pydicom.datadict.tag_for_keyword(name)
    whole = path.read_bytes()
    at = whole.index(struct.pack("<HH", tag >> 16, tag & 0xFFFF))
    length = struct.unpack_from("<H", whole, at + 6)[0]
    path.write_bytes(whole[: at + 6] + struct.pack("<H", len(value)) + value + whole[at + 8 + length :])
    return path


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Rows", struct.pack("<H", 65535)), ("Columns", struct.pack("<H", 0)), ("Rows", b""), ("Rows", b"\x01"),
        ("BitsAllocated", struct.pack("<H", 7)), ("BitsStored", struct.pack("<H", 99)), ("SamplesPerPixel", b"\x04\0"),
        ("PhotometricInterpretation", b"CMYK"), ("PhotometricInterpretation", b"\xff\xfe"),
        ("PixelRepresentation", struct.pack("<H", 9)), ("SamplesPerPixel", b"\x03\0"), ("BitsAllocated", b"\x40\0"),
    ],
)  # fmt: skip
def test_a_corrupt_element_is_refused_in_words(tmp_path, name, value):
    path = changed(write(tmp_path / "a.dcm"), name, value)
    with pytest.raises(DataError, match=r"a\.dcm: "):
        read_image(path)


@pytest.mark.parametrize("name", ["WindowCenter", "RescaleSlope", "NumberOfFrames"])
def test_numbers_that_are_none_are_refused_in_words(tmp_path, name):
    given = {"WindowCenter": "4321", "WindowWidth": 9, "RescaleSlope": "4321", "RescaleIntercept": 0}
    path = write(tmp_path / "a.dcm", NumberOfFrames="4321", **given)
    path.write_bytes(path.read_bytes().replace(b"4321", b"x\xff1\\"))
    with pytest.raises(DataError, match=r"a\.dcm: "):
        read_image(path)


def test_a_claim_of_more_pixels_than_are_read_takes_no_room(tmp_path):
    path = write(tmp_path / "a.dcm", Rows=65535, Columns=65535)
    tracemalloc.start()
    with pytest.raises(DataError, match=r"claims 65,535 × 65,535 pixels, more than 178,956,970"):
        read_image(path)
    for frames in ("2147483648", "2147483647", "-5", "0"):
        path = write(tmp_path / "b.dcm", NumberOfFrames=frames)
        with pytest.raises(DataError, match=r"b\.dcm: "):
            read_image(path)
    assert tracemalloc.get_traced_memory()[1] < 50_000_000
    tracemalloc.stop()


def test_only_the_frame_that_is_asked_for_is_decoded(tmp_path):
    frames = np.stack([VALUES, VALUES + 1, VALUES + 2])
    path = write(tmp_path / "a.dcm", frames)
    data = pydicom.dcmread(path)
    data.compress(RLELossless)
    parts = [pydicom.encaps.get_frame(data.PixelData, at, number_of_frames=3) for at in range(3)]
    data.PixelData = encapsulate([b"\0" * 70, parts[1], b"\xff" * 70])
    data.save_as(path)
    np.testing.assert_allclose(read_image(path), VALUES / 4000, atol=1e-6)
    with pytest.raises(DataError, match="RLE Lossless"):
        read_image(path, reading=Reading(frame=0))


def test_a_codestream_of_another_size_is_refused_before_it_is_decoded(tmp_path):
    path = write(tmp_path / "a.dcm")
    data = pydicom.dcmread(path)
    size = struct.pack(">HHHIIIIIIIIH", 0xFF51, 41, 0, 60000, 60000, 0, 0, 60000, 60000, 0, 0, 1)
    data.PixelData = encapsulate([b"\xff\x4f" + size + b"\x0f\x01\x01" + b"\xff\xd9" * 9])
    data["PixelData"].VR, data["PixelData"].is_undefined_length = "OB", True
    data.file_meta.TransferSyntaxUID = JPEG2000Lossless
    data.save_as(path)
    with pytest.raises(DataError, match=r"60,000 × 60,000 pixels, its header says 2 × 3"):
        read_image(path)


def test_sizes_of_codestreams_are_read_past_other_markers():
    app, start = b"\xff\xe0\x00\x04ab", b"\xff\xc3\x00\x0b\x10\x00\x07\x00\x09\x01"
    assert compressed_size(b"\xff\xd8" + app + b"\xff" + start) == (7, 9)
    for nothing in (b"", b"\xff\xd8", b"\xff\xd8\xff\xe0\x00\x00" * 9, b"\0" * 99, b"\xff\x4f\xff\x51\0"):
        assert compressed_size(nothing) in (None, (0, 0))


def deflated(path: Path, inner: bytes) -> Path:
    """Write a deflated file around an explicit little-endian data set."""
    source = write(path, syntax=DeflatedExplicitVRLittleEndian).read_bytes()
    length = struct.unpack("<I", source[140:144])[0]
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    path.write_bytes(source[: 144 + length] + packer.compress(inner) + packer.flush())
    return path


def test_a_deflated_bomb_is_not_inflated(tmp_path):
    write(tmp_path / "plain.dcm")
    whole = (tmp_path / "plain.dcm").read_bytes()
    data_set = whole[144 + struct.unpack("<I", whole[140:144])[0] :]
    good = deflated(tmp_path / "a.dcm", data_set)
    np.testing.assert_allclose(read_image(good), VALUES / 4000, atol=1e-6)
    bomb = deflated(tmp_path / "b.dcm", data_set + b"\0" * 300_000_000)
    assert bomb.stat().st_size < 1_000_000
    tracemalloc.start()
    np.testing.assert_allclose(read_image(bomb), VALUES / 4000, atol=1e-6)
    assert tracemalloc.get_traced_memory()[1] < 50_000_000
    tracemalloc.stop()
    cut = tmp_path / "c.dcm"
    cut.write_bytes(good.read_bytes()[:-40])
    with pytest.raises(DataError, match=r"c\.dcm: "):
        read_image(cut)


# --- without preamble and file meta -----------------------------------------------------------------------------


def bare(path: Path) -> Path:
    """Take preamble and file meta away."""
    whole = path.read_bytes()
    path.write_bytes(whole[144 + struct.unpack("<I", whole[140:144])[0] :])
    return path


def test_a_bare_data_set_in_implicit_little_endian_is_read(tmp_path):
    path = bare(write(tmp_path / "IM0001", syntax=ImplicitVRLittleEndian))
    with path.open("rb") as file:
        assert is_dicom(file, "")
    np.testing.assert_allclose(read_image(path), VALUES / 4000, atol=1e-6)
    assert image_size(path) == (3, 2)


def test_a_bare_data_set_that_does_not_fit_or_is_explicit_is_refused(tmp_path):
    path = bare(write(tmp_path / "a.dcm", syntax=ImplicitVRLittleEndian, Rows=3))
    with pytest.raises(DataError, match="doesn't say its transfer syntax"):
        read_image(path)
    with pytest.raises(DataError, match="doesn't say its transfer syntax"):
        read_image(bare(write(tmp_path / "b.dcm")))


@pytest.mark.parametrize(
    "start", [b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"\x08\0\0\x01aaaa", b"GIF89a", b"\x08\0"]
)
def test_other_files_do_not_begin_as_a_data_set(start):
    assert not is_dicom(io.BytesIO(start + b"\xff" * 40), "")


# --- geometry ---------------------------------------------------------------------------------------------------


def where(path: Path, frame: int | None = None):
    with path.open("rb") as file:
        return dicom_geometry(file, where=str(path), frame=frame)


def test_spacing_is_rows_then_columns_and_says_where_it_is_from(tmp_path):
    path = write(tmp_path / "a.dcm", PixelSpacing=[0.5, 0.25], ImagerPixelSpacing=[1, 1])
    assert (where(path).spacing, where(path).source) == ((0.5, 0.25), "PixelSpacing")
    path = write(tmp_path / "b.dcm", ImagerPixelSpacing=[0.2, 0.1])
    assert (where(path).spacing, where(path).source) == ((0.2, 0.1), "ImagerPixelSpacing")
    assert where(write(tmp_path / "c.dcm")).spacing is None
    assert where(write(tmp_path / "d.dcm", PixelSpacing=[0, 0], NominalScannedPixelSpacing=[3, 4])).spacing == (3, 4)


def test_ultrasound_says_its_spacing_in_regions(tmp_path):
    def region(units: int, x: float, y: float) -> pydicom.Dataset:
        made = pydicom.Dataset()
        made.PhysicalUnitsXDirection = made.PhysicalUnitsYDirection = units
        made.PhysicalDeltaX, made.PhysicalDeltaY = x, y
        return made

    regions = pydicom.Sequence([region(4, 9, 9), region(3, 0.02, -0.03)])
    found = where(write(tmp_path / "a.dcm", SequenceOfUltrasoundRegions=regions))
    assert found.spacing == pytest.approx((0.3, 0.2))
    assert found.source == "SequenceOfUltrasoundRegions"


def test_each_frame_has_its_place(tmp_path):
    frames = []
    for at in range(2):
        measures, place, frame = pydicom.Dataset(), pydicom.Dataset(), pydicom.Dataset()
        measures.PixelSpacing, place.ImagePositionPatient = [0.5 + at, 0.25], [1, 2, 3 + at]
        frame.PixelMeasuresSequence, frame.PlanePositionSequence = (
            pydicom.Sequence([measures]),
            pydicom.Sequence([place]),
        )
        frames.append(frame)
    turn, shared = pydicom.Dataset(), pydicom.Dataset()
    turn.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    shared.PlaneOrientationSequence = pydicom.Sequence([turn])
    path = write(
        tmp_path / "a.dcm",
        np.stack([VALUES, VALUES]),
        PerFrameFunctionalGroupsSequence=pydicom.Sequence(frames),
        SharedFunctionalGroupsSequence=pydicom.Sequence([shared]),
    )
    for at in range(2):
        found = where(path, at)
        assert found.spacing == (0.5 + at, 0.25)
        assert found.position == (1, 2, 3 + at)
        assert found.orientation == (1, 0, 0, 0, 1, 0)
