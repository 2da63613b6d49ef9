"""Who is left out: every source in turn, every modality in turn, or several sources together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medmoe.build import facts_of
from medmoe.data.sources.base import Source
from medmoe.errors import DataError
from medmoe.metrics import Bools, Ints
from medmoe.modalities import in_order


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of n samples without their pixels.

    Attributes:
        keys: [n] where each came from.
        modality: [n] name, or "" where unknown.
        source: [n] data set, or "" where unknown.
        patient: [n] patient, or None.
        split: [n] `train`, `val` or `test`.
    """

    keys: tuple[str, ...]
    modality: tuple[str, ...]
    source: tuple[str, ...]
    patient: tuple[str | None, ...]
    split: tuple[str, ...]

    @classmethod
    def of(cls, parts: Sequence[tuple[str, Source]]) -> Facts:
        """Read the facts of the sources of several splits, one after the other.

        Raises:
            DataError: If no sample names its source.
        """
        samples = [(split, sample) for split, source in parts for sample in facts_of(source)]
        if not any(sample.source for _, sample in samples):
            raise DataError("no sample says which source it is of", remedy="add a source column to the manifest")
        return cls(
            keys=tuple(sample.key for _, sample in samples),
            modality=tuple(sample.modality or "" for _, sample in samples),
            source=tuple(sample.source or "" for _, sample in samples),
            patient=tuple(sample.patient for _, sample in samples),
            split=tuple(split for split, _ in samples),
        )

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities that occur, in the table's order."""
        return in_order(name for name in self.modality if name)

    def where(self, *splits: str) -> Bools:
        """Tell which samples are of some splits: [n]."""
        return np.isin(np.array(self.split), splits)


@dataclass(frozen=True, slots=True)
class Fold:
    """One router and what it doesn't see.

    Attributes:
        name: Such as `source busi`.
        out: [n] which samples are left out.
        modalities: Those that are left to train on.
    """

    name: str
    out: Bools
    modalities: tuple[str, ...]

    def target(self, facts: Facts) -> Ints:
        """Give each sample's place among the fold's modalities: [n], -1 for one never trained on."""
        places = {name: place for place, name in enumerate(self.modalities)}
        return np.array([places.get(name, -1) for name in facts.modality], dtype=np.int64)


def make_folds(facts: Facts, *, together: int | None = None, modalities: bool = True) -> list[Fold]:
    """List what is left out in turn.

    Args:
        facts: Of all samples.
        together: Deal the sources into so many groups, each left out as one, instead of one by one: fewer folds,
            and a harder question, since fewer sites are left to learn from.
        modalities: Whether each modality is also left out as a whole; a source that is all there is of a modality
            then isn't left out a second time.

    Raises:
        DataError: If a fold would leave fewer than two modalities.
    """
    source, modality = np.array(facts.source), np.array(facts.modality)
    names = sorted({name for name in facts.source if name})
    if together is None:
        outs = {f"source {name}": source == name for name in names}
    else:
        dealt = deal(facts, np.ones(len(source), dtype=bool), together)
        outs = {f"group {group}": np.array([dealt.get(name) == group for name in source]) for group in range(together)}
    if modalities:
        whole = {f"modality {name}": modality == name for name in facts.modalities}
        again = [name for name, out in outs.items() if any(np.array_equal(out, own) for own in whole.values())]
        outs = {name: out for name, out in outs.items() if name not in again} | whole
    folds = []
    for name, out in outs.items():
        left = in_order(set(modality[~out & facts.where("train")]) - {""})
        if len(left) < 2:
            raise DataError(f"{name}: only {left or 'nothing'} is left to train on", remedy="give more sources")
        folds.append(Fold(name, out, left))
    return folds


def deal(facts: Facts, among: Bools, groups: int) -> dict[str, int]:
    """Deal sources into groups so that those of a modality lie in different ones, the largest first.

    Args:
        facts: Of all samples.
        among: [n] which samples count.
        groups: How many.

    Returns:
        Source → group. The only source of a modality is in none: without it there is nothing to learn from.
    """
    pairs = [(s, m) for s, m, counts in zip(facts.source, facts.modality, among, strict=True) if counts and s and m]
    size = {name: sum(s == name for s, _ in pairs) for name in {s for s, _ in pairs}}
    held = {name: {m for s, m in pairs if s == name} for name in size}
    providers = {m: sum(m in own for own in held.values()) for own in held.values() for m in own}
    load: dict[tuple[str, int], int] = {}
    dealt: dict[str, int] = {}
    for name in sorted(size, key=lambda name: (-size[name], name)):
        if all(providers[m] == 1 for m in held[name]):
            continue
        crowd = [(sum(load.get((m, g), 0) for m in held[name]), load.get(("", g), 0), g) for g in range(groups)]
        group = min(crowd)[2]
        dealt[name] = group
        for key in (*held[name], ""):
            load[key, group] = load.get((key, group), 0) + 1
    return dealt
