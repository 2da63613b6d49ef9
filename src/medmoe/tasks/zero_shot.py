"""Zero-shot classification: which finding's prompts is an image most like?"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from medmoe.metrics import Floats, Ints, Resampler, best_threshold, chance_of_average_precision, decide
from medmoe.objectives import LOCAL_SIMILARITIES
from medmoe.tasks.base import Context, Evidence, TaskResult, skipped
from medmoe.tasks.classes import Classes, class_sets, labels_of, marks, named
from medmoe.tasks.figures import Figure, metrics
from medmoe.tasks.prompts import NO_FINDING, Prompts, load_prompts
from medmoe.tasks.scoring import (
    accurate,
    balanced,
    macro_ap,
    macro_auroc,
    macro_f1,
    permutations,
    shuffled_figure,
)
from medmoe.tasks.similarity import local_similarity
from medmoe.tasks.splits import check_apart, examples
from medmoe.tasks.wordings import encode_wordings, ensembles, worded_sets

__all__ = ["Classes", "ZeroShot", "class_sets", "ensembles", "prompt_prior"]

# Figures of the global similarity have no prefix.
_PREFIX = {"global": "", "local": "local_", "combined": "combined_"}


@dataclass(frozen=True)
class ZeroShot:
    """Balanced accuracy, accuracy, AUROC, AP and F1 of findings by prompt ensembles, within each data set and modality.

    An image with exactly one of the classes of its data set is given the class whose prompts it is most like.
    AUROC, average precision and F1 are of one finding against the rest over all annotated images, averaged over
    findings: an image may have several. They judge a finding's softmax probability among all findings and `no_finding`:
    a cosine alone says as much of the image as of the finding, and compares badly from image to image. F1 needs a
    threshold for each finding, which is chosen on the validation split and nowhere else: without one there is no F1.
    The global similarity decides, `local_…` and `combined_…` say what the others would have decided. `NAME/MODALITY` is
    the mean over the modality's data sets (`NAME/MODALITY/SOURCE` where there are several), `NAME` the mean over
    modalities.

    A class that the prompts can't word is left out, and named in the details: chance counts the others.

    Controls: chance, the commonest class, shuffled labels, and `prompt_prior`, the one class that the mean of the
    images is most like and so the prompts favour whatever is shown.

    Attributes:
        prompts: The wordings.
        fewest: Images that a class needs.
        shuffles: How often the labels are shuffled (within a data set and modality) for the control.
    """

    name: ClassVar[str] = "zeroshot_classification"
    prompts: Prompts = field(default_factory=load_prompts)
    fewest: int = 5
    shuffles: int = 100

    def evaluate(self, evidence: Evidence, context: Context) -> TaskResult:
        """Judge zero-shot classification."""
        every, lost = worded_sets(evidence, self.prompts, fewest=self.fewest)
        usable = [own for own in every if len(own.names) > 1 or own.findings]
        details: dict[str, Any] = {
            "prompts": self.prompts.fingerprint,
            "without_prompts": lost,
            "left_out": [
                {"source": own.source, "modality": own.modality, "images": len(own.rows)}
                for own in every
                if own not in usable
            ],
        }
        if not usable:
            return skipped("no data set has two findings with enough images", **details)
        if context.tune is not None:
            check_apart(evidence, context, fit=False)
        by_modality: dict[str, dict[str, dict[str, Figure]]] = {}
        details["groups"] = []
        for stream, own in enumerate(usable):
            figures, found = self._group(own, evidence, context, stream)
            by_modality.setdefault(own.modality, {})[own.source] = figures
            details["groups"].append(found)
        return TaskResult(metrics(named(by_modality)), details)

    def _group(
        self, own: Classes, evidence: Evidence, context: Context, stream: int
    ) -> tuple[dict[str, Figure], dict[str, Any]]:
        names = self._names(own)
        text, owner = encode_wordings(own, names, self.prompts, context)
        embed = ensembles(text, owner, len(names)).numpy()
        seed = [context.seed, 10_000 + stream]
        origins = {name: self.prompts.origin(name, own.modality, own.source) for name in names}
        details: dict[str, Any] = {
            "source": own.source,
            "modality": own.modality,
            "classes": {name: int((own.true == index).sum()) for index, name in enumerate(own.names)},
            "dropped": own.dropped,
            "several_or_no_class": int((own.true < 0).sum()),
            "prompts": {name: int((owner == index).sum()) for index, name in enumerate(names)},
            "origins": origins,
        }
        figures: dict[str, Figure] = {}
        if len(own.names) > 1:
            scores = _similarities(own, evidence, embed, text.words, text.word_mask, owner)
            chosen = {kind: decide(matrix[:, : len(own.names)]) for kind, matrix in scores.items()}
            prior = prompt_prior(evidence, own, embed[: len(own.names)])
            figures |= self._classify(own, chosen, prior, evidence, context, seed)
            details["prompt_prior"] = own.names[prior] if prior >= 0 else None
            details["confusion"] = _confusion(own, chosen["global"])
        if own.findings:
            columns = [names.index(name) for name in (*own.findings, NO_FINDING) if name in names]
            judged, found = self._detect(own, embed[columns], evidence, context, seed)
            figures |= judged
            details |= found
        return figures, details

    def _names(self, own: Classes) -> tuple[str, ...]:
        """Give what is worded: classes, findings, and their absence, which two findings can do without."""
        names = dict.fromkeys((*own.names, *own.findings))
        if len(own.findings) < 2 or self.prompts.can_word(NO_FINDING, own.modality, own.source):
            names[NO_FINDING] = None
        return tuple(names)

    def _classify(
        self, own: Classes, chosen: dict[str, Ints], prior: int, evidence: Evidence, context: Context, seed: list[int]
    ) -> dict[str, Figure]:
        """Judge the one class that is chosen for each image."""
        inside = np.flatnonzero(own.true >= 0)
        true = own.true[inside]
        patients = evidence.patients([own.rows[row] for row in inside])
        resampler = Resampler(patients, resamples=context.resamples, seed=[*seed, 0])
        orders = permutations(len(true), self.shuffles, [*seed, 1])
        count = np.bincount(true)
        constant = np.full_like(true, prior)
        chance = 1 / len(own.names)
        controls = {"chance": chance, "majority": chance, "prompt_prior": float(balanced(constant)(true))}
        figures: dict[str, Figure] = {}
        for kind, answer in chosen.items():
            statistic = balanced(answer[inside])
            figures[f"{_PREFIX[kind]}balanced_accuracy"] = shuffled_figure(
                statistic, true, orders, resampler, dict(controls)
            )
        controls |= {"majority": float(count.max() / count.sum()), "prompt_prior": float(accurate(constant)(true))}
        statistic = accurate(chosen["global"][inside])
        figures["accuracy"] = shuffled_figure(statistic, true, orders, resampler, controls)
        return figures

    def _detect(
        self, own: Classes, embed: NDArray[Any], evidence: Evidence, context: Context, seed: list[int]
    ) -> tuple[dict[str, Figure], dict[str, Any]]:
        """Judge each finding against the rest: embed [findings (+ no_finding), E]."""
        truth = marks(own.findings, labels_of(evidence, own.rows))  # [rows, findings]
        scores = _probabilities(own, evidence, np.array(own.rows), embed)
        resampler = Resampler(evidence.patients(own.rows), resamples=context.resamples, seed=[*seed, 0])
        orders = permutations(len(truth), self.shuffles, [*seed, 1])
        share = truth.mean(axis=0)
        half = {"chance": 0.5, "majority": 0.5, "prompt_prior": 0.5}
        # One answer for all images has the precision of the share of positives; a random order a little more.
        constant = {"majority": float(share.mean()), "prompt_prior": float(share.mean())}
        by_chance = chance_of_average_precision(truth.sum(axis=0), len(truth))
        figures = {
            "auroc": shuffled_figure(macro_auroc(scores), truth, orders, resampler, half),
            "ap": shuffled_figure(macro_ap(scores), truth, orders, resampler, {"chance": by_chance, **constant}),
        }
        details: dict[str, Any] = {"findings": list(own.findings), "thresholds": None}
        if context.tune is not None:
            thresholds = _thresholds(own, context.tune, embed)
            details["thresholds"] = {own.findings[place]: threshold for place, threshold in thresholds.items()}
            if thresholds:
                kept = list(thresholds)
                always = dict.fromkeys(half, float((2 * share[kept] / (1 + share[kept])).mean()))
                statistic = macro_f1(scores[:, kept], list(thresholds.values()))
                figures["f1"] = shuffled_figure(statistic, truth[:, kept], orders, resampler, always)
        return figures, details


def _similarities(
    own: Classes,
    evidence: Evidence,
    embed: NDArray[Any],
    words: torch.Tensor,
    word_mask: torch.Tensor,
    owner: torch.Tensor,
) -> dict[str, NDArray[Any]]:
    """Give the similarity of each row to each name's prompts: [rows, names] for each variant."""
    cosine = evidence.image_embed[list(own.rows)].double().numpy() @ embed.T
    if not evidence.regions.shape[1]:  # the model has no local features
        return {"global": cosine}
    kind = evidence.local_similarity
    local = local_similarity(evidence.regions[list(own.rows)], words, word_mask, kind=kind).double()  # [rows, prompts]
    if LOCAL_SIMILARITIES[kind].summed:
        local = local - word_mask.sum(dim=1).double().log()  # the mean word's, whatever the length
    share = torch.nn.functional.one_hot(owner, len(embed)).double()
    averaged = (local @ (share / share.sum(dim=0))).numpy()
    combined = evidence.logit_scale * cosine + evidence.local_scale * averaged
    return {"global": cosine, "local": averaged, "combined": combined}


def _probabilities(own: Classes, evidence: Evidence, rows: Ints, embed: NDArray[Any]) -> Floats:
    """Give the softmax probability of each finding: [rows, findings]."""
    cosine = evidence.image_embed[rows.tolist()].double() @ torch.from_numpy(embed).T
    probability: Floats = torch.softmax(evidence.logit_scale * cosine, dim=1).numpy()[:, : len(own.findings)]
    return probability


def _thresholds(own: Classes, tune: Evidence, embed: NDArray[Any]) -> dict[int, float]:
    """Choose a threshold for each finding that the validation split shows and lacks, by the finding's place."""
    found = examples(own, tune)
    scores = _probabilities(own, tune, found.rows, embed)
    chosen = {
        place: best_threshold(scores[:, place], found.marks[:, place])
        for place in range(len(own.findings))
        if found.marks[:, place].any() and not found.marks[:, place].all()
    }
    return {place: threshold for place, threshold in chosen.items() if np.isfinite(threshold)}


def prompt_prior(evidence: Evidence, own: Classes, embed: NDArray[Any]) -> int:
    """Give the class [C, E] that the mean of the images is most like; -1 where a tie or NaN decides."""
    mean = evidence.image_embed[list(own.rows)].double().mean(dim=0).numpy()
    return int(decide((mean @ embed.T)[None])[0])


def _confusion(own: Classes, chosen: Ints) -> list[list[int]]:
    """Count images by true class (rows) and chosen class (columns)."""
    confusion = np.zeros((len(own.names), len(own.names)), dtype=np.int64)
    decided = (own.true >= 0) & (chosen >= 0)
    np.add.at(confusion, (own.true[decided], chosen[decided]), 1)
    table: list[list[int]] = confusion.tolist()
    return table
