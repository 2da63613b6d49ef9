"""De-identified DICOM files: nothing that names a patient is left in any byte, and what belongs together still does."""

# ruff: noqa: E501 - rows of examples stay on one line
from __future__ import annotations

import io
import json
import re
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom import DataElement, Dataset
from pydicom.datadict import DicomDictionary, keyword_for_tag, tag_for_keyword
from pydicom.dataset import FileMetaDataset

from medmoe.data.curation.deidentify_dicom import CleanedFile, clean_dicom
from medmoe.data.curation.deidentify_header import clean_header
from medmoe.data.curation.deidentify_key import Key, moved, moved_time, open_secret
from medmoe.data.curation.deidentify_rules import METHODS, Options, action, further, patterns, table
from medmoe.errors import ConfigError, DataError

KEY = Key(bytes(range(32)))
RULES = Path(__import__("medmoe").__file__).parent / "data" / "curation" / "deidentify_rules.json"
EXPLICIT, IMPLICIT, BIG = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"
CT = "1.2.840.10008.5.1.4.1.1.2"


def image(**more: Any) -> Dataset:
    """Make a small CT image of a made-up patient."""
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = CT, "1.2.3.4.5"
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = "1.2.3.1", "1.2.3.2", "1.2.3.3"
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = "Quill^Ottoline", "ID7741", "19470312", "F"
    ds.StudyDate, ds.StudyTime, ds.Modality = "20200105", "233000", "CT"
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.Rows, ds.Columns = 1, "MONOCHROME2", 4, 6
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.PixelData = np.arange(24, dtype="<u2").tobytes()
    for name, value in more.items():
        setattr(ds, name, value)
    return ds


def written(folder: Path, ds: Dataset, syntax: str = EXPLICIT, name: str = "in.dcm") -> Path:
    """Write a data set as a file."""
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    ds.file_meta.TransferSyntaxUID = syntax
    ds.file_meta.SourceApplicationEntityTitle = "QUILLAE"
    ds.preamble = b"Quill preamble".ljust(128, b"\0")
    pydicom.dcmwrite(folder / name, ds, implicit_vr=syntax == IMPLICIT, little_endian=syntax != BIG)
    return folder / name


def cleaned(
    folder: Path, ds: Dataset, options: Options | None = None, syntax: str = EXPLICIT, **more: Any
) -> tuple[Dataset, CleanedFile]:
    file = clean_dicom(written(folder, ds, syntax), KEY, options or Options(), **more)
    return pydicom.dcmread(io.BytesIO(file.content)), file


# The table


def test_every_row_of_the_table_is_an_attribute_of_the_dictionary():
    rows = json.loads(RULES.read_text(encoding="utf-8"))["rules"]
    whole = [row for row in rows if re.fullmatch("[0-9A-F]{8}", row[0])]
    assert len(rows) == 621
    assert [row[0] for row in rows if row not in whole] == ["50xxxxxx", "60xx3000", "60xx4000", "odd groups"]
    assert [row for row in whole if keyword_for_tag(int(row[0], 16)) != row[1]] == []
    assert {row[2] for row in rows} <= {"D", "Z", "X", "K", "C", "U", "X/Z", "X/D", "Z/D", "X/Z/D", "X/Z/U*"}
    assert {name for row in rows for name in (row[3] if len(row) > 3 else {})} == {*METHODS} - {"profile", "pixels"}


def test_every_keyword_of_the_lists_is_one_that_the_table_does_not_name():
    listed = [*further("device"), *further("descriptions"), *patterns()]
    tags = {keyword: tag_for_keyword(keyword) for keyword in listed}
    assert [keyword for keyword, tag in tags.items() if tag is None] == []
    named = [keyword for keyword, tag in tags.items() if tag in table()]
    assert named == ["TimezoneOffsetFromUTC"]  # which is kept with --dates shift, if it has the form


@pytest.mark.parametrize(
    ("keyword", "done"),
    [
        ("PatientID", "D"), ("PatientBirthDate", "Z"), ("AccessionNumber", "Z"), ("InstitutionName", "D"), ("StudyInstanceUID", "U"),
        ("OtherPatientIDs", "X"), ("ReferencedImageSequence", "K"), ("PatientComments", "X"), ("Rows", None), ("SOPClassUID", None),
    ],
)  # fmt: skip
def test_well_known_attributes_get_the_tables_action(keyword: str, done: str | None):
    assert action(int(tag_for_keyword(keyword) or 0), Options()) == done


@pytest.mark.parametrize("tag", [0x00090010, 0x00291001, 0x50000040, 0x60003000, 0x60024000, 0x60000010])
def test_private_elements_curves_and_overlays_go(tag: int):
    assert action(tag, Options("shift", frozenset({"device"}))) == "X"


def test_whatever_may_name_someone_goes_even_where_the_table_does_not_name_it():
    """Every attribute of the dictionary whose kind is text, a date, a name or a UID gets a value and loses it."""
    held = {
        "PN": "Quill^Ottoline", "DA": "19470312", "TM": "031415.9265", "DT": "19470312031415", "UI": "1.2.3.7741",
        "LO": "Ottoline", "SH": "Ottoline", "LT": "Ottoline", "ST": "Ottoline", "UT": "Ottoline", "UC": "Ottoline",
        "AE": "OTTOLINE", "UR": "http://ottoline", "CS": "OTTOLINE", "OB": b"Ottoline", "UN": b"Ottoline",
    }  # fmt: skip
    old = Dataset()
    for tag, (kind, *_) in DicomDictionary.items():
        if kind in held and tag >> 16 >= 8 and not 0x00041000 < tag < 0x00050000:
            old.add(DataElement(tag, kind, held[kind]))
    assert len(old) > 1500
    new = clean_header(old, KEY, Options()).dataset
    left = [element for element in new if re.search("ottoline|19470312|031415|7741", str(element.value), re.IGNORECASE)]
    assert [element.keyword for element in left] == []


# What goes, wherever it lies


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG])
def test_no_byte_of_a_planted_name_is_left(tmp_path: Path, syntax: str):
    inner = Dataset()
    inner.PatientName, inner.PatientComments, inner.TextString = "Quill^A", "Quill", "Quill"
    inner.private_block(0x0011, "QUILL MAKER", create=True).add_new(1, "UT", "Quill")
    outer = Dataset()
    outer.ReferencedImageSequence, outer.CodeValue, outer.CodingSchemeDesignator, outer.CodeMeaning = (
        [inner],
        "Q1",
        "99Q",
        "Quill",
    )
    ds = image(
        ReferringPhysicianName="Quill^Bea", InstitutionName="Quill House", Manufacturer="Quill Scanners", ImageType=["ORIGINAL", "QUILL"],
        ProcedureCodeSequence=[outer], IconImageSequence=[inner], OtherPatientIDsSequence=[outer], ScanOptions="QUILL",
        ConvolutionKernel="Quill", RequestAttributesSequence=[outer], ICCProfile=b"Quill ",
    )  # fmt: skip
    block = ds.private_block(0x7FE1, "QUILL", create=True)
    block.add_new(1, "OB", "Quill ".encode("utf-16-le"))
    block.add_new(2, "SQ", [inner])
    ds.add_new(0x60003000, "OW", b"Quill ")
    ds.add_new(0x60004000, "LT", "Quill")
    ds.add_new(0x50000040, "LO", "Quill")
    ds.add_new(0x00081234, "UN", b"Quill ")
    ds.add_new(0xFFFCFFFC, "OB", b"Quill ")
    ds.PixelData = bytes(ds.PixelData) + b"Quill pixels  "
    new, file = cleaned(tmp_path, ds, syntax=syntax)
    plain = re.sub(rb"[^a-z0-9]", b"", file.content.lower())
    assert b"quill" not in plain
    assert b"7741" not in plain
    assert b"19470312" not in plain
    assert "Quill" not in json.dumps(sorted(map(str, file.changes)))
    assert len(new.PixelData) == 48


def test_a_sequence_written_as_unknown_bytes_is_gone_through(tmp_path: Path):
    inner = Dataset()
    inner.PatientName, inner.ReferencedSOPInstanceUID = "Quill^A", "1.2.3.4.5"
    holder = Dataset()
    holder.ReferencedImageSequence = [inner]
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, holder, implicit_vr=True, little_endian=True)
    value = buffer.getvalue()[8:]  # without the tag and length of the sequence itself
    path = written(tmp_path, image())
    content, at = path.read_bytes(), path.read_bytes().index(b"\x10\x00\x10\x00PN")
    unknown = b"\x08\x00\x40\x11UN\0\0" + len(value).to_bytes(4, "little") + value
    path.write_bytes(content[:at] + unknown + content[at:])
    file = clean_dicom(path, KEY, Options())
    assert b"Quill" in value
    assert b"Quill" not in file.content
    new = pydicom.dcmread(io.BytesIO(file.content))
    assert new.ReferencedImageSequence[0].ReferencedSOPInstanceUID == KEY.uid("1.2.3.4.5")


def test_bits_that_carry_no_value_are_cleared(tmp_path: Path):
    values = np.arange(24, dtype="<u2")
    new, _ = cleaned(tmp_path, image(PixelData=(values | 0xF000).astype("<u2").tobytes()))
    assert np.frombuffer(new.PixelData, "<u2").tolist() == values.tolist()


def test_signed_values_keep_their_sign(tmp_path: Path):
    values = np.arange(-12, 12, dtype="<i2")
    new, _ = cleaned(tmp_path, image(PixelData=values.tobytes(), PixelRepresentation=1))
    assert new.pixel_array.ravel().tolist() == values.tolist()


# What stays


def test_the_picture_and_its_geometry_stay(tmp_path: Path):
    ds = image(
        PixelSpacing=[0.5, 0.7], ImagePositionPatient=[1, 2, 3.5], RescaleSlope="1.5", RescaleIntercept="-1024", WindowCenter=[40, 50],
        Modality="CT", BodyPartExamined="CHEST", ImageType=["ORIGINAL", "PRIMARY", "AXIAL"], Manufacturer="GE MEDICAL SYSTEMS",
        ConvolutionKernel="B30f", KVP="120", SliceThickness="2.5", InstanceNumber="7", PatientPosition="HFS",
    )  # fmt: skip
    new, _ = cleaned(tmp_path, ds)
    for name in ("PixelSpacing", "ImagePositionPatient", "RescaleSlope", "RescaleIntercept", "WindowCenter", "Modality",
                 "BodyPartExamined", "ImageType", "Manufacturer", "ConvolutionKernel", "KVP", "SliceThickness", "InstanceNumber",
                 "PatientPosition", "SOPClassUID", "PixelData", "Rows"):  # fmt: skip
        assert new[name].value == ds[name].value, name
    assert new.file_meta.TransferSyntaxUID == EXPLICIT


def test_a_code_of_the_standard_stays_and_says_what_the_standard_says(tmp_path: Path):
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "T-D3000", "SRT", "Chest of O. Quill"
    new, _ = cleaned(tmp_path, image(AnatomicRegionSequence=[code]))
    assert (new.AnatomicRegionSequence[0].CodeValue, new.AnatomicRegionSequence[0].CodeMeaning) == (
        "T-D3000",
        "Thoracic structure (body structure)",
    )


def test_the_file_says_what_was_done_to_it(tmp_path: Path):
    new, _ = cleaned(tmp_path, image(), Options("shift", frozenset({"characteristics"})))
    assert new.PatientIdentityRemoved == "YES"
    assert new.LongitudinalTemporalInformationModified == "MODIFIED"
    assert [item.CodeValue for item in new.DeidentificationMethodCodeSequence] == ["113100", "113107", "113108"]
    assert new.PatientSex == "F"
    assert bytes(new.preamble) == bytes(128)
    assert "SourceApplicationEntityTitle" not in new.file_meta
    assert new.file_meta.MediaStorageSOPInstanceUID == new.SOPInstanceUID


# UIDs, ids, dates


def test_uids_group_as_they_did_and_those_of_the_standard_stay(tmp_path: Path):
    ref = Dataset()
    ref.ReferencedSOPClassUID, ref.ReferencedSOPInstanceUID = CT, "1.2.3.4.5"
    first, _ = cleaned(tmp_path, image())
    second, _ = cleaned(tmp_path, image(SOPInstanceUID="1.2.3.4.6", ReferencedImageSequence=[ref]))
    assert first.StudyInstanceUID == second.StudyInstanceUID != "1.2.3.1"
    assert first.SOPInstanceUID != second.SOPInstanceUID
    assert second.ReferencedImageSequence[0].ReferencedSOPInstanceUID == first.SOPInstanceUID
    assert second.ReferencedImageSequence[0].ReferencedSOPClassUID == CT
    assert re.fullmatch(r"2\.25\.\d{1,39}", first.SOPInstanceUID)
    assert Key(bytes(32)).uid("1.2.3.1") != first.StudyInstanceUID


def test_a_uid_that_only_begins_as_the_standards_do_is_replaced():
    assert KEY.uid("1.2.840.10008.1.2.1") == "1.2.840.10008.1.2.1"
    assert KEY.uid("1.2.840.10008.7741").startswith("2.25.")


def test_a_patients_dates_keep_their_distance_when_shifted(tmp_path: Path):
    late = image(StudyDate="20200106", StudyTime="003000")
    early = image()
    a, _ = cleaned(tmp_path, early, Options("shift"))
    b, _ = cleaned(tmp_path, late, Options("shift"))
    from datetime import datetime

    times = [datetime.strptime(ds.StudyDate + ds.StudyTime, "%Y%m%d%H%M%S") for ds in (a, b)]
    assert (times[1] - times[0]).total_seconds() == 3600
    assert a.StudyDate < "20200105"
    other, _ = cleaned(tmp_path, image(PatientID="ANOTHER"), Options("shift"))
    assert (other.StudyDate, other.StudyTime) != (a.StudyDate, a.StudyTime)


def test_dates_that_are_none_are_not_moved():
    offset = KEY.offset("p")
    assert moved("20191301", "", offset) is None
    assert moved("soon", "", offset) is None
    assert moved("20200101", "256000", offset) is None
    assert moved_time("1234.5", offset) is None
    assert moved("2020.01.31", "", offset) == moved("20200131", "", offset)


def test_an_age_over_89_is_not_told(tmp_path: Path):
    options = Options(keep=frozenset({"characteristics"}))
    assert cleaned(tmp_path, image(PatientAge="094Y"), options)[0].PatientAge == "090Y"
    assert cleaned(tmp_path, image(PatientAge="064Y"), options)[0].PatientAge == "064Y"
    assert "PatientAge" not in cleaned(tmp_path, image(PatientAge="064Y"))[0]


def test_descriptions_are_cleaned_where_they_are_kept(tmp_path: Path):
    ds = image(StudyDescription="CT chest of Ottoline Quill, ID7741, 3/14/2019")
    new, _ = cleaned(tmp_path, ds, Options(keep=frozenset({"descriptions"})))
    assert new.StudyDescription == "CT chest of [NAME], [ID], [DATE]"
    assert "StudyDescription" not in cleaned(tmp_path, ds)[0]


def test_what_a_device_is_stays_where_asked_for_unless_a_name_is_in_it(tmp_path: Path):
    ds = image(
        ManufacturerModelName="Scanner 9000", SoftwareVersions=["syngo 4", "Quill build"], DeviceSerialNumber="123"
    )
    new, _ = cleaned(tmp_path, ds, Options(keep=frozenset({"device"})))
    assert (new.ManufacturerModelName, list(new.SoftwareVersions)) == ("Scanner 9000", ["syngo 4", ""])
    assert new.DeviceSerialNumber == "123"
    plain, _ = cleaned(tmp_path, ds)
    assert "ManufacturerModelName" not in plain
    assert plain.DeviceSerialNumber == "REMOVED"


def test_a_key_is_made_for_its_owner_alone_and_read_again(tmp_path: Path):
    path = tmp_path / "keys" / "key"
    secret = open_secret(path)
    assert len(secret) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert open_secret(path) == secret
    path.write_text("not a key")
    with pytest.raises(DataError, match="not a key"):
        open_secret(path)


# Refusals


def test_reports_and_documents_are_refused_or_cleaned(tmp_path: Path):
    part = Dataset()
    part.RelationshipType, part.ValueType, part.TextValue = (
        "CONTAINS",
        "TEXT",
        "Seen by Dr. Smith: Ottoline Quill is well.",
    )
    report = image(SOPClassUID="1.2.840.10008.5.1.4.1.1.88.11", ContentSequence=[part])
    del report.PixelData
    with pytest.raises(DataError, match="a structured report"):
        cleaned(tmp_path, report)
    new, file = cleaned(tmp_path, report, Options(reports="clean"))
    assert new.ContentSequence[0].TextValue == "Seen by Dr. [NAME]: [NAME] is well."
    assert b"Quill" not in file.content
    document = image(SOPClassUID="1.2.840.10008.5.1.4.1.1.104.1", EncapsulatedDocument=b"%PDF Quill")
    with pytest.raises(DataError, match="an encapsulated document"):
        cleaned(tmp_path, document, Options(reports="clean"))


def test_pixels_that_are_cut_off_are_refused(tmp_path: Path):
    with pytest.raises(DataError, match="can't be written anew"):
        cleaned(tmp_path, image(PixelData=b"Quill "))


def test_what_is_no_dicom_file_is_refused_without_a_word_of_it(tmp_path: Path):
    path = tmp_path / "quill.dcm"
    path.write_bytes(b"Ottoline Quill " * 40)
    with pytest.raises(DataError) as told:
        clean_dicom(path, KEY, Options(), where="file 1")
    assert "Ottoline" not in str(told.value)


def test_wrong_options_are_told():
    with pytest.raises(ConfigError, match=r"unknown thing to keep 'divice' .did you mean 'device'"):
        Options(keep=frozenset({"divice"}))
    with pytest.raises(ConfigError, match="--dates: unknown way with dates 'move'"):
        Options(dates="move")


def test_the_table_is_kept_whole_in_memory_only_once():
    assert table() is table()
