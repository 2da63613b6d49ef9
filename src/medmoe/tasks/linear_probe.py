"""Linear probe: how much of a finding can be read off frozen image features by one linear layer?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, TypeAlias

import numpy as np

from medmoe.metrics import Bools, Floats, Ints, Resampler, balanced_accuracy, decide
from medmoe.tasks.base import Context, Evidence, TaskResult, skipped
from medmoe.tasks.classes import Classes, class_sets, labels_of, marks, named
from medmoe.tasks.figures import Figure, metrics
from medmoe.tasks.logistic import STRENGTHS, Chosen, choose_classes, choose_findings
from medmoe.tasks.scoring import Statistic, balanced, gain, macro_auroc, mean_over
from medmoe.tasks.splits import Examples, Material, check_apart, material, share_of_patients, shots

# The features that are probed; what else the evidence carries are controls.
OWN = "image_embed"

# Of the images to fit on, to choose on, and to judge by.
Parts: TypeAlias = tuple[Floats, Floats, Floats]
Budget: TypeAlias = tuple[str, Callable[[np.random.Generator], Ints | None], int]


@dataclass(frozen=True)
class LinearProbe:
    """Balanced accuracy and AUROC of logistic regression on image features, within each data set and modality.

    `NAME@10%` was fitted on a tenth of the training patients, `NAME@4-shot` on four images of each class (data sets
    with fewer of one class are left out of that mean); each is the mean over draws of those images, its interval is
    over the evaluated patients. Classes are those of `zeroshot_classification`: a multinomial regression tells them
    apart, and AUROC is of one regression for each finding against the rest, averaged. Regularisation is chosen on
    validation, or on training patients set aside.
    Controls: labels shuffled before the fit, and the same probe on the other features that the evidence carries
    (`raw_pixels`, `random_weights`); the details give the difference from those with its interval, patient by patient.

    Attributes:
        shares: Shares of the training patients.
        shots: Images of each class.
        seeds: Draws of the training images; all of them are drawn once.
        shuffles: How often the labels are shuffled for the control, with the strength chosen for the true ones.
        fewest: Images that a class needs in the evaluated split.
        strengths: λ to choose from, see `medmoe.tasks.logistic`.
    """

    name: ClassVar[str] = "linear_probe"
    shares: tuple[float, ...] = (0.01, 0.1, 1.0)
    shots: tuple[int, ...] = (1, 4, 16)
    seeds: int = 3
    shuffles: int = 10
    fewest: int = 5
    strengths: tuple[float, ...] = STRENGTHS

    def evaluate(self, evidence: Evidence, context: Context) -> TaskResult:
        """Judge the features."""
        every = class_sets(evidence, fewest=self.fewest)
        usable = [own for own in every if len(own.names) > 1 or own.findings]
        if not usable:
            return skipped("no data set has two findings with enough images")
        if context.fit is None:
            return skipped("no training split was given to fit on")
        check_apart(evidence, context)
        by_modality: dict[str, dict[str, dict[str, Figure]]] = {}
        details: dict[str, Any] = {"seeds": self.seeds, "strengths": list(self.strengths), "groups": [], "left_out": []}
        for stream, own in enumerate(usable):
            seed = [context.seed, 20_000 + stream]
            about = {"source": own.source, "modality": own.modality}
            found = material(own, context, [*seed, 0])
            if isinstance(found, str):
                details["left_out"].append({**about, "reason": found})
                continue
            figures, group = _Group(own, found, evidence, context, seed).probe(self)
            by_modality.setdefault(own.modality, {})[own.source] = figures
            details["groups"].append({**about, **group})
        if not by_modality:
            return skipped("no data set has two classes to fit on", **details)
        return TaskResult(metrics(named(by_modality)), details)


class _Group:
    """The probes of one data set and modality."""

    def __init__(self, own: Classes, found: Material, evidence: Evidence, context: Context, seed: list[int]) -> None:
        assert context.fit is not None
        self.own, self.found, self.seed = own, found, seed
        self.marks = marks(own.findings, labels_of(evidence, own.rows))
        self.inside = np.flatnonzero(own.true >= 0)
        self.patients = evidence.patients(own.rows)
        self.resamples = context.resamples
        names = [OWN, *(name for name in evidence.features if _has(name, context.fit, found.tune_evidence))]
        self.features = {
            name: (
                _rows(context.fit, name, found.fit.rows),
                _rows(found.tune_evidence, name, found.tune.rows),
                _rows(evidence, name, np.array(own.rows)),
            )
            for name in names
        }

    def probe(self, task: LinearProbe) -> tuple[dict[str, Figure], dict[str, Any]]:
        """Probe with every budget of training images."""
        details: dict[str, Any] = {
            "classes": {
                name: {"fit": int(count), "evaluated": int((self.own.true == index).sum())}
                for index, (name, count) in enumerate(
                    zip(self.own.names, self.found.fit.counts(len(self.own.names)), strict=True)
                )
            },
            "findings": list(self.own.findings),
            "chosen_on": self.found.chosen_on,
            "chosen_on_images": len(self.found.tune),
            "budgets": {},
        }
        figures: dict[str, Figure] = {}
        for place, (words, draw, times) in enumerate(self._budgets(task)):
            drawn = [draw(np.random.default_rng([*self.seed, 1, place, time])) for time in range(times)]
            kept = [places for places in drawn if places is not None]
            if not kept:
                details["budgets"][words] = {"left_out": "a class has fewer images"}
                continue
            judged, about = self._budget(task, kept, [*self.seed, 2, place])
            figures |= {f"{name}@{words}": figure for name, figure in judged.items()}
            details["budgets"][words] = about
        return figures, details

    def _budgets(self, task: LinearProbe) -> list[Budget]:
        """Give for each budget its name, what draws its images and how often."""
        fit, classes = self.found.fit, len(self.own.names)
        budgets: list[Budget] = [
            (f"{100 * share:g}%", partial(share_of_patients, fit, share), 1 if share >= 1 else task.seeds)
            for share in task.shares
        ]
        if classes > 1:
            budgets += [(f"{k}-shot", partial(shots, fit, k, classes), task.seeds) for k in task.shots]
        return budgets

    def _budget(
        self, task: LinearProbe, drawn: Sequence[Ints], seed: list[int]
    ) -> tuple[dict[str, Figure], dict[str, Any]]:
        """Probe with some draws of as many training images."""
        subsets = [self.found.fit.take(places) for places in drawn]
        about: dict[str, Any] = {
            "images": [len(subset) for subset in subsets],
            "patients": [len(set(subset.patients)) for subset in subsets],
        }
        figures: dict[str, Figure] = {}
        questions: list[tuple[str, Callable[..., Chosen], Any]] = []
        if len(self.own.names) > 1:
            questions.append(("balanced_accuracy", self._classes, self.own.true[self.inside]))
        if self.own.findings:
            questions.append(("auroc", self._findings, self.marks))
        for name, ask, truth in questions:
            rng = np.random.default_rng(seed)
            answers: dict[str, list[Statistic]] = {}
            chosen: dict[str, list[Chosen]] = {}
            for kind, parts in self.features.items():
                chosen[kind] = [ask(parts, places, subset, task) for places, subset in zip(drawn, subsets, strict=True)]
                answers[kind] = [self._statistic(name, found.scores) for found in chosen[kind]]
            shuffled = []
            for time in range(task.shuffles):
                turn = time % len(drawn)
                places, subset, found = drawn[turn], subsets[turn], chosen[OWN][turn]
                order = rng.permutation(len(subset))
                mixed = Examples(subset.rows, subset.true[order], subset.marks[order], subset.patients)
                again = ask(self.features[OWN], places, mixed, task, strengths=(found.strength,))
                shuffled.append(self._statistic(name, again.scores))
            figures[name], about[name] = self._figure(name, answers, shuffled, truth)
            about[name]["strength"] = [found.strength for found in chosen[OWN]]
            about[name]["unfinished_fits"] = sum(found.unfinished for of in chosen.values() for found in of)
        return figures, about

    def _classes(
        self,
        parts: Parts,
        places: Ints,
        subset: Examples,
        task: LinearProbe,
        strengths: tuple[float, ...] | None = None,
    ) -> Chosen:
        fit, tune, rest = parts
        true = self.found.tune.true
        known = true >= 0

        def judge(scores: Floats) -> float:
            return float(balanced_accuracy(true[known], decide(scores)[known])) if known.any() else np.nan

        features = fit[places], tune, rest
        return choose_classes(features, subset.true, len(self.own.names), judge, strengths=strengths or task.strengths)

    def _findings(
        self,
        parts: Parts,
        places: Ints,
        subset: Examples,
        task: LinearProbe,
        strengths: tuple[float, ...] | None = None,
    ) -> Chosen:
        fit, tune, rest = parts

        def judge(scores: Floats) -> float:
            return float(macro_auroc(scores)(self.found.tune.marks))

        return choose_findings((fit[places], tune, rest), subset.marks, judge, strengths=strengths or task.strengths)

    def _statistic(self, name: str, scores: Floats) -> Statistic:
        return macro_auroc(scores) if name == "auroc" else balanced(decide(scores)[self.inside])

    def _figure(
        self, name: str, answers: dict[str, list[Statistic]], shuffled: list[Statistic], truth: Ints | Bools
    ) -> tuple[Figure, dict[str, Any]]:
        """Give the figure of the probed features, and its difference from that of each control's."""
        patients = self.patients if name == "auroc" else [self.patients[place] for place in self.inside]
        resampler = Resampler(patients, resamples=self.resamples, seed=[*self.seed, 3])
        chance = 0.5 if name == "auroc" else 1 / len(self.own.names)
        controls = {"chance": chance, "majority": chance}

        def draws(statistic: Statistic) -> Floats:
            return resampler.draws(lambda weights: statistic(truth, weights))

        own = mean_over(answers[OWN])
        value, found = float(own(truth)), draws(own)
        gains: dict[str, Any] = {}
        for kind in answers:
            if kind != OWN:
                other = mean_over(answers[kind])
                controls[kind] = float(other(truth))
                gains[kind] = gain(value, found, controls[kind], draws(other))
        figure = Figure(
            value,
            found,
            len(truth),
            controls,
            np.array([float(statistic(truth)) for statistic in shuffled]),
            draws(shuffled[0]),
        )
        return figure, {"by_draw": [float(one(truth)) for one in answers[OWN]], "gain_over": gains}


def _has(name: str, *splits: Evidence) -> bool:
    return all(name in split.features for split in splits)


def _rows(evidence: Evidence, name: str, rows: Ints) -> Floats:
    features = evidence.image_embed if name == OWN else evidence.features[name]
    return features[rows.tolist()].double().numpy()
