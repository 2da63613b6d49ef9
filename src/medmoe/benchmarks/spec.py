"""What a data set's file may say: its sources, how it lies on disk, classes, splits, prompts and published figures."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import Any

from medmoe.benchmarks.layouts import LAYOUTS, FileNames, Layout
from medmoe.benchmarks.strict import read
from medmoe.errors import ConfigError, unknown
from medmoe.modalities import MODALITIES

METRICS = ("accuracy", "balanced_accuracy", "auroc")
TASKS = ("single_label", "multi_label")
PROTOCOLS = ("zero_shot", "linear_probe")


@dataclass(frozen=True)
class Reference:
    """Where a fact comes from: what it is, whose, and the address."""

    what: str
    cite: str
    url: str


@dataclass(frozen=True)
class Named:
    """A class.

    Attributes:
        label: As the data set writes it on disk.
        name: As published.
        phrases: How it is said; each is put into every template.
    """

    label: str
    name: str
    phrases: tuple[str, ...]


@dataclass(frozen=True)
class Split:
    """A published test split.

    Attributes:
        name: Its name; `SET@NAME` asks for it.
        n: Its images, where known.
        layout: Values of the layout that differ for it.
        note: What else to know.
    """

    name: str
    n: int | None = None
    layout: dict[str, Any] = field(default_factory=dict)
    note: str | None = None


@dataclass(frozen=True)
class Published:
    """Published figures.

    Attributes:
        protocol: `zero_shot` or `linear_probe`.
        metric: What the source says they are; None where it doesn't say.
        source: Where they stand.
        percent: Figure by model, in percent; None where the source could not be read.
        fraction: Part of the training data that a probe was fitted on.
        note: What else to know.
    """

    protocol: str
    metric: str | None
    source: Reference
    percent: dict[str, float | None]
    fraction: float | None = None
    note: str | None = None


@dataclass(frozen=True)
class DataSet:
    """A public data set.

    Attributes:
        name: Its name, and that of its folder.
        title: For people.
        modality: A name of `medmoe.modalities`.
        sources: Where data, layout and classes are described.
        license: A note; the data set's own terms hold.
        folders: Other folders under the root that it may lie in; `.` is the root itself.
        layout: `kind` (a name of `LAYOUTS`) and the values of that layout.
        splits: The published test splits, the usual one first.
        task: `single_label` or `multi_label`.
        metric: The figure that stands beside the published ones.
        metric_why: Why that one, where the sources disagree.
        positive: Label that the AUROC of two classes counts as positive.
        classes: The classes.
        templates: Sentences with one `{}` for a phrase.
        published: Published figures.
        train: Values of the layout that differ for the training split, where known.
        unknown: What could not be found out → why.
        notes: What else to know before comparing.
    """

    name: str
    title: str
    modality: str
    sources: tuple[Reference, ...]
    license: str
    folders: tuple[str, ...]
    layout: dict[str, Any]
    splits: tuple[Split, ...]
    task: str
    metric: str
    classes: tuple[Named, ...]
    templates: tuple[str, ...]
    published: tuple[Published, ...]
    metric_why: str | None = None
    positive: str | None = None
    train: dict[str, Any] | None = None
    unknown: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes' labels, in order."""
        return tuple(one.label for one in self.classes)

    def split(self, name: str | None = None) -> Split:
        """Give a split by name, or the usual one.

        Raises:
            ConfigError: If there is none of that name.
        """
        if name is None:
            return self.splits[0]
        for split in self.splits:
            if split.name == name:
                return split
        names = [split.name for split in self.splits]
        raise ConfigError(unknown("split", name, names), where=self.name, remedy="ask for one of these")

    def layout_of(self, changes: dict[str, Any]) -> Layout:
        """Give the layout with some of its values changed."""
        values = dict(self.layout) | changes
        kind, _ = LAYOUTS[values.pop("kind")]
        return read(kind, values, f"{self.name}.layout")

    def prompts(self) -> dict[str, tuple[str, ...]]:
        """Word each class: every phrase in every template."""
        return {
            one.label: tuple(template.format(phrase) for template in self.templates for phrase in one.phrases)
            for one in self.classes
        }


def parse_set(content: bytes, where: str) -> DataSet:
    """Read a data set's file.

    Args:
        content: JSON.
        where: The file, for errors.

    Raises:
        ConfigError: If it isn't JSON, a key is unknown or missing, a class has no phrase, or a value isn't allowed.
    """
    try:
        value = json.loads(content)
    except ValueError as error:
        raise ConfigError(f"not JSON ({error})", where=where, remedy="correct it") from None
    found = read(DataSet, value, where)
    _check(found, where)
    return found


def fingerprint(value: Any) -> str:
    """Give the first 16 hexadecimal digits of the SHA-256 of plain data."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:16]


def _check(found: DataSet, where: str) -> None:
    """Refuse a file whose values contradict each other."""
    choices: list[tuple[str, str, Any]] = [
        ("modality", found.modality, MODALITIES),
        ("task", found.task, TASKS),
        ("metric", found.metric, METRICS),
        ("layout kind", str(found.layout.get("kind")), LAYOUTS),
    ]
    choices += [("protocol", one.protocol, PROTOCOLS) for one in found.published]
    for kind, got, allowed in choices:
        if got not in allowed:
            raise ConfigError(unknown(kind, got, allowed), where=where, remedy="correct it")
    for split in found.splits:
        layout = found.layout_of(split.layout)
        for pattern in (getattr(layout, "patient", None), layout.label if isinstance(layout, FileNames) else None):
            _check_pattern(pattern, where)
    if not found.splits or len(found.classes) < 2:
        raise ConfigError("no split, or fewer than two classes", where=where, remedy="name them")
    wordless = [one.label for one in found.classes if not one.phrases]
    if wordless or not found.templates or any(text.count("{}") != 1 for text in found.templates):
        what = f"no phrase for {wordless}" if wordless else "a template needs exactly one {}"
        raise ConfigError(what, where=where, remedy="word every class")
    if len(set(found.labels)) < len(found.classes) or (found.positive and found.positive not in found.labels):
        raise ConfigError("a label is there twice, or the positive one isn't", where=where, remedy="correct it")


def _check_pattern(pattern: str | None, where: str) -> None:
    try:
        re.compile(pattern or "")
    except re.error as error:
        raise ConfigError(f"not a pattern: {pattern!r} ({error})", where=where, remedy="correct it") from None
