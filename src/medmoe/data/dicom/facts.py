"""What a DICOM header says of a file, without its pixels: what it is, whose, of which series, from where."""

from __future__ import annotations

import dataclasses
import math
import re
import warnings
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, BinaryIO

from medmoe.data.dicom.geometry import Geometry, geometry
from medmoe.data.dicom.header import first_line, frames, group, read_header, refusals
from medmoe.errors import DataError
from medmoe.modalities import MODALITIES

# What a file is. Only an image becomes a row of a manifest; the others are told apart by name.
IMAGE, REPORT, SEGMENTATION, DIRECTORY = "image", "report", "segmentation", "directory"
PRESENTATION, STRUCTURES, DOSE, PLAN = "presentation state", "structure set", "dose", "plan"
WAVEFORM, STRUCTURED, REGISTRATION, OTHER = "waveform", "structured data", "registration", "other object"

_STORAGE = "1.2.840.10008.5.1.4.1.1."
# SOP classes (DICOM PS3.6 A) under the storage root: the first prefix that fits says what the file is.
_CLASSES: tuple[tuple[str, str], ...] = (
    ("1.2.840.10008.1.3.10", DIRECTORY),
    *((f"{_STORAGE}88.{number}", REPORT) for number in ("11", "22", "33", "34", "35")),
    (f"{_STORAGE}88.", STRUCTURED),  # dose reports, CAD results, key objects, procedure logs
    *((f"{_STORAGE}104.{number}", REPORT) for number in ("1", "2")),  # encapsulated PDF and CDA
    (f"{_STORAGE}104.", OTHER),
    (f"{_STORAGE}11.", PRESENTATION),
    (f"{_STORAGE}481.1", IMAGE),  # an RT image is a radiograph
    (f"{_STORAGE}481.2", DOSE),
    (f"{_STORAGE}481.3", STRUCTURES),
    (f"{_STORAGE}481.", PLAN),
    *((f"{_STORAGE}66.{number}", REGISTRATION) for number in ("1", "2", "3")),
    *((f"{_STORAGE}66.{number}", SEGMENTATION) for number in ("4", "5", "7")),
    (f"{_STORAGE}66", OTHER),
    (f"{_STORAGE}67", OTHER),
    (f"{_STORAGE}9.", WAVEFORM),
)
# The attribute Modality (0008,0060), for files whose SOP class is missing or unknown.
_CODES = {
    "SR": REPORT, "DOC": REPORT, "KO": STRUCTURED, "PR": PRESENTATION, "RTSTRUCT": STRUCTURES, "RTPLAN": PLAN,
    "RTDOSE": DOSE, "SEG": SEGMENTATION, "REG": REGISTRATION, "FID": REGISTRATION, "ECG": WAVEFORM, "HD": WAVEFORM,
    "EPS": WAVEFORM, "RWV": OTHER, "PLAN": PLAN,
}  # fmt: skip
_OF_CODE = {code: row.name for row in MODALITIES.values() for code in row.dicom}
_COSINE = 1e-3  # how far the two directions of an image may be from unit length and from right angles


@dataclass(frozen=True, slots=True)
class HeaderFacts:
    """What a header says; None or empty where it says nothing, or nothing that can be read.

    Attributes:
        kind: `image`, or another of this file's names of kinds.
        code: Attribute Modality, such as `MR`.
        modality: The library's name for it; None where the library has none.
        sop_class: SOP class UID.
        instance_uid: SOP instance UID.
        patient: Patient ID.
        study: Study instance UID.
        series: Series instance UID.
        day: The day that the image was made: acquisition, else content, series, study.
        body_part: Body Part Examined, else the anatomic region's meaning; lower case.
        view: View position, or the view code's meaning.
        laterality: `left`, `right` or `both`.
        manufacturer: And model, as written.
        institution: As written.
        description: Study, series and protocol descriptions, joined by " | ".
        rows: Height in pixels.
        columns: Width in pixels.
        frames: Number of frames; 1 where it isn't said.
        spacing: (between rows, between columns) in mm, as `medmoe.data.dicom.geometry` finds it.
        thickness: Of a slice, in mm.
        image_type: Values of Image Type, upper case.
        position: Of the first pixel's centre in mm, patient coordinates (x to the left, y to the back, z to the head).
        orientation: Directions of a row and of a column, six cosines.
        number: Instance Number.
        photometric: Photometric interpretation.
        ultrasound_regions: How many regions with ultrasound calibration there are.
        burned_in: Whether burned-in annotation is said to be there.
    """

    kind: str
    code: str | None = None
    modality: str | None = None
    sop_class: str | None = None
    instance_uid: str | None = None
    patient: str | None = None
    study: str | None = None
    series: str | None = None
    day: date | None = None
    body_part: str | None = None
    view: str | None = None
    laterality: str | None = None
    manufacturer: str | None = None
    institution: str | None = None
    description: str | None = None
    rows: int | None = None
    columns: int | None = None
    frames: int = 1
    spacing: tuple[float, float] | None = None
    thickness: float | None = None
    image_type: tuple[str, ...] = ()
    position: tuple[float, ...] | None = None
    orientation: tuple[float, ...] | None = None
    number: int | None = None
    photometric: str | None = None
    ultrasound_regions: int = 0
    burned_in: bool | None = None

    @property
    def is_localiser(self) -> bool:
        """Whether it is a scout image, by which the others were planned."""
        return any(value in ("LOCALIZER", "SCOUT", "TOPOGRAM") for value in self.image_type)

    @property
    def is_secondary_capture(self) -> bool:
        """Whether it is a picture of a screen or a scanned film."""
        return f"{self.sop_class}.".startswith(f"{_STORAGE}7.")

    @property
    def is_derived(self) -> bool:
        """Whether its pixels were computed from those of other images."""
        return self.image_type[:1] == ("DERIVED",)

    @property
    def domain(self) -> str | None:
        """Where it was made, as one name: institution and manufacturer."""
        parts = [part for part in (self.institution, self.manufacturer) if part]
        return " / ".join(parts) or None


def read_facts(path: str | Path) -> HeaderFacts:
    """Read what a DICOM file's header says.

    Args:
        path: The file; its name's ending doesn't matter, nor whether it has a preamble.

    Raises:
        DataError: If it can't be read or isn't DICOM.
    """
    try:
        with Path(path).open("rb") as file:
            return facts_from(file, where=str(path))
    except OSError as error:
        raise DataError(f"can't be read ({error.strerror})", where=str(path), remedy="check its permissions") from error


def facts_from(file: BinaryIO, *, where: str) -> HeaderFacts:
    """Read what the header of an open DICOM file says; `where` names it in an error.

    Raises:
        DataError: If it isn't DICOM.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # values that break the standard are left out below
        header = read_header(file, where, pixels=False)
        try:
            facts = facts_of(header)
        except refusals() as error:
            what = f"the DICOM header can't be read ({first_line(error)})"
            raise DataError(what, where=where, remedy="export it again, or take it out") from error
    if facts.kind == OTHER and facts.sop_class is None and facts.code is None:
        raise DataError("not a DICOM file, or its header is damaged", where=where, remedy="export it again")
    return facts


def facts_of(header: Any) -> HeaderFacts:
    """Gather the facts of a data set that pydicom has read."""
    meta = getattr(header, "file_meta", None)
    sop_class = _text(header, "SOPClassUID") or (None if meta is None else _text(meta, "MediaStorageSOPClassUID"))
    code = (_text(header, "Modality") or "").upper() or None
    rows, columns = _whole(header, "Rows"), _whole(header, "Columns")
    place = _place(header)
    return HeaderFacts(
        kind=kind_of(sop_class, code, has_pixels=bool(rows and columns)),
        code=code,
        modality=_OF_CODE.get(code or ""),
        sop_class=sop_class,
        instance_uid=_text(header, "SOPInstanceUID"),
        patient=_text(header, "PatientID"),
        study=_text(header, "StudyInstanceUID"),
        series=_text(header, "SeriesInstanceUID"),
        day=_day(header),
        body_part=_body_part(header),
        view=_text(header, "ViewPosition") or _meaning(header, "ViewCodeSequence"),
        laterality=_laterality(header),
        manufacturer=_joined(header, ("Manufacturer", "ManufacturerModelName"), " "),
        institution=_text(header, "InstitutionName"),
        description=_joined(header, ("StudyDescription", "SeriesDescription", "ProtocolName"), " | "),
        rows=rows,
        columns=columns,
        frames=max(_whole(header, "NumberOfFrames") or 1, 1),
        spacing=place.spacing,
        thickness=_thickness(header),
        image_type=_image_type(header),
        position=place.position,
        orientation=place.orientation,
        number=_whole(header, "InstanceNumber"),
        photometric=_text(header, "PhotometricInterpretation"),
        ultrasound_regions=len(_value(header, "SequenceOfUltrasoundRegions") or ()),
        burned_in={"YES": True, "NO": False}.get((_text(header, "BurnedInAnnotation") or "").upper()),
    )


def kind_of(sop_class: str | None, code: str | None, *, has_pixels: bool) -> str:
    """Tell what a file is by its SOP class, else by its modality's code, else by whether it has rows and columns.

    >>> kind_of("1.2.840.10008.5.1.4.1.1.88.33", None, has_pixels=False), kind_of(None, "RTDOSE", has_pixels=True)
    ('report', 'dose')
    """
    if sop_class is not None:
        for prefix, kind in _CLASSES:
            if sop_class == prefix or (
                sop_class.startswith(prefix) and (prefix[-1] == "." or _next(sop_class, prefix))
            ):
                return kind
    if code in _CODES:
        return _CODES[code]
    return IMAGE if has_pixels else OTHER


def _next(uid: str, prefix: str) -> bool:
    """Whether a prefix ends where a component of the UID does: 66 begins 66.4, not 667."""
    return uid[len(prefix)] == "."


def _value(header: Any, name: str) -> Any:
    """Give an element's value; None where it is absent, empty or can't be made sense of."""
    try:
        value = header.get(name)
    except refusals():
        return None
    return None if value is None or value == "" else value


def _text(header: Any, name: str) -> str | None:
    """Give a value as one line of text."""
    value = _value(header, name)
    if value is None:
        return None
    if not isinstance(value, (str, int, float)):
        parts = [str(part) for part in value] if hasattr(value, "__iter__") else [str(value)]
        value = next((part for part in parts if part.strip()), "")
    return " ".join(str(value).replace("\0", " ").split()) or None


def _place(header: Any) -> Geometry:
    """Give where the pixels lie, as far as that can be read; an orientation only where it is one."""
    try:
        found = geometry(header)
    except refusals():
        return Geometry(None, None, None, None)
    return dataclasses.replace(found, orientation=_cosines(found.orientation))


def _thickness(header: Any) -> float | None:
    """Give the thickness of a slice, of the middle frame's where there are several."""
    try:
        measures = group(header, "PixelMeasuresSequence", (frames(header) - 1) // 2)
    except refusals():
        measures = None
    numbers = _numbers(measures, "SliceThickness", 1) or _numbers(header, "SliceThickness", 1)
    return None if numbers is None else numbers[0]


def _numbers(header: Any, name: str, count: int) -> tuple[float, ...] | None:
    """Give finite numbers, as many as there must be."""
    value = None if header is None else _value(header, name)
    if value is None:
        return None
    try:
        values = tuple(float(part) for part in (value if hasattr(value, "__len__") else (value,)))
    except (TypeError, ValueError):
        return None
    return values if len(values) == count and all(map(math.isfinite, values)) else None


def _whole(header: Any, name: str) -> int | None:
    numbers = _numbers(header, name, 1)
    return None if numbers is None else int(numbers[0])


def _cosines(values: tuple[float, ...] | None) -> tuple[float, ...] | None:
    """Take an orientation only where it is one: two unit vectors at right angles."""
    if values is None:
        return None
    a, b = values[:3], values[3:]
    lengths = (math.hypot(*a) - 1, math.hypot(*b) - 1, sum(x * y for x, y in zip(a, b, strict=True)))
    return values if max(map(abs, lengths)) <= _COSINE else None


def _joined(header: Any, names: tuple[str, ...], between: str) -> str | None:
    """Join the texts that are there, each once."""
    return between.join(dict.fromkeys(filter(None, (_text(header, name) for name in names)))) or None


def _image_type(header: Any) -> tuple[str, ...]:
    value = _value(header, "ImageType")
    several = hasattr(value, "__iter__") and not isinstance(value, str)
    parts = () if value is None else value if several else (value,)
    return tuple(str(part).strip().upper() for part in parts)


def _day(header: Any) -> date | None:
    """Give the day: DICOM's form YYYYMMDD, or YYYY.MM.DD of its predecessor."""
    for name in ("AcquisitionDate", "ContentDate", "SeriesDate", "StudyDate"):
        found = re.match(r"(\d{4})\.?(\d\d)\.?(\d\d)", _text(header, name) or "")
        if found is not None:
            try:
                return date(*map(int, found.groups()))
            except ValueError:
                continue
    return None


def _meaning(header: Any, name: str) -> str | None:
    """Give the meaning of the first code of a sequence."""
    items = _value(header, name)
    return _text(items[0], "CodeMeaning") if items else None


def _body_part(header: Any) -> str | None:
    said = _text(header, "BodyPartExamined") or _meaning(header, "AnatomicRegionSequence")
    return None if said is None else said.lower()


def _laterality(header: Any) -> str | None:
    said = _text(header, "ImageLaterality") or _text(header, "Laterality") or ""
    return {"L": "left", "R": "right", "B": "both"}.get(said.upper()[:1])
