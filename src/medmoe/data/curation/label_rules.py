"""The rules of `medmoe data label` that read a header, a text or a path; what each looks for is in rules.json."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any

from medmoe.modalities import MODALITIES

HEADER, TEXT, LAYOUT, DATASET, PIXELS = "header", "text", "layout", "dataset", "pixels"
FAMILIES = (HEADER, TEXT, LAYOUT, DATASET, PIXELS)
_OF_CODE = {code: row.name for row in MODALITIES.values() for code in row.dicom}
_VOLUMES = (".nii.gz", ".nii", ".dcm", ".dicom")


@dataclass(frozen=True, slots=True)
class Clues:
    """What is known of an image without being told its modality.

    Attributes:
        path: Below the folder that was scanned, with `/` between its parts.
        code: DICOM attribute Modality.
        sop_class: DICOM SOP class UID.
        regions: How many calibrated ultrasound regions the header has.
        description: What the header calls study and series.
        text: The report or caption.
        measures: Of the pixels (`medmoe.data.curation.label_pixels.measure`); None where they weren't read.
    """

    path: str = ""
    code: str | None = None
    sop_class: str | None = None
    regions: int = 0
    description: str | None = None
    text: str | None = None
    measures: Mapping[str, float] | None = None


@dataclass(frozen=True, slots=True)
class Vote:
    """What one rule makes of an image.

    Attributes:
        family: One of FAMILIES.
        rule: The rule's name.
        modality: A name of `medmoe.modalities`; None for "none of these", which only a header can say.
        confidence: How often the rule is thought to be right, 0 to 1.
    """

    family: str
    rule: str
    modality: str | None
    confidence: float


@lru_cache(maxsize=1)
def rules() -> dict[str, Any]:
    """Load rules.json, once."""
    loaded: dict[str, Any] = json.loads(files("medmoe.data.curation").joinpath("rules.json").read_text("utf-8"))
    return loaded


def header_votes(clues: Clues) -> Iterator[Vote]:
    """Read a DICOM header's facts."""
    known = {row["name"]: row for row in rules()["header"]}
    if clues.code is not None and clues.code not in ("OT", "SC", "DOC"):  # "other", a picture of a screen: says nothing
        yield _vote(HEADER, known["header-code"], _OF_CODE.get(clues.code))
    if clues.sop_class is not None:
        prefixes = known["header-class"]["classes"]
        parts = clues.sop_class.split(".")
        for length in range(len(parts), 0, -1):
            modality = prefixes.get(".".join(parts[:length]))
            if modality is not None:
                yield _vote(HEADER, known["header-class"], modality)
                break
    if clues.regions:
        yield _vote(HEADER, known["header-ultrasound-regions"], "ultrasound")
    if clues.description:
        for modality in dict.fromkeys(vote.modality for vote in _matching(clues.description)):
            yield _vote(HEADER, known["header-description"], modality)


def text_votes(clues: Clues) -> Iterator[Vote]:
    """Read the words of a report."""
    if clues.text:
        yield from _matching(clues.text)


def layout_votes(clues: Clues) -> Iterator[Vote]:
    """Read the words in the names of the file and of the folders above it."""
    layout = rules()["layout"]
    *folders, name = clues.path.split("/")
    stem = stem_of(name)
    for modality in _named(layout["words"], [stem]):
        yield _vote(LAYOUT, layout["file"], modality)
    for modality in _named(layout["words"], folders) | _named(layout["folder_words"], folders, whole=True):
        yield _vote(LAYOUT, layout["folder"], modality)
    if name.lower().endswith((".nii", ".nii.gz")):
        last = re.split(r"[^A-Za-z0-9]+", stem)[-1]
        for modality, endings in layout["endings"].items():
            if last in endings:
                yield _vote(LAYOUT, layout["suffix"], modality)


def dataset_votes(clues: Clues) -> Iterator[Vote]:
    """Look for the name of a public data set at the beginning of a folder's or the file's name."""
    table = rules()["datasets"]
    found: dict[str, None] = {}
    for component in clues.path.split("/"):
        words = tokens(stem_of(component))
        bare = [word for word in words if not word.isdigit()]  # of ordinary-1, ordinary-2
        for length in range(len(words), 0, -1):
            name = " ".join(words[:length])
            modality = _datasets_by_name().get(name)
            if modality is not None and (name not in table["ordinary"] or bare == name.split()):
                found[modality] = None
                break
    for modality in found:
        yield _vote(DATASET, table["rule"], modality)


def report_type(text: str | None) -> tuple[str, str, float] | None:
    """Tell what kind of text a report is by the first rule that fires.

    Returns:
        (type, rule, confidence); None where there is no text or no rule fires.

    >>> report_type("FINDINGS: Clear lungs. IMPRESSION: Normal.")
    ('radiology report', 'report-radiology-headings', 0.95)
    """
    if not text:
        return None
    for row in _compiled("reports"):
        if row["search"](text):
            return row["type"], row["name"], row["confidence"]
    return None


def identify(path: str) -> tuple[str | None, str | None]:
    """Read a patient's and a study's number from a path, as public layouts write them.

    >>> identify("train/patient00012/study3/view1_frontal.jpg"), identify("sub-07/anat/sub-07_T1w.nii.gz")
    (('00012', '3'), ('07', None))
    """
    for row in _compiled("patients"):
        found = row["search"](path)
        if found is not None:
            study = re.search(row["study"], path) if "study" in row else None
            return found.group(1), study.group(1) if study else None
    return None, None


def tokens(name: str) -> list[str]:
    """Split a name into words, lower case.

    >>> tokens("NIH_Pancreas-CT.v2")
    ['nih', 'pancreas', 'ct', 'v2']
    """
    return [word for word in re.split(r"[^a-z0-9]+", name.lower()) if word]


def _vote(family: str, row: Mapping[str, Any], modality: str | None) -> Vote:
    return Vote(family, row["name"], modality, row["confidence"])


def _matching(text: str) -> Iterator[Vote]:
    return (
        Vote(TEXT, row["name"], row["modality"], row["confidence"]) for row in _compiled("text") if row["search"](text)
    )


@lru_cache(maxsize=8)
def _compiled(section: str) -> list[dict[str, Any]]:
    return [row | {"search": re.compile(row["pattern"]).search} for row in rules()[section]]


@lru_cache(maxsize=1)
def _datasets_by_name() -> dict[str, str]:
    return {name: modality for modality, names in rules()["datasets"]["names"].items() for name in names}


def _named(words: Mapping[str, Sequence[str]], names: Sequence[str], *, whole: bool = False) -> dict[str, None]:
    """Find the modalities whose words are in one of several names, or are the whole of one, in the table's order."""
    joined = [f" {' '.join(tokens(name))} " for name in names]
    return {
        modality: None
        for modality, phrases in words.items()
        if any(f" {phrase} " == name if whole else f" {phrase} " in name for phrase in phrases for name in joined)
    }


def stem_of(name: str) -> str:
    """Take the ending off a file's name."""
    lower = name.lower()
    for ending in _VOLUMES:
        if lower.endswith(ending):
            return name[: -len(ending)]
    head, dot, tail = name.rpartition(".")
    return head if dot and head and 1 <= len(tail) <= 5 and tail.isalnum() and not tail.isdigit() else name
