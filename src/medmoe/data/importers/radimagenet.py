"""RadImageNet: 1.35 million CT, MR and ultrasound images of 165 labels.

Layout: the release on request (https://www.radimagenet.com/; Mei et al., 2022, https://doi.org/10.1148/ryai.210315):
images at `radiology_ai/CT/abd/LABEL/….png` (modality, region, label), of ultrasound at `radiology_ai/US/LABEL/….png`,
and `RadiologyAI_train.csv`, `RadiologyAI_val.csv`, `RadiologyAI_test.csv` with `filename` (relative to the folder
that holds `radiology_ai`) and `label`. The tables may lie beside `radiology_ai` or in it; without them the folders
are walked, and nothing is known of splits.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from medmoe.data.importers.common import Found, Importer, Job, base_of, first_there, read_csv, wordings
from medmoe.errors import DataError

_SPLITS = ("train", "val", "test")


def read(job: Job) -> Iterator[Found]:
    """Give the images of RadImageNet."""
    marks = ("RadiologyAI_*.csv", "radiology_ai", "CT/*/*", "MR/*/*", "US/*")
    base = base_of(job.folder, *marks, what="RadImageNet")
    inside = base / "radiology_ai"
    tables = {
        split: first_there(base / f"RadiologyAI_{split}.csv", inside / f"RadiologyAI_{split}.csv") for split in _SPLITS
    }
    tables = {split: path for split, path in tables.items() if path.exists()}
    if not tables:
        job.notes.append("no RadiologyAI_train.csv, _val or _test: labels from the folders, no splits")
        yield from _walked(inside if inside.is_dir() else base)
    for split, table in tables.items():
        for where, row in read_csv(table, "filename", "label"):
            own = Path(row["filename"])
            bare = Path(*own.parts[1:]) if own.parts[:1] == ("radiology_ai",) else own
            image = first_there(base / own, base / bare, inside / bare)
            yield Found(where, image, _facts(bare.parts, row["label"], where) | {"split": split})


def _walked(base: Path) -> Iterator[Found]:
    for path in sorted((*base.glob("*/*/*.png"), *base.glob("*/*/*/*.png"))):
        parts = path.relative_to(base).parts
        yield Found(str(path), path, _facts(parts, parts[-2], str(path)))


def _facts(parts: tuple[str, ...], label: str, where: str) -> dict[str, object]:
    """Give modality and region of a path `MR/knee/LABEL/….png` or `US/LABEL/….png`."""
    known = wordings()["radimagenet"]
    if len(parts) < 3 or parts[0] not in known["modality"]:
        what = f"the path {'/'.join(parts)!r} isn't CT, MR or US, a region (not of US) and a label"
        raise DataError(what, where=where, remedy="use the folders as published")
    words = " ".join(label.replace("_", " ").split()).lower()
    return {
        "modality": known["modality"][parts[0]],
        "body_part": known["body_part"].get(parts[1].lower()) if len(parts) > 3 else None,
        "label": words,
    }


ROWS = (
    Importer(
        name="radimagenet",
        title="RadImageNet",
        url="https://www.radimagenet.com/",
        terms="RadImageNet Research Use Agreement: non-commercial research, on request",
        modality="several",
        needs="radiology_ai/{CT,MR}/REGION/LABEL/*.png, radiology_ai/US/LABEL/*.png; RadiologyAI_{train,val,test}.csv",
        splits="official; the tables name no patients, so that can't be checked",
        read=read,
    ),
)
