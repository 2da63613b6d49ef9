"""One DICOM file without whom it is of: header by the profile, pixels anew, burned-in text reported or blanked."""

from __future__ import annotations

import io
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from medmoe.data.curation.deidentify_burned import find_text
from medmoe.data.curation.deidentify_header import clean_header
from medmoe.data.curation.deidentify_key import Key
from medmoe.data.curation.deidentify_pixels import (
    Box,
    blank,
    darkest_entry,
    decoded,
    write_array,
    write_pixels,
)  # fmt: skip
from medmoe.data.curation.deidentify_rules import METHODS, Options
from medmoe.data.curation.deidentify_text import Known
from medmoe.errors import ConfigError, DataError, unknown

BURNED = ("report", "blank", "refuse")
_BIG, _EXPLICIT, _IMPLICIT = "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"
_DICOMDIR = "1.2.840.10008.1.3.10"
_REPORTS = ("1.2.840.10008.5.1.4.1.1.88.",)
_DOCUMENTS = ("1.2.840.10008.5.1.4.1.1.104.",)
_IMAGES = "1.2.840.10008.5.1.4.1.1."
_RISKY_CLASSES = (f"{_IMAGES}7", f"{_IMAGES}77.1", f"{_IMAGES}3.1", f"{_IMAGES}6")
_RISKY_MODALITIES = ("US", "ES", "XC", "OT", "SC", "IVUS", "GM", "DG", "RF", "XA")
_LOOKED_AT = 3  # frames of many
_REFUSALS = (
    ValueError,
    TypeError,
    AttributeError,
    KeyError,
    IndexError,
    OverflowError,
    NotImplementedError,
    EOFError,
    RuntimeError,
    MemoryError,
)


@dataclass
class CleanedFile:
    """What is written of a DICOM file.

    Args:
        content: The new file.
        patient: Pseudonym of the patient.
        study: Pseudonym of the study.
        series: Pseudonym of the series.
        changes: (path of tags, keyword, action) → how often.
        boxes: Where text seems to be burned in.
        blanked: Whether these were made black.
        risks: What of the header speaks for burned-in text.
        known: Names and ids of the old header.
    """

    content: bytes
    patient: str
    study: str
    series: str
    changes: Counter[tuple[str, str, str]]
    boxes: list[Box] = field(default_factory=list)
    blanked: bool = False
    risks: list[str] = field(default_factory=list)
    known: Known = field(default_factory=Known)


def clean_dicom(
    path: Path, key: Key, options: Options, *, burned_in: str = "report", look: bool = True, where: str = ""
) -> CleanedFile:
    """Make what may be passed on of a DICOM file.

    Args:
        path: The file.
        key: Where pseudonyms, UIDs and offsets come from.
        options: Of the profile.
        burned_in: `report` regions that look like text, `blank` them, or `refuse` files that have any.
        look: Whether to look for burned-in text at all (not in masks).
        where: What to call the file in an error; its name, if empty.

    Raises:
        DataError: If it can't be read, is a report or document that is refused, or its pixels can't be written anew.
            The message holds no value of the file.
        ConfigError: If `burned_in` is another word.
    """
    if burned_in not in BURNED:
        raise ConfigError(unknown("way with burned-in text", burned_in, BURNED), where="--burned-in")
    from pydicom.config import disable_value_validation

    where = where or path.name
    with warnings.catch_warnings(), disable_value_validation():
        warnings.simplefilter("ignore")
        old, syntax = _read(path, where)
        try:
            return _cleaned(old, syntax, key, options, burned_in if look else "", where)
        except _REFUSALS as error:
            what = f"its header contradicts itself ({type(error).__name__})"
            raise DataError(what, where=where, remedy="export it again") from None


def _cleaned(old: Any, syntax: str, key: Key, options: Options, burned_in: str, where: str) -> CleanedFile:
    """Clean what was read."""
    _refuse_documents(old, options, where)
    header = clean_header(old, key, options)
    new = header.dataset
    study, series = str(old.get("StudyInstanceUID") or header.patient), str(old.get("SeriesInstanceUID") or "")
    file = CleanedFile(
        b"", header.patient, key.name("study", study), key.name("series", series), header.changes, known=header.known
    )
    file.risks = _risks(old)
    boxes = _burned_in(old, file, burned_in, where)
    if boxes:
        syntax = _write_blanked(old, new, boxes, syntax, where)
        file.blanked = True
    else:
        syntax = write_pixels(old, new, syntax, where=where)
    if burned_in == "blank" and _all_looked_at(old):
        _mark_blanked(new)
    file.content = _written(old, new, key, syntax, where)
    return file


def _read(path: Path, where: str) -> tuple[Any, str]:
    """Read a file and its transfer syntax."""
    from pydicom import dcmread
    from pydicom.uid import AllTransferSyntaxes

    try:
        old = dcmread(path, force=True)
        known = len(old) > 0 and any(tag.group in (0x0008, 0x0010, 0x0028) for tag in old.keys())  # noqa: SIM118
    except Exception as error:  # whatever a broken file makes of pydicom, it isn't passed on
        what = f"can't be read as DICOM ({type(error).__name__})"
        raise DataError(what, where=where, remedy="export it again") from None
    if not known:
        raise DataError("not a DICOM data set", where=where, remedy="take it out")
    meta = getattr(old, "file_meta", None)
    syntax = str(meta.get("TransferSyntaxUID") or "") if meta is not None else ""
    if not syntax:
        implicit, little = old.original_encoding
        syntax = _IMPLICIT if implicit else _EXPLICIT if little else _BIG
        from pydicom.dataset import FileMetaDataset

        old.file_meta = meta if meta is not None else FileMetaDataset()
        old.file_meta.TransferSyntaxUID = syntax
    if syntax not in AllTransferSyntaxes:
        raise DataError("an unknown transfer syntax", where=where, remedy="export it uncompressed")
    return old, syntax


def _refuse_documents(old: Any, options: Options, where: str) -> None:
    """Raise a DataError for what is text throughout, and for folders of files."""
    sop = str(old.get("SOPClassUID") or old.file_meta.get("MediaStorageSOPClassUID") or "")
    if sop == _DICOMDIR or "DirectoryRecordSequence" in old:
        raise DataError(
            "a DICOMDIR, which lists other files", where=where, remedy="make it anew from the cleaned files"
        )
    if sop.startswith(_DOCUMENTS) or "EncapsulatedDocument" in old:
        what = "an encapsulated document, whose text can't be cleaned"
        raise DataError(what, where=where, remedy="bring its text as a column of a manifest")
    if options.reports == "refuse" and (sop.startswith(_REPORTS) or "ContentSequence" in old):
        raise DataError(
            "a structured report", where=where, remedy="clean its text by rule with --reports clean, and read it"
        )


def _risks(old: Any) -> list[str]:
    """Say what of the header speaks for text in the picture."""
    found = []
    if str(old.get("BurnedInAnnotation") or "").strip().upper() == "YES":
        found.append("BurnedInAnnotation YES")
    if str(old.get("SOPClassUID") or "").startswith(_RISKY_CLASSES):
        found.append("SOP class often with text")
    if str(old.get("Modality") or "").strip() in _RISKY_MODALITIES:
        found.append("modality often with text")
    if any(tag.group & 0xFF00 == 0x6000 and tag.elem == 0x3000 for tag in old.keys()):  # noqa: SIM118
        found.append("overlay (removed)")
    return found


def _burned_in(old: Any, file: CleanedFile, burned_in: str, where: str) -> list[Box]:
    """Look for burned-in text, unless `burned_in` is empty; give the regions to blank."""
    if not burned_in or "PixelData" not in old or int(old.get("BitsAllocated") or 0) == 1:
        return []
    try:
        file.boxes = _text_boxes(old, where)
    except DataError:
        if burned_in != "report":
            raise
        file.risks.append("pixels can't be decoded, so nobody looked for text")
        return []
    flagged = "BurnedInAnnotation YES" in file.risks
    if burned_in == "refuse" and (file.boxes or flagged):
        what = "text seems to be burned in" if file.boxes else "its header says that text is burned in"
        raise DataError(what, where=where, remedy="look at it, or use --burned-in blank")
    if burned_in != "blank":
        return []
    boxes = file.boxes + _outside_regions(old)
    if flagged and not boxes:
        what = "its header says that text is burned in, and none was found to blank"
        raise DataError(what, where=where, remedy="look at it, and blank it by hand")
    return boxes


def _all_looked_at(old: Any) -> bool:
    """Tell whether every frame was looked into for text: of many only some are, and of one-bit masks none."""
    frames = max(int(old.get("NumberOfFrames") or 1), 1)
    return "PixelData" in old and int(old.get("BitsAllocated") or 0) != 1 and frames <= _LOOKED_AT


def _text_boxes(old: Any, where: str) -> list[Box]:
    """Find text in the first, middle and last frame."""
    from pydicom.pixels.processing import apply_color_lut

    count = max(int(old.get("NumberOfFrames") or 1), 1)
    chosen = range(count) if count <= _LOOKED_AT else (0, count // 2, count - 1)
    boxes: list[Box] = []
    for index in chosen:
        picture = decoded(old, where=where, frame=index if count > 1 else None)
        if picture.ndim > 2 and int(old.get("SamplesPerPixel") or 1) == 1:
            picture = picture[0]
        if old.get("PhotometricInterpretation") == "PALETTE COLOR":
            picture = apply_color_lut(picture, old)[..., :3]
        boxes += [box for box in find_text(picture) if box not in boxes]
    return boxes


def _outside_regions(old: Any) -> list[Box]:
    """Give what lies outside of every ultrasound region that the header names, as boxes."""
    regions = old.get("SequenceOfUltrasoundRegions") or []
    inside = np.zeros((int(old.Rows), int(old.Columns)), bool)
    for item in regions:
        try:
            x0, y0 = int(item.RegionLocationMinX0), int(item.RegionLocationMinY0)
            inside[y0 : int(item.RegionLocationMaxY1) + 1, x0 : int(item.RegionLocationMaxX1) + 1] = True
        except (AttributeError, TypeError, ValueError):
            return []
    if not inside.any():
        return []
    boxes: list[Box] = []
    for y, row in enumerate(inside):
        edges = np.flatnonzero(np.diff(np.r_[False, ~row, False]))
        boxes += [(int(x0), y, int(x1), y + 1) for x0, x1 in edges.reshape(-1, 2)]
    return boxes


def _write_blanked(old: Any, new: Any, boxes: list[Box], syntax: str, where: str) -> str:
    """Write the pixels uncompressed, with boxes black in every frame."""
    photometric = str(old.get("PhotometricInterpretation") or "MONOCHROME2")
    values = decoded(old, where=where)
    dark = darkest_entry(old) if photometric == "PALETTE COLOR" else 0
    big = syntax == _BIG
    write_array(blank(values, boxes, photometric, dark), new, big=big, rgb=photometric.startswith("YBR"))
    return syntax if syntax in (_BIG, _IMPLICIT) else _EXPLICIT


def _mark_blanked(new: Any) -> None:
    """Say that burned-in text was looked for and blanked."""
    from pydicom import Dataset

    item = Dataset()
    item.CodeValue, item.CodeMeaning = METHODS["pixels"]
    item.CodingSchemeDesignator = "DCM"
    new.DeidentificationMethodCodeSequence.append(item)


def _written(old: Any, new: Any, key: Key, syntax: str, where: str) -> bytes:
    """Write the whole file from the new data set."""
    from pydicom import dcmwrite
    from pydicom.dataset import FileMetaDataset

    meta: Any = FileMetaDataset()
    sop = new.get("SOPClassUID") or key.uid(str(old.file_meta.get("MediaStorageSOPClassUID") or "2.25.0"))
    meta.MediaStorageSOPClassUID = sop
    instance = str(old.get("SOPInstanceUID") or old.file_meta.get("MediaStorageSOPInstanceUID") or "")
    meta.MediaStorageSOPInstanceUID = key.uid(instance) or key.uid(where)
    meta.TransferSyntaxUID = syntax
    new.file_meta, new.preamble = meta, bytes(128)
    buffer = io.BytesIO()
    implicit, little = syntax == _IMPLICIT, syntax != _BIG
    try:
        dcmwrite(
            buffer, new, implicit_vr=implicit, little_endian=little, enforce_file_format=True, force_encoding=False
        )
    except Exception as error:  # a value that pydicom can't write; the file isn't passed on
        what = f"what is left of it can't be written ({type(error).__name__})"
        raise DataError(what, where=where, remedy="export it again") from None
    return buffer.getvalue()
