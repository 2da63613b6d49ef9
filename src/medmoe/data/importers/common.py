"""What importers share: what an importer is, finding its files, streaming its tables, and PNGs made of arrays."""

from __future__ import annotations

import ast
import csv
import gzip
import json
import tokenize
import warnings
import xml.etree.ElementTree as ET
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medmoe.errors import DataError

NO_FINDING = "no_finding"  # the label that a manifest gives an image without findings
_BLOCK = 1 << 16  # characters of JSON read at once
_LARGEST_XML = 1 << 20  # bytes; the reports and cases that are read have some thousand
# What NumPy raises for the header of an array that isn't one.
NO_ARRAY = (OSError, ValueError, EOFError, SyntaxError, tokenize.TokenError)


@dataclass(frozen=True, slots=True)
class Found:
    """One image as a data set lists it.

    Attributes:
        where: `file:row`, rows counted from 1 without the header, or the file itself.
        image: The image file, which may be missing.
        cells: Further columns of the manifest; None is left blank. The mask is a Path.
    """

    where: str
    image: Path
    cells: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Option:
    """A choice that an importer leaves to the user.

    Attributes:
        default: What is taken if nothing is said.
        help: What it decides.
        allowed: Its values; none where it is free text, such as a path.
    """

    default: str
    help: str
    allowed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Job:
    """One run of an importer.

    Attributes:
        folder: The data set's folder.
        made: Folder for images that the importer makes, such as merged masks.
        options: Value of each of its options.
        splits: Splits that are wanted; none means all.
        notes: What the user should know about the manifest, filled in by the importer.
    """

    folder: Path
    made: Path
    options: Mapping[str, str]
    splits: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)

    def wants(self, split: str | None) -> bool:
        """Tell whether rows of a split are asked for."""
        return not self.splits or split in self.splits


@dataclass(frozen=True, slots=True)
class Importer:
    """A row of the table of importers.

    Attributes:
        name: What it is called on the command line, and in the manifest's column `source`.
        title: The data set's name.
        url: Where it is published.
        terms: Its terms of use in a few words, written into the column `license` where no image has its own.
        modality: Name of its modality, or `several`.
        needs: What must lie in the folder, in a few words.
        splits: Where the manifest's splits come from.
        read: Gives its images one by one.
        options: Its own options, by name.
    """

    name: str
    title: str
    url: str
    terms: str
    modality: str
    needs: str
    splits: str
    read: Callable[[Job], Iterator[Found]]
    options: Mapping[str, Option] = field(default_factory=dict)


def base_of(folder: Path, *marks: str, what: str) -> Path:
    """Find the folder that holds a data set: the one given, or one directly inside it.

    Args:
        folder: What the user named.
        marks: Patterns of files or folders of which one is enough.
        what: The data set's name, for the error.

    Raises:
        DataError: If neither holds any.
    """
    inner = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    for base in (folder, *inner):
        if any(next(base.glob(mark), None) is not None for mark in marks):
            return base
    problem = "no such folder" if not folder.is_dir() else f"this isn't {what}: found none of {', '.join(marks)}"
    raise DataError(problem, where=str(folder), remedy="give the folder as published, these directly in it")


def table_at(folder: Path, *names: str) -> Path | None:
    """Give the first of some CSV files that is there, plain or as .gz."""
    for name in names:
        for path in (folder / name, folder / f"{name}.gz"):
            if path.is_file():
                return path
    return None


def read_csv(path: Path, *needed: str, names: Sequence[str] = ()) -> Iterator[tuple[str, dict[str, str]]]:
    """Read a CSV file (or .csv.gz) row by row, never whole in memory.

    Args:
        path: A file in UTF-8.
        needed: Columns that must be there.
        names: Names of the columns where the file has no header.

    Yields:
        `file:row` and the trimmed cells by column name; cells that a short row lacks are empty.

    Raises:
        DataError: If the file can't be read, a column is missing, or a row has more cells than there are columns.
    """
    try:
        with _opened(path) as file:
            lines = csv.reader(file)
            header = list(names) or [name.strip() for name in next(lines, [])]
            absent = [name for name in needed if name not in header]
            if absent:
                what = f"no column {absent[0]!r}; the file has: {', '.join(filter(None, header)) or 'none'}"
                raise DataError(what, where=str(path), remedy="use the file as published")
            for number, cells in enumerate((line for line in lines if line), 1):
                if len(cells) > len(header) and any(cells[len(header) :]):
                    what = f"{len(cells)} values where there are {len(header)} columns"
                    raise DataError(what, where=f"{path}:{number}", remedy="use the file as published")
                filled = cells + [""] * (len(header) - len(cells))
                yield f"{path}:{number}", {n: cell.strip() for n, cell in zip(header, filled, strict=False)}
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error) as error:
        raise unreadable(path, "a CSV file in UTF-8", error) from None


def read_jsonl(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Read a file of one JSON object a line (or .gz), line by line.

    Raises:
        DataError: If it can't be read, or a line is no object.
    """
    try:
        with _opened(path) as file:
            for number, line in enumerate((line for line in file if line.strip()), 1):
                yield f"{path}:{number}", _object(json.loads(line), f"{path}:{number}")
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise unreadable(path, "a file of one JSON object a line", error) from None


def read_json_list(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Read a JSON file that is one list of objects, object by object, so that it may be larger than memory.

    Raises:
        DataError: If it can't be read, or is something else.
    """
    decoder, number = json.JSONDecoder(), 0
    try:
        with _opened(path) as file:
            text = file.read(_BLOCK).lstrip()
            if not text.startswith("["):
                raise ValueError("it doesn't begin with [")
            text = text[1:]
            while True:
                text = text.lstrip(" \t\r\n,")
                if text.startswith("]"):
                    return
                try:
                    value, end = decoder.raw_decode(text)
                except ValueError:
                    more = file.read(max(_BLOCK, len(text)))
                    if not more:
                        raise
                    text += more
                    continue
                number += 1
                yield f"{path}:{number}", _object(value, f"{path}:{number}")
                text = text[end:]
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise unreadable(path, "a JSON list of objects", error) from None


def read_xml(path: Path, what: str) -> ET.Element:
    """Parse a small XML file; one with declarations of its own, which can blow up, is refused.

    Raises:
        DataError: If it can't be read, is too large, or has such declarations.
    """
    try:
        held = path.read_bytes()
        if len(held) > _LARGEST_XML or b"<!ENTITY" in held:
            raise DataError(f"not {what}", where=str(path), remedy="download it again")
        return ET.fromstring(held)
    except (OSError, ET.ParseError, LookupError, ValueError) as error:
        raise unreadable(path, "XML", error) from None


def load_array(path: Path) -> NDArray[Any]:
    """Map a `.npy` file into memory; objects in it are never unpickled.

    Raises:
        DataError: If it is no plain array.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of headers that Python 2 wrote
            return cast("NDArray[Any]", np.load(path, mmap_mode="r", allow_pickle=False))
    except NO_ARRAY as error:
        raise unreadable(path, "a NumPy array", error) from None


def unreadable(path: Path, wanted: str, error: Exception) -> DataError:
    """Word the error for a file that isn't what it should be; nothing of its contents is quoted."""
    kind = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
    return DataError(f"can't be read as {wanted} ({kind})", where=str(path), remedy="download it again")


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"a JSON {type(value).__name__} where an object is wanted", where=where, remedy="correct it")
    return value


def _opened(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return cast("IO[str]", gzip.open(path, "rt", encoding="utf-8-sig", newline=""))
    return path.open(encoding="utf-8-sig", newline="")


def listed(text: str) -> list[str]:
    """Read a Python list of texts as some tables write it; text without brackets is one item.

    >>> listed("['normal', 'cataract']"), listed("[]"), listed("normal")
    (['normal', 'cataract'], [], ['normal'])
    """
    if not text.startswith("["):
        return [text] if text else []
    try:
        found = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return [text]
    return [str(item).strip() for item in found if str(item).strip()]


def number(text: str, name: str, where: str) -> float:
    """Read a finite number.

    Raises:
        DataError: If it isn't one.
    """
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not np.isfinite(value):
        raise DataError(f"{name} {text!r} is no number", where=where, remedy="use the file as published")
    return value


def join_labels(labels: Sequence[str]) -> str | None:
    """Write labels as a manifest's cell: each once, joined by `;`; None if there is none.

    >>> join_labels(["edema", "mass", "edema"]), join_labels([])
    ('edema;mass', None)
    """
    return ";".join(dict.fromkeys(label.replace(";", ",") for label in labels if label)) or None


@lru_cache(maxsize=1)
def wordings() -> dict[str, Any]:
    """Load labels.json, once: for each data set, the words that its labels become."""
    text = files("medmoe.data.importers").joinpath("labels.json").read_text(encoding="utf-8")
    return cast("dict[str, Any]", json.loads(text))


def worded(label: str, of: str, where: str) -> str:
    """Give the words for a label of a data set.

    Raises:
        DataError: If labels.json has none.
    """
    known = wordings()[of]
    if label not in known:
        what = f"unknown label {label!r}; allowed: {', '.join(known)}"
        raise DataError(what, where=where, remedy="use the file as published")
    return str(known[label])


def images_below(*folders: Path, suffixes: Sequence[str] = (".png", ".jpg", ".jpeg")) -> dict[str, Path]:
    """List the images in folders, by file name.

    Args:
        folders: Looked into one level deep; those that aren't there are left out.
        suffixes: Endings that count, lower case.
    """
    return {
        path.name: path
        for folder in folders
        if folder.is_dir()
        for path in folder.iterdir()
        if path.suffix.lower() in suffixes
    }


def first_there(*paths: Path) -> Path:
    """Give the first path that exists, or else the first."""
    return next((path for path in paths if path.exists()), paths[0])


def put_png(path: Path, pixels: NDArray[Any]) -> Path:
    """Write pixels [H, W] or [H, W, 3] as a PNG; values beyond 8 bits are scaled from their own minimum and maximum."""
    if pixels.dtype != np.uint8:
        low, high = float(pixels.min()), float(pixels.max())
        pixels = ((pixels.astype(np.float32) - low) * (255.0 / max(high - low, 1e-9))).round().astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.ascontiguousarray(pixels)).save(path)
    return path
