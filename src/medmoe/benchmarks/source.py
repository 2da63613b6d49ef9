"""A public data set on disk as a source of samples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from medmoe.benchmarks.layouts import Layout, Row, expected, present, read_rows
from medmoe.benchmarks.spec import DataSet, Split
from medmoe.data.images import flatten_grey, read_image, stretch
from medmoe.data.reading import HEADER, Reading
from medmoe.data.sources.base import Source, shown
from medmoe.errors import DataError
from medmoe.types import Sample


class RowSource:
    """The images of a data set.

    Args:
        rows: The images; every label is one of `names`.
        name: The data set.
        modality: Its modality, or None.
        names: Label on disk → published name of the class, which samples carry.
    """

    def __init__(self, rows: Sequence[Row], *, name: str, modality: str | None, names: dict[str, str]) -> None:
        self.window = HEADER
        self.rows, self.name, self.modality, self.names = tuple(rows), name, modality, names

    def __len__(self) -> int:
        """Count the images."""
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        """Read one image.

        Raises:
            DataError: If it can't be read; the message names the row.
        """
        row = self.rows[index]
        if not isinstance(row.image, Path):
            return replace(self.facts(index), image=flatten_grey(stretch(row.image, where=row.where)))
        try:
            return replace(self.facts(index), image=read_image(row.image, reading=Reading(self.window)))
        except DataError as error:
            raise DataError(f"image {row.image}: {error.what}", where=row.where, remedy=error.remedy) from error

    def shown(self, window: str) -> RowSource:
        """Give the same images, read under a window."""
        other = copy(self)
        other.window = window
        return other

    def content(self, index: int) -> bytes:
        """Give the bytes of the image file, as a manifest's source does, or of the pixels where there is no file.

        Raises:
            DataError: If the file can't be read.
        """
        image = self.rows[index].image
        if not isinstance(image, Path):
            return np.ascontiguousarray(image).tobytes()
        try:
            return image.read_bytes()
        except OSError as error:
            what, remedy = f"image {image} can't be read ({error})", "download the images beside the table"
            raise DataError(what, where=self.rows[index].where, remedy=remedy) from None

    def facts(self, index: int) -> Sample:
        """Give what is known of an image without reading it."""
        row = self.rows[index]
        return Sample(
            key=f"{self.name}:{index + 1}",
            image=np.zeros((0, 0), np.uint8),
            modality=self.modality,
            labels=tuple(self.names[label] for label in row.labels),
            patient=row.patient,
            source=self.name,
        )


class Part:
    """Some samples of a source, from `start` to before `stop`."""

    def __init__(self, source: Source, start: int, stop: int) -> None:
        self.source, self.start, self.stop = source, start, min(stop, len(source))

    def __len__(self) -> int:
        """Count the samples."""
        return self.stop - self.start

    def __getitem__(self, index: int) -> Sample:
        """Read one sample."""
        return self.source[self._within(index)]

    def facts(self, index: int) -> Sample:
        """Give what is known of a sample without reading pixels."""
        return self.source.facts(self._within(index))

    def shown(self, window: str) -> Part:
        """Give the same samples, read under a window."""
        return Part(shown(self.source, window), self.start, self.stop)

    def _within(self, index: int) -> int:
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        return self.start + index


@dataclass(frozen=True, slots=True)
class Opened:
    """A data set found on disk.

    Attributes:
        rows: Its images.
        split: The published split that the images are of.
        warnings: What differs from what was published.
    """

    rows: tuple[Row, ...]
    split: Split
    warnings: tuple[str, ...]


def find_set(spec: DataSet, root: Path, split: Split) -> Path | None:
    """Give the folder that a data set lies in, or None if it isn't on disk.

    Raises:
        DataError: If the folder of its name is there without what the layout begins with.
    """
    layout = spec.layout_of(split.layout)
    own = root / spec.name
    for folder in (own, *(root / other for other in spec.folders)):
        if present(layout, folder, spec.labels):
            return folder
    if own.is_dir():
        what = "the folder is empty" if not any(own.iterdir()) else "the folder doesn't hold the data set"
        remedy = f"put it there as published: {expected(layout, spec.name, spec.labels)}"
        raise DataError(what, where=str(own), remedy=remedy)
    return None


def open_set(spec: DataSet, folder: Path, split: Split, *, pinned: bool = False) -> Opened:
    """Read the rows of a data set's test split, and check them.

    Args:
        spec: What its file says.
        folder: Where it lies.
        split: The split to read.
        pinned: Whether just this split was asked for; else another one that lies in the same files counts if the number
            of images says so.

    Raises:
        DataError: If there is no image, one is missing, or a label isn't a class of the data set.
    """
    rows = read_checked(spec, spec.layout_of(split.layout), folder)
    same = [split] if pinned else [one for one in spec.splits if one.layout == split.layout]
    found = next((one for one in same if one.n == len(rows)), split)
    warnings = [found.note] if found.note else []
    known = [one for one in same if one.n is not None]
    if known and found.n != len(rows):
        published = " or ".join(f"{one.n:,} ({one.name})" for one in known)
        warnings.append(f"{len(rows):,} images on disk, {published} published: not comparable as it is")
    counts = Counter(label for row in rows for label in row.labels)
    absent = [one.name for one in spec.classes if not counts[one.label]]
    if absent:
        warnings.append(f"no image of: {', '.join(absent)}")
    return Opened(rows, found, tuple(warnings))


def read_checked(spec: DataSet, layout: Layout, folder: Path) -> tuple[Row, ...]:
    """Read rows of a data set, and refuse what can't be its own.

    Raises:
        DataError: If there is no image, one is missing, or a label isn't a class of the data set.
    """
    rows = read_rows(layout, folder, spec.labels)
    if not rows:
        what = f"no image of {spec.name} is there"
        raise DataError(what, where=str(folder), remedy=f"expected {expected(layout, spec.name, spec.labels)}")
    strange = Counter(label for row in rows for label in row.labels if label not in spec.labels)
    if strange:
        first = next(row for row in rows if not set(row.labels) <= set(spec.labels))
        names = ", ".join(f"{label!r} ({count})" for label, count in sorted(strange.items())[:5])
        what = f"labels that {spec.name} doesn't have: {names}; its labels: {', '.join(map(repr, spec.labels))}"
        raise DataError(what, where=first.where, remedy="these are labels of another set: put the right files there")
    if spec.task == "single_label":
        wrong = next((row for row in rows if len(row.labels) != 1), None)
        if wrong is not None:
            what = f"{len(wrong.labels)} of the classes for one image, allowed: exactly one"
            raise DataError(what, where=wrong.where, remedy="use the published file")
    missing = [row for row in rows if isinstance(row.image, Path) and not row.image.is_file()]
    if missing:
        others = f" (and of {len(missing) - 1} more rows)" if len(missing) > 1 else ""
        what = f"the image file {missing[0].image}{others} does not exist"
        raise DataError(what, where=missing[0].where, remedy="download the images beside the table")
    return tuple(rows)


def source_of(spec: DataSet, rows: Sequence[Row], *, modality: str | None) -> RowSource:
    """Give rows as a source whose samples carry the published names of their classes."""
    names = {one.label: one.name for one in spec.classes}
    return RowSource(rows, name=spec.name, modality=modality, names=names)
