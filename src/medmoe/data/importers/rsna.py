"""RSNA Pneumonia Detection Challenge 2018: frontal chest X-rays as DICOM, with boxes of lung opacities.

Layout: stage 2 on Kaggle (https://www.kaggle.com/c/rsna-pneumonia-detection-challenge): `stage_2_train_labels.csv`
(patientId, x, y, width, height, Target; a row a box), `stage_2_detailed_class_info.csv` (patientId, class),
`stage_2_train_images/PATIENTID.dcm`. What is called patientId tells images apart, not patients: the images are of NIH
ChestX-ray14, whose patients are in RSNA's `pneumonia-challenge-dataset-mappings_2018.json`
(https://www.rsna.org/artificial-intelligence/ai-image-challenge/rsna-pneumonia-detection-challenge-2018; `img_id` is
NIH's file, `subset_img_id` RSNA's). With that file beside the tables patients are known, and are those of
`nih-cxr14`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from medmoe.data.importers.common import Found, Importer, Job, base_of, number, read_csv, read_json_list, worded
from medmoe.errors import DataError

_MAPPING = "pneumonia-challenge-dataset-mappings_2018.json"
_SIDES = ("x", "y", "width", "height")


def read(job: Job) -> Iterator[Found]:
    """Give the images of the challenge's training set."""
    base = base_of(job.folder, "stage_2_train_labels.csv", what="the RSNA Pneumonia Challenge")
    patients = _patients(job, base)
    classes = _classes(base)
    images: dict[str, tuple[str, list[object]]] = {}
    targets: dict[str, str] = {}
    for where, row in read_csv(base / "stage_2_train_labels.csv", "patientId", *_SIDES, "Target"):
        name = row["patientId"]
        images.setdefault(name, (where, []))
        targets[name] = row["Target"]
        if row["Target"] in ("1", "1.0"):
            x, y, width, height = (number(row[side], side, where) for side in _SIDES)
            images[name][1].append({"label": "lung opacity", "xyxy": [x, y, x + width, y + height]})
    for name, (where, boxes) in images.items():
        kind = classes.get(name, "Lung Opacity" if targets[name] in ("1", "1.0") else "No Lung Opacity")
        cells = {
            "modality": "xray",
            "label": worded(kind, "rsna", where),
            "patient_id": patients.get(name),
            "study_id": name,
            "boxes": json.dumps(boxes) if boxes else None,
            "body_part": "chest",
        }
        yield Found(where, base / "stage_2_train_images" / f"{name}.dcm", cells)


def _classes(base: Path) -> dict[str, str]:
    table = base / "stage_2_detailed_class_info.csv"
    return (
        {row["patientId"]: row["class"] for _, row in read_csv(table, "patientId", "class")} if table.exists() else {}
    )


def _patients(job: Job, base: Path) -> dict[str, str]:
    """Give NIH's patient of each image."""
    if not (base / _MAPPING).is_file():
        job.notes.append(f"no {_MAPPING}: patients unknown, several images may be of one")
        return {}
    found = {}
    for where, row in read_json_list(base / _MAPPING):
        patient = re.match(r"(\d+)_", str(row.get("img_id")))
        if patient is None:
            raise DataError("no 'img_id' of an NIH image", where=where, remedy="use the file as published")
        found[str(row.get("subset_img_id"))] = str(int(patient[1]))
    return found


ROWS = (
    Importer(
        name="rsna-pneumonia",
        title="RSNA Pneumonia Detection Challenge, stage 2",
        url="https://www.kaggle.com/c/rsna-pneumonia-detection-challenge",
        terms="RSNA's terms of use: non-commercial and academic research",
        modality="xray",
        needs="stage_2_train_labels.csv, stage_2_train_images/*.dcm; _detailed_class_info.csv, the mapping to NIH",
        splits="none",
        read=read,
    ),
)
