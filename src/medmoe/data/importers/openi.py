"""IU X-ray (Open-i): chest X-rays of Indiana University with their reports, as Kaggle's tables or as the original XML.

Layouts: Kaggle's `chest-xrays-indiana-university`
(https://www.kaggle.com/datasets/raddar/chest-xrays-indiana-university): `indiana_reports.csv` (uid, MeSH, Problems,
image, indication, comparison, findings, impression), `indiana_projections.csv` (uid, filename, projection),
`images/images_normalized/1_IM-0001-4001.dcm.png`; and Open-i's own (https://openi.nlm.nih.gov/faq):
`ecgen-radiology/1.xml` of NLMCXR_reports.tgz, and `CXR1_1_IM-0001-3001.png` of NLMCXR_png.tgz. A report is of one
patient (Demner-Fushman et al., 2016, https://doi.org/10.1093/jamia/ocv080).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from medmoe.data.importers.common import (
    NO_FINDING,
    Found,
    Importer,
    Job,
    Option,
    base_of,
    first_there,
    images_below,
    join_labels,
    read_csv,
    read_xml,
)
from medmoe.errors import DataError

_SECTIONS = Option(
    "findings+impression", "which part of the report is the text", ("findings+impression", "findings", "impression")
)
_PARTS = ("ecgen-radiology", "NLMCXR_reports", "NLMCXR_reports/ecgen-radiology", "reports/ecgen-radiology")


def read_kaggle(job: Job) -> Iterator[Found]:
    """Give the images of Kaggle's tables."""
    base = base_of(job.folder, "indiana_reports.csv", what="IU X-ray of Kaggle")
    reports = {
        row["uid"]: (_text(job, row), join_labels(_labels(row["Problems"].split(";"))))
        for _, row in read_csv(base / "indiana_reports.csv", "uid", "Problems", "findings", "impression")
    }
    images = base / "images" / "images_normalized"
    images = first_there(images, base / "images_normalized", base / "images")
    for where, row in read_csv(base / "indiana_projections.csv", "uid", "filename", "projection"):
        if row["uid"] not in reports:
            what = f"uid {row['uid']!r} has no row in indiana_reports.csv"
            raise DataError(what, where=where, remedy="use the files as published")
        text, label = reports[row["uid"]]
        yield _found(where, images / row["filename"], row["uid"], text, label, row["projection"] or None)


def read_original(job: Job) -> Iterator[Found]:
    """Give the images of Open-i's XML, in order of the reports' numbers."""
    marks = [f"{part}/*.xml" for part in _PARTS]
    base = base_of(job.folder, *marks, what="Open-i's chest X-rays")
    folder = next(base / part for part in _PARTS if any((base / part).glob("*.xml")))
    pictures = images_below(base, base / "images", base / "images" / "NLMCXR_png", base / "NLMCXR_png", base / "png")
    for path in sorted(folder.glob("*.xml"), key=lambda path: (len(path.stem), path.stem)):
        report = read_xml(path, "one of Open-i's reports")
        sections = {
            (part.get("Label") or "").lower(): " ".join((part.text or "").split())
            for part in report.iter("AbstractText")
        }
        label = join_labels(_labels([term.text or "" for term in report.iter("major")]))
        for picture in report.iter("parentImage"):
            name = f"{picture.get('id')}.png"
            image = pictures.get(name, base / "images" / name)
            yield _found(str(path), image, path.stem, _text(job, sections), label, None)


def _found(where: str, image: Path, uid: str, text: str | None, label: str | None, view: str | None) -> Found:
    cells = {
        "text": text,
        "modality": "xray",
        "label": label,
        "patient_id": uid,
        "study_id": uid,
        "view": view,
        "body_part": "chest",
    }
    return Found(where, image, cells)


def _text(job: Job, sections: dict[str, str]) -> str | None:
    wanted = (" ".join(sections.get(name, "").split()) for name in job.options["sections"].split("+"))
    return " ".join(filter(None, wanted)) or None


def _labels(terms: list[str]) -> list[str]:
    """Give the headings of MeSH terms as labels: `Opacity/lung/base/left` is an opacity.

    >>> _labels(["Opacity/lung/base", "Cardiomegaly/mild"]), _labels(["normal"]), _labels([])
    (['opacity', 'cardiomegaly'], ['no_finding'], [])
    """
    heads = [term.split("/")[0].strip().lower() for term in terms]
    return [NO_FINDING if head == "normal" else head for head in heads if head and head != "no indexing"]


_TERMS = "CC BY-NC-ND 4.0, as Open-i says"
ROWS = (
    Importer(
        name="iu-xray",
        title="IU X-ray, Kaggle's tables",
        url="https://www.kaggle.com/datasets/raddar/chest-xrays-indiana-university",
        terms=_TERMS,
        modality="xray",
        needs="indiana_reports.csv, indiana_projections.csv, images/images_normalized/*.png",
        splits="none",
        read=read_kaggle,
        options={"sections": _SECTIONS},
    ),
    Importer(
        name="openi",
        title="Open-i chest X-rays (IU X-ray), original XML",
        url="https://openi.nlm.nih.gov/faq",
        terms=_TERMS,
        modality="xray",
        needs="ecgen-radiology/*.xml, and CXR….png in the folder, images/ or NLMCXR_png/",
        splits="none",
        read=read_original,
        options={"sections": _SECTIONS},
    ),
)
