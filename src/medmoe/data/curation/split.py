"""Splits by patient: balanced by modality and label, and a patient who was once in a split stays there.

Patients are dealt out in the order of iterative stratification (Sechidis, Tsoumakas and Vlahavas, 2011), those of the
rarest modality or label first, each to the split that lacks the most of all that it would bring. Whoever has a split
already keeps it, and counts as dealt; so a manifest that has grown is evened out by the new patients alone. Where
nothing is kept and nothing may be remembered, a keyed hash of the patient alone decides: that is stable whatever is
added, and balanced by chance only.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from medmoe.data.curation.sheet import Cells, Sheet
from medmoe.data.sources.cells import parse_labels
from medmoe.errors import ConfigError, DataError

FRACTIONS = {"train": 0.8, "val": 0.1, "test": 0.1}
_PATHS = ("image", "mask", "gaze", "prior")

Feature = tuple[str, ...]


@dataclass(frozen=True)
class Unit:
    """Rows that must stay together: a patient, or patients joined by pictures that they share.

    Attributes:
        rows: Their numbers.
        features: What is to be balanced: the modalities of the rows, and the labels within each.
        place: 0 to 1, from a keyed hash of the patient.
    """

    rows: tuple[int, ...]
    features: tuple[Feature, ...]
    place: float


@dataclass(frozen=True)
class Split:
    """A manifest's rows dealt out.

    Attributes:
        splits: Of each row.
        units: The rows that stay together.
        wanted: Share of each split.
        kept: Units that had a split.
        torn: Units that were kept in several splits, so that a shared picture stays on both sides.
    """

    splits: list[str]
    units: tuple[Unit, ...]
    wanted: Mapping[str, float]
    kept: int
    torn: int

    def table(self) -> list[dict[str, Any]]:
        """Count rows and patients (or joined patients) of each modality and label by split.

        Returns:
            One mapping a feature: `modality`, `label` (None: all), and for each split `patients` and their `share`; the
            first is over everything, and has `rows` too.
        """
        patients: dict[Feature, Counter[str]] = {(): Counter()}
        for unit in self.units:
            split = self.splits[unit.rows[0]]
            for feature in ((), *unit.features):
                patients.setdefault(feature, Counter())[split] += 1
        rows = Counter(self.splits)
        told = []
        for feature in sorted(patients):
            counts = patients[feature]
            line: dict[str, Any] = {"modality": feature[0] if feature else None}
            line["label"] = feature[1] if len(feature) > 1 else None
            for split in self.wanted:
                line[split] = {"patients": counts[split], "share": round(counts[split] / counts.total(), 4)}
                if not feature:
                    line[split]["rows"] = rows[split]
            told.append(line)
        return told


def check_fractions(text: str) -> dict[str, float]:
    """Read `train=0.8,val=0.1,test=0.1`.

    Raises:
        ConfigError: If a share isn't a number above 0, a name occurs twice, or they don't add up to 1.

    >>> check_fractions("train=0.9,test=0.1")
    {'train': 0.9, 'test': 0.1}
    """
    found: dict[str, float] = {}
    for part in text.split(","):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        try:
            share = float(value)
        except ValueError:
            share = -1.0
        if not name or not equals or not 0 < share <= 1:
            raise ConfigError(f"got {part!r}, allowed: NAME=SHARE with a share above 0 to 1", where="--fractions")
        if name in found:
            raise ConfigError(f"the split {name!r} is there twice", where="--fractions")
        found[name] = share
    if abs(sum(found.values()) - 1) > 1e-6:
        remedy = "give shares such as train=0.8,val=0.1,test=0.1"
        raise ConfigError(f"the shares add up to {sum(found.values()):g}, not 1", where="--fractions", remedy=remedy)
    return found


def owners_of(sheet: Sheet, *, resolved: bool = False) -> list[str]:
    """Say with what each row goes: its patient, or without one its study, or without that its picture.

    Args:
        sheet: The manifest.
        resolved: Whether pictures are named from the root of the file system, so that two manifests can be compared.
    """
    images = [str((sheet.path.parent / str(image)).resolve()) if resolved else image for image in sheet.column("image")]
    return [
        f"patient {person}" if person else f"study {study}" if study else f"image {image}"
        for person, study, image in zip(sheet.persons(), sheet.studies(), images, strict=True)
    ]


def kept_from(old: Sheet, sheet: Sheet) -> Cells:
    """Give each row of a manifest the split that its patient (or study, or picture) had in an earlier one.

    Raises:
        DataError: If the earlier one has no splits, or has a patient in several.
    """
    known: dict[str, int] = {}
    splits = old.column("split")
    if not any(splits):
        raise DataError("the manifest has no splits to keep", where=str(old.path), remedy="leave --keep out")
    for row, owner in enumerate(owners_of(old, resolved=True)):
        if splits[row] is not None and splits[known.setdefault(owner, row)] != splits[row]:
            first = known[owner]
            what = f"the patient of this row is in {splits[row]!r}, and by row {first + 1} in {splits[first]!r}"
            raise DataError(what, where=old.where(row), remedy="put all of a patient's rows in one split")
    rows = [known.get(owner) for owner in owners_of(sheet, resolved=True)]
    return [None if row is None else splits[row] for row in rows]


def units_of(
    sheet: Sheet, *, by: Cells | None = None, joined: Sequence[tuple[int, int]] = (), seed: int = 0
) -> tuple[Unit, ...]:
    """Gather the rows that must stay together.

    Rows of one patient (`Sample.person`) do; a row without one goes with its study, or else with its picture.

    Args:
        sheet: The manifest.
        by: Values that keep rows together besides, where they are equal.
        joined: Pairs of rows that must stay together as well.
        seed: Another seed gives other places.
    """
    owners = owners_of(sheet)
    parent = list(range(sheet.rows))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    first: dict[str, int] = {}
    for row, owner in enumerate(owners):
        parent[root(row)] = root(first.setdefault(owner, row))
    alike: dict[str, int] = {}
    for row, value in enumerate(by or ()):
        if value is not None:
            parent[root(row)] = root(alike.setdefault(value, row))
    for one, other in joined:
        parent[root(other)] = root(one)
    groups: dict[int, list[int]] = {}
    for row in range(sheet.rows):
        groups.setdefault(root(row), []).append(row)
    modalities, labels = sheet.column("modality"), sheet.column("label")
    return tuple(
        Unit(tuple(rows), _features(rows, modalities, labels), min(_place(seed, owners[row]) for row in rows))
        for rows in groups.values()
    )


def deal(
    sheet: Sheet,
    units: Sequence[Unit],
    wanted: Mapping[str, float],
    *,
    kept: Cells | None = None,
    by_hash: bool = False,
) -> Split:
    """Deal units out.

    Args:
        sheet: The manifest, for errors.
        units: The rows that stay together.
        wanted: Share of each split, adding up to 1.
        kept: A split of each row that must not change, None where there is none.
        by_hash: Whether the hash alone decides on those that aren't kept.

    Raises:
        DataError: If a row is kept in a split that isn't wanted, or a patient's rows are kept in several.
    """
    splits: Cells = list(kept) if kept else [None] * sheet.rows
    for row, split in enumerate(splits):
        if split is not None and split not in wanted:
            remedy = "name it in --fractions, or empty the column 'split' of those rows"
            raise DataError(f"split {split!r} isn't among {', '.join(wanted)}", where=sheet.where(row), remedy=remedy)
    persons = sheet.persons()
    free, dealt, torn = [], [], 0
    for unit in units:
        found = {splits[row]: row for row in reversed(unit.rows) if splits[row] is not None}
        if not found:
            free.append(unit)
            continue
        torn += len(found) > 1
        own = _of_persons(sheet, unit, splits, persons)
        for row in unit.rows:
            splits[row] = splits[row] or own.get(persons[row]) or splits[min(found.values())]
        dealt.append((unit, str(splits[min(found.values())])))
    if by_hash:
        for unit in free:
            _put(splits, unit, _by_place(unit.place, wanted))
    else:
        _stratify(splits, free, dealt, wanted)
    return Split([str(split) for split in splits], tuple(units), dict(wanted), len(dealt), torn)


def with_splits(table: pa.Table, splits: Sequence[str], folder: Path, new: Path) -> pa.Table:
    """Give a manifest's table with its splits, and paths that are right from another folder.

    Args:
        table: Its columns, as text.
        splits: Of each row.
        folder: That the paths are relative to.
        new: That they shall be relative to.
    """
    columns = {name: table[name] for name in table.column_names}
    if folder.resolve() != new.resolve():
        for name in set(_PATHS) & set(columns):
            moved = [_moved(value, folder, new) for value in table[name].to_pylist()]
            columns[name] = pa.array(moved, pa.large_string())
    return pa.table(columns | {"split": pa.array(splits, pa.large_string())})


def _moved(value: str | None, folder: Path, new: Path) -> str | None:
    if value is None or Path(value).is_absolute():
        return value
    return Path(os.path.relpath((folder / value).absolute(), new.absolute())).as_posix()


def _of_persons(sheet: Sheet, unit: Unit, splits: Cells, persons: Cells) -> dict[str | None, str | None]:
    """Give the kept split of each patient of a unit.

    Raises:
        DataError: If one was kept in two.
    """
    own: dict[str | None, int] = {}
    for row in unit.rows:
        if splits[row] is None or persons[row] is None:
            continue
        first = own.setdefault(persons[row], row)
        if splits[first] != splits[row]:
            what = f"the patient of this row is kept in {splits[row]!r}, and by row {first + 1} in {splits[first]!r}"
            raise DataError(
                what, where=sheet.where(row), remedy="put all of a patient's rows in one split, or empty them"
            )
    return {person: splits[row] for person, row in own.items()}


def _stratify(
    splits: Cells, free: Sequence[Unit], dealt: Sequence[tuple[Unit, str]], wanted: Mapping[str, float]
) -> None:
    """Deal free units by iterative stratification; those dealt already count."""
    total: Counter[Feature] = Counter()
    rows, having = 0, {name: Counter[Feature]() for name in wanted}
    rows_of = Counter[str]()
    for unit, split in [*((unit, "") for unit in free), *dealt]:
        total.update(unit.features)
        rows += len(unit.rows)
        if split:
            having[split].update(unit.features)
            rows_of[split] += len(unit.rows)
    order = sorted(free, key=lambda unit: (-len(unit.rows), unit.place))
    waiting: dict[Feature, dict[int, Unit]] = {(): dict(enumerate(order))}
    for number, unit in enumerate(order):
        for feature in unit.features:
            waiting.setdefault(feature, {})[number] = unit
    while waiting[()]:
        left = [feature for feature in waiting if waiting[feature] and feature]
        rarest = min(left, key=lambda feature: (len(waiting[feature]), feature))
        for number, unit in list(waiting[rarest].items()):
            lack = {
                name: (
                    sum(1 - having[name][feature] / (share * total[feature]) for feature in unit.features)
                    + 1
                    - rows_of[name] / (share * rows),
                    _by_place(unit.place, wanted) == name,
                )
                for name, share in wanted.items()
            }
            split = max(lack, key=lambda name: lack[name])
            _put(splits, unit, split)
            having[split].update(unit.features)
            rows_of[split] += len(unit.rows)
            for feature in ((), *unit.features):
                del waiting[feature][number]


def _features(rows: Sequence[int], modalities: Cells, labels: Cells) -> tuple[Feature, ...]:
    found: dict[Feature, None] = {}
    for row in rows:
        modality = modalities[row] or "(none)"
        found[(modality,)] = None
        named = parse_labels(labels[row])
        for label in ("(none)",) if named is None else named or ("no_finding",):
            found[modality, label] = None
    return tuple(found)


def _put(splits: Cells, unit: Unit, split: str) -> None:
    for row in unit.rows:
        splits[row] = split


def _by_place(place: float, wanted: Mapping[str, float]) -> str:
    """Give the split that a place from 0 to 1 lies in."""
    edge = 0.0
    for name, share in wanted.items():
        edge += share
        if place < edge:
            return name
    return list(wanted)[-1]


def _place(seed: int, owner: str) -> float:
    """Give a number from 0 to 1 that nothing but the seed and the owner decides."""
    key = seed.to_bytes(8, "little", signed=True)
    digest = hashlib.blake2b(owner.encode(), digest_size=8, key=key, person=b"medmoe-split").digest()
    return int.from_bytes(digest, "little") / 2**64
