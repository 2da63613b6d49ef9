"""A source that keeps the samples it has read in memory, shrunk to the model's size, up to a limit."""

from __future__ import annotations

from collections.abc import Callable

from medmoe.data.sources.base import Source
from medmoe.types import Sample


class RememberedSource:
    """Reads each sample of another source once, as long as there is room.

    Small images are read from disk for longer than they are learnt from. Samples are kept in the order they are first
    asked for; what finds no more room is read anew each time. Every worker process keeps its own.

    Args:
        source: The samples.
        shrink: What is done to a sample before it is kept, such as `Preprocess.shrink`.
        megabytes: Room for images, masks and gaze maps.
    """

    def __init__(self, source: Source, shrink: Callable[[Sample], Sample], megabytes: int) -> None:
        self.source, self.shrink = source, shrink
        self.room = megabytes * 2**20
        self.kept: dict[int, Sample] = {}

    def __len__(self) -> int:
        """Count the samples."""
        return len(self.source)

    def __getitem__(self, index: int) -> Sample:
        """Give a sample, shrunk."""
        kept = self.kept.get(index)
        if kept is not None:
            return kept
        sample = self.shrink(self.source[index])
        size = sum(field.nbytes for field in (sample.image, sample.mask, sample.gaze) if field is not None)
        if size <= self.room:
            self.room -= size
            self.kept[index] = sample
        return sample

    def facts(self, index: int) -> Sample:
        """Give a sample's facts without its pixels."""
        return self.source.facts(index)
