"""Which samples make up which training step: a pure function of the seed and the step's number.

Nothing is remembered from step to step, so a run resumed at any step, with any number of workers, sees what an
uninterrupted one would have seen.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from medmoe.errors import ConfigError, unknown

BATCHINGS = ("mixed", "within")
SHUFFLES = ("global", "shards")

Ints = NDArray[np.int64]

# Each stream of random numbers has its own first key, so that no two are the same.
_MIXED, _WITHIN, _TURN, _PARTS, _PART_TURN = 1, 2, 3, 4, 5
_ROUND = 1 << 16  # most positions of a round in which shares are kept exactly


@dataclass(frozen=True, slots=True)
class Layout:
    """What a source is made of, as far as the order of its samples goes by it.

    Attributes:
        sizes: Samples of each part, those that `a::b` joins.
        factors: How often a sample of each part comes, beside those of the others; empty: equally often.
        shards: [n] the tar of each sample, for an order in which tars are read one after the other; None for one that
            is shuffled over all.
        window: Samples that are shuffled among each other where tars are.
    """

    sizes: Sequence[int] = ()
    factors: Sequence[float] = ()
    shards: Ints | None = None
    window: int = 10_000

    def __post_init__(self) -> None:
        """Look at the factors.

        Raises:
            ConfigError: If there isn't one above 0 for each part.
        """
        if self.factors and len(self.factors) != len(self.sizes):
            what = f"{len(self.factors)} factors for {len(self.sizes)} sources"
            remedy = "give one for each source that :: joins in --train-data"
            raise ConfigError(what, where="data.upsampling", remedy=remedy)
        wrong = next((factor for factor in self.factors if not 0 < factor < math.inf), None)
        if wrong is not None:
            raise ConfigError(f"{wrong!r} isn't allowed; above 0 is", where="data.upsampling")

    def part_of(self, count: int) -> Ints:
        """Give the number of each sample's part: [count]."""
        if not self.factors:
            return np.zeros(count, np.int64)
        return np.repeat(np.arange(len(self.sizes)), self.sizes)


PLAIN = Layout()


class Stream:
    """An endless row of passes over some samples, each pass in a new order.

    Args:
        members: [n] indices of the samples, at least one.
        key: Seeds the orders.
        shards: The tar of each sample there is. In every pass, tars are then drawn one after the other until they hold
            `window` samples, which are shuffled among each other; then the next ones. So each is read in one go.
        window: Samples.
    """

    def __init__(self, members: Ints, key: tuple[int, ...], shards: Ints | None = None, window: int = 1) -> None:
        self._members, self._key, self._window = members, key, window
        self._ends: Ints | None = None  # where the samples of each tar end in the members, sorted by tar
        if shards is not None:
            own = shards[members]
            order = np.argsort(own, kind="stable")
            self._members = members[order]
            self._ends = np.append(np.flatnonzero(np.diff(own[order])) + 1, len(members))
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
            rng = np.random.default_rng([*self._key, number])
            ends = self._ends
            self._passes[number] = rng.permutation(self._members) if ends is None else self._by_shard(ends, rng)
        return self._passes[number]

    def _by_shard(self, ends: Ints, rng: np.random.Generator) -> Ints:
        """Draw an order of the tars, and shuffle the samples of as many as fill a window."""
        tars = np.split(self._members, ends[:-1])
        drawn = [tars[number] for number in rng.permutation(len(tars))]
        order = np.concatenate(drawn)
        begin = end = 0
        for tar in drawn:
            end += len(tar)
            if end - begin >= self._window or end == len(order):
                rng.shuffle(order[begin:end])
                begin = end
        return order


class Mixture:
    """An endless shuffled mixture of streams, each with a fixed share.

    The stream that each position belongs to is drawn in rounds; in every round each stream has exactly its quota,
    so that how far each stream has got is known for any position without counting from the start.

    Args:
        streams: The streams.
        quotas: How many positions of a round each stream has, at least 1.
        key: Seeds the rounds.
    """

    def __init__(self, streams: Sequence[Stream | Mixture], quotas: Sequence[int], key: tuple[int, ...]) -> None:
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
        layout: What the source is made of: shares of its parts, and whether tars are read one after the other.

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
        layout: Layout = PLAIN,
    ) -> None:
        if batching not in BATCHINGS:
            raise ConfigError(unknown("batching", batching, BATCHINGS), where="data.batching")
        for name, value in (("within_fraction", within_fraction), ("balance", balance)):
            if not 0 <= value <= 1:
                raise ConfigError(f"{value!r} isn't allowed; 0 to 1 is", where=f"data.{name}")
        self.batch_size = batch_size
        self._part = round(within_fraction * batch_size) if batching == "within" else 0
        self._layout, self._seed = layout, seed
        self._part_of = layout.part_of(len(modalities))
        self._mixed = self._parted(np.arange(len(modalities)), (seed, _MIXED), 0)
        self._within: list[Stream | Mixture] = []
        if self._part:
            known = [part for name, part in _by_modality(modalities) if name is not None]
            if not known:
                raise ConfigError("'within' needs samples with a modality", where="data.batching", remedy="use 'mixed'")
            large = [part for part in known if len(part) >= self._part] or known
            self._within = [self._parted(part, (seed, _WITHIN, n), 2 * n + 2) for n, part in enumerate(large)]
        if balance:
            members = [part for _, part in _by_modality(modalities)]
            share = np.array([self._weight(part) for part in members], np.float64) ** (1 - balance)
            quotas = np.maximum(1, np.rint(share / share.sum() * 64 * batch_size)).astype(int).tolist()
            streams = [self._parted(part, (seed, _MIXED, n), 2 * n + 1) for n, part in enumerate(members)]
            self._mixed = Mixture(streams, quotas, (seed, _TURN))

    def indices(self, step: int) -> Ints:
        """Give the samples of a step: [batch_size], those of a single modality first."""
        rest = self.batch_size - self._part
        mixed = self._mixed.take(step * rest, rest)
        if not self._part:
            return mixed
        turn, visit = step % len(self._within), step // len(self._within)
        return np.concatenate([self._within[turn].take(visit * self._part, self._part), mixed])

    def _parted(self, members: Ints, key: tuple[int, ...], number: int) -> Stream | Mixture:
        """Make a stream of samples, a mixture of parts where some come more often; `number` tells streams apart."""
        layout, part_of = self._layout, self._part_of[members]
        if not layout.factors:
            return Stream(members, key, layout.shards, layout.window)
        parts = np.unique(part_of).tolist()
        shares = [int((part_of == part).sum()) * Fraction(str(layout.factors[part])) for part in parts]
        streams = [
            Stream(members[part_of == part], (self._seed, _PARTS, number, part), layout.shards, layout.window)
            for part in parts
        ]
        return Mixture(streams, quotas_of(shares), (self._seed, _PART_TURN, number))

    def _weight(self, members: Ints) -> float:
        """Count samples, those of a part as often as they come."""
        if not self._layout.factors:
            return len(members)
        return float(np.asarray(self._layout.factors)[self._part_of[members]].sum())

    def following(self, step: int) -> Iterator[int]:
        """Give the samples of all later steps, one by one and without end."""
        while True:
            step += 1
            yield from self.indices(step).tolist()


def quotas_of(shares: Sequence[Fraction]) -> list[int]:
    """Give the smallest whole numbers in the ratio of shares above 0.

    Where they add up to more than 65,536, the nearest that add up to as much or little more, none of them 0.

    >>> quotas_of([Fraction(60), Fraction(30) * Fraction("2.5")])
    [4, 5]
    """
    factor = math.lcm(*(share.denominator for share in shares))
    whole = [int(share * factor) for share in shares]
    common = math.gcd(*whole)
    whole = [number // common for number in whole]
    total = sum(whole)
    if total <= _ROUND:
        return whole
    exact = [number * _ROUND for number in whole]
    quotas = [number // total for number in exact]
    most = sorted(range(len(whole)), key=lambda at: -(exact[at] % total))
    for at in most[: _ROUND - sum(quotas)]:
        quotas[at] += 1
    return [max(1, quota) for quota in quotas]


def _by_modality(modalities: Sequence[str | None]) -> list[tuple[str | None, Ints]]:
    """Group samples by modality, in the order of the names; those without one come last."""
    places: dict[str | None, list[int]] = {}
    for index, modality in enumerate(modalities):
        places.setdefault(modality, []).append(index)
    names = sorted(places, key=lambda name: (name is None, name or ""))
    return [(name, np.array(places[name], np.int64)) for name in names]
