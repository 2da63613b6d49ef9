"""The batch of a step: its samples read, prepared, augmented and collated; what runs in the loader's workers."""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from medmoe.data.collate import collate
from medmoe.data.crops import RandomCrop
from medmoe.data.device_augment import Frame, put_off, stack
from medmoe.data.plan import Plan
from medmoe.data.preprocess import Preprocess, check
from medmoe.data.sources.base import Source
from medmoe.data.text import ReportTokenizer
from medmoe.data.transforms import Augment, Change
from medmoe.errors import DataError, UserError
from medmoe.types import Batch, Sample

T = TypeVar("T")

Item = tuple[Tensor, Sample, tuple[Change, Frame] | None]  # with what is left for the device to do

PATIENCE = 1000  # bad samples in a row after which the data, not a sample, is at fault
_AUGMENT, _SENTENCES, _GRAIN = 11, 12, 13  # first keys of the random streams; those of the plan are others


@dataclass(frozen=True, slots=True)
class Trouble:
    """A user error as a value: exceptions with keyword arguments don't survive the way out of a worker process."""

    kind: type[UserError]
    what: str
    where: str | None
    remedy: str | None

    @classmethod
    def of(cls, error: UserError) -> Trouble:
        """Take an error's words."""
        return cls(type(error), error.what, error.where, error.remedy)

    def error(self) -> UserError:
        """Give the error again."""
        return self.kind(self.what, where=self.where, remedy=self.remedy)


@dataclass(frozen=True, slots=True)
class Parcel:
    """What a worker hands over for a step.

    Attributes:
        step: The step.
        batch: Its batch; None when no sample of it was good, or after a fatal error.
        bad: Key and error of each sample left out.
        fatal: The error to raise.
    """

    step: int
    batch: Batch | None
    bad: tuple[tuple[str, Trouble], ...]
    fatal: Trouble | None = None

    def pin_memory(self) -> Parcel:
        """Called by torch's DataLoader, so that copying to the GPU can overlap with work there."""
        return dataclasses.replace(self, batch=_pinned(self.batch))


def _pinned(value: T) -> T:
    if isinstance(value, Tensor):
        return value.pin_memory()  # type: ignore[return-value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type | Sample):
        fields = {field.name: _pinned(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return dataclasses.replace(value, **fields)
    return value


class Reader(Dataset[Parcel]):
    """The steps by number; this is what runs in the workers. A plan makes it read for training."""

    def __init__(
        self,
        source: Source,
        preprocess: Preprocess,
        tokenizer: ReportTokenizer | None,
        *,
        modalities: tuple[str, ...],
        batch_size: int,
        plan: Plan | None,
        augment: Augment | None,
        later: bool,
        crop: RandomCrop | None,
        seed: int,
        skip: bool,
        foreign: bool,
        rank: int,
        world: int,
    ) -> None:
        self.source, self.preprocess, self.tokenizer = source, preprocess, tokenizer
        self.modalities, self.batch_size, self.plan = modalities, batch_size, plan
        self.augment, self.later, self.crop = augment, later, crop
        self.seed, self.skip, self.foreign = seed, skip, foreign
        self.rank, self.world = rank, world
        self.own = (rank,) if world > 1 else ()  # of random streams that are drawn once a batch

    def __getitem__(self, step: int) -> Parcel:
        bad: list[tuple[str, Trouble]] = []
        try:
            items = self._eval_items(step, bad) if self.plan is None else self._train_items(step, self.plan, bad)
            if not items:
                return Parcel(step, None, tuple(bad))
            rng = None if self.plan is None else partial(self._draws, step)
            pairs = [(image, sample) for image, sample, _ in items]
            batch = collate(pairs, self.tokenizer, modalities=self.modalities, rng=rng, foreign=self.foreign)
            return Parcel(step, self._with_changes(step, batch, items), tuple(bad))
        except UserError as error:
            return Parcel(step, None, tuple(bad), Trouble.of(error))

    def _draws(self, step: int, index: int) -> np.random.Generator:
        """Give what draws the sentences of one of a step's reports: the same, whoever else is in the batch here."""
        return np.random.default_rng([self.seed, _SENTENCES, step, self.rank + index * self.world])

    def _with_changes(self, step: int, batch: Batch, items: list[Item]) -> Batch:
        """Hand on to the device what it is to do to the images."""
        drawn = [one for _, _, one in items if one is not None]
        if not drawn or self.augment is None:
            return batch
        seed = int(np.random.SeedSequence([self.seed, _GRAIN, step, *self.own]).generate_state(1, np.uint32)[0])
        changes = stack(drawn, size=self.preprocess.size, seed=seed, fill=self.augment.fill)
        return dataclasses.replace(batch, changes=changes)

    def _eval_items(self, step: int, bad: list[tuple[str, Trouble]]) -> list[Item]:
        first = step * self.batch_size
        indices = range(first, min(first + self.batch_size, len(self.source)))[self.rank :: self.world]
        found = (self._read(index, None, bad) for index in indices)
        return [item for item in found if item is not None]

    def _train_items(self, step: int, plan: Plan, bad: list[tuple[str, Trouble]]) -> list[Item]:
        """Read a step's samples, or this rank's; a bad one gives its place to the next good one of the plan."""
        items: list[Item] = []
        tried = set[int]()
        spare = itertools.islice(plan.following(step), self.rank, None, self.world)
        for place, planned in list(enumerate(plan.indices(step).tolist()))[self.rank :: self.world]:
            rng = np.random.default_rng([self.seed, _AUGMENT, step, place])
            for attempt, index in enumerate(itertools.chain([planned], spare)):
                item = None if index in tried else self._read(index, rng, bad)
                if item is not None:
                    items.append(item)
                    break
                tried.add(index)
                if len(tried) == len(self.source) or attempt == PATIENCE:
                    last = bad[-1][1]
                    what = (
                        f"no good sample found: {len(tried)} of {len(self.source)} tried are bad, such as: {last.what}"
                    )
                    raise DataError(what, where=last.where, remedy=last.remedy or "repair the data")
        return items

    def _read(self, index: int, rng: np.random.Generator | None, bad: list[tuple[str, Trouble]]) -> Item | None:
        """Read and prepare a sample; None, and a note of why, when it is bad and bad ones are skipped."""
        try:
            sample = self.source[index]
            if self.crop is not None and rng is not None:
                sample = self.crop(sample, rng)
            drawn = None
            if self.augment is not None and rng is not None:
                if self.later:
                    check(sample)
                    sample, drawn = put_off(self.augment, sample, rng, self.preprocess)
                else:
                    sample = self.augment(self.preprocess.shrink(sample), rng)
            return *self.preprocess(sample), drawn
        except DataError as error:
            if not self.skip:
                raise
            bad.append((_key(self.source, index, error), Trouble.of(error)))
            return None


def _key(source: Source, index: int, error: DataError) -> str:
    try:
        return source.facts(index).key
    except DataError:
        return error.where or f"sample {index}"
