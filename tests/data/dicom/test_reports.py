"""The text of a report: what it says, and not who wrote it."""

from __future__ import annotations

from pathlib import Path

import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian

from medmoe.data.dicom.reports import report_text
from medmoe.errors import DataError


def code(meaning: str, value: str = "1", scheme: str = "TEST") -> Sequence:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return Sequence([item])


def item(kind: str, name: str, relation: str = "CONTAINS", **more: object) -> Dataset:
    made = Dataset()
    made.ValueType, made.RelationshipType, made.ConceptNameCodeSequence = kind, relation, code(name)
    for key, value in more.items():
        setattr(made, key, value)
    return made


def save(path: Path, data: Dataset) -> Path:
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = "1.2.840.10008.5.1.4.1.1.88.33"
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = "1.2.3"
    data.save_as(path, enforce_file_format=True)
    return path


def document(path: Path, kind: str, content: bytes) -> Path:
    data = Dataset()
    data.MIMETypeOfEncapsulatedDocument = kind
    data.EncapsulatedDocument = content + b"\0" * (len(content) % 2)
    return save(path, data)


def test_items_stand_under_their_concepts_names_in_their_order(tmp_path):
    measured = Dataset()
    measured.NumericValue, measured.MeasurementUnitsCodeSequence = "12.5", code("millimeter", "mm", "UCUM")
    section = item("CONTAINER", "Findings")
    size = item("NUM", "Diameter", MeasuredValueSequence=Sequence([measured]))
    lesion = item("CODE", "Finding", ConceptCodeSequence=code("Nodule"), ContentSequence=Sequence([size]))
    section.ContentSequence = Sequence([item("TEXT", "Finding", TextValue="Clear  left\nlung. "), lesion])
    observer = item("PNAME", "Observer", "HAS OBS CONTEXT", PersonName="Doe^Jane")
    place = item("TEXT", "Organization", "HAS OBS CONTEXT", TextValue="Some hospital")
    reader = item("PNAME", "Reader", PersonName="Roe^Jim")
    root = item("CONTAINER", "Chest CT report")
    root.ContentSequence = Sequence([observer, place, reader, section])
    assert report_text(save(tmp_path / "a.dcm", root)) == "\n".join(
        ["Chest CT report", "Findings", "Finding: Clear left lung.", "Finding: Nodule", "Diameter: 12.5 mm"]
    )


def test_pydicoms_structured_reports_are_read():
    text = report_text(get_testdata_file("reportsi.dcm", download=False))
    assert text is not None
    assert text.startswith("Document Title\n")
    assert "Organization" not in text
    assert report_text(get_testdata_file("test-SR.dcm", download=False)).startswith("Diagnosis\n")


def test_an_encapsulated_document_of_text_or_xml_is_read(tmp_path):
    assert report_text(document(tmp_path / "a.dcm", "text/plain", b"No fracture.\r\nBye")) == "No fracture.\nBye"
    xml = (
        '<ClinicalDocument xmlns="urn:hl7-org:v3"><author>Jane</author><component><section><title>Findings</title>'
        "<text>No <b>effusion</b>.</text></section></component></ClinicalDocument>"
    )
    assert report_text(document(tmp_path / "b.dcm", "text/XML", xml.encode())) == "Findings\nNo effusion."
    assert report_text(document(tmp_path / "c.dcm", "application/xml", b"<a>One <b>two</b></a>")) == "One two"


def test_a_pdf_is_left_out_and_told(tmp_path, caplog):
    assert report_text(document(tmp_path / "a.dcm", "application/pdf", b"%PDF-1.4")) is None
    assert "application/pdf" in caplog.text


def test_an_image_has_no_report():
    assert report_text(get_testdata_file("CT_small.dcm", download=False)) is None


def test_a_text_file_is_its_text(tmp_path):
    (tmp_path / "a.txt").write_bytes("\ufeffKeine Fraktur, schräg.\r\n".encode())
    (tmp_path / "b.txt").write_bytes("schräg".encode("latin-1"))
    (tmp_path / "c.txt").write_bytes(b" \n")
    assert report_text(tmp_path / "a.txt") == "Keine Fraktur, schräg."
    assert report_text(tmp_path / "b.txt") == "schräg"
    assert report_text(tmp_path / "c.txt") is None


def test_what_cannot_be_a_report_is_refused_in_words(tmp_path):
    with pytest.raises(DataError, match="no such report"):
        report_text(tmp_path / "none.txt")
    with pytest.raises(DataError, match="declares entities"):
        report_text(document(tmp_path / "a.dcm", "text/xml", b'<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>'))
    with pytest.raises(DataError, match="XML document is damaged"):
        report_text(document(tmp_path / "b.dcm", "text/xml", b"<a>"))
    (tmp_path / "c.txt").write_bytes(b"a" * 4_000_001)
    with pytest.raises(DataError, match=r"4,000,001 bytes; at most 4,000,000"):
        report_text(tmp_path / "c.txt")
    (tmp_path / "d.dcm").write_bytes(b"no")
    with pytest.raises(DataError, match=r"d\.dcm: not a DICOM file"):
        report_text(tmp_path / "d.dcm")


def test_content_nested_without_end_is_refused(tmp_path):
    root = below = item("CONTAINER", "Top")
    for _ in range(40):
        inner = item("CONTAINER", "Below")
        below.ContentSequence = Sequence([inner])
        below = inner
    with pytest.raises(DataError, match="more than 32 levels"):
        report_text(save(tmp_path / "a.dcm", root))
    assert pydicom.dcmread(tmp_path / "a.dcm").ValueType == "CONTAINER"
