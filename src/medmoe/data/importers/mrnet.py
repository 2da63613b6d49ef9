"""MRNet: knee MRI examinations in three planes, with tears of the cruciate ligament and the meniscus.

Layout: MRNet-v1.0 (https://stanfordmlgroup.github.io/competitions/mrnet/; Bien et al., 2018,
https://doi.org/10.1371/journal.pmed.1002699): `train/{axial,coronal,sagittal}/0000.npy`, volumes [slices, 256, 256]
of uint8, `valid/…`, and `train-abnormal.csv`, `train-acl.csv`, `train-meniscus.csv` without header: examination, 0 or
1.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmoe.data.importers.common import (
    NO_FINDING,
    Found,
    Importer,
    Job,
    Option,
    base_of,
    join_labels,
    load_array,
    put_png,
    read_csv,
    wordings,
)
from medmoe.errors import ConfigError, DataError

_PLANES = ("axial", "coronal", "sagittal")
_SPLITS = {"train": "train", "valid": "val"}


def read(job: Job) -> Iterator[Found]:
    """Give slices of each examination and plane, written as PNGs; an examination is a study, its planes are views."""
    base = base_of(job.folder, "train/sagittal", "valid/sagittal", what="MRNet")
    wanted = _wanted(job.options["slices"])
    for theirs, split in _SPLITS.items():
        if not job.wants(split) or not (base / theirs).is_dir():
            continue
        labels = _labels(base, theirs)
        for case, (where, label) in sorted(labels.items()):
            for plane in _PLANES:
                volume = base / theirs / plane / f"{case}.npy"
                cells: dict[str, object] = {
                    "modality": "mri",
                    "body_part": "knee",
                    "label": label,
                    "patient_id": case,
                    "study_id": case,
                    "view": plane,
                    "split": split,
                }
                for image, slice_of in _slices(job, volume, f"{theirs}/{plane}/{case}", wanted):
                    yield Found(where, image, cells | slice_of)


def _wanted(text: str) -> int | None:
    """Give how many slices around the middle; None for all."""
    if text in ("middle", "all"):
        return 1 if text == "middle" else None
    if not text.isdigit() or int(text) == 0:
        what = f"got {text!r}; allowed: middle, all, or how many around the middle"
        raise ConfigError(what, where="--option slices", remedy="give one of these")
    return int(text)


def _slices(job: Job, path: Path, name: str, wanted: int | None) -> Iterator[tuple[Path, dict[str, object]]]:
    """Write the wanted slices of a volume; one that isn't there is handed on as a missing image."""
    if not path.is_file():
        yield path, {}
        return
    volume = _loaded(path)
    count = len(volume) if wanted is None else min(wanted, len(volume))
    first = (len(volume) - count) // 2
    for at in range(first, first + count):
        yield put_png(job.made / name / f"{at:03d}.png", np.asarray(volume[at])), {"slice": str(at)}


def _loaded(path: Path) -> NDArray[Any]:
    volume = load_array(path)
    if volume.ndim != 3 or not len(volume):
        raise DataError(
            f"an array {list(volume.shape)}, wanted [slices, H, W]", where=str(path), remedy="download it again"
        )
    return volume


def _labels(base: Path, split: str) -> dict[str, tuple[str, str]]:
    """Give `file:row` and the labels of each examination."""
    present: dict[str, tuple[str, list[str]]] = {}
    for name, words in wordings()["mrnet"].items():
        for where, row in read_csv(base / f"{split}-{name}.csv", names=("case", "present")):
            if row["present"] not in ("0", "1"):
                what = f"got {row['present']!r}, allowed: 0 or 1"
                raise DataError(what, where=where, remedy="use the file as published")
            labels = present.setdefault(row["case"].zfill(4), (where, []))[1]
            if row["present"] == "1":
                labels.append(words)
    # `abnormal` comes first and says nothing more where a tear is named.
    said = {case: (where, labels[1:] if len(labels) > 1 else labels) for case, (where, labels) in present.items()}
    return {case: (where, join_labels(labels) or NO_FINDING) for case, (where, labels) in said.items()}


ROWS = (
    Importer(
        name="mrnet",
        title="MRNet v1.0",
        url="https://stanfordmlgroup.github.io/competitions/mrnet/",
        terms="Stanford University Dataset Research Use Agreement: non-commercial research",
        modality="mri",
        needs="train/{axial,coronal,sagittal}/0000.npy …, train-{abnormal,acl,meniscus}.csv; valid/ alike",
        splits="official, by patient; the id is the examination's, as the set names no patients",
        read=read,
        options={"slices": Option("middle", "which slices of a volume: middle, all, or how many around the middle")},
    ),
)
