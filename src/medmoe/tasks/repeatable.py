"""Scores that are cheap to repeat: prompts, classes and candidates are settled once, images are judged often."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from medmoe.metrics import Bools, Floats, Ints, balanced_accuracy, best_rank, chance_at_k, decide, hits
from medmoe.modalities import in_order
from medmoe.tasks.base import Context, Evidence
from medmoe.tasks.classes import class_sets
from medmoe.tasks.prompts import Prompts
from medmoe.tasks.retrieval import normalised
from medmoe.tasks.wordings import class_embeddings

_AT = 5


@dataclass(frozen=True)
class Scored:
    """A score of some images of one modality, as a function of what a model says of them.

    Attributes:
        kind: `routing`, `zeroshot` or `retrieval`.
        modality: The images' modality.
        where: The modality, and the data set where the score is one data set's.
        rows: The images.
        true: [rows] class of each image, whose recalls are averaged with equal weight; one class: a plain mean.
        chance: The score of guessing.
        outcome: What a model says of the split → [rows] 1.0 where it is right, 0.0 where it is wrong.
    """

    kind: str
    modality: str
    where: str
    rows: Ints
    true: Ints
    chance: float
    outcome: Callable[[Evidence], Floats]

    def score(self, outcome: Floats, weights: Floats | None) -> Floats:
        """Average outcomes [rows] within each class and then over classes: [] or, with weights [R, rows], [R]."""
        return balanced_accuracy(self.true, np.where(outcome > 0, self.true, -1), weights)

    def value(self, outcome: Floats) -> float:
        """Give the score as a plain number."""
        return float(self.score(outcome, None))


def scores_of(
    evidence: Evidence, context: Context, *, prompts: Prompts, fewest: int, fewest_pairs: int, most_pairs: int
) -> tuple[list[Scored], dict[str, str]]:
    """Find what can be scored of these images, and why the rest can't."""
    left_out: dict[str, str] = {}
    routing = _routing(evidence)
    if not routing:
        left_out["routing"] = "the model has no image router, or no image has one of its modalities"
    zero_shot = _zero_shot(evidence, context, prompts, fewest)
    if not zero_shot:
        left_out["zeroshot"] = "no data set has two findings with enough images"
    retrieval = _retrieval(evidence, context, fewest_pairs, most_pairs)
    if not retrieval:
        left_out["retrieval"] = f"no modality has {fewest_pairs} images with a report"
    return [*routing, *zero_shot, *retrieval], left_out


def _routing(evidence: Evidence) -> list[Scored]:
    """Judge the image router, modality by modality."""
    if not evidence.image_logits.shape[1]:
        return []
    modality = np.array([sample.modality or "" for sample in evidence.samples])
    present = [name for name in in_order(modality.tolist()) if name in evidence.modalities]
    return [
        _routed(name, evidence.modalities.index(name), np.flatnonzero(modality == name), len(present))
        for name in present
    ]


def _routed(modality: str, expert: int, rows: Ints, present: int) -> Scored:
    def outcome(found: Evidence) -> Floats:
        right: Bools = decide(found.image_logits[rows].double().numpy()) == expert
        return right.astype(np.float64)

    return Scored("routing", modality, modality, rows, np.zeros_like(rows), 1 / present, outcome)


def _zero_shot(evidence: Evidence, context: Context, prompts: Prompts, fewest: int) -> list[Scored]:
    """Judge zero-shot classification within each data set and modality that has two classes."""
    scored = []
    for own in class_sets(evidence, fewest=fewest):
        if len(own.names) < 2:
            continue
        inside = np.flatnonzero(own.true >= 0)
        rows = np.array(own.rows, dtype=np.int64)[inside]
        where = f"{own.modality}/{own.source}" if own.source else own.modality
        classes = class_embeddings(own, own.names, prompts, context)
        scored.append(_classified(own.modality, where, rows, own.true[inside], classes))
    return scored


def _classified(modality: str, where: str, rows: Ints, true: Ints, classes: torch.Tensor) -> Scored:
    def outcome(found: Evidence) -> Floats:
        cosine = found.image_embed[rows].double() @ classes.T
        right: Bools = decide(cosine.numpy()) == true
        return right.astype(np.float64)

    return Scored("zeroshot", modality, where, rows, true, 1 / len(classes), outcome)


def _retrieval(evidence: Evidence, context: Context, fewest: int, most: int) -> list[Scored]:
    """Judge recall@5 of an image's report among the distinct ones of its modality."""
    modality = np.array([sample.modality or "" for sample in evidence.samples])
    rng = np.random.default_rng([context.seed, 1])
    scored = []
    for name in in_order(modality.tolist()):
        rows = np.flatnonzero((modality == name) & evidence.has_report.numpy())
        if len(rows) < fewest:
            continue
        drawn = rows if len(rows) <= most else np.sort(rng.choice(rows, most, replace=False))
        text = np.array([normalised(evidence.samples[row].report or "") for row in drawn])
        _, first, same = np.unique(text, return_index=True, return_inverse=True)
        scored.append(_retrieved(name, drawn, same, evidence.text_embed[drawn[first]]))
    return scored


def _retrieved(modality: str, rows: Ints, same: Ints, texts: torch.Tensor) -> Scored:
    """Rank the distinct texts, of which `same` is each image's own."""
    relevant = same[:, None] == np.arange(len(texts))

    def outcome(found: Evidence) -> Floats:
        cosine = (found.image_embed[rows].float() @ texts.float().T).numpy()
        return hits(best_rank(cosine, relevant), _AT, candidates=len(texts))

    return Scored("retrieval", modality, modality, rows, np.zeros_like(rows), chance_at_k(relevant, _AT), outcome)
