"""CheXpert, and the 200 images of each of five findings that GLoRIA took from it (CheXpert 5x200).

Layout: CheXpert-v1.0 and CheXpert-v1.0-small (https://stanfordmlgroup.github.io/competitions/chexpert/): `train.csv`
and `valid.csv` (and `test.csv`, where it was added) with `Path`, `Sex`, `Age`, `Frontal/Lateral`, `AP/PA` and 14
findings that are 1, 0, -1 (uncertain) or blank; `Path` begins with the folder's own name, as in
`CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg`. The full size also comes in four folders such as
`CheXpert-v1.0 batch 2 (train 1)/patient00001`, which may stay as they are. CheXpert 5x200 is `chexpert_5x200.csv` of
GLoRIA (https://github.com/marshuang80/gloria) or `chexpert-5x200.csv` of UniMed-CLIP, with those columns or
`imgpath`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from medmoe.data.importers.common import (
    NO_FINDING,
    Found,
    Importer,
    Job,
    Option,
    base_of,
    first_there,
    join_labels,
    read_csv,
    table_at,
    wordings,
)
from medmoe.errors import DataError

POLICIES = Option(
    "leave-out",
    "what an uncertain finding (-1) becomes: no label, a label, or a label that begins with `possible`",
    ("leave-out", "positive", "possible"),
)
_FILES = {"train": "train.csv", "val": "valid.csv", "test": "test.csv"}
_VALUES = {"": None, "1": 1, "1.0": 1, "0": 0, "0.0": 0, "-1": -1, "-1.0": -1}


def labels_of(row: Mapping[str, str], policy: str, where: str) -> tuple[str | None, str | None]:
    """Give the labels of a row of CheXpert's 14 columns.

    Args:
        row: Cells by column.
        policy: What becomes of an uncertain finding, as the option `uncertain`.
        where: `file:row`, for the error.

    Returns:
        The manifest's label, `no_finding` where the row says so and None where it says nothing; and the uncertain
        findings, whatever becomes of them.

    Raises:
        DataError: If a value isn't 1, 0, -1 or blank.
    """
    present, uncertain = [], []
    for column, words in wordings()["chexpert"].items():
        value = row.get(column, "")
        if value not in _VALUES:
            what = f"got {value!r} for {column!r}; allowed: 1, 0, -1 or blank"
            raise DataError(what, where=where, remedy="use the file as published")
        if _VALUES[value] == 1:
            present.append(words)
        elif _VALUES[value] == -1:
            uncertain.append(words)
            present += {"positive": [words], "possible": [f"possible {words}"]}.get(policy, [])
    if len(present) > 1 and NO_FINDING in present:
        present.remove(NO_FINDING)  # support devices stand beside it
    return join_labels(present), join_labels(uncertain)


def read(job: Job) -> Iterator[Found]:
    """Give the images of CheXpert."""
    base = base_of(job.folder, "train.csv", "valid.csv", what="CheXpert")
    batches = sorted({*base.glob("CheXpert-v1.0 batch *"), *base.parent.glob("CheXpert-v1.0 batch *")})
    for split, name in _FILES.items():
        table = table_at(base, name)
        if table is not None:
            for where, row in read_csv(table, "Path", "No Finding"):
                yield _found(job, base, where, row, row["Path"], split, batches)


def read_5x200(job: Job) -> Iterator[Found]:
    """Give the images of CheXpert 5x200."""
    marks = ("chexpert_5x200.csv", "chexpert-5x200.csv")
    base = base_of(job.folder, *marks, what="CheXpert 5x200")
    table = table_at(base, *marks)
    assert table is not None
    for where, row in read_csv(table):
        path = row.get("Path") or row.get("imgpath")
        if not path:
            raise DataError("no image in a column 'Path' or 'imgpath'", where=where, remedy="use the published file")
        yield _found(job, base, where, row, path, "test")


def _found(
    job: Job, base: Path, where: str, row: Mapping[str, str], path: str, split: str, batches: Sequence[Path] = ()
) -> Found:
    """Make an image of a row; its path may begin with the name of the folder, and patients may lie in batches."""
    inside = re.search(r"(patient\d+)/(study\d+)/([^/]+)$", path)
    if inside is None:
        what = f"the path {path!r} has no patient…/study…/view…"
        raise DataError(what, where=where, remedy="use the file as published")
    top, *rest = Path(path).parts
    places = [base / Path(*rest), base / path, base.parent / path]
    if (base / top).is_dir():
        places = [base / path]
    for batch in batches:
        places += [batch / Path(*rest), batch / Path(*rest[1:])]
    label, uncertain = labels_of(row, job.options["uncertain"], where)
    view = row.get("AP/PA") or row.get("Frontal/Lateral") or inside[3].rsplit("_")[-1].split(".")[0]
    cells = {
        "text": " ".join(row.get("Report Impression", "").split()) or None,
        "modality": "xray",
        "label": label,
        "uncertain": uncertain,
        "patient_id": inside[1],
        "study_id": f"{inside[1]}/{inside[2]}",
        "view": view or None,
        "split": split,
        "body_part": "chest",
    }
    return Found(where, first_there(*places), cells)


_TERMS = "Stanford University Dataset Research Use Agreement: non-commercial research"
ROWS = (
    Importer(
        name="chexpert",
        title="CheXpert v1.0, full size or small",
        url="https://stanfordmlgroup.github.io/competitions/chexpert/",
        terms=_TERMS,
        modality="xray",
        needs="train.csv and/or valid.csv, train/patient…/study…/view…jpg, valid/…",
        splits="official, by patient",
        read=read,
        options={"uncertain": POLICIES},
    ),
    Importer(
        name="chexpert-5x200",
        title="CheXpert 5x200",
        url="https://github.com/marshuang80/gloria",
        terms=_TERMS,
        modality="xray",
        needs="chexpert_5x200.csv or chexpert-5x200.csv, and CheXpert's images",
        splits="all rows are `test`: they are CheXpert's training images, so never train on both",
        read=read_5x200,
        options={"uncertain": POLICIES},
    ),
)
