"""A source with fewer patients, for curves over the size of the data."""

from __future__ import annotations

import numpy as np

from medmoe.data.sources.base import Source, content_of
from medmoe.errors import DataError
from medmoe.types import Sample


class FewerPatients:
    """The samples of some patients, drawn once: a smaller number's patients are among a larger one's.

    Args:
        source: The samples; one without a patient is a patient of its own.
        patients: How many patients.
        seed: Of the draw.

    Raises:
        DataError: If there are fewer.
    """

    def __init__(self, source: Source, patients: int, *, seed: int = 0) -> None:
        self.source = source
        owners = [source.facts(index).person or f"\n{index}" for index in range(len(source))]
        known = list(dict.fromkeys(owners))
        if not 0 < patients <= len(known):
            raise DataError(f"{patients} patients asked for, there are {len(known)}", where="--patients")
        order = np.random.default_rng(seed).permutation(len(known))
        kept = {known[place] for place in order[:patients].tolist()}
        self.rows = [index for index, owner in enumerate(owners) if owner in kept]

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
