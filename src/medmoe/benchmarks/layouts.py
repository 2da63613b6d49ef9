"""The few ways in which public data sets lie on disk: for each its declaration, and what reads it into rows."""

from __future__ import annotations

import ast
import csv
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from medmoe.errors import DataError

IMAGES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".ppm", ".jp2", ".dcm", ".dicom")


@dataclass(frozen=True, slots=True)
class Row:
    """One image of a data set.

    Attributes:
        where: `file:row`, or the file itself.
        image: The image file, or its pixels where the data set holds them in an array.
        labels: Its labels as the data set writes them.
        patient: Patient or examination, where the layout says how to tell it.
    """

    where: str
    image: Path | NDArray[Any]
    labels: tuple[str, ...]
    patient: str | None = None


@dataclass(frozen=True)
class Folders:
    """Images in one folder for each class.

    Attributes:
        folder: The folder that holds them, relative to the data set's.
        ignore: Folders in it that are no class.
        patient: Pattern whose first group, in an image's path relative to `folder`, tells its patient.
    """

    folder: str = "."
    ignore: tuple[str, ...] = ()
    patient: str | None = None


@dataclass(frozen=True)
class Table:
    """A CSV file with a row for each image.

    Attributes:
        file: The file, relative to the data set's folder.
        image: Column of the image path: its name, or its place counted from 0.
        label: Column of the label.
        header: Whether the first line names the columns.
        path: Where the image lies, from `{image}` and `{label}`, relative to the data set's folder.
        where: Values that a column must have for a row to count.
        listed: Whether the label is written as a list of one, `['normal']`.
        patient: Pattern whose first group, in the image column, tells its patient.
    """

    file: str
    image: str | int
    label: str | int
    header: bool = True
    path: str = "{image}"
    where: dict[str, tuple[str, ...]] = field(default_factory=dict)
    listed: bool = False
    patient: str | None = None


@dataclass(frozen=True)
class OneHot:
    """A CSV file with a row for each image and a column of 0 and 1 for each class.

    Attributes:
        file: The file, relative to the data set's folder.
        image: Column of the image path, relative to the data set's folder.
        patient: Pattern whose first group, in the image column, tells its patient.
    """

    file: str
    image: str
    patient: str | None = None


@dataclass(frozen=True)
class FileNames:
    """Images in one folder whose names tell their class.

    Attributes:
        folder: The folder, relative to the data set's.
        label: Pattern whose first group, in a file's name, is its label.
        patient: Pattern whose first group, in a file's name, tells its patient.
    """

    folder: str
    label: str
    patient: str | None = None


@dataclass(frozen=True)
class Arrays:
    """A NumPy archive in the form of MedMNIST: `SPLIT_images` [n, H, W] or [n, H, W, 3] and `SPLIT_labels` [n, L].

    Attributes:
        file: The `.npz` file, relative to the data set's folder.
        split: Which split is meant.
        several: Whether the columns of the labels are classes, 1 where present; else the one column numbers the class.
    """

    file: str
    split: str = "test"
    several: bool = False


Layout: TypeAlias = Folders | Table | OneHot | FileNames | Arrays


def read_folders(layout: Folders, folder: Path, classes: Sequence[str]) -> list[Row]:
    """Read images in one folder for each class; a folder that is no class counts as a label of another set."""
    base, rows = folder / layout.folder, []
    for inner in sorted(path for path in base.iterdir() if path.is_dir() and path.name not in layout.ignore):
        for path in _images(inner):
            rows.append(Row(str(path), path, (inner.name,), _found(layout.patient, f"{inner.name}/{path.name}")))
    return rows


def read_table(layout: Table, folder: Path, classes: Sequence[str]) -> list[Row]:
    """Read a CSV file with a column of paths and one of labels."""
    rows = []
    for where, cells in _records(folder / layout.file, header=layout.header):
        if any(_cell(cells, column, where) not in allowed for column, allowed in layout.where.items()):
            continue
        image, label = _cell(cells, layout.image, where), _cell(cells, layout.label, where)
        label = _first_of_list(label, where) if layout.listed else label
        path = folder / layout.path.format(image=image, label=label)
        rows.append(Row(where, path, (label,), _found(layout.patient, image)))
    return rows


def read_one_hot(layout: OneHot, folder: Path, classes: Sequence[str]) -> list[Row]:
    """Read a CSV file with a column for each class."""
    rows = []
    for where, cells in _records(folder / layout.file, header=True):
        image = _cell(cells, layout.image, where)
        labels = tuple(name for name in classes if _is_one(_cell(cells, name, where), where))
        rows.append(Row(where, folder / image, labels, _found(layout.patient, image)))
    return rows


def read_file_names(layout: FileNames, folder: Path, classes: Sequence[str]) -> list[Row]:
    """Read images whose names tell their class."""
    rows = []
    for path in _images(folder / layout.folder):
        label = _found(layout.label, path.name)
        if label is None:
            what = f"the file's name tells no class (looked for {layout.label!r})"
            raise DataError(what, where=str(path), remedy="rename it, or move it elsewhere")
        rows.append(Row(str(path), path, (label,), _found(layout.patient, path.name)))
    return rows


def read_arrays(layout: Arrays, folder: Path, classes: Sequence[str]) -> list[Row]:
    """Read a NumPy archive."""
    file = folder / layout.file
    try:
        with np.load(file, allow_pickle=False) as archive:
            images, labels = archive[f"{layout.split}_images"], archive[f"{layout.split}_labels"]
    except (KeyError, ValueError, OSError, zipfile.BadZipFile) as error:
        what = f"no archive with {layout.split}_images and {layout.split}_labels ({str(error).splitlines()[0]})"
        raise DataError(what, where=str(file), remedy="download it again") from None
    labels = labels.reshape(len(labels), -1)
    if len(images) != len(labels):
        raise DataError(f"{len(images)} images, but {len(labels)} labels", where=str(file), remedy="download it again")
    rows = []
    for place, (image, own) in enumerate(zip(images, labels, strict=True)):
        present = np.flatnonzero(own) if layout.several else own[:1]
        rows.append(Row(f"{file}:{place}", image, tuple(str(int(label)) for label in present)))
    return rows


LAYOUTS: dict[str, tuple[type[Layout], Callable[[Any, Path, Sequence[str]], list[Row]]]] = {
    "folders": (Folders, read_folders),
    "table": (Table, read_table),
    "one_hot": (OneHot, read_one_hot),
    "file_names": (FileNames, read_file_names),
    "arrays": (Arrays, read_arrays),
}


def read_rows(layout: Layout, folder: Path, classes: Sequence[str]) -> list[Row]:
    """Read every row of a data set.

    Args:
        layout: How it lies on disk.
        folder: Its folder.
        classes: Labels of its classes.

    Raises:
        DataError: If a table, column or name isn't as declared.
    """
    reader = next(reader for kind, reader in LAYOUTS.values() if isinstance(layout, kind))
    return reader(layout, folder, classes)


def present(layout: Layout, folder: Path, classes: Sequence[str]) -> bool:
    """Tell whether what the layout begins with (its table, archive or a class's folder) is there."""
    if isinstance(layout, Folders):
        return any((folder / layout.folder / name).is_dir() for name in classes)
    if isinstance(layout, FileNames):
        return (folder / layout.folder).is_dir()
    return (folder / layout.file).is_file()


def expected(layout: Layout, name: str, classes: Sequence[str]) -> str:
    """Say what should lie on disk, under the folder NAME."""
    if isinstance(layout, Folders):
        base = name if layout.folder == "." else f"{name}/{layout.folder}"
        return f"{base}/{{{','.join(classes)}}}/IMAGE"
    if isinstance(layout, FileNames):
        return f"{name}/{layout.folder}/IMAGE, the class in the file's name ({layout.label})"
    if isinstance(layout, Arrays):
        return f"{name}/{layout.file} with {layout.split}_images and {layout.split}_labels"
    image = _column(layout.image)
    if isinstance(layout, OneHot):
        return f"{name}/{layout.file} with the image in {image} and a column for each class, images at {name}/{{image}}"
    label = _column(layout.label)
    return f"{name}/{layout.file} with the image in {image}, the class in {label}, images at {name}/{layout.path}"


def _column(column: str | int) -> str:
    return f"column {column!r}" if isinstance(column, str) else f"column {column + 1}"


def _images(folder: Path) -> list[Path]:
    """List the image files below a folder, in order of their paths."""
    found = (path for path in folder.rglob("*") if path.suffix.lower() in IMAGES and not path.name.startswith("."))
    return sorted(path for path in found if path.is_file())


def _found(pattern: str | None, text: str) -> str | None:
    match = re.search(pattern, text) if pattern else None
    return match.group(1) if match else None


def _records(file: Path, *, header: bool) -> Iterator[tuple[str, dict[str, str]]]:
    """Give each row of a CSV file: `file:row`, counted from 1 without the header, and its cells by name and place."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as opened:
            lines = csv.reader(opened)
            names = next(lines, []) if header else []
            for number, cells in enumerate((line for line in lines if line), 1):
                by_place = {str(place): cell for place, cell in enumerate(cells)}
                yield f"{file}:{number}", by_place | dict(zip(names, cells, strict=False))
    except (UnicodeDecodeError, csv.Error) as error:
        what = f"not a CSV file in UTF-8 ({str(error).splitlines()[0]})"
        raise DataError(what, where=str(file), remedy="download it again") from None


def _cell(cells: dict[str, str], column: str | int, where: str) -> str:
    name = str(column)
    if name not in cells:
        there = ", ".join(repr(key) for key in cells if not key.isdigit()) or f"{len(cells)} without names"
        raise DataError(f"no column {column!r}; columns: {there}", where=where, remedy="use the published file")
    return cells[name].strip()


def _is_one(cell: str, where: str) -> bool:
    if cell in ("", "0", "0.0", "1", "1.0"):
        return cell in ("1", "1.0")
    raise DataError(f"got {cell!r} for a class, allowed: 0 or 1", where=where, remedy="use the published file")


def _first_of_list(cell: str, where: str) -> str:
    try:
        listed = ast.literal_eval(cell)
    except (ValueError, SyntaxError):
        listed = None
    if not isinstance(listed, list) or len(listed) != 1 or not isinstance(listed[0], str):
        raise DataError(f"got the label {cell!r}, allowed: a list of one name", where=where, remedy="correct it")
    return listed[0]
