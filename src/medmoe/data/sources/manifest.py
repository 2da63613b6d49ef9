"""The manifest source: one row of a table an image, checked when opened, pixels read when asked for."""

from __future__ import annotations

import copy
import dataclasses
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from medmoe.data.images import image_size, read_gaze, read_image, read_mask
from medmoe.data.limits import open_file
from medmoe.data.masks import region
from medmoe.data.reading import HEADER, USUAL, Reading
from medmoe.data.sources.cells import parse_number, place_boxes, sample_of
from medmoe.data.sources.manifest_table import find_manifest, read_table
from medmoe.errors import DataError
from medmoe.modalities import resolve
from medmoe.types import Box, Sample


class ManifestSource:
    """Images listed in a Parquet, CSV or JSONL file, with what is known of each.

    Rows in errors and keys are data rows counted from 1: the header of a CSV file is not counted. Paths in the
    table are relative to it. Boxes are in pixels of the upright image (EXIF orientation applied). A box that sticks out
    by at most 2 % of a side is cut off there; one that sticks out further was measured on another image, and then the
    row counts as not annotated with boxes and its place is logged.

    Args:
        path: The file, or a folder with `manifest.parquet`, `manifest.csv` or `manifest.jsonl`.
        split: Take only the rows of this split; None takes all.
        fallback: Whether a manifest in which no row has a split gives all its rows whatever `split` is.
        columns: Our column name → the file's, where they differ, for example `{"text": "caption"}`.
        report_templates: Whether rows with a label but no text get a report made from the label.
        require_report: Whether a row without a report is an error.
        check_files: Whether to look for every file at once; without it a missing one is told when it is read.
        maps: Whether masks and gaze maps are read; a recipe that has no use for them reads three times as fast without.
        seed: Chooses the wording of template reports.
        name: What keys begin with; the file's name by default.

    Raises:
        DataError: If the file, a column, a value or an image file is missing or wrong, or one patient of a data set is
            in two splits.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        split: str | None = None,
        fallback: bool = False,
        columns: Mapping[str, str] | None = None,
        report_templates: bool = True,
        require_report: bool = False,
        check_files: bool = True,
        maps: bool = True,
        seed: int = 0,
        name: str | None = None,
    ) -> None:
        self.path = find_manifest(Path(path))
        self.folder = self.path.parent
        self.name = name or self.path.name
        self.report_templates, self.maps, self.seed = report_templates, maps, seed
        table = read_table(self.path, columns or {})
        self._refuse_leaks(table)
        self.splits = _count(table, "split")
        self._prior = self._find_priors(table)
        self._rows = self._choose(
            table, split if self.splits or not fallback else None
        )  # [len(self)] index of each sample's row in the file
        self._columns = {name: table[name].combine_chunks() for name in table.column_names}
        if len(self._rows) < table.num_rows:
            self._columns = {name: column.take(pa.array(self._rows)) for name, column in self._columns.items()}
        self._plain = not any(
            name in self._columns and self._columns[name].null_count < len(self) for name in ("frame", "plane")
        )
        self._modalities = self._resolve_modalities()
        self.window = HEADER
        self._at_least: int | None = None  # pixels that an image's longest side needs, where fewer do than it has
        self._told: set[str] = set()  # rows whose boxes were left out
        self._refuse_nulls("image", "the image path is empty", "fill it in, or take the row out")
        if require_report:
            self._refuse_no_report()
        if check_files:
            self.check()

    def __len__(self) -> int:
        """Count the samples."""
        return len(self._rows)

    def __getitem__(self, index: int) -> Sample:
        """Read one sample, pixels included.

        Raises:
            DataError: If the image, mask, gaze map or boxes can't be read; the message names file and row.
        """
        where = self.where(index)
        boxes = self._cell(index, "boxes")
        reading = self._reading(index)
        mask = self._read(index, "mask", partial(read_mask, reading=reading)) if self.maps else None
        gaze = self._read(index, "gaze", read_gaze) if self.maps else None
        # Maps and boxes are measured in the pixels of the whole image.
        whole = self._at_least is None or boxes is not None or mask is not None or gaze is not None
        at_least = None if whole else self._at_least
        image = self._read(index, "image", partial(read_image, at_least=at_least, reading=reading))
        height, width = image.shape[:2]
        for what, values in (("mask", mask), ("gaze map", gaze)):
            if values is not None and values.shape != (height, width):
                got = f"the {what} has {values.shape[1]}x{values.shape[0]} pixels, the image {width}x{height}"
                raise DataError(got, where=where, remedy=f"give a {what} of the image's size")
        stated = self._stated_size(index)
        if boxes and stated and stated != (width, height):
            got = f"the columns width and height say {stated[0]}x{stated[1]}, the image has {width}x{height} pixels"
            raise DataError(got, where=where, remedy="give boxes, width and height in the pixels of the file")
        sample = self._facts(index, (width, height) if boxes else None)
        mask = None if mask is None else region(mask, sample.source)
        return dataclasses.replace(sample, image=image, mask=mask, gaze=gaze)

    def facts(self, index: int) -> Sample:
        """Give what is known of a sample without reading pixels: `image` is empty (0, 0), mask and gaze None.

        Where there are boxes but no columns `width` and `height`, the image's header is read for its size.
        """
        size = None
        if self._cell(index, "boxes"):
            reading = self._reading(index)
            size = self._stated_size(index) or self._read(index, "image", partial(image_size, reading=reading))
        return self._facts(index, size)

    def content(self, index: int) -> bytes:
        """Give the bytes of the image file, which tell one image from another.

        Raises:
            DataError: If the file can't be read.
        """
        return bytes(self._read(index, "image", _bytes_of))

    def reduced(self, at_least: int) -> ManifestSource:
        """Give the same samples, JPEGs without boxes and maps read at a scale that leaves the longest side `at_least`.

        They are read faster and are a little off (see `medmoe.data.jpeg`): for training only.
        """
        other = copy.copy(self)
        other._at_least = at_least
        return other

    def shown(self, window: str) -> ManifestSource:
        """Give the same samples, DICOM and NIfTI files read under a window."""
        other = copy.copy(self)
        other.window = window
        return other

    def where(self, index: int) -> str:
        """Name a sample's place for an error: `file:row`."""
        return f"{self.path}:{self.row(index)}"

    def row(self, index: int) -> int:
        """Give the number of a sample's row in the file, from 1."""
        return int(self._rows[_within(index, len(self))]) + 1

    def cells(self, index: int, names: Iterable[str] | None = None) -> dict[str, str | None]:
        """Give what is written in a sample's row, by our names of the columns: all that there are, or those named."""
        index = _within(index, len(self))
        wanted = self._columns if names is None else [name for name in names if name in self._columns]
        return {name: self._columns[name][index].as_py() for name in wanted}

    def check(self) -> None:
        """Look for every image, mask and gaze file.

        Raises:
            DataError: At the first row whose file is missing, with the number of further ones.
        """
        root = str(self.folder)
        for name in ("image", "mask", "gaze"):
            column = self._columns.get(name)
            if column is None:
                continue
            missing = [
                index
                for index, value in enumerate(column.to_pylist())
                if value is not None and not os.path.exists(os.path.join(root, value))  # noqa: PTH110, PTH118 - 5x faster
            ]
            if missing:
                others = f" (and of {len(missing) - 1} more rows)" if len(missing) > 1 else ""
                what = f"the {name} file {column[missing[0]].as_py()!r}{others} does not exist"
                remedy = "paths are relative to the manifest; correct them, or take the rows out"
                raise DataError(what, where=self.where(missing[0]), remedy=remedy)

    def _facts(self, index: int, size: tuple[int, int] | None) -> Sample:
        """Gather a row's values; boxes become fractions of size (width, height)."""
        cell, row = self.cells(index), self.row(index)
        return sample_of(
            cell,
            key=f"{self.name}:{row}",
            where=self.where(index),
            modality=self._modalities.get(cell.get("modality")),
            boxes=self._boxes(cell.get("boxes"), size, index),
            prior=self._prior_key(cell.get("prior"), index),
            wording=(self.seed, row) if self.report_templates else None,
        )

    def _cell(self, index: int, name: str) -> str | None:
        column = self._columns.get(name)
        value: str | None = None if column is None else column[_within(index, len(self))].as_py()
        return value

    def _read(self, index: int, name: str, reader: Any) -> Any:
        """Read the file a cell names; errors get the row in front."""
        value = self._cell(index, name)
        if value is None:
            return None
        try:
            return reader(self.folder / value)
        except DataError as error:
            raise DataError(f"{name} {value}: {error.what}", where=self.where(index), remedy=error.remedy) from error

    def _reading(self, index: int) -> Reading:
        """Say what of a file is read, and how; nearly all files are pictures, with nothing to say."""
        if self._plain and self.window == HEADER:
            return USUAL
        frame = parse_number(self._cell(index, "frame"), "frame", where=self.where(index))
        if frame is not None and (frame != int(frame) or frame < 0):
            what = f"frame {frame:g}; allowed: whole numbers from 0, or nothing for the middle one"
            raise DataError(what, where=self.where(index), remedy="correct or empty it")
        return Reading(self.window, None if frame is None else int(frame), self._cell(index, "plane"))

    def _stated_size(self, index: int) -> tuple[int, int] | None:
        """Give the columns (width, height), if both are filled in."""
        where = self.where(index)
        sides = [parse_number(self._cell(index, name), name, where=where) for name in ("width", "height")]
        return (int(sides[0]), int(sides[1])) if sides[0] and sides[1] else None

    def _boxes(self, text: str | None, size: tuple[int, int] | None, index: int) -> tuple[Box, ...] | None:
        """Place boxes in an image of size (width, height)."""
        return (
            None if text is None or size is None else place_boxes(text, size, where=self.where(index), told=self._told)
        )

    def _find_priors(self, table: pa.Table) -> dict[str, int]:
        """Find the row of each image that the column `prior` names (by its path)."""
        if "prior" not in table.column_names:
            return {}
        named = pc.drop_null(pc.unique(table["prior"].combine_chunks()))
        at = pc.index_in(named, value_set=table["image"].combine_chunks())
        return {path: row + 1 for path, row in zip(named.to_pylist(), at.to_pylist(), strict=True) if row is not None}

    def _prior_key(self, prior: str | None, index: int) -> str | None:
        if prior is None:
            return None
        if prior not in self._prior:
            what = f"the prior {prior!r} is no image of this manifest"
            raise DataError(what, where=self.where(index), remedy="give its path as in the column 'image', or empty it")
        return f"{self.name}:{self._prior[prior]}"

    def _choose(self, table: pa.Table, split: str | None) -> NDArray[np.int64]:
        """Choose the rows of a split.

        Raises:
            DataError: If the manifest doesn't have it.
        """
        if split is None:
            return np.arange(table.num_rows, dtype=np.int64)
        if split not in self.splits:
            remedy = "ask for one of these, or for no split"
            if not self.splits:
                remedy = "fill in a column 'split' (train, val, test; by patient), or ask for no split (--split all)"
            there = ", ".join(f"{name} ({count} rows)" for name, count in self.splits.items()) or "none"
            raise DataError(f"no split {split!r}; the manifest has: {there}", where=str(self.path), remedy=remedy)
        matches = pc.equal(table["split"], split).combine_chunks()
        return np.flatnonzero(matches.fill_null(False).to_numpy(zero_copy_only=False)).astype(np.int64)

    def _refuse_leaks(self, table: pa.Table) -> None:
        """Refuse one patient in two splits, within a data set where there are several; rows are named, not patients."""
        if not {"split", "patient_id"} <= set(table.column_names):
            return
        if "source" in table.column_names:
            named = pc.fill_null(table["source"], ""), table["patient_id"], pa.scalar("\n", table["source"].type)
            owner = pc.binary_join_element_wise(*named)
            table = table.set_column(table.column_names.index("patient_id"), "patient_id", owner)
        known = table.select(["patient_id", "split"]).filter(pc.is_valid(table["patient_id"]))
        counted = known.group_by("patient_id").aggregate([("split", "count_distinct")])
        leaks = counted.filter(pc.greater(counted["split_count_distinct"], 1))
        if leaks.num_rows == 0:
            return
        matches = pc.is_in(table["patient_id"], value_set=leaks["patient_id"].combine_chunks()).combine_chunks()
        rows = np.flatnonzero(matches.to_numpy(zero_copy_only=False))
        patients, splits = (table[name].take(pa.array(rows)).to_pylist() for name in ("patient_id", "split"))
        first = next(at for at, name in enumerate(splits) if name is not None)
        other = next(
            at for at, (patient, name) in enumerate(zip(patients, splits, strict=True))
            if patient == patients[first] and name not in (None, splits[first])
        )  # fmt: skip
        others = f" ({leaks.num_rows} such patients)" if leaks.num_rows > 1 else ""
        what = (
            f"the patient of row {rows[other] + 1} (split {splits[other]!r}) is also in row {rows[first] + 1} "
            f"(split {splits[first]!r}){others}"
        )
        remedy = "put all of a patient's rows in one split, or map patient_id to a column that tells patients apart"
        raise DataError(what, where=f"{self.path}:{rows[other] + 1}", remedy=remedy)

    def _resolve_modalities(self) -> dict[str | None, str]:
        """Give the library's name for each modality of the chosen rows."""
        column = self._columns.get("modality")
        if column is None:
            return {}
        names = [name for name in pc.unique(column).to_pylist() if name is not None]
        return {name: resolve(name, where=self.where(pc.index(column, name).as_py())) for name in names}

    def _refuse_nulls(self, name: str, what: str, remedy: str) -> None:
        column = self._columns[name]
        if column.null_count:
            raise DataError(what, where=self.where(pc.index(pc.is_null(column), True).as_py()), remedy=remedy)

    def _refuse_no_report(self) -> None:
        """Refuse rows that neither have a text nor, where templates are on, a label."""
        nothing = np.ones(len(self), np.bool_)
        for name in ("text", "label") if self.report_templates else ("text",):
            if name in self._columns:
                nothing &= pc.is_null(self._columns[name]).to_numpy(zero_copy_only=False)
        if nothing.any():
            others = f" (and of {nothing.sum() - 1} more rows)" if nothing.sum() > 1 else ""
            remedy = "write it in the column 'text', give a label with report templates on, or take the row out"
            raise DataError(f"the report{others} is empty", where=self.where(int(nothing.argmax())), remedy=remedy)


def _bytes_of(path: Path) -> bytes:
    try:
        with open_file(path) as file:
            return file.read()
    except (OSError, ValueError) as error:
        raise DataError(f"can't be read: {getattr(error, 'strerror', None) or error}") from None


def _count(table: pa.Table, name: str) -> dict[str, int]:
    """Count the values of a column, blanks left out."""
    if name not in table.column_names:
        return {}
    return dict(sorted(Counter(table[name].drop_null().to_pylist()).items()))


def _within(index: int, count: int) -> int:
    """Bring an index to 0..count - 1 as a list would.

    Raises:
        IndexError: If it lies outside.
    """
    if not -count <= index < count:
        raise IndexError(f"sample {index} of {count}")
    return int(index) % count
