"""The gate: does the model notice that an image is of no modality it knows, or no medical image at all?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from medmoe.data.nonmedical import PICTURES, picture_in
from medmoe.metrics import Bools, Floats, Ints, Resampler, auroc, balanced_accuracy, decide, fpr_at_tpr
from medmoe.tasks.base import Context, Evidence, TaskResult, skipped
from medmoe.tasks.figures import Figure, metrics
from medmoe.tasks.gate import accepts, neighbour_controls, scores_by_name, threshold_at
from medmoe.tasks.robustness import changed
from medmoe.tasks.splits import check_apart
from medmoe.types import Sample

# Shares of validation images that the curve's thresholds accept.
_TARGETS = (1.0, 0.99, 0.975, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5)


@dataclass(frozen=True)
class Replaced:
    """Puts a picture that is no medical image in each sample's place, of each kind in turn.

    Attributes:
        kinds: Rows of `medmoe.data.nonmedical.PICTURES`.
        seed: With the sample's place, the seed of the picture.
    """

    kinds: tuple[str, ...]
    seed: int

    def __call__(self, index: int, sample: Sample) -> Sample:
        """Replace the sample at a place."""
        rng = np.random.default_rng([self.seed, 30_000, index])
        return picture_in(self.kinds[index % len(self.kinds)], sample, rng)


@dataclass(frozen=True)
class Unknown:
    """Images that the gate should turn away.

    Attributes:
        family: `modalities` (never trained on) or `pictures` (no medical image).
        kind: [n] which modality or picture each is.
        evidence: What the model says of them, among others.
        rows: Which rows they are.
        patients: [n] patient of each, None where there is none.
    """

    family: str
    kind: tuple[str, ...]
    evidence: Evidence
    rows: Ints
    patients: list[str | None]


@dataclass(frozen=True)
class Known:
    """Images that the gate should let through, and what the router makes of them.

    Attributes:
        rows: Images of the model's modalities.
        true: [n] place of the modality among the model's.
        chosen: [n] the router's choice, -1 where it has none.
        patients: [n] patient of each.
    """

    rows: Ints
    true: Ints
    chosen: Ints
    patients: list[str | None]


@dataclass(frozen=True)
class OutOfDistribution:
    """How well scores tell images of the model's modalities from unknown ones, and what a gate on them would do.

    Unknown are, as two families: images of `modalities` that the model lacks, where the split has any; and generated
    `pictures` (gradients, noise, checkerboards, strokes like text, drawings, textures with a natural spectrum) in
    the frames of the split's own images, where these are at hand.

    Scores: `softmax` and `energy` of the image router; `neighbour` and `mahalanobis` of the image embedding against
    training images, where there are any. `FAMILY_SCORE_auroc` and `FAMILY_SCORE_fpr@95` (share of unknown images let
    through when 95 % of the known are) need no threshold. With validation images a gate is set to let `accept` of
    them through, and judged: `SCORE_coverage` (share of known images let through), `SCORE_accepted_accuracy` and
    `SCORE_accepted_balanced_accuracy` (of the router, among these), `FAMILY_SCORE_rejected`. No threshold is ever
    chosen on the judged images, nor on unknown ones. The details hold the curve over thresholds and each kind.

    Controls: `chance` is a gate that looks at nothing; it lets known and unknown images through alike. `ungated` is
    the router's accuracy without a gate, `majority` that of the commonest modality for every image let through.
    `raw_pixels` and `random_weights` are the nearest neighbour's AUROC by these features, where the evidence has them.

    Attributes:
        pictures: Rows of `medmoe.data.nonmedical.PICTURES`.
        accept: Share of validation images that the gate is set to let through.
    """

    name: ClassVar[str] = "ood"
    sees_foreign: ClassVar[bool] = True
    pictures: tuple[str, ...] = tuple(PICTURES)
    accept: float = 0.95

    def evaluate(self, evidence: Evidence, context: Context) -> TaskResult:
        """Judge the gate."""
        if not evidence.image_logits.shape[1]:
            return skipped("the model has no image router")
        known = _known(evidence)
        if not len(known.rows):
            return skipped("no image has a modality that the model knows")
        check_apart(evidence, context)
        unknown = self._unknown(evidence, context)
        tune = None if context.tune is None else _known(context.tune)
        if not unknown and (tune is None or not len(tune.rows)):
            return skipped("no unknown image: none of another modality, and the images aren't at hand to be replaced")
        figures: dict[str, Figure] = {}
        details: dict[str, Any] = {
            "known": len(known.rows),
            "unknown": {one.family: len(one.rows) for one in unknown},
            "kinds": {},
            "gate": {},
            "left_out": _left_out(context, tune),
        }
        for name, score in scores_by_name(context.fit).items():
            inside = score(evidence)[known.rows]
            outside = [score(one.evidence)[one.rows] for one in unknown]
            for one, values in zip(unknown, outside, strict=True):
                figures |= _separation(f"{one.family}_{name}", inside, values, known, one, context)
                if name == "neighbour" and context.fit is not None:
                    known_side, unknown_side = (evidence, known.rows), (one.evidence, one.rows)
                    untrained = neighbour_controls(known_side, unknown_side, context.fit)
                    figures[f"{one.family}_neighbour_auroc"].controls.update(untrained)
                details["kinds"].setdefault(one.family, {})[name] = _by_kind(inside, values, one)
            if context.tune is not None and tune is not None and len(tune.rows):
                gate = _Gate(name, score(context.tune)[tune.rows], inside, tuple(outside))
                figures |= gate.figures(self.accept, known, unknown, evidence, context)
                details["gate"][name] = gate.curve(known, unknown)
        return TaskResult(metrics(figures), details)

    def _unknown(self, evidence: Evidence, context: Context) -> list[Unknown]:
        """Collect the images to turn away."""
        found = []
        of_row = [sample.modality for sample in evidence.samples]
        foreign = [row for row, own in enumerate(of_row) if own is not None and own not in evidence.modalities]
        if foreign:
            kind = tuple(str(of_row[row]) for row in foreign)
            rows = np.array(foreign, dtype=np.int64)
            found.append(Unknown("modalities", kind, evidence, rows, evidence.patients(foreign)))
        if context.again is not None and self.pictures:
            controls = context.fit is not None and bool(context.fit.features)  # which the neighbour is held against
            drawn = changed(evidence, context, Replaced(self.pictures, context.seed), controls=controls)
            kind = tuple(self.pictures[row % len(self.pictures)] for row in range(len(drawn)))
            found.append(Unknown("pictures", kind, drawn, np.arange(len(drawn)), [None] * len(drawn)))
        return found


@dataclass(frozen=True)
class _Gate:
    """A score's values, from which thresholds are chosen and judged.

    Attributes:
        score: Its name.
        tune: Values of validation images of the model's modalities.
        inside: [n] of the known images.
        outside: Of the unknown images of each family.
    """

    score: str
    tune: Floats
    inside: Floats
    outside: tuple[Floats, ...]

    def figures(
        self, target: float, known: Known, unknown: Sequence[Unknown], evidence: Evidence, context: Context
    ) -> dict[str, Figure]:
        """Judge the gate that lets a share of the validation images through."""
        threshold = threshold_at(self.tune, target)
        taken = accepts(self.inside, threshold)
        passed = [float(accepts(values, threshold).mean()) for values in self.outside]
        resampler = Resampler(known.patients, resamples=context.resamples, seed=[context.seed, 0])
        controls = {"chance": float(np.mean(passed)) if passed else 1.0, "validation": _share(self.tune, threshold)}
        figures = _shares(f"{self.score}_coverage", taken, known, evidence, controls, resampler)
        if taken.any():
            figures |= _accepted(f"{self.score}_accepted", taken, known, resampler)
        for one, values in zip(unknown, self.outside, strict=True):
            rejected = (~accepts(values, threshold)).astype(np.float64)
            draws = Resampler(one.patients, resamples=context.resamples, seed=[context.seed, 1]).means(rejected)
            chance = {"chance": 1 - float(taken.mean())}
            figures[f"{one.family}_{self.score}_rejected"] = Figure(
                float(rejected.mean()), draws, len(rejected), chance
            )
        return figures

    def curve(self, known: Known, unknown: Sequence[Unknown]) -> list[dict[str, Any]]:
        """Give, for thresholds that let ever fewer validation images through, what becomes of the judged ones."""
        points = []
        for target in _TARGETS:
            threshold = threshold_at(self.tune, target)
            taken = accepts(self.inside, threshold)
            right = known.chosen[taken] == known.true[taken]
            mean_recall = balanced_accuracy(known.true[taken], known.chosen[taken]) if taken.any() else None
            points.append(
                {
                    "target": target,
                    "threshold": threshold if np.isfinite(threshold) else None,
                    "coverage": float(taken.mean()),
                    "accuracy": float(right.mean()) if taken.any() else None,
                    "balanced_accuracy": None if mean_recall is None else float(mean_recall),
                    "rejected": {
                        one.family: 1 - _share(values, threshold)
                        for one, values in zip(unknown, self.outside, strict=True)
                    },
                }
            )
        return points


def _known(evidence: Evidence) -> Known:
    place = {modality: index for index, modality in enumerate(evidence.modalities)}
    true = np.array([place.get(sample.modality or "", -1) for sample in evidence.samples], dtype=np.int64)
    rows = np.flatnonzero(true >= 0)
    chosen = decide(evidence.image_logits[rows].double().numpy()) if evidence.image_logits.shape[1] else true[:0]
    return Known(rows, true[rows], chosen, evidence.patients(rows.tolist()))


def _left_out(context: Context, tune: Known | None) -> dict[str, str]:
    """Say what couldn't be judged for want of what."""
    reasons = {}
    if context.again is None:
        reasons["pictures"] = "the images aren't at hand to be replaced"
    if context.fit is None:
        reasons["neighbour and mahalanobis"] = "there is no evidence of training images"
    if tune is None or not len(tune.rows):
        reasons["gate"] = "there is no evidence of validation images of the model's modalities to choose a threshold on"
    return reasons


def _share(values: Floats, threshold: float) -> float:
    return float(accepts(values, threshold).mean())


def _separation(
    name: str, inside: Floats, outside: Floats, known: Known, unknown: Unknown, context: Context
) -> dict[str, Figure]:
    """Give AUROC and FPR of known against unknown images; both sides are resampled by patient."""
    scores = np.r_[inside, outside]
    truth = np.r_[np.ones(len(inside), bool), np.zeros(len(outside), bool)]
    resampler = Resampler([*known.patients, *unknown.patients], resamples=context.resamples, seed=[context.seed, 2])
    finite = np.where(np.isnan(inside), -np.inf, inside)
    accepted = _share(finite, threshold_at(finite, 0.95))
    area = Figure(
        float(auroc(scores, truth)),
        resampler.draws(lambda weights: auroc(scores, truth, weights)),
        len(scores),
        {"chance": 0.5},
    )
    rate = Figure(
        float(fpr_at_tpr(scores, truth)),
        resampler.draws(lambda weights: fpr_at_tpr(scores, truth, weights=weights)),
        len(scores),
        {"chance": accepted},
    )
    return {f"{name}_auroc": area, f"{name}_fpr@95": rate}


def _by_kind(inside: Floats, outside: Floats, unknown: Unknown) -> dict[str, dict[str, float]]:
    """Give the AUROC and FPR of each kind of unknown image."""
    kinds = np.array(unknown.kind)
    table = {}
    for kind in dict.fromkeys(unknown.kind):
        own = outside[kinds == kind]
        scores = np.r_[inside, own]
        truth = np.r_[np.ones(len(inside), bool), np.zeros(len(own), bool)]
        table[kind] = {
            "images": len(own),
            "auroc": float(auroc(scores, truth)),
            "fpr@95": float(fpr_at_tpr(scores, truth)),
        }
    return table


def _shares(
    name: str, taken: Bools, known: Known, evidence: Evidence, controls: dict[str, float], resampler: Resampler
) -> dict[str, Figure]:
    """Give the share of images let through, over all and of each modality."""
    values = taken.astype(np.float64)
    figures = {name: Figure(float(values.mean()), resampler.means(values), len(values), controls)}
    for index in np.unique(known.true):
        own = (known.true == index).astype(np.float64)
        draws = resampler.draws(_ratio(values * own, own))
        value = float((values * own).sum() / own.sum())
        figures[f"{name}/{evidence.modalities[index]}"] = Figure(value, draws, int(own.sum()), controls)
    return figures


def _accepted(name: str, taken: Bools, known: Known, resampler: Resampler) -> dict[str, Figure]:
    """Give the router's accuracy and mean recall among the images let through."""
    right = (known.chosen == known.true).astype(np.float64)
    through = taken.astype(np.float64)
    present, counts = np.unique(known.true[taken], return_counts=True)
    guess, majority = 1 / len(np.unique(known.true)), float(counts.max() / counts.sum())

    def recall(weights: Floats) -> Floats:
        return balanced_accuracy(known.true, known.chosen, weights * through)

    return {
        f"{name}_accuracy": Figure(
            float(right[taken].mean()),
            resampler.draws(_ratio(right * through, through)),
            int(taken.sum()),
            {"chance": guess, "majority": majority, "ungated": float(right.mean())},
        ),
        f"{name}_balanced_accuracy": Figure(
            float(recall(np.ones(len(taken)))),
            resampler.draws(recall),
            int(taken.sum()),
            {
                "chance": guess,
                "majority": 1 / len(present),
                "ungated": float(balanced_accuracy(known.true, known.chosen)),
            },
        ),
    }


def _ratio(above: Floats, below: Floats) -> Callable[[Floats], Floats]:
    """Give the statistic Σ weight·above / Σ weight·below, NaN where the divisor is 0."""

    def statistic(weights: Floats) -> Floats:
        total = weights @ below
        return np.asarray(np.where(total > 0, (weights @ above) / np.where(total > 0, total, 1), np.nan))

    return statistic
