"""A folder tree of DICOM, NIfTI and picture files to a manifest, a list of what isn't in it, and a summary."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medmoe.data.curation.scan_file import UNREADABLE, Record
from medmoe.data.curation.scan_read import Memory, Reader, read_all_of, reader_of
from medmoe.data.curation.scan_rows import ALL, MIDDLE, Choice, as_line, list_tree, summarise
from medmoe.data.curation.scan_walk import walk
from medmoe.data.sources.manifest_write import SUFFIXES, write_manifest
from medmoe.errors import DataError, unknown


@dataclass(frozen=True, slots=True)
class Scan:
    """What a scan wrote.

    Attributes:
        manifest: The manifest; None where no file of the tree is an image.
        quarantine: The list of files that aren't in it.
        summary: Counts.
    """

    manifest: Path | None
    quarantine: Path
    summary: dict[str, Any]


def scan(
    folder: str | Path,
    out: str | Path,
    *,
    workers: int = 1,
    again: bool = False,
    pixels: bool = True,
    choice: Choice | None = None,
    tell: Callable[[int, int], None] = lambda done, total: None,
    reader: Reader | None = None,
) -> Scan:
    """Write a manifest of every image below a folder.

    What is found out about each file is kept in `OUT.scan.jsonl` as soon as it is known: a scan that was stopped goes
    on where it was, and a later one reads only files that are new or have changed. `OUT.quarantine.jsonl` lists every
    other file with its kind and the reason. No manifest or table of the tree is read, and nothing in it is changed.

    Args:
        folder: The tree's root.
        out: The manifest to write: `.parquet`, `.csv` or `.jsonl`.
        workers: Processes that read.
        again: Whether files that are known are read again.
        pixels: Whether files are read whole: hashed, decoded to see that they can be, and measured. Without, only
            headers are read, which is many times faster and tells less.
        choice: Which frames and slices become rows, and the source's name.
        tell: Called with how many files were looked at, and of how many.
        reader: What reads a file, for tests of what happens when that goes wrong.

    Raises:
        DataError: If the folder can't be read, or `out` can't be written or is a file that no scan wrote.
    """
    root, out = os.path.realpath(folder), Path(out)
    choice = choice or Choice()
    _check(root, out, choice)
    beside = Path(os.path.realpath(out.parent))
    kept = beside / f"{out.name}.scan.jsonl"
    skip = frozenset(str(beside / name) for name in (out.name, kept.name))
    found = list(walk(root, skip=skip))
    reading = {"read": 0, "known": 0}
    with Memory(kept, thorough=pixels, forget=again) as memory:
        records = {one.path: Record(UNREADABLE, one.trouble) for one in found if one.trouble}
        known = {one.path: record for one in found if one.trouble is None and (record := memory.get(one)) is not None}
        unread = [one for one in found if one.trouble is None and one.path not in known]
        records |= known
        reading["known"] = len(known)
        for one, record in read_all_of(root, unread, workers=workers, reader=reader or reader_of(pixels=pixels)):
            memory.add(one, record)
            records[one.path] = record
            reading["read"] += 1
            tell(reading["read"], len(unread))
    listing = list_tree({one.path: records[one.path] for one in found}, root=root, out=str(beside), choice=choice)
    quarantine = _write_lines(beside / f"{out.name}.quarantine.jsonl", [as_line(one) for one in listing.left_out])
    manifest = write_manifest(listing.rows, out) if listing.rows else None
    summary = {"found": len(found), "reading": reading} | summarise(listing)
    return Scan(manifest, quarantine, summary)


def _check(root: str, out: Path, choice: Choice) -> None:
    """Refuse what can't come to a good end, before anything is read."""
    if not Path(root).is_dir():
        raise DataError("no such folder", where=root, remedy="give the folder that the images are in")
    if out.suffix.lower() not in SUFFIXES:
        raise DataError(unknown("kind of manifest", out.suffix, SUFFIXES), where=str(out), remedy="rename it")
    if out.exists() and not out.with_name(f"{out.name}.scan.jsonl").exists():
        what = "is there already, and no scan wrote it"
        raise DataError(what, where=str(out), remedy="give another --out, or move it away")
    for name, value in (("frames", choice.frames), ("slices", choice.slices)):
        if value not in (ALL, MIDDLE) and not (value.isdigit() and int(value) >= 1):
            raise DataError(f"got {value!r}, allowed: {ALL}, {MIDDLE} or a whole number from 1", where=f"--{name}")


def _write_lines(path: Path, lines: list[dict[str, str]]) -> Path:
    """Write JSON lines: beside their place, then renamed."""
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    aside.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    aside.replace(path)
    return path
