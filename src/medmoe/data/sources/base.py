"""The protocol every source keeps: samples by index, and their facts without pixels; and a source that changes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

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
