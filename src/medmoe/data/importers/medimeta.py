"""MedIMeta: nineteen small data sets of ten kinds in one form.

Layout: https://zenodo.org/records/7884735 (Woerner et al., 2025, https://doi.org/10.1038/s41597-025-04866-4), as
https://github.com/StefanoWoerner/medimeta-pytorch reads it: one folder a set with `info.yaml` (`id`, `domain`,
`tasks` with `task_name` and `labels`), `task_labels/TASK.npy` (a class number an image, or a row of 0 and 1 where
there are several), `images/000000.tiff`, `annotations.csv` with `filepath` and, where it is known, `patient_id`, and
`splits/{train,val,test}.txt`, each a list of `images/000000.tiff`. The same images in `images.hdf5` are not read, as
that would need another library: unpack the images beside it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml
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
    read_csv,
    unreadable,
    wordings,
)
from medmoe.errors import ConfigError, DataError


def read(job: Job) -> Iterator[Found]:
    """Give the images of one set, or of all in a folder."""
    if (job.folder / "info.yaml").is_file():
        sets = [job.folder]
    else:
        base_of(job.folder, "info.yaml", what="a set of MedIMeta")
        sets = sorted(path.parent for path in job.folder.glob("*/info.yaml"))
    for folder in sets:
        yield from _images(job, folder)


def _images(job: Job, folder: Path) -> Iterator[Found]:
    """Give the images of one set, labelled by one of its tasks."""
    info = _info(folder / "info.yaml")
    tasks = {str(task["task_name"]): task for task in info["tasks"]}
    task = job.options["task"] or next(iter(tasks), "")
    if task not in tasks:
        what = f"{info['id']} has no task {task!r}; allowed: {', '.join(tasks)}"
        raise ConfigError(what, where=str(folder), remedy="give one of these: --option task=NAME")
    if not (folder / "images").is_dir():
        what = "no folder images; images.hdf5 is not read"
        raise DataError(what, where=str(folder), remedy="unpack the set's images")
    labels = tasks[task]["labels"]
    classes = {
        int(key): str(words) for key, words in (labels.items() if isinstance(labels, dict) else enumerate(labels))
    }
    splits = {
        Path(line).name: split
        for split in ("train", "val", "test")
        for line in _lines(folder / "splits" / f"{split}.txt")
    }
    modality = _modality(str(info.get("domain", "")))
    if modality is None:
        job.notes.append(f"{info['id']}: the domain {info.get('domain')!r} is no modality known here; left blank")
    patients = _patients(folder / "annotations.csv")
    table = folder / "task_labels" / f"{task}.npy"
    for at, own in enumerate(_numbers(table)):
        where, name = f"{table}:{at + 1}", f"{at:06d}.tiff"
        cells = {
            "modality": modality,
            "label": _label(own, classes, where),
            "patient_id": patients.get(name),
            "split": splits.get(name),
            "source": f"medimeta-{info['id']}",
            "license": str(info["license"]) if info.get("license") else None,
        }
        yield Found(where, folder / "images" / name, cells)


def _patients(table: Path) -> dict[str, str]:
    """Give the patient of each image, where the set tells."""
    rows = read_csv(table, "filepath") if table.is_file() else ()
    return {Path(row["filepath"]).name: row["patient_id"] for _, row in rows if row.get("patient_id")}


def _label(own: NDArray[Any], classes: dict[int, str], where: str) -> str | None:
    """Give the words for a class number, or for a row of 0 and 1."""
    numbers = [int(one) for one in (np.flatnonzero(own > 0) if own.ndim else own[None])]
    absent = [one for one in numbers if one not in classes]
    if absent:
        what = f"class {absent[0]}, allowed: {', '.join(map(str, classes))}"
        raise DataError(what, where=where, remedy="use the file as published")
    return join_labels([classes[one] for one in numbers]) or NO_FINDING


def _numbers(path: Path) -> NDArray[Any]:
    """Load the labels [n] or [n, L] of a task; one column is as good as none."""
    labels = load_array(path)
    if not labels.ndim:
        raise DataError("a single number, not a label for each image", where=str(path), remedy="download it again")
    return labels.reshape(len(labels)) if labels.size == len(labels) else labels


def _modality(domain: str) -> str | None:
    """Give the modality that the words of a domain name."""
    known: dict[str, str] = wordings()["medimeta"]
    words = domain.lower().replace("(", " ").replace(")", " ").split()
    return next((known[word] for word in words if word in known), None)


def _info(path: Path) -> dict[str, Any]:
    try:
        info = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(info, dict) or not all("labels" in task and "task_name" in task for task in info["tasks"]):
            raise ValueError("no tasks")
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise unreadable(path, "MedIMeta's info.yaml", error) from None
    return {"id": path.parent.name, **info}


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").split() if path.is_file() else []
    except (OSError, UnicodeDecodeError) as error:
        raise unreadable(path, "a list of images", error) from None


ROWS = (
    Importer(
        name="medimeta",
        title="MedIMeta",
        url="https://zenodo.org/records/7884735",
        terms="CC BY-SA 4.0 or CC BY-NC-SA 4.0: LICENSE in the set's folder",
        modality="several",
        needs="info.yaml, task_labels/*.npy, images/000000.tiff …, splits/*.txt; annotations.csv; or a folder of such",
        splits="official; patients where annotations.csv tells them",
        read=read,
        options={"task": Option("", "which of the set's tasks labels the images; the first by default")},
    ),
)
