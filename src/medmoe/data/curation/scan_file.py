"""One file of a folder tree: what it is by its content, and all that a manifest will say of it."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medmoe.data.curation.label_pixels import measure
from medmoe.data.dicom.facts import IMAGE, REPORT, HeaderFacts, read_facts
from medmoe.data.dicom.header import is_dicom
from medmoe.data.images import image_size, read_image
from medmoe.data.nifti import PLANES, Volume, is_nifti, read_nifti_facts, read_nifti_values
from medmoe.errors import UserError

PICTURE, DICOM, VOLUME, TEXT, TABLE, OTHER, UNREADABLE = (
    "picture", "DICOM", "NIfTI", "text", "table", "other file", "unreadable"
)  # fmt: skip
MOST_TEXT = 1_000_000  # bytes of a text file that may be a report
_HEAD = 132  # bytes read to tell what a file is
_PICTURES = (
    b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"II*\0", b"MM\0*", b"BM", b"GIF8", b"\0\0\0\x0cjP", b"\xff\x4f\xff\x51",
)  # fmt: skip
_PICTURE_NAMES = (
    ".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k",
)  # fmt: skip
_TABLE_NAMES = (".csv", ".tsv", ".parquet", ".jsonl", ".xlsx", ".xls")
_REPORT_KEYS = ("text", "report", "caption", "description")
_REPORT_PARTS = ("findings", "impression", "conclusion")


@dataclass(frozen=True, slots=True)
class Record:
    """What was found out about a file; it round-trips through JSON.

    Attributes:
        kind: `picture`, `DICOM`, `NIfTI` (these are images), `text`, `table`, `other file`, `unreadable`, or what
            a DICOM file without an image is (`medmoe.data.dicom.facts`).
        reason: Why it isn't an image, or can't be used.
        sha: SHA-256 of the file's bytes; None where only headers were read.
        width: In pixels, of the picture, frame or slice.
        height: As width.
        slices: How many frames, or slices along `plane`.
        plane: Of a volume's slices, or nearest to a DICOM image's.
        spacing: Between rows and between columns, in mm.
        thickness: Distance of slices, in mm.
        labels: Whether a volume's values are labels.
        facts: Of a DICOM header: fields of `HeaderFacts`.
        measures: Of the pixels.
        text: Of a report.
    """

    kind: str
    reason: str | None = None
    sha: str | None = None
    width: int | None = None
    height: int | None = None
    slices: int = 1
    plane: str | None = None
    spacing: tuple[float, float] | None = None
    thickness: float | None = None
    labels: bool = False
    facts: dict[str, Any] | None = None
    measures: dict[str, float] | None = None
    text: str | None = None

    @property
    def is_image(self) -> bool:
        """Whether the file may become a row."""
        return self.kind in (PICTURE, DICOM, VOLUME)

    @property
    def header(self) -> HeaderFacts | None:
        """Give the DICOM header's facts back."""
        return None if self.facts is None else _facts_of(self.facts)

    def as_dict(self) -> dict[str, Any]:
        """Give the fields that say something."""
        blank = {field.name: field.default for field in dataclasses.fields(self)}
        values = {name: getattr(self, name) for name in blank}
        return {name: value for name, value in values.items() if name == "kind" or value != blank[name]}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Record:
        """Read what `as_dict` gave, after a way through JSON."""
        spacing = values.get("spacing")
        return cls(**values | ({"spacing": tuple(spacing)} if spacing else {}))


def read_record(path: str, *, pixels: bool = True) -> Record:
    """Find out about a file; nothing in it raises.

    Args:
        path: The file.
        pixels: Whether it is read whole: hashed, decoded and measured. Otherwise only its header is looked at.
    """
    try:
        with Path(path).open("rb") as file:
            head = file.read(_HEAD)
        kind = kind_of_file(path, head)
        record = _READERS[kind](path, pixels) if kind in _READERS else Record(kind, _REASONS.get(kind))
        if pixels and record.kind != TABLE and record.sha is None:
            record = dataclasses.replace(record, sha=hash_of(path))
    except UserError as error:
        return Record(UNREADABLE, error.what)
    except OSError as error:
        return Record(UNREADABLE, f"can't be read ({error.strerror or type(error).__name__})")
    except Exception as error:  # whatever a decoder may raise: one file doesn't stop a scan
        return Record(UNREADABLE, f"can't be read ({type(error).__name__})")
    return record


def kind_of_file(path: str, head: bytes) -> str:
    """Tell what a file is by its first 132 bytes, and by its name where those say nothing.

    >>> kind_of_file("IM0001", bytes(128) + b"DICM"), kind_of_file("a.png", b"")
    ('DICOM', 'empty')
    """
    name = os.path.basename(path).lower()  # noqa: PTH119 - names may be no valid text
    if not head:
        return "empty"
    if is_nifti(name):
        return VOLUME
    if is_dicom(io.BytesIO(head), os.path.splitext(name)[1]):  # noqa: PTH122
        return DICOM
    if head.startswith(_PICTURES) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP") or name.endswith(_PICTURE_NAMES):
        return PICTURE
    if name.endswith(_TABLE_NAMES):
        return TABLE
    if name.endswith((".txt", ".text", ".json")):
        return TEXT
    return OTHER


def hash_of(path: str) -> str:
    """Give the SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()


def _read_picture(path: str, pixels: bool) -> Record:
    if not pixels:
        width, height = image_size(path)
        return Record(PICTURE, width=width, height=height)
    image = read_image(path)
    return Record(PICTURE, width=image.shape[1], height=image.shape[0], measures=measure(image))


def _read_dicom(path: str, pixels: bool) -> Record:
    from medmoe.data.dicom.series import plane_of

    facts = read_facts(path)
    kept = _as_values(facts)
    if facts.kind == REPORT:
        return Record(REPORT, None, text=_document(path), facts=kept)
    if facts.kind != IMAGE:
        return Record(facts.kind, f"a DICOM {facts.kind}, not an image", facts=kept)
    if pixels:
        try:
            read_image(path)  # what can't be decoded is told now, not in the middle of a training run
        except UserError as error:
            return Record(UNREADABLE, error.what, facts=kept)
    return Record(
        DICOM,
        width=facts.columns,
        height=facts.rows,
        slices=facts.frames,
        plane=plane_of(facts),
        spacing=facts.spacing,
        thickness=facts.thickness,
        facts=kept,
    )


def _read_volume(path: str, pixels: bool) -> Record:
    with Path(path).open("rb") as file:
        volume = read_nifti_facts(file, where=path)
        least = float(read_nifti_values(file, where=path).min()) if pixels else None
    across, down, through = _axes(volume)
    return Record(
        VOLUME,
        width=volume.shape[across],
        height=volume.shape[down],
        slices=volume.shape[through],
        plane=None if volume.codes is None else volume.plane,
        spacing=(volume.spacing[down], volume.spacing[across]),
        thickness=volume.spacing[through],
        labels=volume.labels,
        measures=None if least is None or not math.isfinite(least) else {"least": least},
    )


def _axes(volume: Volume) -> tuple[int, int, int]:
    """Find the stored axes that a slice's columns, rows and the slices themselves follow."""
    if volume.codes is None:
        return 0, 1, 2
    ras = [next(axis for axis, ends in enumerate(("RL", "AP", "SI")) if code in ends) for code in volume.codes]
    through = PLANES[volume.plane]
    across, down = (axis for axis in range(3) if axis != through)
    return ras.index(across), ras.index(down), ras.index(through)


def _read_text(path: str, pixels: bool) -> Record:
    """Read a text file, or the report in a JSON file: reports have to be looked into even where pixels aren't."""
    if Path(path).stat().st_size > MOST_TEXT:
        return Record(TEXT, "too large for a report")
    data = Path(path).read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    if "\0" in text:
        return Record(OTHER, "not text, whatever its name says")
    if path.lower().endswith(".json"):
        text = _text_of_json(text)
    return Record(TEXT, text=text.strip() or None)


def _text_of_json(text: str) -> str:
    """Take the report out of a JSON object: one text, or findings and impression; nothing from other JSON."""
    try:
        values = json.loads(text)
    except ValueError:
        return ""
    if not isinstance(values, dict):
        return ""
    lower = {str(name).lower(): value for name, value in values.items() if isinstance(value, str)}
    whole = next((lower[key] for key in _REPORT_KEYS if lower.get(key)), None)
    return whole or "\n".join(f"{key.upper()}: {lower[key]}" for key in _REPORT_PARTS if lower.get(key))


def _document(path: str) -> str | None:
    """Read the text of a structured report or an encapsulated document."""
    from medmoe.data.dicom.reports import report_text

    return report_text(path)


def _as_values(facts: HeaderFacts) -> dict[str, Any]:
    """Give the facts that say something as JSON can hold them."""
    blank = {field.name: field.default for field in dataclasses.fields(facts)}
    values = {name: getattr(facts, name) for name in blank}
    kept = {name: value for name, value in values.items() if name == "kind" or value != blank[name]}
    if facts.day is not None:
        kept["day"] = facts.day.isoformat()
    return kept


def _facts_of(values: dict[str, Any]) -> HeaderFacts:
    from datetime import date

    lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
    day = {"day": date.fromisoformat(values["day"])} if "day" in values else {}
    return HeaderFacts(**values | lists | day)


_READERS: dict[str, Callable[[str, bool], Record]] = {
    PICTURE: _read_picture,
    DICOM: _read_dicom,
    VOLUME: _read_volume,
    TEXT: _read_text,
    "empty": lambda path, pixels: Record(UNREADABLE, "the file is empty"),
}
_REASONS = {TABLE: "a table; what it says isn't used", OTHER: "not an image"}
