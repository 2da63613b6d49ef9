"""A manifest file (Parquet, CSV or JSONL) to a table of text columns under our names, blanks as nulls."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from medmoe.errors import DataError, unknown

COLUMNS = (
    "image", "text", "modality", "label", "patient_id", "study_id", "view", "offset_days", "mask", "boxes", "split",
    "source", "license", "gaze", "prior", "question", "answer", "domain", "body_part", "width", "height",
    "frame", "plane",
)  # fmt: skip
NAMES = ("manifest.parquet", "manifest.csv", "manifest.jsonl")
_BLOCK = 1 << 24  # bytes of CSV parsed at once; no row may be longer
_LINES = 1 << 16  # JSONL rows turned into Arrow columns at once
_MOST_COLUMNS = 1000  # JSONL rows that each have keys of their own would make a table of rows × rows


def find_manifest(path: Path) -> Path:
    """Find the manifest file that a path means: the file itself, or the one inside a folder.

    Raises:
        DataError: If there is none.
    """
    if path.is_dir():
        found = next((path / name for name in NAMES if (path / name).is_file()), None)
        if found is None:
            raise DataError(
                f"the folder has none of {', '.join(NAMES)}",
                where=str(path),
                remedy=f"name the file itself, or make one with: medmoe data scan {path}",
            )
        return found
    if not path.is_file():
        remedy = "check the path, or make one with: medmoe data scan FOLDER"
        raise DataError("no such manifest", where=str(path), remedy=remedy)
    return path


def read_table(path: Path, columns: Mapping[str, str], *, others: bool = False) -> pa.Table:
    """Read a manifest.

    Args:
        path: A `.parquet`, `.csv` or `.jsonl` file in UTF-8.
        columns: Our column name → the file's, where they differ.
        others: Whether the columns that we don't know follow, under their own names.

    Returns:
        The known columns that the file has, under our names, as large_string without blank values.

    Raises:
        DataError: If the file can't be read, or `image` or a mapped column isn't there.
    """
    for ours in columns:
        if ours not in COLUMNS:
            raise DataError(unknown("manifest column", ours, COLUMNS), where=str(path), remedy="map one of these")
    reader = {".parquet": _parquet, ".csv": _csv, ".jsonl": _jsonl}.get(path.suffix.lower())
    if reader is None:
        what = f"unknown kind of manifest {path.suffix!r}; allowed: .parquet, .csv, .jsonl"
        raise DataError(what, where=str(path), remedy="convert it")
    try:
        table = reader(path, columns, others)
    except UnicodeError as error:
        raise DataError("the manifest isn't UTF-8 text", where=str(path), remedy="save it as UTF-8") from error
    except (pa.ArrowException, csv.Error, OSError, RecursionError) as error:
        what = f"the manifest can't be read as {path.suffix[1:]} ({_short(error)})"
        raise DataError(what, where=str(path), remedy="write it again") from error
    if table.num_rows == 0:
        raise DataError("the manifest has no rows", where=str(path), remedy="add a row for each image")
    return table


def choose(present: list[str], columns: Mapping[str, str], path: Path, *, others: bool = False) -> dict[str, str]:
    """Pair our names with the file's columns.

    Args:
        present: The file's columns.
        columns: Our name → the file's, where they differ.
        path: The file, for an error.
        others: Whether those that we don't know are paired with themselves.

    Returns:
        Our name → the file's, for the known columns that the file has.

    Raises:
        DataError: If `image` or a mapped column is missing, one that is needed is there twice, or there are too many.
    """
    if len(present) > _MOST_COLUMNS:
        what = f"{len(present):,} columns; allowed: {_MOST_COLUMNS:,}"
        raise DataError(what, where=str(path), remedy="leave out those that aren't needed")
    for ours, theirs in columns.items():
        if theirs not in present:
            what = f"{unknown('column', theirs, present)} (asked for as {ours!r})"
            raise DataError(what, where=str(path), remedy="correct the column mapping")
    pairs = {name: columns.get(name, name) for name in COLUMNS if columns.get(name, name) in present}
    if "image" not in pairs:
        what = f"no column 'image'; {unknown('column', 'image', present).replace('allowed', 'the file has')}"
        raise DataError(what, where=str(path), remedy="rename the column of image paths, or map it: image=ITS_NAME")
    twice = next((theirs for theirs in pairs.values() if present.count(theirs) > 1), None)
    if twice is not None:
        raise DataError(f"the column {twice!r} is there twice", where=str(path), remedy="rename one of them")
    if others:
        pairs |= {name: name for name in _unique(present) if name and name not in (*pairs, *pairs.values())}
    return pairs


def _parquet(path: Path, columns: Mapping[str, str], others: bool) -> pa.Table:
    """Read the needed columns of a Parquet file."""
    present = list(pa.parquet.read_schema(path).names)
    pairs = choose(present, columns, path, others=others)
    # Others of one name can't be told apart there.
    pairs = {ours: theirs for ours, theirs in pairs.items() if present.count(theirs) == 1}
    table = pa.parquet.read_table(path, columns=list(dict.fromkeys(pairs.values())))
    table.validate(full=True)  # text that isn't UTF-8 would be told by whoever reads the cell
    return pa.table({ours: clean(table[theirs]) for ours, theirs in pairs.items()})


def _csv(path: Path, columns: Mapping[str, str], others: bool) -> pa.Table:
    """Read a CSV file, every value as text: a patient `001` stays `001`, a report `NA` stays `NA`."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        header = next(csv.reader(file), [])
        empty = not any(line.strip() for line in file)
    pairs = choose(header, columns, path, others=others)
    if empty:
        return pa.table({ours: pa.nulls(0, pa.large_string()) for ours in pairs})
    odd: list[tuple[int, int]] = []

    def note(row: Any) -> str:
        odd.append((row.expected_columns, row.actual_columns))
        return "error"

    try:
        table = pa.csv.read_csv(
            path,
            read_options=pa.csv.ReadOptions(block_size=_BLOCK, column_names=_unique(header), skip_rows=1),
            parse_options=pa.csv.ParseOptions(newlines_in_values=True, invalid_row_handler=note),
            convert_options=pa.csv.ConvertOptions(
                column_types=dict.fromkeys(_unique(header), pa.large_string()),
                include_columns=list(dict.fromkeys(pairs.values())),
                strings_can_be_null=True,
                null_values=[""],
            ),
        )
    except pa.ArrowInvalid as error:
        if not odd:
            raise
        # Arrow quotes the row, which may hold a patient's text; say only where it is.
        expected, actual = odd[0]
        what = f"{actual} values where the header has {expected} columns"
        where = f"{path}:{_odd_row(path, expected)}"
        raise DataError(what, where=where, remedy='put quotes around values with commas ("...")') from error
    return pa.table({ours: clean(table[theirs]) for ours, theirs in pairs.items()})


def _odd_row(path: Path, expected: int) -> int:
    """Count to the first data row of a CSV file that has another number of values than the header."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = (row for row in csv.reader(file) if row)
        try:
            return next((number for number, row in enumerate(rows) if len(row) != expected), 0)
        except csv.Error:  # a value too long for this reader
            return 0


def _unique(header: list[str]) -> list[str]:
    """Number repeated column names, which Arrow would confuse; none of them is one that we read."""
    return [name if header.index(name) == at else f"{name}.{at}" for at, name in enumerate(header)]


def _jsonl(path: Path, columns: Mapping[str, str], others: bool) -> pa.Table:
    """Read a file of one JSON object a line; a column may be missing in some."""
    present: dict[str, None] = {}
    with path.open(encoding="utf-8-sig") as file:
        for _, record in _records(file, path):
            present.update(dict.fromkeys(record))
    pairs = choose(list(present), columns, path, others=others)
    with path.open(encoding="utf-8-sig") as file:
        records = _records(file, path)
        chunks: list[pa.Table] = []
        while rows := [record for _, record in zip(range(_LINES), (r for _, r in records), strict=False)]:
            chunks.append(
                pa.table(
                    {
                        ours: pa.array([as_text(row.get(theirs)) for row in rows], pa.large_string())
                        for ours, theirs in pairs.items()
                    }
                )
            )
    table = pa.concat_tables(chunks)
    return pa.table({name: clean(table[name]) for name in table.column_names})


def _records(lines: Any, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Parse JSON lines, blank ones left out, and number them from 1."""
    number = 0
    for line in lines:
        if not line.strip():
            continue
        number += 1
        try:
            record = json.loads(line)
            if "\\u" in line:
                json.dumps(record, ensure_ascii=False).encode()  # it may name half of a character
        except (ValueError, RecursionError) as error:
            what = f"not valid JSON ({_short(error)})"
            raise DataError(what, where=f"{path}:{number}", remedy="write one JSON object a line") from error
        if not isinstance(record, dict):
            what = f"a JSON {type(record).__name__} where an object is wanted"
            raise DataError(what, where=f"{path}:{number}", remedy="write one JSON object a line")
        yield number, record


def clean(column: pa.ChunkedArray) -> pa.Array:
    """Make one large_string array of a column: trimmed, blanks as nulls."""
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_nested(kind):
        values: Any = pa.array([as_text(value) for value in column.to_pylist()], pa.large_string())
    elif pa.types.is_null(kind):
        values = pa.nulls(len(column), pa.large_string())
    else:
        values = column.cast(pa.large_string())
    values = pc.utf8_trim_whitespace(values)
    values = pc.if_else(pc.equal(values, ""), pa.scalar(None, pa.large_string()), values)
    return values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values


def as_text(value: Any) -> str | None:
    """Write a JSON value as the text that a CSV cell would hold."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        return ";".join(value)
    return json.dumps(value, default=str)  # a Parquet list may hold dates


def _short(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0][:120] if lines else type(error).__name__
