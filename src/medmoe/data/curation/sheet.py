"""What splitting and auditing need of a manifest: who each row is of, which study, split, report and picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from medmoe.data.curation.prints import Picture
from medmoe.data.preprocess import NO_PIXELS
from medmoe.data.sources.cells import parse_number
from medmoe.data.sources.manifest_table import find_manifest, read_table
from medmoe.errors import DataError
from medmoe.types import Sample

Cells = list[str | None]


@dataclass(frozen=True)
class Sheet:
    """A manifest's rows.

    Attributes:
        path: The manifest file.
        columns: Name → value of each row, of those columns that are there.
    """

    path: Path
    columns: Mapping[str, Cells]
    rows: int

    def column(self, name: str) -> Cells:
        """Give a column, None in every row where the manifest doesn't have it."""
        return self.columns.get(name) or [None] * self.rows

    def where(self, row: int) -> str:
        """Name a row's place, `file:row`, counted from 1."""
        return f"{self.path}:{row + 1}"

    def persons(self) -> Cells:
        """Say whom each row is of (`Sample.person`)."""
        return self._within_source("patient_id")

    def studies(self) -> Cells:
        """Give each row's study with the name of its data set, since two may number theirs alike."""
        return self._within_source("study_id")

    def pictures(self) -> list[Picture]:
        """Say where each row's picture is.

        Raises:
            DataError: If a frame isn't a number.
        """
        folder = self.path.parent
        frames, planes = self.column("frame"), self.column("plane")
        if not any(frames) and not any(planes):
            return [Picture(folder / str(image)) for image in self.column("image")]
        found = []
        for row, image in enumerate(self.column("image")):
            frame = parse_number(frames[row], "frame", where=self.where(row))
            found.append(Picture(folder / str(image), None if frame is None else int(frame), planes[row]))
        return found

    def _within_source(self, name: str) -> Cells:
        known: dict[tuple[str, str | None], str | None] = {}
        found: Cells = []
        for value, source in zip(self.column(name), self.column("source"), strict=True):
            if value is None:
                found.append(None)
                continue
            if (value, source) not in known:
                known[value, source] = Sample(key="", image=NO_PIXELS, patient=value, source=source).person
            found.append(known[value, source])
        return found


def read_sheet(path: Path, columns: Mapping[str, str] | None = None) -> Sheet:
    """Read a manifest.

    Args:
        path: The file, or the folder that holds it.
        columns: Our column name → the file's, where they differ.

    Raises:
        DataError: As `medmoe.data.sources.manifest_table.read_table`, or if a row has no image.
    """
    path = find_manifest(path)
    return sheet_of(read_table(path, columns or {}), path)


def sheet_of(table: pa.Table, path: Path) -> Sheet:
    """Take a manifest's columns from a table of text.

    Raises:
        DataError: If a row has no image.
    """
    found = {name: table[name].to_pylist() for name in table.column_names}
    nothing = np.flatnonzero([image is None for image in found["image"]])
    if len(nothing):
        where = f"{path}:{nothing[0] + 1}"
        raise DataError("the row has no image", where=where, remedy="fill it in, or take the row out")
    return Sheet(path, found, table.num_rows)
