"""One file of any kind: its cleaned copy under a new name, or why there is none, as a record without its values."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from medmoe.data.curation.deidentify_dicom import BURNED, clean_dicom
from medmoe.data.curation.deidentify_images import blank_image, clean_image, kind_of, text_in
from medmoe.data.curation.deidentify_key import Key
from medmoe.data.curation.deidentify_pixels import Box
from medmoe.data.curation.deidentify_rules import Options
from medmoe.data.curation.deidentify_text import Known
from medmoe.errors import ConfigError, DataError, unknown

_SUFFIXES = {"dicom": ".dcm", "jpeg": ".jpg", "png": ".png"}


@dataclass(frozen=True)
class Way:
    """How files are cleaned.

    Args:
        secret: Of the key.
        options: Of the profile.
        burned_in: report, blank or refuse.
    """

    secret: bytes
    options: Options
    burned_in: str = "report"

    def __post_init__(self) -> None:
        if self.burned_in not in BURNED:
            raise ConfigError(unknown("way with burned-in text", self.burned_in, BURNED), where="--burned-in")

    @property
    def key(self) -> Key:
        """The key, made of its secret."""
        return Key(self.secret)

    def described(self) -> dict[str, Any]:
        """Say it without the secret, to be able to tell whether another run went the same way."""
        return {
            "key": self.key.fingerprint,
            "dates": self.options.dates,
            "keep": sorted(self.options.keep),
            "reports": self.options.reports,
            "burned_in": self.burned_in,
        }


@dataclass
class Record:
    """What became of a file; nothing in it tells whose it was.

    Args:
        source: A keyed hash of the file's path.
        file: Its new path, relative to the folder written; None where nothing was written.
        kind: dicom, jpeg, png or nifti.
        reason: Why nothing was written.
        patient: The patient's pseudonym (DICOM).
        study: The study's (DICOM).
        changes: (path of tags, keyword, action, how often) of a DICOM header.
        burned_in: Regions that look like text.
        blanked: Whether they were made black.
        risks: What of the header speaks for burned-in text.
        found: What was replaced in texts of the manifest: kind → how often.
    """

    source: str
    file: str | None = None
    kind: str | None = None
    reason: str | None = None
    patient: str | None = None
    study: str | None = None
    changes: list[tuple[str, str, str, int]] = field(default_factory=list)
    burned_in: list[Box] = field(default_factory=list)
    blanked: bool = False
    risks: list[str] = field(default_factory=list)
    found: dict[str, int] = field(default_factory=dict)

    def row(self) -> dict[str, Any]:
        """Give what goes into the log: what is there."""
        return {name: value for name, value in asdict(self).items() if value or name == "file"}


def clean_file(
    path: Path, name: str, out: Path, way: Way, *, patient: str | None = None, look: bool = True
) -> tuple[Record, Known]:
    """Write the cleaned copy of a file.

    Args:
        path: The file.
        name: What stands for it, of which the new name is made by the key: its path relative to the data's folder.
        out: The folder to write into.
        way: How.
        patient: The patient's pseudonym, where a manifest says whose it is.
        look: Whether to look for burned-in text (not in masks).

    Returns:
        The record, and the names and ids that a DICOM header held.
    """
    key = way.key
    record, known = Record(key.name("path", name)), Known()
    try:
        if path.is_symlink() and not path.exists():
            raise DataError("a link that leads nowhere", where=record.source)
        record.kind = kind_of(path)
        if record.kind is None:
            what = "a kind of file that can't be cleaned; allowed: DICOM, JPEG, PNG, NIfTI"
            raise DataError(what, where=record.source)
        if record.kind == "dicom":
            content, place, known = _dicom(path, way, record, look=look)
        else:
            content, place = _picture(path, name, way, record, patient, look=look)
        record.file = place
        _write(out / place, content)
    except DataError as error:
        record.file, record.reason = None, error.what
    except OSError as error:
        record.file, record.reason = None, f"can't be read or written ({error.strerror})"
    except Exception as error:  # one broken file mustn't stop a run, nor its words reach the log
        record.file, record.reason = None, f"can't be cleaned ({type(error).__name__})"
    return record, known


def _dicom(path: Path, way: Way, record: Record, *, look: bool) -> tuple[bytes, str, Known]:
    """Clean a DICOM file; its folders are patient, study and series."""
    file = clean_dicom(path, way.key, way.options, burned_in=way.burned_in, look=look, where=record.source)
    record.patient, record.study = file.patient, file.study
    record.changes = [(*change, count) for change, count in sorted(file.changes.items())]
    record.burned_in, record.blanked, record.risks = file.boxes, file.blanked, file.risks
    return file.content, f"{file.patient}/{file.study}/{file.series}/{record.source}.dcm", file.known


def _picture(path: Path, name: str, way: Way, record: Record, patient: str | None, *, look: bool) -> tuple[bytes, str]:
    """Clean another file; its folder is its patient, else what stands for the folder it was in."""
    kind = str(record.kind)
    content = clean_image(path.read_bytes(), kind, where=record.source)
    suffix = _SUFFIXES.get(kind, ".nii.gz" if path.name.lower().endswith(".gz") else ".nii")
    if look and kind in ("jpeg", "png"):
        if way.burned_in == "blank":
            content, record.burned_in = blank_image(content, where=record.source)
            record.blanked = bool(record.burned_in)
            suffix = ".png" if record.blanked else suffix
        else:
            record.burned_in = text_in(content, where=record.source)
        if way.burned_in == "refuse" and record.burned_in:
            raise DataError("text seems to be burned in", where=record.source)
    folder = patient or f"F{way.key.name('folder', Path(name).parent.as_posix())}"
    return content, f"{folder}/{record.source}{suffix}"


def _write(path: Path, content: bytes) -> None:
    """Write a file beside its place, then rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        aside.write_bytes(content)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def summed(records: list[Record]) -> Counter[str]:
    """Count files by their kind, and those not written by their reason."""
    return Counter(record.reason or f"{record.kind} written" for record in records)
