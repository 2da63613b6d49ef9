"""The rules of `medmoe data label` on the rows of a manifest, whose own answer isn't looked at unless trusted."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medmoe.data.curation.label import Tally, columns_of, decide
from medmoe.data.curation.label_rules import FAMILIES, report_type
from medmoe.data.curation.scan_file import UNREADABLE, Record
from medmoe.data.curation.scan_read import read_all_of, reader_of
from medmoe.data.curation.scan_rows import clues_of
from medmoe.data.curation.scan_walk import Found
from medmoe.data.sources.manifest_table import find_manifest
from medmoe.data.sources.manifest_write import read_all, rows_of
from medmoe.errors import DataError
from medmoe.modalities import resolve

_PATHS = ("image", "mask", "gaze", "prior")
CONFLICT_COLUMNS = ("image", "given", "decided", "rule", "confidence", *FAMILIES, "router")


@dataclass(frozen=True, slots=True)
class Labelled:
    """A manifest's rows with what the rules say.

    Attributes:
        rows: Of the manifest, columns `modality`, `modality_confidence`, `modality_rule`, `report_type`,
            `report_type_rule` and `report_type_confidence` added; a modality that was replaced is in `modality_given`.
        tally: Counts of the rules.
        reports: How many texts are of each type, by rule: type → rule → number.
        unreadable: How many image files couldn't be read; their rows have only text and names to go by.
        agreed: Where the given modalities are trusted: how many decisions are the same, and how many differ.
    """

    rows: list[dict[str, Any]]
    tally: Tally
    reports: dict[str, dict[str, int]]
    unreadable: int
    agreed: tuple[int, int] | None = None


def label_manifest(
    path: str | Path,
    *,
    trust: bool = False,
    pixels: bool = True,
    families: Sequence[str] = FAMILIES,
    workers: int = 1,
    router: Mapping[str, str] | None = None,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> Labelled:
    """Say of each row what its image and its text are.

    The rules look at the column `image` and the file it names, and at `text`; never at `modality`, unless it is
    trusted: then it is kept where it is given, the rules fill in the others, and each rule is judged by it.

    Args:
        path: The manifest.
        trust: Whether the column `modality` is right where it says something.
        pixels: Whether the files' pixels are measured.
        families: Rules that may speak.
        workers: Processes that read the files.
        router: Image → what a model's image router says, to be listed where it differs.
        tell: Called with how many files were read, and of how many.

    Raises:
        DataError: If the manifest can't be read, or a trusted modality has no row in `medmoe.modalities`.
    """
    path = find_manifest(Path(path))
    rows = list(rows_of(read_all(path)))
    records = _read(path.parent, rows, workers, pixels, tell)
    tally, reports, agreed = Tally(), Counter[tuple[str, str]](), [0, 0]
    done = []
    for number, row in enumerate(rows, 1):
        image = row["image"] or ""
        record = records[image]
        below = "/".join(part for part in image.split("/") if part not in ("", ".", ".."))
        decision = decide(clues_of(below, record, record.header, row.get("text")), families)
        given = row.get("modality")
        truth = resolve(given, where=f"{path}:{number}") if trust and given else None
        tally.add(image, decision, truth=truth, router=(router or {}).get(image))
        columns = dict(columns_of(decision))
        if truth is not None:
            agreed[decision.modality != truth] += 1
            columns["modality"] = truth
        elif given and given != decision.modality:
            columns["modality_given"] = given
        kind = report_type(row.get("text"))
        if kind is not None:
            reports[kind[:2]] += 1
            names = ("report_type", "report_type_rule", "report_type_confidence")
            columns |= dict(zip(names, (kind[0], kind[1], f"{kind[2]:g}"), strict=True))
        done.append(row | columns)
    counted: dict[str, dict[str, int]] = {}
    for (name, rule), count in reports.most_common():
        counted.setdefault(name, {})[rule] = count
    unreadable = sum(records[row["image"] or ""].kind == UNREADABLE for row in rows)
    return Labelled(done, tally, counted, unreadable, (agreed[0], agreed[1]) if trust else None)


def write_conflicts(conflicts: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """Write the images about which rules, or the rules and a router, differ, as a CSV file.

    Raises:
        DataError: If the file can't be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8", newline="") as file:
            table = csv.DictWriter(file, CONFLICT_COLUMNS, restval="", extrasaction="ignore")
            table.writeheader()
            table.writerows(conflicts)
    except OSError as error:
        raise DataError(f"can't be written ({error.strerror})", where=str(path), remedy="check the folder") from error
    return path


def moved(rows: Sequence[Mapping[str, Any]], before: Path, after: Path) -> list[dict[str, Any]]:
    """Give rows whose paths are relative to another folder."""
    here, there = os.path.realpath(before), os.path.realpath(after)

    def move(path: str) -> str:
        if os.path.isabs(path):  # noqa: PTH117
            return path
        return os.path.relpath(os.path.join(here, path), there).replace(os.sep, "/")  # noqa: PTH118

    return [row | {name: move(row[name]) for name in _PATHS if row.get(name)} for row in map(dict, rows)]


def _read(
    folder: Path, rows: Sequence[Mapping[str, Any]], workers: int, pixels: bool, tell: Callable[[int, int], None]
) -> dict[str, Record]:
    """Read the rows' files, each once."""
    images = list(dict.fromkeys(row["image"] or "" for row in rows))
    if "" in images:
        number = next(number for number, row in enumerate(rows, 1) if not row["image"])
        raise DataError("the image path is empty", where=f"row {number}", remedy="fill it in, or take the row out")
    records: dict[str, Record] = {}
    found = [Found(image) for image in images]
    for one, record in read_all_of(str(folder), found, workers=workers, reader=reader_of(pixels=pixels)):
        records[one.path] = record
        tell(len(records), len(images))
    return records
