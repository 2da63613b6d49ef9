"""Which samples make up which training step: a pure function of the seed and the step's number.

Nothing is remembered from step to step, so a run resumed at any step, with any number of workers, sees what an
uninterrupted one would have seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from medmoe.errors import ConfigError, unknown

BATCHINGS = ("mixed", "within")

Ints = NDArray[np.int64]

# Each stream of random numbers has its own first key, so that no two are the same.
_MIXED, _WITHIN, _TURN = 1, 2, 3


class Stream:
    """An endless row of passes over some samples, each pass in a new order.

    Args:
        members: [n] indices of the samples, at least one.
        key: Seeds the orders.
    """

    def __init__(self, members: Ints, key: tuple[int, ...]) -> None:
        self._members, self._key = members, key
        self._passes: dict[int, Ints] = {}

    def take(self, first: int, count: int) -> Ints:
        """Give `count` samples from position `first` on: [count]."""
        size = len(self._members)
        parts = []
        for number in range(first // size, -(-(first + count) // size)):
            low, high = max(first - number * size, 0), min(first + count - number * size, size)
            parts.append(self._pass(number)[low:high])
        return np.concatenate(parts) if parts else self._members[:0]

    def _pass(self, number: int) -> Ints:
        if number not in self._passes:
            # Two passes are enough for a batch that lies across the border of both.
            self._passes = {n: order for n, order in self._passes.items() if n == number - 1}
            self._passes[number] = np.random.default_rng([*self._key, number]).permutation(self._members)
        return self._passes[number]


class Mixture:
    """An endless shuffled mixture of streams, each with a fixed share.

    The stream that each position belongs to is drawn in rounds; in every round each stream has exactly its quota,
    so that how far each stream has got is known for any position without counting from the start.

    Args:
        streams: The streams.
        quotas: How many positions of a round each stream has, at least 1.
        key: Seeds the rounds.
    """

    def __init__(self, streams: Sequence[Stream], quotas: Sequence[int], key: tuple[int, ...]) -> None:
        self._streams, self._quotas, self._key = tuple(streams), tuple(quotas), key
        self._turns = np.repeat(np.arange(len(quotas)), quotas)
        self._rounds = Stream(np.arange(len(self._turns)), key)

    def take(self, first: int, count: int) -> Ints:
        """Give `count` samples from position `first` on: [count]."""
        size = len(self._turns)
        begun = first - first % size
        turns = self._turns[self._rounds.take(begun, first - begun + count)]
        before, now = turns[: first - begun], turns[first - begun :]
        chosen = np.empty(count, np.int64)
        for number, (stream, quota) in enumerate(zip(self._streams, self._quotas, strict=True)):
            mine = now == number
            at = begun // size * quota + int((before == number).sum())
            chosen[mine] = stream.take(at, int(mine.sum()))
        return chosen


class Plan:
    """Names the samples of each training step.

    Args:
        modalities: The modality of each sample, None where unknown.
        batch_size: Samples in a step.
        batching: `mixed`: every batch is a shuffle over all samples. `within`: a part of every batch comes from a
            single modality, whose samples are harder negatives of each other, and the rest is mixed; the modalities
            take turns. Those with fewer samples than the part has places have no turn, unless all have fewer.
        within_fraction: That part. Whole batches (1.0) taught much worse than mixed ones on phantoms.
        balance: Share of modalities in what is mixed: 0 as they come, 1 equal, between them frequency to the power of
            1 - balance. Samples of small modalities then come around more often.
        seed: Non-negative.

    Raises:
        ConfigError: If a value isn't allowed.
    """

    def __init__(
        self,
        modalities: Sequence[str | None],
        *,
        batch_size: int,
        batching: str = "mixed",
        within_fraction: float = 0.5,
        balance: float = 0.0,
        seed: int = 0,
    ) -> None:
        if batching not in BATCHINGS:
            raise ConfigError(unknown("batching", batching, BATCHINGS), where="data.batching")
        for name, value in (("within_fraction", within_fraction), ("balance", balance)):
            if not 0 <= value <= 1:
                raise ConfigError(f"{value!r} isn't allowed; 0 to 1 is", where=f"data.{name}")
        self.batch_size = batch_size
        self._part = round(within_fraction * batch_size) if batching == "within" else 0
        self._mixed: Stream | Mixture = Stream(np.arange(len(modalities)), (seed, _MIXED))
        self._within: list[Stream] = []
        if self._part:
            known = [part for name, part in _by_modality(modalities) if name is not None]
            if not known:
                raise ConfigError("'within' needs samples with a modality", where="data.batching", remedy="use 'mixed'")
            large = [part for part in known if len(part) >= self._part] or known
            self._within = [Stream(part, (seed, _WITHIN, number)) for number, part in enumerate(large)]
        if balance:
            members = [part for _, part in _by_modality(modalities)]
            share = np.array([len(part) for part in members], np.float64) ** (1 - balance)
            quotas = np.maximum(1, np.rint(share / share.sum() * 64 * batch_size)).astype(int).tolist()
            streams = [Stream(part, (seed, _MIXED, number)) for number, part in enumerate(members)]
            self._mixed = Mixture(streams, quotas, (seed, _TURN))

    def indices(self, step: int) -> Ints:
        """Give the samples of a step: [batch_size], those of a single modality first."""
        rest = self.batch_size - self._part
        mixed = self._mixed.take(step * rest, rest)
        if not self._part:
            return mixed
        turn, visit = step % len(self._within), step // len(self._within)
        return np.concatenate([self._within[turn].take(visit * self._part, self._part), mixed])

    def following(self, step: int) -> Iterator[int]:
        """Give the samples of all later steps, one by one and without end."""
        while True:
            step += 1
            yield from self.indices(step).tolist()


def _by_modality(modalities: Sequence[str | None]) -> list[tuple[str | None, Ints]]:
    """Group samples by modality, in the order of the names; those without one come last."""
    places: dict[str | None, list[int]] = {}
    for index, modality in enumerate(modalities):
        places.setdefault(modality, []).append(index)
    names = sorted(places, key=lambda name: (name is None, name or ""))
    return [(name, np.array(places[name], np.int64)) for name in names]
