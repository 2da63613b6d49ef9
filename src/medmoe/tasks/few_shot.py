"""Few-shot classification: zero-shot logits helped by a cache of a few labelled images, without training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, ClassVar

import numpy as np
import torch

from medmoe.metrics import Floats, Ints, Resampler, balanced_accuracy, decide
from medmoe.tasks.base import Context, Evidence, TaskResult, skipped
from medmoe.tasks.classes import Classes, named
from medmoe.tasks.figures import Figure, metrics
from medmoe.tasks.prompts import Prompts, load_prompts
from medmoe.tasks.scoring import Statistic, accurate, balanced, gain, mean_over
from medmoe.tasks.splits import Material, check_apart, material, shots
from medmoe.tasks.wordings import class_embeddings, worded_sets


@dataclass(frozen=True)
class FewShot:
    """Balanced accuracy and accuracy of a training-free cache adapter, within each data set and modality.

    Tip-Adapter (Zhang et al., 2022, https://arxiv.org/abs/2207.09519): the keys of the cache are the features of k
    images of each class, its values their classes; logits are those of zero-shot plus α times the sum of the values,
    each weighing exp(-β(1 - cosine)). α and β are chosen on validation, or on training patients set aside.
    `NAME@4-shot` is the mean over draws of the four images. Controls: `zero_shot` without the cache, `cache` without
    the prompts (its own β chosen likewise), such a cache of the other features that the evidence carries
    (`raw_pixels`, `random_weights`, centred on the training images), and `shuffled`, the adapter with the labels of the
    cache shuffled: it keeps what zero-shot knows, so that it lies at chance only where zero-shot does. A data set is
    left out of the mean of a number of examples where one of its classes has fewer.

    Attributes:
        prompts: The wordings.
        shots: Images of each class.
        seeds: Draws of those images.
        fewest: Images that a class needs in the evaluated split.
        alphas: α to choose from.
        betas: β to choose from; the largest are for features that all lie close together.
    """

    name: ClassVar[str] = "few_shot"
    prompts: Prompts = field(default_factory=load_prompts)
    shots: tuple[int, ...] = (1, 2, 4, 8, 16)
    seeds: int = 3
    fewest: int = 5
    alphas: tuple[float, ...] = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
    betas: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 128.0, 512.0)

    def evaluate(self, evidence: Evidence, context: Context) -> TaskResult:
        """Judge the adapter."""
        every, lost = worded_sets(evidence, self.prompts, fewest=self.fewest)
        usable = [own for own in every if len(own.names) > 1]
        if not usable:
            return skipped("no data set has two classes with enough images")
        if context.fit is None:
            return skipped("no training split was given to take examples from")
        check_apart(evidence, context)
        by_modality: dict[str, dict[str, dict[str, Figure]]] = {}
        details: dict[str, Any] = {"prompts": self.prompts.fingerprint, "without_prompts": lost, "seeds": self.seeds}
        details |= {"alphas": list(self.alphas), "betas": list(self.betas), "groups": [], "left_out": []}
        for stream, own in enumerate(usable):
            seed = [context.seed, 30_000 + stream]
            about = {"source": own.source, "modality": own.modality}
            found = material(own, context, [*seed, 0])
            if isinstance(found, str):
                details["left_out"].append({**about, "reason": found})
                continue
            figures, group = _Group(own, found, evidence, context, seed, self).adapt()
            by_modality.setdefault(own.modality, {})[own.source] = figures
            details["groups"].append({**about, **group})
        if not any(figures for of in by_modality.values() for figures in of.values()):
            return skipped("no data set has enough training images of two classes", **details)
        return TaskResult(metrics(named(by_modality)), details)


@dataclass(frozen=True)
class _Draw:
    """What was chosen with one draw of the cache, and what each way of classifying then answers."""

    alpha: float
    beta: float
    cache_beta: float
    answers: dict[str, Ints]


class _Group:
    """The adapters of one data set and modality."""

    def __init__(
        self, own: Classes, found: Material, evidence: Evidence, context: Context, seed: list[int], task: FewShot
    ) -> None:
        assert context.fit is not None
        self.own, self.found, self.seed, self.task = own, found, seed, task
        known = np.flatnonzero(found.tune.true >= 0)
        inside = np.flatnonzero(own.true >= 0)
        rows = np.array(own.rows)[inside]
        self.true, self.tune_true = own.true[inside], found.tune.true[known]
        self.fit = _unit(context.fit.image_embed, found.fit.rows)
        self.tune = _unit(found.tune_evidence.image_embed, found.tune.rows[known])
        self.images = _unit(evidence.image_embed, rows)
        self.untrained: dict[str, tuple[Floats, Floats, Floats]] = {}  # of the images to take, to choose on, to judge
        for name, features in context.fit.features.items():
            if name in found.tune_evidence.features and name in evidence.features:
                middle = features[found.fit.rows.tolist()].double().mean(dim=0)
                self.untrained[name] = (
                    _unit(features - middle, found.fit.rows),
                    _unit(found.tune_evidence.features[name] - middle, found.tune.rows[known]),
                    _unit(evidence.features[name] - middle, rows),
                )
        text = class_embeddings(own, own.names, task.prompts, context).numpy()
        self.tune_logits = evidence.logit_scale * (self.tune @ text.T)
        self.logits = evidence.logit_scale * (self.images @ text.T)
        self.resampler = Resampler(evidence.patients(rows.tolist()), resamples=context.resamples, seed=[*seed, 3])

    def adapt(self) -> tuple[dict[str, Figure], dict[str, Any]]:
        """Classify with every number of examples."""
        counts = self.found.fit.counts(len(self.own.names))
        details: dict[str, Any] = {
            "classes": {
                name: {"fit": int(counts[index]), "evaluated": int((self.true == index).sum())}
                for index, name in enumerate(self.own.names)
            },
            "chosen_on": self.found.chosen_on,
            "chosen_on_images": len(self.tune),
            "budgets": {},
        }
        figures: dict[str, Figure] = {}
        for place, k in enumerate(self.task.shots):
            draws = []
            for time in range(self.task.seeds):
                rng = np.random.default_rng([*self.seed, 1, place, time])
                support = shots(self.found.fit, k, len(self.own.names), rng)
                if support is not None:
                    draws.append(self._draw(support, rng))
            if not draws:
                details["budgets"][f"{k}-shot"] = {"left_out": "a class has fewer images"}
                continue
            judged, about = self._figures(draws)
            figures |= {f"{name}@{k}-shot": figure for name, figure in judged.items()}
            details["budgets"][f"{k}-shot"] = about
        return figures, details

    def _draw(self, support: Ints, rng: np.random.Generator) -> _Draw:
        """Choose with one cache, and classify."""
        classes = len(self.own.names)
        keys, values = self.fit[support], np.eye(classes)[self.found.fit.true[support]]
        tuned = {beta: cached(self.tune, keys, values, beta) for beta in self.task.betas}

        def merit(logits: Floats) -> float:
            return float(balanced_accuracy(self.tune_true, decide(logits)))

        # Of equal choices the weakest: the one that changes zero-shot least.
        pairs = [(alpha, beta) for alpha, beta in product(sorted(self.task.alphas), sorted(self.task.betas))]
        alpha, beta = max(pairs, key=lambda pair: merit(self.tune_logits + pair[0] * tuned[pair[1]]))
        cache_beta = max(sorted(self.task.betas), key=lambda own: merit(tuned[own]))
        mixed = cached(self.images, keys, values[rng.permutation(len(values))], beta)
        others = {}
        for name, (fit, tune, images) in self.untrained.items():
            tries = {own: merit(cached(tune, fit[support], values, own)) for own in sorted(self.task.betas)}
            best = max(tries, key=tries.__getitem__)
            others[name] = cached(images, fit[support], values, best)
        answers = {
            "adapter": self.logits + alpha * cached(self.images, keys, values, beta),
            "zero_shot": self.logits,
            "cache": cached(self.images, keys, values, cache_beta),
            "shuffled": self.logits + alpha * mixed,
            **others,
        }
        return _Draw(alpha, beta, cache_beta, {name: decide(logits) for name, logits in answers.items()})

    def _figures(self, drawn: Sequence[_Draw]) -> tuple[dict[str, Figure], dict[str, Any]]:
        """Give the figures of the adapter over its draws, with those of its parts as controls."""
        count = np.bincount(self.true)
        chance = 1 / len(self.own.names)
        about: dict[str, Any] = {
            "alpha": [draw.alpha for draw in drawn],
            "beta": [draw.beta for draw in drawn],
            "cache_beta": [draw.cache_beta for draw in drawn],
        }
        figures: dict[str, Figure] = {}
        for name, judge, majority in (
            ("balanced_accuracy", balanced, chance),
            ("accuracy", accurate, float(count.max() / count.sum())),
        ):
            each = {kind: [judge(draw.answers[kind]) for draw in drawn] for kind in drawn[0].answers}
            means = {kind: mean_over(of) for kind, of in each.items()}
            value, draws = float(means["adapter"](self.true)), self._resampled(means["adapter"])
            controls = {"chance": chance, "majority": majority}
            gains: dict[str, Any] = {}
            for kind in ("zero_shot", "cache", *self.untrained):
                controls[kind] = float(means[kind](self.true))
                gains[kind] = gain(value, draws, controls[kind], self._resampled(means[kind]))
            shuffled = np.array([float(one(self.true)) for one in each["shuffled"]])
            lost = self._resampled(each["shuffled"][0])
            figures[name] = Figure(value, draws, len(self.true), controls, shuffled, lost)
            about[name] = {"by_draw": [float(one(self.true)) for one in each["adapter"]], "gain_over": gains}
        return figures, about

    def _resampled(self, statistic: Statistic) -> Floats:
        return self.resampler.draws(lambda weights: statistic(self.true, weights))


def cached(images: Floats, keys: Floats, values: Floats, beta: float) -> Floats:
    """Give the cache's logits [n, classes]: values weighing exp(-β(1 - cosine)).

    Args:
        images: [n, E] unit length.
        keys: [m, E] unit length.
        values: [m, classes].
        beta: How fast the weight falls with distance.
    """
    logits: Floats = np.exp(-beta * (1 - images @ keys.T)) @ values
    return logits


def _unit(features: torch.Tensor, rows: Ints) -> Floats:
    unit: Floats = torch.nn.functional.normalize(features[rows.tolist()].double(), dim=1).numpy()
    return unit
