"""What lies beside the tars of a folder: facts that all samples share, names of classes, checksums."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medmoe.data.sources.manifest_table import COLUMNS, as_text
from medmoe.data.sources.shard_members import object_of
from medmoe.data.sources.tar_index import open_index
from medmoe.errors import DataError, unknown

COMMON = "shards.json"  # what holds for all samples of the folder
CHECKSUMS = "checksums.json"  # what the writer left, to tell whether a tar is still what it was
PROGRESS = "unfinished.jsonl"  # there while the folder is being written

# Columns that would name files, say what was read of one, or have no meaning in a tar.
_FILES = ("image", "mask", "gaze", "prior", "split", "frame", "plane")
FACTS = tuple(name for name in COLUMNS if name not in _FILES)
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Common:
    """What a folder's `shards.json` says.

    Attributes:
        facts: What holds for every sample that has no value of its own, by column.
        classes: Names of the numbers in `cls`.
        preprocess: How the files of DICOM and other deep images became the grey levels in the tars.
    """

    facts: Mapping[str, str | None] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    preprocess: Mapping[str, Any] = field(default_factory=dict)

    def label(self, text: str, where: str) -> str | None:
        """Give the label that a `cls` means: a number's name, or the text itself.

        Raises:
            DataError: If the number has no name and others do.
        """
        if not text.isdecimal():
            return text
        if not self.classes:
            return None
        if len(text) > 9 or int(text) >= len(self.classes):
            what = f"class {text[:20]}, but {COMMON} names {len(self.classes)} classes, counted from 0"
            raise DataError(what, where=where, remedy="complete the list")
        return self.classes[int(text)]


@dataclass(frozen=True, slots=True)
class Listed:
    """A tar as it was written: its size, its samples and the SHA-256 of its bytes."""

    bytes: int
    samples: int
    sha256: str


def read_common(folder: Path) -> Common:
    """Read `shards.json` of a folder, where there is one.

    Raises:
        DataError: If it says something unknown.
    """
    path = folder / COMMON
    if not path.is_file():
        return Common()
    told = object_of(_text(path), str(path))
    classes, preprocess = told.pop("classes", []), told.pop("preprocess", {})
    if not isinstance(classes, list) or not all(isinstance(name, str) and name for name in classes):
        raise DataError("'classes' isn't a list of names", where=str(path), remedy='write ["normal", "nodule"]')
    if not isinstance(preprocess, dict):
        raise DataError("'preprocess' isn't an object", where=str(path), remedy='write {"window": "header"}')
    for name in told:
        if name not in FACTS:
            allowed = (*FACTS, "classes", "preprocess")
            raise DataError(unknown("key", name, allowed), where=str(path), remedy="correct the key")
    return Common({name: as_text(value) for name, value in told.items()}, tuple(classes), preprocess)


def read_checksums(folder: Path) -> dict[str, Listed]:
    """Read `checksums.json` of a folder: tar's name → what it was; empty where there is none.

    Raises:
        DataError: If it isn't one.
    """
    path = folder / CHECKSUMS
    if not path.is_file():
        return {}
    shards = object_of(_text(path), str(path)).get("shards")
    try:
        if not isinstance(shards, dict):
            raise TypeError("no shards")
        return {
            name: Listed(int(row["bytes"]), int(row["samples"]), str(row["sha256"])) for name, row in shards.items()
        }
    except (KeyError, TypeError, ValueError) as error:
        what = 'not a list of checksums: {"shards": {"000000.tar": {"bytes": …, "samples": …, "sha256": …}}}'
        raise DataError(what, where=str(path), remedy="take the file out, or write the shards again") from error


def refuse_unfinished(folder: Path) -> None:
    """Refuse a folder whose writing was stopped: it would pass for the whole.

    Raises:
        DataError: If it was.
    """
    if (folder / PROGRESS).is_file():
        remedy = "run the same `medmoe data shard` again, which goes on where it stopped"
        raise DataError(f"the shards aren't all written yet ({PROGRESS} is there)", where=str(folder), remedy=remedy)


def check_shards(folder: Path) -> Iterator[tuple[str, Listed, str]]:
    """Read every tar of a folder, or of the folders of its splits, and compare it with `checksums.json`.

    Yields:
        The tar's path in the folder, what is listed, and what is wrong with it; empty where nothing is.

    Raises:
        DataError: If there are no checksums.
    """
    refuse_unfinished(folder)
    listed = read_checksums(folder)
    splits = [] if listed or not folder.is_dir() else [path for path in sorted(folder.iterdir()) if path.is_dir()]
    splits = [path for path in splits if (path / CHECKSUMS).is_file() or (path / PROGRESS).is_file()]
    for split in splits:
        yield from ((f"{split.name}/{name}", row, wrong) for name, row, wrong in check_shards(split))
    if splits:
        return
    if not listed:
        what = f"no {CHECKSUMS} there, so there is nothing to compare the tars with"
        raise DataError(what, where=str(folder), remedy="name a folder that `medmoe data shard` wrote")
    for name, row in sorted(listed.items()):
        yield name, row, _wrong(folder / name, row)
    for path in sorted(folder.glob("*.tar")):
        if path.name not in listed:
            yield path.name, Listed(path.stat().st_size, 0, ""), f"not in {CHECKSUMS}"


def sha256_of(path: Path) -> str:
    """Give the SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _wrong(path: Path, row: Listed) -> str:
    try:
        size = path.stat().st_size
        if size != row.bytes:
            return f"has {size:,} bytes, {row.bytes:,} were written"
        if sha256_of(path) != row.sha256:
            return "its bytes aren't those that were written (SHA-256 differs)"
        count = len(open_index(path))
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"can't be read ({error.strerror})"
    except DataError as error:
        return error.what
    return "" if count == row.samples else f"has {count} samples, {row.samples} were written"


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"can't be read ({error})", where=str(path), remedy="check the file") from error


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write JSON aside, then rename it."""
    aside = path.with_name(f".{path.name}.tmp")
    aside.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    aside.replace(path)
