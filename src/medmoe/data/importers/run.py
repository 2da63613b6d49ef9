"""Running an importer: its images to a manifest, what is missing to a quarantine list, no patient in two splits."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from medmoe.data.importers.common import Found, Importer, Job
from medmoe.data.sources.manifest_table import COLUMNS
from medmoe.data.sources.manifest_write import SUFFIXES, table_of, write_manifest
from medmoe.errors import ConfigError, DataError, unknown

_ROWS = 8192  # turned into Arrow columns at once


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an import came to.

    Attributes:
        manifest: The file written.
        rows: Images in it.
        missing: Files that the data set lists but that aren't there.
        quarantine: List of the missing ones; None if there is none.
        splits: Images of each split.
        modalities: Images of each modality.
        notes: What the user should know.
    """

    manifest: Path
    rows: int
    missing: int
    quarantine: Path | None
    splits: dict[str, int]
    modalities: dict[str, int]
    notes: tuple[str, ...]


def import_set(
    importer: Importer,
    folder: Path,
    out: Path,
    *,
    options: Mapping[str, str] | None = None,
    splits: Sequence[str] = (),
    absolute: bool = False,
    strict: bool = False,
) -> Outcome:
    """Write the manifest of a public data set.

    Images that the data set lists but that aren't on disk are left out and listed, one JSON object a line, in
    `NAME.quarantine.jsonl` beside the manifest; a missing mask leaves only its cell blank. If a patient is in several
    of the data set's splits, the column is kept as `official_split` and `split` is left blank.

    Args:
        importer: A row of `medmoe.data.importers.IMPORTERS`.
        folder: The data set's folder.
        out: The manifest: `.parquet`, `.csv` or `.jsonl`. Images that must be made lie in a folder beside it.
        options: Values of the importer's own options.
        splits: Only rows of these splits; none means all.
        absolute: Whether paths are written in full rather than relative to the manifest.
        strict: Whether a missing file is an error.

    Raises:
        DataError: If the folder isn't that data set, a table is damaged, no image is left, or, with `strict`, one is
            missing.
        ConfigError: If an option or its value isn't one.
    """
    if out.suffix.lower() not in SUFFIXES:
        raise DataError(unknown("kind of manifest", out.suffix, SUFFIXES), where=str(out), remedy="rename it")
    job = Job(folder, out.parent / f"{out.stem}_images", _checked(importer, options or {}), tuple(splits))
    gathering = _Gathering(importer, job, out.parent, absolute=absolute, strict=strict)
    chunks = list(gathering.tables())
    if not chunks:
        raise _nothing(gathering, folder)
    table, crossing = _without_crossing(_in_order(pa.concat_tables(chunks, promote_options="default")))
    if crossing:
        text = f"{crossing} patients are in several official splits: kept as official_split, split left blank"
        job.notes.append(f"{text}; split by patient with: medmoe data split")
    write_manifest(table, out)
    quarantine = out.with_name(f"{out.stem}.quarantine.jsonl")
    if gathering.missing:
        quarantine.write_text("".join(json.dumps(row) + "\n" for row in gathering.missing), encoding="utf-8")
    else:
        quarantine.unlink(missing_ok=True)  # of an earlier run
    return Outcome(
        manifest=out,
        rows=table.num_rows,
        missing=len(gathering.missing),
        quarantine=quarantine if gathering.missing else None,
        splits=_counts(table, "split"),
        modalities=_counts(table, "modality"),
        notes=tuple(job.notes),
    )


def _checked(importer: Importer, given: Mapping[str, str]) -> dict[str, str]:
    """Fill in the defaults of an importer's options."""
    for name, value in given.items():
        if name not in importer.options:
            none = f"{importer.name} has no options" if not importer.options else ""
            what = none or unknown("option", name, importer.options)
            raise ConfigError(what, where=f"--option {name}={value}", remedy="see: medmoe data import --list")
        allowed = importer.options[name].allowed
        if allowed and value not in allowed:
            raise ConfigError(
                unknown("value", value, allowed), where=f"--option {name}={value}", remedy="give one of these"
            )
    return {name: given.get(name, option.default) for name, option in importer.options.items()}


class _Gathering:
    """The images of one run, checked for their files, some thousand rows at a time."""

    def __init__(self, importer: Importer, job: Job, beside: Path, *, absolute: bool, strict: bool) -> None:
        self.importer, self.job, self.strict = importer, job, strict
        self.beside = None if absolute else os.path.abspath(beside)  # noqa: PTH100 - as text, a million times
        self.missing: list[dict[str, str]] = []
        self.splits: Counter[str] = Counter()
        self.places: dict[str, str] = {}

    def tables(self) -> Iterator[pa.Table]:
        """Give the rows as tables."""
        rows: list[dict[str, object]] = []
        for found in self.importer.read(self.job):
            split = found.cells.get("split")
            self.splits[str(split)] += 1
            if not self.job.wants(None if split is None else str(split)):
                continue
            if (row := self._row(found)) is not None:
                rows.append(row)
            if len(rows) == _ROWS:
                yield table_of(rows)
                rows = []
        if rows:
            yield table_of(rows)

    def _row(self, found: Found) -> dict[str, object] | None:
        """Make a manifest's row of an image; None, once listed, if its file is missing."""
        if not self._there(found, "image", found.image):
            return None
        row: dict[str, object] = {"image": self._written(found.image)}
        row |= {name: value for name, value in found.cells.items() if value is not None}
        mask = row.pop("mask", None)
        if isinstance(mask, Path) and self._there(found, "mask", mask):
            row["mask"] = self._written(mask)
        row.setdefault("source", self.importer.name)
        row.setdefault("license", self.importer.terms)
        return row

    def _there(self, found: Found, what: str, path: Path) -> bool:
        if os.path.isfile(path):  # noqa: PTH113 - a million times
            return True
        if self.strict:
            raise DataError(f"the {what} file {path} does not exist", where=found.where, remedy="download it")
        self.missing.append({"where": found.where, what: str(path), "reason": f"the {what} file does not exist"})
        return False

    def _written(self, path: Path) -> str:
        """Write a path as the manifest has it."""
        folder, name = os.path.split(os.path.abspath(path))  # noqa: PTH100 - links stay as they are
        if folder not in self.places:
            self.places[folder] = folder if self.beside is None else os.path.relpath(folder, self.beside)
        return Path(self.places[folder], name).as_posix()


def _nothing(gathering: _Gathering, folder: Path) -> DataError:
    """Word why no image is left."""
    images = [row for row in gathering.missing if "image" in row]
    if images:
        first = images[0]
        what = f"none of the {len(images)} listed images exists; the first is {first['image']}"
        return DataError(what, where=first["where"], remedy="put the images where the data set's page says")
    there = ", ".join(f"{name} ({count} images)" for name, count in sorted(gathering.splits.items()))
    if there:
        wanted = ", ".join(gathering.job.splits)
        return DataError(f"no image of split {wanted}; there are: {there}", where=str(folder), remedy="ask for these")
    needs = gathering.importer.needs
    return DataError(f"no image was found; looked for {needs}", where=str(folder), remedy="check the folder")


def _in_order(table: pa.Table) -> pa.Table:
    """Put the columns that we know first, and leave out those without any value."""
    filled = [name for name in table.column_names if table[name].null_count < table.num_rows]
    return table.select([*(name for name in COLUMNS if name in filled), *(n for n in filled if n not in COLUMNS)])


def _without_crossing(table: pa.Table) -> tuple[pa.Table, int]:
    """Rename the column of splits if a patient is in several.

    Returns:
        The table, and the number of such patients.
    """
    if not {"split", "patient_id"} <= set(table.column_names):
        return table, 0
    owner = pc.binary_join_element_wise(table["source"], table["patient_id"], pa.scalar("\n", pa.large_string()))
    known = pa.table({"owner": owner, "split": table["split"]}).filter(pc.is_valid(owner))
    counted: Any = known.group_by("owner").aggregate([("split", "count_distinct")])["split_count_distinct"]
    crossing = int(pc.sum(pc.cast(pc.greater(counted, 1), pa.int64())).as_py() or 0)
    if crossing:
        table = table.rename_columns(["official_split" if n == "split" else n for n in table.column_names])
    return table, crossing


def _counts(table: pa.Table, name: str) -> dict[str, int]:
    if name not in table.column_names:
        return {}
    return dict(sorted(Counter(value or "unknown" for value in table[name].to_pylist()).items()))
