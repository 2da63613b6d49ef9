"""What a DICOM header says, without pixels: the file's kind, whose it is, where it lies, and nothing invented."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian

from medmoe.data.dicom.facts import HeaderFacts, kind_of, read_facts
from medmoe.errors import DataError

ROOT = "1.2.840.10008.5.1.4.1.1."
CT = f"{ROOT}2"


def header(path: Path, sop_class: str = CT, **elements: object) -> Path:
    """Write a DICOM file without pixels."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = sop_class
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = "1.2.3"
    for name, value in elements.items():
        setattr(data, name, value)
    data.save_as(path, enforce_file_format=True)
    return path


def item(**elements: object) -> Dataset:
    data = Dataset()
    for name, value in elements.items():
        setattr(data, name, value)
    return data


def test_the_facts_of_a_slice(tmp_path):
    path = header(
        tmp_path / "IM0001",
        Modality="CT", PatientID="007", StudyInstanceUID="1.5", SeriesInstanceUID="1.6", StudyDate="20200131",
        BodyPartExamined="CHEST", Manufacturer="ACME", ManufacturerModelName="One", InstitutionName="Here",
        StudyDescription="CT Thorax", SeriesDescription="Lung 1.0", Rows=512, Columns=256, PixelSpacing=[0.5, 0.7],
        SliceThickness=2.5, ImageType=["ORIGINAL", "PRIMARY", "AXIAL"], ImagePositionPatient=[1, 2, 3],
        ImageOrientationPatient=[1, 0, 0, 0, 1, 0], InstanceNumber=12, BurnedInAnnotation="NO",
    )  # fmt: skip
    facts = read_facts(path)
    assert facts == HeaderFacts(
        kind="image", code="CT", modality="ct", sop_class=CT, instance_uid="1.2.3", patient="007", study="1.5",
        series="1.6", day=date(2020, 1, 31), body_part="chest", manufacturer="ACME One", institution="Here",
        description="CT Thorax | Lung 1.0", rows=512, columns=256, spacing=(0.5, 0.7), thickness=2.5,
        image_type=("ORIGINAL", "PRIMARY", "AXIAL"), position=(1.0, 2.0, 3.0),
        orientation=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0), number=12, burned_in=False,
    )  # fmt: skip
    assert facts.domain == "Here / ACME One"


def test_an_empty_header_says_nothing_and_none_of_it_is_made_up(tmp_path):
    facts = read_facts(header(tmp_path / "a.dcm", Rows=4, Columns=4))
    assert facts == HeaderFacts(kind="image", sop_class=CT, instance_uid="1.2.3", rows=4, columns=4)
    assert (facts.domain, facts.is_localiser, facts.is_derived) == (None, False, False)


@pytest.mark.parametrize(
    ("sop_class", "kind"),
    [
        (f"{ROOT}88.33", "report"),
        (f"{ROOT}88.67", "structured data"),
        (f"{ROOT}104.1", "report"),
        (f"{ROOT}11.1", "presentation state"),
        (f"{ROOT}481.1", "image"),
        (f"{ROOT}481.2", "dose"),
        (f"{ROOT}481.3", "structure set"),
        (f"{ROOT}66", "other object"),
        (f"{ROOT}66.4", "segmentation"),
        (f"{ROOT}9.1.1", "waveform"),
        ("1.2.840.10008.1.3.10", "directory"),
        (f"{ROOT}77.1.6", "image"),
        (f"{ROOT}4.1", "image"),
    ],
)
def test_the_class_says_what_a_file_is(tmp_path, sop_class: str, kind: str):
    # A structure set with rows and columns is one still; an image needs them.
    assert read_facts(header(tmp_path / "a", sop_class, Rows=2, Columns=2)).kind == kind


def test_where_the_class_is_unknown_the_code_says_what_a_file_is_then_the_rows():
    assert kind_of("1.2.3", "SR", has_pixels=True) == "report"
    assert kind_of(None, "CT", has_pixels=True) == "image"
    assert kind_of(None, "CT", has_pixels=False) == "other object"
    assert kind_of(f"{ROOT}667", None, has_pixels=True) == "image"


def test_values_that_break_the_standard_are_left_out_and_the_others_kept(tmp_path):
    path = tmp_path / "a.dcm"
    header(path, Modality="MR", StudyDate="20200101", PatientID="x" * 10, Rows=4, Columns=4, InstanceNumber=3)
    damaged = path.read_bytes().replace(b"20200101", b"2020ABCD").replace(b"IS\x02\x003 ", b"IS\x02\x00z ")
    path.write_bytes(damaged)
    facts = read_facts(path)
    assert (facts.day, facts.number) == (None, None)
    assert (facts.modality, facts.patient) == ("mri", "x" * 10)


def test_an_orientation_that_is_none_is_left_out(tmp_path):
    facts = read_facts(header(tmp_path / "a", ImageOrientationPatient=[1, 0, 0, 1, 0, 0], Rows=2, Columns=2))
    assert facts.orientation is None


def test_a_date_of_the_standards_predecessor_counts(tmp_path):
    path = header(tmp_path / "a", StudyDate="20200131", Rows=2, Columns=2)
    path.write_bytes(path.read_bytes().replace(b"DA\x08\x0020200131", b"DA\x0a\x002020.01.31"))
    assert read_facts(path).day == date(2020, 1, 31)


def test_groups_of_frames_say_spacing_and_thickness(tmp_path):
    shared = item(PixelMeasuresSequence=Sequence([item(PixelSpacing=[0.4, 0.3], SliceThickness=5)]))
    path = header(
        tmp_path / "a", f"{ROOT}4.1", NumberOfFrames=9, Rows=2, Columns=2,
        SharedFunctionalGroupsSequence=Sequence([shared]),
    )  # fmt: skip
    facts = read_facts(path)
    assert (facts.frames, facts.spacing, facts.thickness) == (9, (0.4, 0.3), 5.0)


def test_view_and_side_are_read_from_codes_too(tmp_path):
    view = Sequence([item(CodeMeaning="cranio-caudal")])
    facts = read_facts(header(tmp_path / "a", Modality="MG", ViewCodeSequence=view, ImageLaterality="L"))
    assert (facts.view, facts.laterality, facts.modality) == ("cranio-caudal", "left", "xray")


def test_localisers_captures_and_derived_images_are_known(tmp_path):
    assert read_facts(header(tmp_path / "a", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])).is_localiser
    assert read_facts(header(tmp_path / "b", f"{ROOT}7")).is_secondary_capture
    assert not read_facts(header(tmp_path / "c", f"{ROOT}77.1.6")).is_secondary_capture
    assert read_facts(header(tmp_path / "d", ImageType=["DERIVED", "SECONDARY"])).is_derived


@pytest.mark.parametrize("content", [b"", b"hello", bytes(4000), b"\x08\0\x05\0CS\x0a\0ISO_IR"])
def test_a_file_that_is_no_dicom_is_refused_by_its_name(tmp_path, content: bytes):
    path = tmp_path / "a.dcm"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.dcm: "):
        read_facts(path)


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(DataError, match="can't be read"):
        read_facts(tmp_path / "none.dcm")
