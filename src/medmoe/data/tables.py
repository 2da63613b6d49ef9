"""Tables written row group by row group, atomically."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("modality", pa.string()),
        ("routed", pa.string()),
        ("image_embed", pa.list_(pa.float32())),
        ("text_embed", pa.list_(pa.float32())),
    ]
)


class ParquetRows:
    """A Parquet file of embeddings that appears under its name only when it is whole.

    Args:
        path: The file.
        about: Facts kept in the file's metadata.
    """

    def __init__(self, path: Path, about: dict[str, str]) -> None:
        self.path = path
        self.aside = path.with_name(f".{path.name}.tmp")
        path.parent.mkdir(parents=True, exist_ok=True)
        self.writer = pq.ParquetWriter(self.aside, _SCHEMA.with_metadata(about))

    def __enter__(self) -> ParquetRows:
        """Give the file itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file; put it in place if all went well, else remove what was written."""
        self.writer.close()
        if error is None:
            self.aside.replace(self.path)
        else:
            self.aside.unlink()

    def write(self, columns: dict[str, list[Any]]) -> None:
        """Append rows given as columns."""
        self.writer.write_table(pa.table(columns, schema=self.writer.schema))
