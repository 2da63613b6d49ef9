"""The protocol every source keeps: samples by index, and their facts without pixels."""

from __future__ import annotations

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
