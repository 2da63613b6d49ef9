"""The protocol every source keeps: samples by index, and their facts without pixels; and a source that changes them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from medmoe.data.reading import HEADER
from medmoe.errors import DataError
from medmoe.types import Sample


@runtime_checkable
class Source(Protocol):
    """Samples by index."""

    def __len__(self) -> int:
        """Count the samples."""
        ...

    def __getitem__(self, index: int) -> Sample:
        """Read one sample, pixels included.

        Raises:
            DataError: If the sample can't be read; the message names the file and row.
        """
        ...

    def facts(self, index: int) -> Sample:
        """Give what is known of a sample without reading pixels: `image` is empty (0, 0), mask and gaze None."""
        ...


class ChangedSource:
    """A source whose samples are changed as they are read: corrupted, cropped, windowed another way.

    Args:
        source: The samples.
        change: Gives the sample to read in place of one, from its index and itself. Facts stay as they are.
    """

    def __init__(self, source: Source, change: Callable[[int, Sample], Sample]) -> None:
        self.source, self.change = source, change

    def __len__(self) -> int:
        """Count the samples."""
        return len(self.source)

    def __getitem__(self, index: int) -> Sample:
        """Read one sample and change it."""
        return self.change(index, self.source[index])

    def facts(self, index: int) -> Sample:
        """Give what is known of a sample without reading pixels."""
        return self.source.facts(index)

    def place(self, index: int) -> str:
        """Say which frame or slice of its file an image is."""
        return place_of(self.source, index)

    def shown(self, window: str) -> ChangedSource:
        """Give the same samples, read under a window and then changed."""
        return ChangedSource(shown(self.source, window), self.change)


def content_of(source: Source, index: int) -> bytes:
    """Give bytes that are equal where two images of sources of one kind are the same.

    A source may say how, with a method `content`: a manifest gives the bytes of the image file. Else it is the pixels.

    Raises:
        DataError: If the sample can't be read.
    """
    own: Callable[[int], bytes] | None = getattr(source, "content", None)
    if own is not None:
        return own(index)
    image = np.ascontiguousarray(source[index].image)
    return f"{image.dtype} {image.shape} ".encode() + image.tobytes()


def place_of(source: Source, index: int) -> str:
    """Say which frame or slice of its file an image is, where that is stated; else nothing.

    A source whose files hold several says so with a method `place`. Two samples with the same facts may differ in it.

    Raises:
        DataError: If what is stated is wrong.
    """
    own: Callable[[int], str] | None = getattr(source, "place", None)
    return "" if own is None else own(index)


def shown(source: Source, window: str) -> Source:
    """Give a source whose DICOM and NIfTI files are read under a window; see `medmoe.data.reading.Reading`.

    A source says how with a method `shown`, which gives another source.

    Raises:
        DataError: If its images were read already, under another window, or it can't be told how to read.
    """
    own: Callable[[str], Source] | None = getattr(source, "shown", None)
    if own is not None:
        return own(window)
    if window != HEADER:
        raise DataError(f"a {type(source).__name__} can't read its images under the window {window!r}")
    return source


def sizes_of(source: Source) -> tuple[int, ...]:
    """Count the samples of each part that `::` joined; of one source, its own.

    A source that has parts says so with a method `sizes`.
    """
    own: Callable[[], tuple[int, ...]] | None = getattr(source, "sizes", None)
    return (len(source),) if own is None else own()


def shards_of(source: Source) -> NDArray[np.int64] | None:
    """Give the number of the tar that each sample lies in: [n]; None for a source without tars.

    A source that has some says so with a method `shards`.
    """
    own: Callable[[], NDArray[np.int64] | None] | None = getattr(source, "shards", None)
    return None if own is None else own()


def by_shard(source: Source) -> Source:
    """Give a source that reads a tar as a whole when it first comes to it, for an order that stays within a few tars.

    A source that can says how with a method `by_shard`, which gives another source; others are given as they are.
    """
    own: Callable[[], Source] | None = getattr(source, "by_shard", None)
    return source if own is None else own()


def reduced(source: Source, at_least: int) -> Source:
    """Give a source that may read images at a reduced scale, their longest side with `at_least` pixels or more.

    A source that can says how with a method `reduced`, which gives another source; others are given as they are. What
    comes is a little off (see `medmoe.data.jpeg`): for training only.
    """
    own: Callable[[int], Source] | None = getattr(source, "reduced", None)
    return source if own is None else own(at_least)


def facts_fingerprint(source: Source) -> str:
    """Hash what is known of a source's samples without their pixels, in order."""
    digest = hashlib.sha256()
    for index in range(len(source)):
        try:
            facts = source.facts(index)
            known: Any = (facts.key, facts.modality, facts.report, facts.labels, facts.patient, facts.source)
            known = (*known, place) if (place := place_of(source, index)) else known
        except DataError as error:
            known = str(error)
        digest.update(repr(known).encode())
    return digest.hexdigest()[:16]
