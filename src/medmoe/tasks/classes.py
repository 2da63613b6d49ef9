"""Classes: what is told apart within one data set and modality, found in the evaluated split itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from medmoe.metrics import Bools, Ints
from medmoe.modalities import in_order
from medmoe.tasks.base import Evidence
from medmoe.tasks.figures import Figure, by_group, mean
from medmoe.tasks.prompts import NO_FINDING


@dataclass(frozen=True)
class Classes:
    """What is told apart within one data set and modality.

    Attributes:
        source: The data set.
        modality: The modality.
        rows: Rows of its annotated images.
        names: The classes.
        findings: Findings with enough images with and without them, for the AUROC.
        true: [rows] index of the only class of an image, or -1 for an image with none or several.
        dropped: Images of each finding that is no class because too few show it and no other class.
    """

    source: str
    modality: str
    rows: tuple[int, ...]
    names: tuple[str, ...]
    findings: tuple[str, ...]
    true: Ints
    dropped: dict[str, int]


def class_sets(evidence: Evidence, *, fewest: int) -> list[Classes]:
    """Find the classes of each data set and modality in the evaluated split itself.

    The candidates are the findings that occur. As long as one of them has fewer than `fewest` images that show it
    and no other candidate, the one with the fewest such images is dropped (of equals the commonest, which is the
    more general one: of `pneumonia;bacterial` and `pneumonia;viral` that leaves bacterial and viral). Where then no
    image shows two of them, images annotated with no finding are a class too, if there are at least `fewest`.
    """
    members: dict[tuple[str, str], list[int]] = {}
    for row, sample in enumerate(evidence.samples):
        if sample.labels is not None and sample.modality is not None:
            members.setdefault((sample.source or "", sample.modality), []).append(row)
    return [_classes(evidence, source, modality, rows, fewest) for (source, modality), rows in members.items()]


def _classes(evidence: Evidence, source: str, modality: str, rows: list[int], fewest: int) -> Classes:
    labels = [frozenset(evidence.samples[row].labels or ()) - {NO_FINDING} for row in rows]
    total = Counter(label for own in labels for label in own)
    kept = set(total)
    while kept:
        alone = Counter(label for own in labels if len(own & kept) == 1 for label in own & kept)
        rarest = min(kept, key=lambda label: (alone[label], -total[label], label))
        if alone[rarest] >= fewest:
            break
        kept.remove(rarest)
    names = sorted(kept)
    normal = sum(not own for own in labels)
    if normal >= fewest and all(len(own & kept) <= 1 for own in labels):
        names.append(NO_FINDING)
    findings = sorted(name for name, count in total.items() if fewest <= count <= len(rows) - fewest)
    dropped = {label: total[label] for label in sorted(total) if label not in kept}
    true = true_class(names, labels)
    return Classes(source, modality, tuple(rows), tuple(names), tuple(findings), true, dropped)


def true_class(names: Sequence[str], labels: Iterable[Collection[str]]) -> Ints:
    """Give the index of the only class that each image shows, or -1 for none or several.

    Args:
        names: The classes; `no_finding` among them is that of images annotated with nothing.
        labels: The findings of each image.
    """
    place = {name: index for index, name in enumerate(names) if name != NO_FINDING}
    normal = names.index(NO_FINDING) if NO_FINDING in names else -1
    true = []
    for own in labels:
        shown = {label for label in own if label != NO_FINDING}
        present = [place[label] for label in shown if label in place]
        true.append(normal if not shown else present[0] if len(present) == 1 else -1)
    return np.array(true, dtype=np.int64)


def marks(findings: Sequence[str], labels: Iterable[Collection[str]]) -> Bools:
    """Tell which findings each image shows: [n, findings]."""
    shown = [[name in own for name in findings] for own in labels]
    return np.array(shown, dtype=bool).reshape(-1, len(findings))


def labels_of(evidence: Evidence, rows: Iterable[int]) -> list[tuple[str, ...]]:
    """Give the findings of annotated images."""
    return [evidence.samples[row].labels or () for row in rows]


def named(by_modality: dict[str, dict[str, dict[str, Figure]]]) -> dict[str, Figure]:
    """Name figures by modality, and by source where a modality has several."""
    modalities: dict[str, dict[str, Figure]] = {}
    single: dict[str, Figure] = {}
    for modality in in_order(by_modality):
        sources = by_modality[modality]
        names = dict.fromkeys(name for figures in sources.values() for name in figures)
        modalities[modality] = {
            name: mean([figures[name] for figures in sources.values() if name in figures]) for name in names
        }
        if len(sources) > 1:
            single |= {
                f"{name}/{modality}/{source or 'unnamed'}": figure
                for source, figures in sources.items()
                for name, figure in figures.items()
            }
    return by_group(modalities) | single
