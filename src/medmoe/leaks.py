"""Which patients and images a run was trained on, kept as keyed hashes, and which of them a judged set holds again.

The record holds no id and no pixel. Its hashes are keyed with random bytes of the run's own, so that two records can't
be held against each other. Whoever has the record *and* a list of ids can tell which of them were trained on: that is
what it is for, so keep a run folder as you keep its data.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from medmoe.data.sources.base import Source, content_of
from medmoe.errors import DataError, ModelError
from medmoe.folder import read_json, write_text_atomically
from medmoe.types import Sample

RECORD = "trained_on.json"

# Reading every image of a larger set only to hash it would hold training up; of those, patients alone are kept.
MOST_IMAGES = 200_000

_FORM = 1
_SETS = ("patients", "ids", "images")
_REMEDY = "delete it to judge without looking for shared patients"


@dataclass(frozen=True)
class Record:
    """What one training read, as 64-bit BLAKE2b hashes keyed with `key`.

    Attributes:
        key: Random bytes.
        patients: Of patients, each with the name of the data set.
        ids: Of patient ids alone, for data that don't say which data set they are.
        images: Of what the images hold; see `medmoe.data.sources.base.content_of`.
        labels: Findings in plain words, in lower case.
    """

    key: bytes
    patients: frozenset[int]
    ids: frozenset[int]
    images: frozenset[int]
    labels: frozenset[str]

    def holds_patient(self, sample: Sample) -> bool:
        """Tell whether the sample's patient was trained on; without a data set's name on a side, the id decides."""
        if sample.patient is None:
            return False
        if not sample.source:
            return _hash(self.key, "id", sample.patient) in self.ids
        named = (sample.source, "")
        return any(_hash(self.key, "patient", source, sample.patient) in self.patients for source in named)

    def holds_image(self, content: bytes) -> bool:
        """Tell whether an image of this very content was trained on."""
        return _hash(self.key, "image", content) in self.images


@dataclass(frozen=True)
class TrainedOn:
    """What a model was trained on, as far as is known.

    Attributes:
        records: Of its run, and of the runs whose weights it started from.
        unknown: Parts that started from saved weights without a record.
    """

    records: tuple[Record, ...]
    unknown: tuple[str, ...] = ()

    @property
    def labels(self) -> frozenset[str]:
        """Every finding that occurred in training, in lower case."""
        return frozenset().union(*(record.labels for record in self.records))


@dataclass(frozen=True)
class Overlap:
    """How much of a judged set was trained on.

    Attributes:
        patients: Patients judged.
        images: Images judged.
        shared_patients: Patients that were trained on too.
        their_images: Images of these patients.
        copies: Images of other patients, or of none, whose content was trained on.
    """

    patients: int
    images: int
    shared_patients: int
    their_images: int
    copies: int

    def to_json(self) -> dict[str, Any]:
        """Give the counts as `medmoe report` reads an audit."""
        return {
            "checked": "patients and images of the judged set against those of training, by keyed hashes",
            "shared_patients": self.shared_patients,
            "images_of_shared_patients": self.their_images,
            "identical_images_of_other_patients": self.copies,
            "judged_patients": self.patients,
            "judged_images": self.images,
        }

    def warnings(self) -> list[str]:
        """Say what of it makes the figures doubtful."""
        told = []
        if self.shared_patients:
            told.append(
                f"{self.shared_patients} of {self.patients} judged patients ({_images(self.their_images)}) "
                "were trained on: figures on them say nothing of new patients"
            )
        if self.copies:
            verb = "is a copy" if self.copies == 1 else "are copies"
            told.append(
                f"{_images(self.copies)} of {self.images} {verb} of images that were trained on, under other patients"
            )
        return told


def remember(run: Path, source: Source, *, init: Mapping[str, str] | None = None) -> Path:
    """Write the record of what a run is trained on into its folder.

    A run that goes on adds to what it has. What can't be read is left out: training tells of it. Of more than
    `MOST_IMAGES` images only the patients are kept.

    Args:
        run: The run folder.
        source: The training samples.
        init: Parts that start from saved weights, and where these are; their records count too.
    """
    path = run / RECORD
    had = read_record(path) if path.is_file() else _of_weights(init or {})
    own = had.records[0] if path.is_file() else _empty()
    before = had.records[1:] if path.is_file() else had.records
    patients, ids, images, labels = set(own.patients), set(own.ids), set(own.images), set(own.labels)
    for index, sample in _facts(source):
        labels.update(label.lower() for label in sample.labels or ())
        if sample.patient is not None:
            patients.add(_hash(own.key, "patient", sample.source or "", sample.patient))
            ids.add(_hash(own.key, "id", sample.patient))
        content = _content(source, index) if len(source) <= MOST_IMAGES else None
        if content is not None:
            images.add(_hash(own.key, "image", content))
    grown = Record(own.key, frozenset(patients), frozenset(ids), frozenset(images), frozenset(labels))
    records = [_to_json(record) for record in (grown, *before)]
    plain = {"form": _FORM, "records": records, "unknown": list(had.unknown)}
    write_text_atomically(path, json.dumps(plain, indent=1) + "\n")
    return path


def recall(model: Path | str) -> TrainedOn | None:
    """Find what a model was trained on: the record of its run, where it lies in one.

    Args:
        model: A run folder, its `model`, one of its checkpoints, or a file in one of these.

    Raises:
        ModelError: If the record can't be read.
    """
    folder = Path(model).resolve()
    folder = folder if folder.is_dir() else folder.parent
    above = folder.parent if folder.name == "model" else folder.parent.parent  # a checkpoint lies one folder deeper
    for place in (folder, above) if folder.name == "model" or folder.parent.name == "checkpoints" else (folder,):
        if (place / RECORD).is_file():
            return read_record(place / RECORD)
    return None


def overlap(trained: TrainedOn, source: Source) -> Overlap:
    """Count who and what of a judged set was trained on; samples that can't be read are left out."""
    patients: dict[tuple[str, str], bool] = {}
    images, theirs, copies = 0, 0, 0
    for index, sample in _facts(source):
        images += 1
        shared = any(record.holds_patient(sample) for record in trained.records)
        if sample.patient is not None:
            patients[sample.source or "", sample.patient] = shared
        if shared:
            theirs += 1
            continue
        content = _content(source, index)
        copies += content is not None and any(record.holds_image(content) for record in trained.records)
    return Overlap(len(patients), images, sum(patients.values()), theirs, copies)


def namesakes(trained: TrainedOn, source: Source) -> int:
    """Count patients whose id was trained on, but under another data set's name alone: the same people, or not."""
    found = set()
    for _, sample in _facts(source):
        nameless = replace(sample, source=None)
        for record in trained.records:
            if record.holds_patient(nameless) and not any(one.holds_patient(sample) for one in trained.records):
                found.add(sample.patient)
    return len(found)


def copies_between(one: Source, other: Source) -> int:
    """Count the images of a source that another one holds too, by their content; what can't be read is left out."""
    there = {_content(other, index) for index in range(len(other))} - {None}
    return sum(_content(one, index) in there for index in range(len(one)))


def read_record(path: Path) -> TrainedOn:
    """Read a record.

    Raises:
        ModelError: If it isn't one.
    """
    found = read_json(path)
    try:
        if found["form"] != _FORM or not found["records"]:
            raise ValueError(f"form {found['form']!r}")
        records = tuple(_from_json(record) for record in found["records"])
        return TrainedOn(records, tuple(map(str, found["unknown"])))
    except (KeyError, TypeError, ValueError, AttributeError, binascii.Error) as error:
        raise ModelError(f"is no record of what was trained on ({error})", where=str(path), remedy=_REMEDY) from None


def _of_weights(init: Mapping[str, str]) -> TrainedOn:
    """Gather the records of the weights that a run starts from."""
    records: list[Record] = []
    unknown: list[str] = []
    for part, where in init.items():
        found = recall(where)
        records += found.records if found is not None else ()
        unknown += found.unknown if found is not None else [part]
    return TrainedOn(tuple(records), tuple(dict.fromkeys(unknown)))


def _empty() -> Record:
    nothing: frozenset[int] = frozenset()
    return Record(secrets.token_bytes(16), nothing, nothing, nothing, frozenset())


def _facts(source: Source) -> Iterator[tuple[int, Sample]]:
    for index in range(len(source)):
        try:
            yield index, source.facts(index)
        except DataError:
            continue


def _content(source: Source, index: int) -> bytes | None:
    try:
        return content_of(source, index)
    except DataError:
        return None


def _hash(key: bytes, kind: str, *parts: str | bytes) -> int:
    digest = hashlib.blake2b(digest_size=8, key=key, person=kind.encode())
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return int.from_bytes(digest.digest(), "little")


def _to_json(record: Record) -> dict[str, Any]:
    plain: dict[str, Any] = {"key": record.key.hex(), "labels": sorted(record.labels)}
    for name in _SETS:
        packed = np.array(sorted(getattr(record, name)), dtype="<u8").tobytes()
        plain[name] = base64.b64encode(packed).decode()
    return plain


def _from_json(plain: Mapping[str, Any]) -> Record:
    sets = {name: _unpacked(plain[name]) for name in _SETS}
    return Record(key=bytes.fromhex(plain["key"]), labels=frozenset(map(str, plain["labels"])), **sets)


def _unpacked(text: str) -> frozenset[int]:
    return frozenset(np.frombuffer(base64.b64decode(text, validate=True), dtype="<u8").tolist())


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count:,} images"
