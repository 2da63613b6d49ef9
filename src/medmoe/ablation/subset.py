"""A source with fewer patients, for curves over the size of the data."""

from __future__ import annotations

import numpy as np

from medmoe.data.sources.base import Source
from medmoe.data.sources.rows import Rows
from medmoe.errors import DataError


def fewer_patients(source: Source, patients: int, *, seed: int = 0) -> Rows:
    """Give the samples of some patients, drawn once: a smaller number's patients are among a larger one's.

    Args:
        source: The samples; one without a patient is a patient of its own.
        patients: How many patients.
        seed: Of the draw.

    Raises:
        DataError: If there are fewer.
    """
    owners = [source.facts(index).person or f"\n{index}" for index in range(len(source))]
    known = list(dict.fromkeys(owners))
    if not 0 < patients <= len(known):
        raise DataError(f"{patients} patients asked for, there are {len(known)}", where="--patients")
    order = np.random.default_rng(seed).permutation(len(known))
    kept = {known[place] for place in order[:patients].tolist()}
    return Rows(source, [index for index, owner in enumerate(owners) if owner in kept])
