"""MIMIC-CXR and MIMIC-CXR-JPG: chest X-rays with their reports, by subject, study and image.

Layout: MIMIC-CXR 2.0.0–2.1.0 (https://physionet.org/content/mimic-cxr/2.1.0/) and MIMIC-CXR-JPG 2.0.0–2.1.0
(https://physionet.org/content/mimic-cxr-jpg/2.1.0/), both of which keep the file names of 2.0.0:
`files/p10/p10000032/s50414267/DICOM_ID.jpg` (or `.dcm`), `mimic-cxr-2.0.0-{metadata,split,chexpert,negbio}.csv.gz`,
`cxr-record-list.csv.gz`, and the unpacked `mimic-cxr-reports.zip`: `files/p10/p10000032/s50414267.txt`. Tables are
read packed or unpacked. The reports come with MIMIC-CXR, not with the JPGs: they are looked for in
`mimic-cxr-reports/`, in the folder itself, and where the option `reports` says.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from pathlib import Path

from medmoe.data.importers.chexpert import POLICIES, labels_of
from medmoe.data.importers.common import Found, Importer, Job, Option, base_of, read_csv, table_at
from medmoe.data.importers.report_text import SECTIONS, described
from medmoe.errors import DataError

_SPLITS = {"train": "train", "validate": "val", "test": "test"}
_VIEWS = {"LL": "LATERAL"}
_TERMS = "PhysioNet Credentialed Health Data License 1.5.0"
_OPTIONS = {
    "reports": Option("", "folder that holds files/p10/…txt, where it is another one"),
    "sections": Option("findings+impression", "which part of the report is the text", SECTIONS),
    "labels": Option("chexpert", "whose labels", ("chexpert", "negbio", "none")),
    "uncertain": POLICIES,
}


def read_jpg(job: Job) -> Iterator[Found]:
    """Give the images of MIMIC-CXR-JPG, from its metadata."""
    base = base_of(job.folder, "mimic-cxr-2.0.0-metadata.csv*", what="MIMIC-CXR-JPG")
    yield from _images(job, base, _metadata(base), ".jpg")


def read_dicom(job: Job) -> Iterator[Found]:
    """Give the images of MIMIC-CXR, from its list of records; views and days from the JPGs' metadata beside it."""
    base = base_of(job.folder, "cxr-record-list.csv*", what="MIMIC-CXR")
    table = table_at(base, "cxr-record-list.csv")
    assert table is not None
    known = {row["dicom_id"]: row for _, row in _metadata(base)}
    if not known:
        job.notes.append("no mimic-cxr-2.0.0-metadata.csv(.gz), which MIMIC-CXR-JPG has: no views and no days")
    rows = read_csv(table, "subject_id", "study_id", "dicom_id")
    yield from _images(job, base, ((where, row | known.get(row["dicom_id"], {})) for where, row in rows), ".dcm")


def _metadata(base: Path) -> Iterator[tuple[str, dict[str, str]]]:
    table = table_at(base, "mimic-cxr-2.0.0-metadata.csv")
    if table is not None:
        kept = ("dicom_id", "subject_id", "study_id", "ViewPosition", "StudyDate")
        for where, row in read_csv(table, *kept):
            yield where, {name: row[name] for name in kept}


def _images(job: Job, base: Path, rows: Iterator[tuple[str, dict[str, str]]], suffix: str) -> Iterator[Found]:
    """Join the tables, image by image."""
    splits, labels, starts = _splits(job, base), _labels(job, base), _first_days(base)
    reports = _Reports(job, base)
    for where, row in rows:
        subject, study, image = row["subject_id"], row["study_id"], row["dicom_id"]
        split = splits.get(image)
        if not job.wants(split):
            yield Found(where, base, {"split": split})  # counted, so that an error can say which there are
            continue
        inside = f"p{subject[:2]}/p{subject}/s{study}"
        view, day = row.get("ViewPosition", ""), _day(row.get("StudyDate", ""), where)
        cells = {
            "text": reports.of(inside),
            "modality": "xray",
            "label": labels.get(study, (None, None))[0],
            "uncertain": labels.get(study, (None, None))[1],
            "patient_id": f"p{subject}",
            "study_id": f"s{study}",
            "view": _VIEWS.get(view, view) or None,
            "offset_days": None if day is None else day - starts[subject],
            "split": split,
            "body_part": "chest",
        }
        yield Found(where, base / "files" / inside / f"{image}{suffix}", cells)
    if reports.without:
        job.notes.append(f"{reports.without} studies have no report file under {reports.folder or base}")


class _Reports:
    """The text of each study; a study's images come after each other, so that only the last one is kept."""

    def __init__(self, job: Job, base: Path) -> None:
        self.wanted, self.without = job.options["sections"], 0
        places = [Path(job.options["reports"])] if job.options["reports"] else [base / "mimic-cxr-reports", base]
        there = (place / "files" if (place / "files").is_dir() else place for place in places if place.is_dir())
        self.folder = next(there, None)
        if job.options["reports"] and self.folder is None:
            raise DataError(
                "no such folder of reports", where=job.options["reports"], remedy="correct --option reports=…"
            )
        self.last: tuple[str, str | None] = ("", None)

    def of(self, inside: str) -> str | None:
        if self.last[0] != inside:
            self.last = (inside, self._read(inside))
        return self.last[1]

    def _read(self, inside: str) -> str | None:
        try:
            return described((self.folder / f"{inside}.txt").read_text("utf-8"), self.wanted) if self.folder else None
        except FileNotFoundError:
            self.without += 1
            return None
        except (OSError, UnicodeDecodeError) as error:
            what = f"the report can't be read ({type(error).__name__})"
            raise DataError(what, where=f"{self.folder}/{inside}.txt", remedy="unpack it again") from None


def _splits(job: Job, base: Path) -> dict[str, str]:
    """Give the split of each image; the official one is by patient."""
    table = table_at(base, "mimic-cxr-2.0.0-split.csv")
    if table is None:
        job.notes.append("no mimic-cxr-2.0.0-split.csv(.gz): no splits")
        return {}
    return {row["dicom_id"]: _SPLITS.get(row["split"], row["split"]) for _, row in read_csv(table, "dicom_id", "split")}


def _labels(job: Job, base: Path) -> dict[str, tuple[str | None, str | None]]:
    """Give (labels, uncertain ones) of each study."""
    whose = job.options["labels"]
    table = None if whose == "none" else table_at(base, f"mimic-cxr-2.0.0-{whose}.csv")
    if table is None:
        if whose != "none":
            job.notes.append(f"no mimic-cxr-2.0.0-{whose}.csv(.gz): no labels")
        return {}
    policy = job.options["uncertain"]
    return {row["study_id"]: labels_of(row, policy, where) for where, row in read_csv(table, "study_id", "No Finding")}


def _first_days(base: Path) -> dict[str, int]:
    """Give the day of each patient's first study; dates are shifted, each patient's by the same."""
    first: dict[str, int] = {}
    for where, row in _metadata(base):
        day = _day(row["StudyDate"], where)
        if day is not None:
            first[row["subject_id"]] = min(day, first.get(row["subject_id"], day))
    return first


def _day(text: str, where: str) -> int | None:
    if not text:
        return None
    try:
        return date(int(text[:4]), int(text[4:6]), int(text[6:8])).toordinal()
    except ValueError:
        raise DataError("StudyDate is no date YYYYMMDD", where=where, remedy="use the file as published") from None


ROWS = (
    Importer(
        name="mimic-cxr-jpg",
        title="MIMIC-CXR-JPG",
        url="https://physionet.org/content/mimic-cxr-jpg/2.1.0/",
        terms=_TERMS,
        modality="xray",
        needs="files/p10/…jpg, mimic-cxr-2.0.0-metadata.csv.gz; -split, -chexpert or -negbio, mimic-cxr-reports/files",
        splits="official, by patient",
        read=read_jpg,
        options=_OPTIONS,
    ),
    Importer(
        name="mimic-cxr",
        title="MIMIC-CXR (DICOM)",
        url="https://physionet.org/content/mimic-cxr/2.1.0/",
        terms=_TERMS,
        modality="xray",
        needs="files/p10/…dcm, cxr-record-list.csv.gz; reports and the tables of MIMIC-CXR-JPG where there are",
        splits="official, by patient, where the split table of MIMIC-CXR-JPG lies beside",
        read=read_dicom,
        options=_OPTIONS,
    ),
)
