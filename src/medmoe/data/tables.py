"""Embeddings on disk: parts of a table, joined into a Parquet file or a folder of arrays, never whole in memory."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from medmoe.errors import DataError

IMAGES, TEXTS, FACTS, ABOUT = "image_embed.npy", "text_embed.npy", "facts.parquet", "about.json"
_FACTS = [("key", pa.string()), ("modality", pa.string()), ("routed", pa.string())]
_TYPES = {"float32": pa.float32(), "float16": pa.float16()}
Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class EmbeddedRows:
    """Some rows of a table of embeddings.

    Attributes:
        key: Where each image came from.
        modality: What its source says it is.
        routed: Where the image router sends it.
        image: [n, E] embeddings of the images, float32 or float16.
        text: [n, E] embeddings of the reports; NaN where there is none.
    """

    key: list[str]
    modality: list[str | None]
    routed: list[str]
    image: Floats
    text: Floats

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.key)


class ParquetRows:
    """A Parquet file of embeddings that appears under its name only when it is whole and on the disk.

    Args:
        path: The file.
        about: Facts kept in the file's metadata.
        dtype: Of the numbers: float32 or float16.
        vectors: Whether it holds the embeddings, or only the facts beside them.
    """

    def __init__(self, path: Path, about: Mapping[str, str], *, dtype: str = "float32", vectors: bool = True) -> None:
        self.path, self.vectors = path, vectors
        self.aside = path.with_name(f".{path.name}.tmp")
        path.parent.mkdir(parents=True, exist_ok=True)
        number = pa.list_(_TYPES[dtype])
        columns = [("image_embed", number), ("text_embed", number)] if vectors else [("has_text", pa.bool_())]
        self.writer = pq.ParquetWriter(self.aside, pa.schema([*_FACTS, *columns]).with_metadata(dict(about)))

    def __enter__(self) -> ParquetRows:
        """Give the file itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file; put it in place if all went well, else remove what was written."""
        self.writer.close()
        if error is not None:
            self.aside.unlink()
            return
        with self.aside.open("rb+") as file:
            os.fsync(file.fileno())
        self.aside.replace(self.path)

    def write(self, rows: EmbeddedRows) -> None:
        """Append rows as a row group."""
        has_text: NDArray[np.bool_] = np.logical_not(np.isnan(rows.text).any(axis=1))
        columns: dict[str, Any] = {"key": rows.key, "modality": rows.modality, "routed": rows.routed}
        if self.vectors:
            columns |= {"image_embed": _lists(rows.image), "text_embed": _lists(rows.text, has_text)}
        else:
            columns["has_text"] = has_text
        self.writer.write_table(pa.table(columns, schema=self.writer.schema))


def _lists(rows: Floats, there: NDArray[np.bool_] | None = None) -> Any:
    """Give [n, E] as a column of lists, null where there is none."""
    kept = rows if there is None else rows[there]
    sizes = np.full(len(rows), rows.shape[1], np.int32) if there is None else there * np.int32(rows.shape[1])
    offsets = np.concatenate([np.zeros(1, np.int32), sizes.cumsum(dtype=np.int32)])
    mask = None if there is None else pa.array(~there)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(kept.ravel()), mask=mask)


def read_rows(path: Path) -> Iterator[EmbeddedRows]:
    """Read a Parquet file of embeddings, row group by row group.

    Raises:
        DataError: If it is no such file.
    """
    with _opened(path) as file:
        for number in range(file.num_row_groups):
            table = file.read_row_group(number)
            if not len(table):
                continue
            yield EmbeddedRows(
                key=table["key"].to_pylist(),
                modality=table["modality"].to_pylist(),
                routed=table["routed"].to_pylist(),
                image=(image := _array(table["image_embed"].combine_chunks(), None)),
                text=_array(table["text_embed"].combine_chunks(), image.shape[1]),
            )


def _array(column: Any, width: int | None) -> Floats:
    """Give a column of lists as [n, E], NaN where there is none; the width of one without nulls is its own."""
    numbers: Floats = column.flatten().to_numpy(zero_copy_only=False)
    if width is None:
        return numbers.reshape(len(column), -1)
    there = column.is_valid().to_numpy(zero_copy_only=False)
    rows = np.full((len(column), width), np.nan, numbers.dtype)
    rows[there] = numbers.reshape(int(there.sum()), width)
    return rows


def _opened(path: Path) -> Any:
    try:
        file = pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        line = " ".join(str(error).split())[:120]
        raise DataError(f"can't be read ({line})", where=str(path), remedy="embed the images again") from None
    if "image_embed" not in file.schema_arrow.names and "has_text" not in file.schema_arrow.names:
        raise DataError("holds no embeddings", where=str(path), remedy="give a file that `medmoe embed` wrote")
    return file


def count_rows(path: Path) -> int:
    """Count the rows of a Parquet file of embeddings, from its end alone.

    Raises:
        DataError: If it is no such file, or is cut short.
    """
    with _opened(path) as file:
        return int(file.metadata.num_rows)


def join_into_file(parts: Sequence[Path], out: Path, about: Mapping[str, str], *, dtype: str) -> None:
    """Write parts after each other as one Parquet file."""
    with ParquetRows(out, about, dtype=dtype) as file:
        for part in parts:
            for rows in read_rows(part):
                file.write(rows)


def join_into_folder(parts: Sequence[Path], folder: Path, about: Mapping[str, str], *, dtype: str, width: int) -> None:
    """Write parts after each other as arrays that can be memory-mapped, with the facts beside them.

    Args:
        parts: Parquet files of embeddings.
        folder: Existing and empty: gets `image_embed.npy`, `text_embed.npy`, `facts.parquet` and `about.json`.
        about: Facts of the whole.
        dtype: Of the numbers.
        width: E.
    """
    shape = (sum(map(count_rows, parts)), width)
    images, texts = (
        np.lib.format.open_memmap(folder / name, mode="w+", dtype=np.dtype(dtype), shape=shape)
        for name in (IMAGES, TEXTS)
    )
    at = 0
    with ParquetRows(folder / FACTS, about, vectors=False) as file:
        for part in parts:
            for rows in read_rows(part):
                images[at : at + len(rows)], texts[at : at + len(rows)] = rows.image, rows.text
                file.write(rows)
                at += len(rows)
    images.flush()
    texts.flush()
    (folder / ABOUT).write_text(json.dumps(dict(about), indent=2) + "\n", encoding="utf-8")


class Embeddings:
    """What `medmoe embed` wrote, in either form, read some rows at a time.

    Args:
        path: A Parquet file, or a folder of arrays.

    Attributes:
        about: Facts of the whole, such as the fingerprint of the embedding.

    Raises:
        DataError: If nothing of the kind is here.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        facts = self.path / FACTS if self.path.is_dir() else self.path
        with _opened(facts) as file:
            kept = file.schema_arrow.metadata or {}
            self._count = int(file.metadata.num_rows)
        self.about = {key.decode(): value.decode() for key, value in kept.items()}
        self._facts = facts

    def __len__(self) -> int:
        """Count the rows."""
        return self._count

    def keys(self) -> list[str]:
        """Give the keys of all rows, in order."""
        keys: list[str] = pq.read_table(self._facts, columns=["key"])["key"].to_pylist()
        return keys

    def images(self, rows: int = 8192) -> Iterator[Floats]:
        """Give the images' embeddings [n, E], some rows at a time.

        Raises:
            DataError: If they can't be read.
        """
        if self._facts == self.path:
            yield from (part.image for part in read_rows(self.path))
            return
        try:
            every = np.load(self.path / IMAGES, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise DataError(
                f"can't be read ({error})", where=str(self.path / IMAGES), remedy="embed the images again"
            ) from None
        for start in range(0, len(every), rows):
            yield every[start : start + rows]


def write_keys(path: Path, keys: Sequence[str]) -> None:
    """Write keys as a Parquet file of one column."""
    pq.write_table(pa.table({"key": pa.array(keys, pa.string())}), path)


def read_keys(path: Path) -> list[str]:
    """Read the keys that `write_keys` wrote.

    Raises:
        DataError: If they can't be read.
    """
    try:
        keys: list[str] = pq.read_table(path, columns=["key"])["key"].to_pylist()
    except (OSError, pa.ArrowException, KeyError) as error:
        line = " ".join(str(error).split())[:120]
        raise DataError(f"can't be read ({line})", where=str(path), remedy="build the index again") from None
    return keys
