"""A bank of measured images: each described once as it is and a few times changed, since what describes never learns.

Fitting a head to it takes a moment, so that leaving out every source in turn, over several seeds, is affordable.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from medmoe.data.crops import RandomCrop
from medmoe.data.preprocess import Preprocess
from medmoe.data.sources.base import Source, shown
from medmoe.data.transforms import Augment
from medmoe.encoders.descriptor import Descriptor
from medmoe.errors import DataError
from medmoe.tasks.features import of_samples

_BATCH = 64
_VIEWS = 21  # first key of the random streams


@dataclass(frozen=True, slots=True)
class Bank:
    """Measures of n images in V views, the first as the image is.

    Attributes:
        measures: [V, n, F] float32.
    """

    measures: Tensor

    @property
    def plain(self) -> Tensor:
        """The measures of the images as they are: [n, F]."""
        return self.measures[0]


@dataclass(frozen=True, slots=True)
class Measuring:
    """How images are measured.

    Attributes:
        descriptor: Measures them.
        preprocess: Prepares them.
        crop: Takes parts of them for the changed views.
        augment: Changes those.
        seed: Of the changes.
    """

    descriptor: Descriptor
    preprocess: Preprocess
    crop: RandomCrop | None
    augment: Augment | None
    seed: int = 0

    def view(self, source: Source, number: int) -> Tensor:
        """Measure every sample of a source in one view, 0 as it is: [n, F]."""
        parts = []
        source = shown(source, self.preprocess.window)
        for start in range(0, len(source), _BATCH):
            rows = range(start, min(start + _BATCH, len(source)))
            parts.append(self.descriptor.describe(torch.stack([self._pixels(source, row, number) for row in rows])))
        return torch.cat(parts)

    def _pixels(self, source: Source, row: int, number: int) -> Tensor:
        sample = source[row]
        if number > 0:
            rng = np.random.default_rng([self.seed, _VIEWS, number, row])
            sample = sample if self.crop is None else self.crop(sample, rng)
            sample = self.preprocess.shrink(sample)
            sample = sample if self.augment is None else self.augment(sample, rng)
        return self.preprocess(sample)[0]

    def fingerprint(self, source: Source) -> str:
        """Hash what the measures depend on, the pixels of a few of the samples among it: 16 hex digits."""
        settings = [self.preprocess.fingerprint(), repr(self.crop), repr(self.augment), self.seed]
        probe = torch.linspace(0, 1, 3 * self.preprocess.size**2).view(1, 3, self.preprocess.size, -1)
        numbers = (self.descriptor.describe(probe)[0] * 1e3).round().int().tolist()
        return hashlib.sha256(json.dumps([settings, numbers, of_samples(source)]).encode()).hexdigest()[:16]


@torch.no_grad()
def make_bank(
    source: Source,
    measuring: Measuring,
    views: int,
    folder: Path | None = None,
    *,
    tell: Callable[[str], None] = lambda text: None,
) -> Bank:
    """Measure a source, each view from its file where there is one.

    Args:
        source: The samples.
        measuring: How.
        views: V, at least 1.
        folder: Where the views are kept; None keeps them nowhere.
        tell: Called with a line for each view measured.

    Raises:
        DataError: If an image can't be read, or its measures aren't finite.
    """
    stem = "" if folder is None else measuring.fingerprint(source)
    found = []
    for number in range(views):
        path = None if folder is None else folder / f"{stem}-{number}.npy"
        if path is not None and path.is_file():
            found.append(torch.from_numpy(np.load(path, allow_pickle=False)))
            continue
        measures = measuring.view(source, number)
        bad = (~measures.isfinite().all(dim=1)).nonzero().flatten().tolist()
        if bad:
            raise DataError("measures that aren't finite", where=source.facts(bad[0]).key, remedy="look at the image")
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            aside = path.with_suffix(".tmp.npy")
            np.save(aside, measures.numpy())
            aside.replace(path)
        tell(f"measured view {number + 1} of {views}, {len(measures)} images")
        found.append(measures)
    return Bank(torch.stack(found))
