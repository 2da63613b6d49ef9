"""Some samples of a source, by their places in it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from medmoe.data.sources.base import Source, by_shard, content_of, reduced, shards_of, shown
from medmoe.errors import DataError
from medmoe.types import Sample


class Rows:
    """The samples at some places of a source, in the order given.

    Args:
        source: The samples.
        rows: Places in it, at least one.

    Raises:
        DataError: If there is none.
    """

    def __init__(self, source: Source, rows: Sequence[int]) -> None:
        if not len(rows):
            raise DataError("no sample is left")
        self.source, self.rows = source, [int(row) for row in rows]

    def __len__(self) -> int:
        """Count the samples."""
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        """Read one sample, pixels included."""
        return self.source[self.rows[index]]

    def facts(self, index: int) -> Sample:
        """Give what is known of a sample without reading pixels."""
        return self.source.facts(self.rows[index])

    def content(self, index: int) -> bytes:
        """Give what tells one image from another."""
        return content_of(self.source, self.rows[index])

    def reduced(self, at_least: int) -> Rows:
        """Give the same samples, read at a reduced scale where their source can."""
        return Rows(reduced(self.source, at_least), self.rows)

    def shown(self, window: str) -> Rows:
        """Give the same samples, read under a window."""
        return Rows(shown(self.source, window), self.rows)

    def shards(self) -> NDArray[np.int64] | None:
        """Give the number of each sample's tar; None without any."""
        numbers = shards_of(self.source)
        return None if numbers is None else numbers[self.rows]

    def by_shard(self) -> Rows:
        """Give the same samples, tars read as a whole."""
        return Rows(by_shard(self.source), self.rows)
