"""A manifest as commands pass it on: every column as text, those unknown too, written aside and then renamed."""

from __future__ import annotations

import csv
import json
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from medmoe.data.sources.manifest_table import COLUMNS, as_text, clean, find_manifest, read_table
from medmoe.errors import DataError, unknown

SUFFIXES = (".parquet", ".csv", ".jsonl")


def read_all(path: Path) -> pa.Table:
    """Read a manifest with all its columns, those that the library doesn't know too.

    Args:
        path: The file, or the folder that holds it.

    Returns:
        Columns of large_string under the file's own names, without blank values, those that we know first.

    Raises:
        DataError: As `medmoe.data.sources.manifest_table.read_table`.
    """
    return read_table(find_manifest(path), {}, others=True)


def write_manifest(rows: pa.Table | Iterable[Mapping[str, object]], path: Path) -> Path:
    """Write a manifest: beside its place first, then renamed, so that there never is half of one.

    Args:
        rows: A table, or a mapping for each image: column → value. A column may be missing in some rows; None, and a
            column that no row has a value in, are left blank. Values that aren't text are written as JSON.
        path: A `.parquet`, `.csv` or `.jsonl` file.

    Returns:
        The path.

    Raises:
        DataError: If the suffix is another one, there is no row, a row has no image, or the place can't be written to.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise DataError(unknown("kind of manifest", path.suffix, SUFFIXES), where=str(path), remedy="rename it")
    table = rows if isinstance(rows, pa.Table) else table_of(rows)
    if table.num_rows == 0:
        raise DataError("no row to write", where=str(path), remedy="check what it was made from")
    if "image" not in table.column_names or table["image"].null_count:
        raise DataError("a row without an image", where=str(path), remedy="give each row the path of its image")
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _WRITERS[path.suffix.lower()](table, aside)
        aside.replace(path)
    except OSError as error:
        raise DataError(f"can't be written ({error.strerror})", where=str(path), remedy="check the folder") from error
    finally:
        aside.unlink(missing_ok=True)
    return path


def table_of(rows: Iterable[Mapping[str, object]]) -> pa.Table:
    """Make a table of rows: the columns we know in their order, then others in that of their first appearance."""
    rows = list(rows)
    present = dict.fromkeys(name for row in rows for name in row)
    names = [name for name in COLUMNS if name in present] + [name for name in present if name not in COLUMNS]
    return pa.table(
        {name: clean(pa.array([as_text(row.get(name)) for row in rows], pa.large_string())) for name in names}
    )


def rows_of(table: pa.Table) -> Iterator[dict[str, str | None]]:
    """Go through a table's rows as mappings."""
    for batch in table.to_batches(max_chunksize=4096):
        yield from batch.to_pylist()


def _write_jsonl(table: pa.Table, path: Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        for row in rows_of(table):
            kept = {name: value for name, value in row.items() if value is not None}
            file.write(json.dumps(kept, ensure_ascii=False) + "\n")


def _write_csv(table: pa.Table, path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(table.column_names)
        writer.writerows([row[name] for name in table.column_names] for row in rows_of(table))


_WRITERS = {".parquet": pa.parquet.write_table, ".csv": _write_csv, ".jsonl": _write_jsonl}
