"""What leaks: patients, studies, pictures and reports that are on both sides of a split, or in an evaluation too.

Groups of rows are held against each other: the splits of a manifest, and what of it isn't its test split against every
evaluation manifest. Pictures and reports count between rows of different or unknown patients, since what one patient's
rows share is told already.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmoe.data.curation.alike import ORIENTATIONS, Comparison
from medmoe.data.curation.near import pairs_between, pairs_within
from medmoe.data.curation.prints import Picture, Prints, take_prints
from medmoe.data.curation.sheet import Sheet
from medmoe.data.curation.texts import COMMON, MIN_WORDS, normalise, similar_texts, text_of
from medmoe.errors import DataError

# What rows may share → the name of its count, as `medmoe report` knows it.
KINDS = {
    "shared patient": "shared_patients",
    "shared study": "shared_studies",
    "identical image": "identical_images",
    "near-duplicate image": "near_duplicate_images",
    "near-duplicate report": "near_duplicate_reports",
}
DISTANCE, LIKENESS, OVERLAP = 88, 0.8, 0.8
TEST = "test"
_PAIRS = 1 << 15  # candidates that are looked at at once


@dataclass(frozen=True)
class Options:
    """How alike is alike.

    Attributes:
        distance: Bits of 256 in which hashes of images may differ, to be looked at.
        likeness: From which two thumbnails show the same picture, 0 to 1.
        overlap: Of the shingles of two reports, from which they are one, 0 to 1.
        within: Whether pairs within a split are listed too, which are no leaks; for `medmoe data split --joined`.
        workers: Processes that read images, threads that compare.
        cache: Where prints of images are kept.
    """

    distance: int = DISTANCE
    likeness: float = LIKENESS
    overlap: float = OVERLAP
    within: bool = False
    workers: int = 1
    cache: Path | None = None


@dataclass(frozen=True)
class Pair:
    """Two rows that share something.

    Attributes:
        kind: One of `KINDS`.
        one: Number of the first row, over all manifests.
        other: Number of the second.
        leak: Whether they are in groups that must be apart.
        distance: Bits in which the hashes differ (images).
        likeness: Of thumbnails, or overlap of reports; 1 for what is the same.
        orientation: How the second image is to be turned to look like the first.
    """

    kind: str
    one: int
    other: int
    leak: bool
    distance: int | None = None
    likeness: float = 1.0
    orientation: str | None = None


@dataclass(frozen=True)
class Rows:
    """The rows of all manifests in one list.

    Attributes:
        sheets: The manifests, the audited one first.
        places: (manifest, row) of each.
        groups: Number of each row's group.
        names: Of the groups.
        apart: Pairs of groups that must share nothing, smaller number first.
    """

    sheets: tuple[Sheet, ...]
    places: list[tuple[int, int]]
    groups: NDArray[np.int64]
    names: list[str]
    apart: frozenset[tuple[int, int]]
    persons: list[str | None]

    def where(self, number: int) -> str:
        """Name a row's place, `file:row`."""
        sheet, row = self.places[number]
        return self.sheets[sheet].where(row)

    def same_person(self, one: int, other: int) -> bool:
        """Tell whether two rows are known to be of one patient."""
        return self.persons[one] is not None and self.persons[one] == self.persons[other]

    def column(self, name: str) -> list[str | None]:
        """Give a column of all manifests."""
        return [value for sheet in self.sheets for value in sheet.column(name)]


@dataclass
class Audit:
    """What an audit found.

    Attributes:
        rows: What was looked at.
        pairs: What is shared.
        candidates: Pairs of images whose hashes were near.
        compared: Pairs of hashes.
        problems: Number of a row whose image can't be read → why.
        plain: Images that show nothing, which were left out.
        short: Reports of too few words, which were left out.
        common: Rows with a report that more than `COMMON` patients have, which were left out.
        cached: Images whose prints were in the cache.
    """

    rows: Rows
    pairs: list[Pair] = field(default_factory=list)
    candidates: int = 0
    compared: int = 0
    problems: dict[int, str] = field(default_factory=dict)
    plain: int = 0
    short: int = 0
    common: int = 0
    cached: int = 0

    @property
    def leaks(self) -> bool:
        """Whether anything is shared that must not be."""
        return any(pair.leak for pair in self.pairs)


def rows_of(sheets: Sequence[Sheet], *, within: bool = False) -> Rows:
    """Put the rows of a manifest and of evaluation manifests into groups.

    Args:
        sheets: The manifest, then the evaluation manifests.
        within: Whether pairs within a group are looked for, so that one group is enough.

    Raises:
        DataError: If there is nothing to hold against each other.
    """
    splits = sheets[0].column("split")
    own = [split for split in dict.fromkeys(splits) if split is not None]
    names = own + (["(no split)"] if None in splits else [])
    numbers: dict[str | None, int] = {split: at for at, split in enumerate(own)}
    if None in splits:
        numbers[None] = len(own)
    groups = [numbers[split] for split in splits]
    splitted = [numbers[split] for split in own]
    apart = {(one, other) for one in splitted for other in splitted if one < other}
    for sheet in sheets[1:]:
        apart |= {(at, len(names)) for split, at in numbers.items() if split != TEST}
        groups += [len(names)] * sheet.rows
        names.append(str(sheet.path))
    if not apart and not within:
        raise DataError(
            f"nothing to hold against each other: {len(own) or 'no'} {'split' if len(own) == 1 else 'splits'} and no "
            "evaluation manifest",
            where=str(sheets[0].path),
            remedy="fill the column 'split' (medmoe data split), give --against, or ask for --within",
        )
    places = [(at, row) for at, sheet in enumerate(sheets) for row in range(sheet.rows)]
    persons = [person for sheet in sheets for person in sheet.persons()]
    return Rows(tuple(sheets), places, np.array(groups, np.int64), names, frozenset(apart), persons)


def audit(rows: Rows, options: Options | None = None) -> Audit:
    """Look for everything that is shared.

    Args:
        rows: The rows.
        options: How alike is alike.

    Raises:
        DataError: If the cache can't be used. An image that can't be read is told in the result.
    """
    options = options or Options()
    found = Audit(rows)
    found.pairs += _shared(rows, "patient_id", rows.persons, "shared patient")
    studies = [study for sheet in rows.sheets for study in sheet.studies()]
    found.pairs += _shared(rows, "study_id", studies, "shared study")
    pictures: list[Picture] = [picture for sheet in rows.sheets for picture in sheet.pictures()]
    prints = take_prints(pictures, cache=options.cache, workers=options.workers)
    found.problems, found.cached = dict(sorted(prints.problems.items())), prints.cached
    found.plain = int(prints.plain.sum()) - sum(bool(prints.plain[number]) for number in prints.problems)
    found.pairs += _identical(rows, prints, options)
    found.pairs += _near(rows, prints, options, found)
    found.pairs += _reports(rows, options, found)
    return found


def summary(found: Audit) -> dict[str, Any]:
    """Count what leaks, as `medmoe report` reads an audit."""
    leaks = Counter(pair.kind for pair in found.pairs if pair.leak)
    counts = {name: leaks[kind] for kind, name in KINDS.items()}
    return {
        "checked": f"patients, studies, images and reports of {', '.join(found.rows.names)} against each other",
        **counts,
        "rows": len(found.rows.places),
        "image_pairs_looked_at": found.candidates,
        "images_that_could_not_be_read": len(found.problems),
        "plain_images_left_out": found.plain,
        "short_reports_left_out": found.short,
        "rows_with_common_reports_left_out": found.common,
    }


def to_json(found: Audit, options: Options) -> dict[str, Any]:
    """Write an audit: `audit` as `medmoe report` reads it in an evaluation's details, and the pairs.

    Rows are named, patients and reports aren't.
    """
    rows = found.rows

    def of(pair: Pair) -> dict[str, Any]:
        told: dict[str, Any] = {"kind": pair.kind, "rows": [rows.where(pair.one), rows.where(pair.other)]}
        told["groups"] = [rows.names[int(rows.groups[number])] for number in (pair.one, pair.other)]
        told |= {"leak": pair.leak, "likeness": round(pair.likeness, 4)}
        extra = {"distance": pair.distance, "orientation": pair.orientation}
        return told | {name: value for name, value in extra.items() if value is not None}

    settings = {"distance": options.distance, "likeness": options.likeness, "overlap": options.overlap}
    return {
        "audit": summary(found),
        "settings": settings | {"within": options.within},
        "manifest": _named(rows.sheets[0]),
        "groups": {name: int((rows.groups == at).sum()) for at, name in enumerate(rows.names)},
        "unread": [{"row": rows.where(number), "why": why} for number, why in found.problems.items()],
        "pairs": [of(pair) for pair in found.pairs],
    }


def _named(sheet: Sheet) -> dict[str, Any]:
    return {"path": str(sheet.path.resolve()), "named": str(sheet.path), "rows": sheet.rows}


def joined_rows(audited: Mapping[str, Any], sheet: Sheet, *, where: str) -> list[tuple[int, int]]:
    """Give the pairs of rows of a manifest that an audit found to share a picture.

    Args:
        audited: What `to_json` wrote.
        sheet: The manifest.
        where: The audit's file, for errors.

    Raises:
        DataError: If it isn't an audit of this manifest as it is now.
    """
    remedy = "make it with: medmoe data audit MANIFEST --within --json FILE"
    try:
        manifest, pairs = audited["manifest"], audited["pairs"]
        if Path(manifest["path"]) != sheet.path.resolve() or manifest["rows"] != sheet.rows:
            what = f"is an audit of {manifest['path']} with {manifest['rows']} rows, not of {sheet.path} as it is"
            raise DataError(what, where=where, remedy=remedy)
        found = []
        for pair in pairs:
            if pair["kind"] in ("identical image", "near-duplicate image"):
                names = [str(name).rpartition(":") for name in pair["rows"]]
                if all(name == manifest["named"] for name, _, _ in names):
                    one, other = (int(row) - 1 for _, _, row in names)
                    if not (0 <= one < sheet.rows and 0 <= other < sheet.rows):
                        raise ValueError(f"row {max(one, other) + 1}")
                    found.append((one, other))
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"is no audit ({error})", where=where, remedy=remedy) from None
    return found


def _shared(rows: Rows, column: str, owners: Sequence[str | None], kind: str) -> Iterator[Pair]:
    """List each patient, or study, that is in groups to be kept apart: the first row of each.

    Without a data set's name on a side, the id alone decides.
    """
    ids, sources = rows.column(column), rows.column("source")
    first: dict[str, dict[int, dict[str | None, int]]] = {}  # id → group → name of the data set → row
    for number, owner in enumerate(owners):
        if owner is not None:
            group = int(rows.groups[number])
            first.setdefault(str(ids[number]), {}).setdefault(group, {}).setdefault(sources[number], number)
    for groups in first.values():
        for one, other in sorted(rows.apart):
            for source, number in groups.get(one, {}).items():
                for its, second in groups.get(other, {}).items():
                    if source == its or source is None or its is None:
                        yield Pair(kind, number, second, leak=True)


def _identical(rows: Rows, prints: Prints, options: Options) -> Iterator[Pair]:
    """List each row whose pixels an earlier group has too, with the first such row there."""
    alike: dict[bytes, list[int]] = {}
    for number, digest in enumerate(prints.digests):
        if number not in prints.problems and not prints.plain[number]:
            alike.setdefault(digest, []).append(number)
    for numbers in alike.values():
        yield from _listed(rows, numbers, options, "identical image", 0)


def _listed(rows: Rows, numbers: list[int], options: Options, kind: str, distance: int | None) -> Iterator[Pair]:
    """Of rows that have the same, list each with the first of every other group, and of its own where asked for."""
    firsts: dict[int, list[int]] = {}  # group → its first row of each of a few patients
    for number in sorted(numbers, key=lambda number: (int(rows.groups[number]), number)):
        own = int(rows.groups[number])
        for group, earlier in firsts.items():
            leak = (group, own) in rows.apart
            other = next((first for first in earlier if not rows.same_person(first, number)), None)
            if other is not None and (leak or (options.within and group == own)):
                yield Pair(kind, other, number, leak, distance)
        mine = firsts.setdefault(own, [])
        if len(mine) < 2 and not any(rows.same_person(first, number) for first in mine):
            mine.append(number)


def _near(rows: Rows, prints: Prints, options: Options, found: Audit) -> Iterator[Pair]:
    """List pairs of images that show the same picture without being identical."""
    members = _members(rows, prints)
    comparison = Comparison(prints.thumbnails)
    persons, contents = _codes(rows.persons), _codes(prints.digests)
    wanted = sorted(rows.apart | ({(at, at) for at in range(len(rows.names))} if options.within else set()))
    for one, other in wanted:
        mine, its = prints.hashes[members[one]], prints.hashes[members[other]]
        how = {"threads": max(options.workers, 1)}
        if one == other:
            blocks = pairs_within(mine, options.distance, **how)
            found.compared += len(mine) * (len(mine) - 1) // 2
        else:
            blocks = pairs_between(mine, its, options.distance, **how)
            found.compared += len(mine) * len(its)
        for near in blocks:
            first, second = members[one][near.one], members[other][near.other]
            told = (persons[first] == persons[second]) | (contents[first] == contents[second])
            first, second, distance = first[~told], second[~told], near.distance[~told]
            found.candidates += len(first)
            for start in range(0, len(first), _PAIRS):
                part = slice(start, start + _PAIRS)
                likeness = comparison.likeness(first[part], second[part], threads=options.workers)
                for at in np.flatnonzero(likeness.correlation >= options.likeness):
                    yield Pair(
                        "near-duplicate image",
                        int(first[part][at]),
                        int(second[part][at]),
                        (one, other) in rows.apart,
                        int(distance[part][at]),
                        float(likeness.correlation[at]),
                        ORIENTATIONS[likeness.orientation[at]],
                    )


def _codes(values: Sequence[object]) -> NDArray[np.int64]:
    """Number equal values alike, None never."""
    known: dict[object, int] = {}
    return np.array(
        [-at - 1 if value is None else known.setdefault(value, len(known)) for at, value in enumerate(values)], np.int64
    )


def _members(rows: Rows, prints: Prints) -> list[NDArray[np.int64]]:
    """Give the rows of each group whose images are compared: of one patient's identical ones the first."""
    seen: set[tuple[int, bytes, str | None]] = set()
    members: list[list[int]] = [[] for _ in rows.names]
    for number, digest in enumerate(prints.digests):
        group = int(rows.groups[number])
        key = (group, digest, rows.persons[number])
        if number not in prints.problems and not prints.plain[number] and key not in seen:
            seen.add(key)
            members[group].append(number)
    return [np.array(numbers, np.int64) for numbers in members]


def _reports(rows: Rows, options: Options, found: Audit) -> Iterator[Pair]:
    """List pairs of reports that say the same; short ones and those of many patients are counted and left out."""
    having: dict[str, list[int]] = {}
    for number, report in enumerate(rows.column("text")):
        if report is not None:
            having.setdefault(normalise(report), []).append(number)
    kept: list[list[int]] = []
    texts, owners = [], []
    for words, numbers in having.items():
        text, people = text_of(words), len({rows.persons[number] or number for number in numbers})
        if text.words < MIN_WORDS:
            found.short += len(numbers)
        elif people > COMMON:
            found.common += len(numbers)
        else:
            kept.append(numbers)
            texts.append(text)
            owners.append(people)
            yield from _listed(rows, numbers, options, "near-duplicate report", None)
    for i, j, similarity in similar_texts(texts, owners, options.overlap):
        for pair in _listed(rows, [*kept[i], *kept[j]], options, "near-duplicate report", None):
            if (pair.one in kept[i]) != (pair.other in kept[i]):
                yield Pair(pair.kind, pair.one, pair.other, pair.leak, None, similarity)


def counts_of(found: Audit) -> Mapping[tuple[str, str, str], int]:
    """Count leaks by kind and pair of groups."""
    counts: Counter[tuple[str, str, str]] = Counter()
    for pair in found.pairs:
        if pair.leak:
            one, other = sorted(int(found.rows.groups[number]) for number in (pair.one, pair.other))
            counts[pair.kind, found.rows.names[one], found.rows.names[other]] += 1
    return counts
