"""NIH ChestX-ray14: frontal chest X-rays with 14 findings, some with boxes.

Layout: the release of 2017 (https://nihcc.app.box.com/v/ChestXray-NIHCC) and Kaggle's copy of it:
`Data_Entry_2017.csv` or `Data_Entry_2017_v2020.csv`, `BBox_List_2017.csv` (`Bbox [x`, `y`, `w`, `h]` in pixels of the
1024×1024 PNG), `train_val_list.txt`, `test_list.txt` (by patient), and the PNGs in `images_001/images/` …
`images_012/images/` or `images/`.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from medmoe.data.importers.common import (
    Found,
    Importer,
    Job,
    base_of,
    images_below,
    join_labels,
    number,
    read_csv,
    table_at,
    unreadable,
    worded,
)

_TABLES = ("Data_Entry_2017.csv", "Data_Entry_2017_v2020.csv")


def read(job: Job) -> Iterator[Found]:
    """Give the images of ChestX-ray14."""
    base = base_of(job.folder, *(f"{name}*" for name in _TABLES), what="NIH ChestX-ray14")
    table = table_at(base, *_TABLES)
    assert table is not None
    folders = [base / "images", *(part / "images" for part in sorted(base.glob("images_0*")))]
    pictures = images_below(*folders, *sorted(base.glob("images_0*")))
    boxes, splits = _boxes(base), _splits(job, base)
    for where, row in read_csv(table, "Image Index", "Finding Labels", "Patient ID", "View Position"):
        name, patient = row["Image Index"], row["Patient ID"]
        cells = {
            "modality": "xray",
            "label": join_labels([worded(label, "nih", where) for label in row["Finding Labels"].split("|")]),
            "patient_id": patient,
            "study_id": f"{patient}_{row.get('Follow-up #', '')}",
            "view": row["View Position"] or None,
            "boxes": boxes.get(name),
            "split": splits.get(name),
            "body_part": "chest",
        }
        yield Found(where, pictures.get(name, folders[-1] / name), cells)


def _boxes(base: Path) -> dict[str, str]:
    """Give the boxes of each image as a manifest's cell."""
    table = table_at(base, "BBox_List_2017.csv")
    found: dict[str, list[object]] = defaultdict(list)
    for where, row in read_csv(table, "Image Index", "Finding Label", "Bbox [x", "y", "w", "h]") if table else ():
        x, y, width, height = (number(row[name], name, where) for name in ("Bbox [x", "y", "w", "h]"))
        label = worded(row["Finding Label"], "nih", where)
        found[row["Image Index"]].append({"label": label, "xyxy": [x, y, x + width, y + height]})
    return {name: json.dumps(rows) for name, rows in found.items()}


def _splits(job: Job, base: Path) -> dict[str, str]:
    splits: dict[str, str] = {}
    for split, name in (("train", "train_val_list.txt"), ("test", "test_list.txt")):
        path = base / name
        if not path.is_file():
            job.notes.append(f"no {name}: its images have no split")
            continue
        try:
            splits |= dict.fromkeys(path.read_text(encoding="utf-8").split(), split)
        except (OSError, UnicodeDecodeError) as error:
            raise unreadable(path, "a list of file names", error) from None
    return splits


ROWS = (
    Importer(
        name="nih-cxr14",
        title="NIH ChestX-ray14",
        url="https://nihcc.app.box.com/v/ChestXray-NIHCC",
        terms="no restrictions, with attribution to the NIH Clinical Center, as its README says",
        modality="xray",
        needs="Data_Entry_2017.csv, images_001/images/*.png … or images/*.png; BBox_List_2017.csv, the two lists",
        splits="official, by patient: train_val_list.txt is `train`, test_list.txt is `test`",
        read=read,
    ),
)
