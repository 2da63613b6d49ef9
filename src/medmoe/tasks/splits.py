"""Training images of the classes at hand: apart from the evaluated ones, drawn by share of patients or by shots."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from medmoe.errors import DataError
from medmoe.metrics import Bools, Ints
from medmoe.tasks.base import Context, Evidence
from medmoe.tasks.classes import Classes, labels_of, marks, true_class
from medmoe.types import Sample

# Of the patients of a training split, so many are set aside to choose on where there is no validation split.
ASIDE = 0.2


@dataclass(frozen=True)
class Examples:
    """Annotated images of one data set and modality, with the evaluated split's classes.

    Attributes:
        rows: [m] rows of the evidence they are of.
        true: [m] index of an image's only class, or -1.
        marks: [m, findings] which findings it shows.
        patients: Patient of each; an image without one is its own.
    """

    rows: Ints
    true: Ints
    marks: Bools
    patients: tuple[Hashable, ...]

    def __len__(self) -> int:
        """Count the images."""
        return len(self.rows)

    def take(self, places: Ints) -> Examples:
        """Keep some images."""
        patients = tuple(self.patients[place] for place in places)
        return Examples(self.rows[places], self.true[places], self.marks[places], patients)

    def counts(self, classes: int) -> Ints:
        """Count the images of each class: [classes]."""
        return np.bincount(self.true[self.true >= 0], minlength=classes).astype(np.int64)


def examples(own: Classes, evidence: Evidence) -> Examples:
    """Find the images of a data set and modality in another split."""
    rows = [
        row
        for row, sample in enumerate(evidence.samples)
        if sample.labels is not None and sample.modality == own.modality and (sample.source or "") == own.source
    ]
    labels = labels_of(evidence, rows)
    patients = tuple(_patient(evidence.samples[row], row) for row in rows)
    places = np.array(rows, dtype=np.int64)
    return Examples(places, true_class(own.names, labels), marks(own.findings, labels), patients)


def _patient(sample: Sample, row: int) -> Hashable:
    return ("image", row) if sample.person is None else ("patient", sample.person)


@dataclass(frozen=True)
class Material:
    """What is fitted on and what is chosen on, for one data set and modality.

    Attributes:
        fit: Images to fit on; rows of the training evidence.
        tune: Images to choose on; rows of `tune_evidence`.
        tune_evidence: Where they are: the validation evidence or the training evidence.
        chosen_on: The same in words.
    """

    fit: Examples
    tune: Examples
    tune_evidence: Evidence
    chosen_on: str


def material(own: Classes, context: Context, seed: Sequence[int]) -> Material | str:
    """Give what there is to fit and choose on, or the reason why a data set can't be used.

    Regularisation and the like are chosen on the validation split where it has two of the classes (a finding and its
    absence, where there are no classes), and else on a fifth of the training patients that is set aside for it and
    never fitted on.
    """
    assert context.fit is not None
    fit = examples(own, context.fit)
    if not _tells_apart(fit):
        return "the training split has fewer than two of its classes"
    if context.tune is not None:
        tune = examples(own, context.tune)
        if _tells_apart(tune):
            return Material(fit, tune, context.tune, "validation split")
    aside, rest = _set_aside(fit, np.random.default_rng(seed))
    if not (_tells_apart(fit.take(aside)) and _tells_apart(fit.take(rest))):
        return "the training split has too few patients to set some aside, and there is no validation split"
    words = f"{ASIDE:.0%} of the training patients, set aside"
    return Material(fit.take(rest), fit.take(aside), context.fit, words)


def _tells_apart(found: Examples) -> bool:
    if len(np.unique(found.true[found.true >= 0])) > 1:
        return True
    positive = found.marks.sum(axis=0)
    return bool(((positive > 0) & (positive < len(found))).any())


def share_of_patients(found: Examples, share: float, rng: np.random.Generator) -> Ints:
    """Draw a share of the patients of each class, at least one of each: places of all their images, in order.

    A patient with several classes is drawn for the one with the fewest patients. An image with none or several of the
    classes counts for its rarest finding.
    """
    drawn: list[int] = []
    for group, patients in _by_class(found).items():
        count = len(patients) if share >= 1 else round(share * len(patients))
        for number in rng.permutation(len(patients))[: max(count, int(group >= 0))].tolist():
            drawn.extend(patients[number])
    return np.array(sorted(drawn), dtype=np.int64)


def shots(found: Examples, k: int, classes: int, rng: np.random.Generator) -> Ints | None:
    """Draw k images of each class, of k patients where there are so many; None where a class has fewer images.

    Args:
        found: The images to draw from.
        k: How many of each class.
        classes: How many classes there are.
        rng: Draws them.

    Returns:
        [k · classes] places, class by class.
    """
    drawn: list[int] = []
    for group in range(classes):
        waiting: dict[Hashable, list[int]] = {}
        for place in rng.permutation(np.flatnonzero(found.true == group)).tolist():
            waiting.setdefault(found.patients[place], []).append(place)
        each = enumerate(waiting.values())
        turns = sorted((turn, number, place) for number, own in each for turn, place in enumerate(own))
        if len(turns) < k:
            return None
        drawn.extend(place for _, _, place in turns[:k])
    return np.array(drawn, dtype=np.int64)


def _set_aside(found: Examples, rng: np.random.Generator) -> tuple[Ints, Ints]:
    """Split places by patient: a fifth of each class's patients, at least one where there are two, and the rest."""
    aside: list[int] = []
    for patients in _by_class(found).values():
        count = max(1, round(ASIDE * len(patients))) if len(patients) > 1 else 0
        for number in rng.permutation(len(patients))[:count].tolist():
            aside.extend(patients[number])
    kept = np.ones(len(found), dtype=bool)
    kept[aside] = False
    return np.flatnonzero(~kept), np.flatnonzero(kept)


def _by_class(found: Examples) -> dict[int, list[list[int]]]:
    """Sort patients by class: each patient is the list of its places, and counts once."""
    classes = int(found.true.max(initial=-1)) + 1
    frequency = np.where(found.marks.any(axis=0), found.marks.sum(axis=0), len(found) + 1)
    group = found.true.copy()
    for place in np.flatnonzero(group < 0).tolist():
        present = np.flatnonzero(found.marks[place])
        if len(present):
            group[place] = classes + present[np.argmin(frequency[present])]
    places: dict[Hashable, list[int]] = {}
    for place, patient in enumerate(found.patients):
        places.setdefault(patient, []).append(place)
    shared = {own: sum(own in group[of] for of in places.values()) for own in set(group.tolist())}
    sorted_out: dict[int, list[list[int]]] = {own: [] for own in sorted(shared)}
    for of in places.values():
        known = sorted({own for own in group[of].tolist() if own >= 0}, key=lambda own: (shared[own], own))
        sorted_out[known[0] if known else -1].append(of)
    return {own: patients for own, patients in sorted_out.items() if patients}


def check_apart(evidence: Evidence, context: Context, *, fit: bool = True) -> None:
    """Make sure that training, validation and evaluated split share no patient and no image.

    A patient is the same when the data set and the id are; an image without a patient when its key, data set, report
    and labels are.

    Args:
        evidence: What is evaluated.
        context: The other splits.
        fit: Whether the training split counts; a task that fits nothing reads the validation split only.

    Raises:
        DataError: If one is in two of them.
    """
    training = context.fit if fit else None
    _apart(training, evidence, "training split are evaluated too")
    _apart(context.tune, evidence, "validation split are evaluated too")
    _apart(training, context.tune, "training split are in the validation split too")


def _apart(one: Evidence | None, other: Evidence | None, words: str) -> None:
    if one is None or other is None:
        return
    there = {_identity(sample) for sample in other.samples}
    both = dict.fromkeys(own for sample in one.samples if (own := _identity(sample)) in there)
    if both:
        patients = [str(own[2]) for own in both if own[0] == "patient"]
        kind, names = ("patients", patients) if patients else ("images", [str(own[2]) for own in both])
        raise DataError(
            f"{len(names)} {kind} of the {words}: {', '.join(names[:3])}{', …' if len(names) > 3 else ''}",
            remedy="give splits that share no patient",
        )


def _identity(sample: Sample) -> tuple[Hashable, ...]:
    if sample.patient is not None:
        return ("patient", sample.source or "", sample.patient)
    return ("image", sample.source or "", sample.key, sample.report, sample.labels)
