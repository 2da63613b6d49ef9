"""The swap: what a score becomes when images pass another modality's expert in place of their own."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from medmoe.metrics import Floats, Ints, Resampler, best_rank, chance_at_k, hits
from medmoe.modalities import in_order
from medmoe.tasks.base import Context, Evidence
from medmoe.tasks.figures import Figure
from medmoe.tasks.grounding import Item, find_items, hit
from medmoe.tasks.heatmaps import dot_heatmaps, peaks, upsample
from medmoe.tasks.retrieval import normalised
from medmoe.tasks.similarity import local_similarity

_AT = 5


def swap(
    evidence: Evidence, context: Context, *, fewest: int, most: int
) -> tuple[dict[str, dict[str, Figure]], dict[str, Any]]:
    """Score the images of each modality through every expert, by local features alone.

    Args:
        evidence: With `candidate_regions`.
        context: What tasks need beside it.
        fewest: Pairs or findings that a modality needs.
        most: Pairs of a modality, drawn by the seed, among which a report is looked for.

    Returns:
        The drop of each modality (score through its own expert less the mean score through the others, paired), and
        details: the score of each modality through each expert, or why there is none.
    """
    every = evidence.candidate_regions
    if every is None:
        return {}, {"skipped": "the regions through every expert weren't kept (--candidate-experts keeps them)"}
    if not every.shape[2] or len(every) < 2:
        return {}, {"skipped": "the model has no local image features, or a single expert"}
    modality = np.array([sample.modality or "" for sample in evidence.samples])
    items, _ = find_items(evidence, context)
    figures: dict[str, dict[str, Figure]] = {}
    details: dict[str, Any] = {"experts": list(evidence.modalities), "recall@5": {}, "pointing": {}}
    for stream, name in enumerate(in_order(modality.tolist())):
        if name not in evidence.modalities:
            continue
        own = evidence.modalities.index(name)
        pairs = np.flatnonzero((modality == name) & evidence.has_report.numpy())
        if len(pairs) >= fewest:
            rng = np.random.default_rng([context.seed, 40_000 + stream])
            drawn = pairs if len(pairs) <= most else np.sort(rng.choice(pairs, most, replace=False))
            found, chance = _recalled(evidence, every, drawn)
            figure = _drop(found, own, evidence.patients(drawn.tolist()), context)
            figures.setdefault(name, {})["swap_recall@5_drop"] = figure
            details["recall@5"][name] = _row(found, chance)
        boxed = [item for item in items if modality[item.row] == name]
        if len(boxed) >= fewest:
            found = _pointed(evidence, every, boxed)
            figure = _drop(found, own, evidence.patients([item.row for item in boxed]), context)
            figures.setdefault(name, {})["swap_pointing_drop"] = figure
            details["pointing"][name] = _row(found)
    return figures, details


def _recalled(evidence: Evidence, every: Tensor, rows: Ints) -> tuple[Floats, float]:
    """Tell whether each image's report is among the first five distinct ones, by expert: [K, n]; and chance."""
    text = np.array([normalised(evidence.samples[row].report or "") for row in rows])
    _, first, same = np.unique(text, return_index=True, return_inverse=True)
    relevant = same[:, None] == np.arange(len(first))
    words, mask = evidence.words[rows[first]], evidence.word_mask[rows[first]]
    found = []
    for regions in every:
        similarity = local_similarity(regions[rows], words, mask, kind=evidence.local_similarity).numpy()
        found.append(hits(best_rank(similarity, relevant), _AT, candidates=len(first)))
    return np.stack(found), chance_at_k(relevant, _AT)


def _pointed(evidence: Evidence, every: Tensor, items: list[Item]) -> Floats:
    """Play the pointing game with the dot product of regions and the phrase's words, through each expert: [K, n]."""
    queries = torch.stack([evidence.words[item.row, list(item.words)].float().sum(dim=0) for item in items])
    rows = torch.tensor([item.row for item in items])
    grid = every.shape[-1]
    found = []
    for regions in every:
        points = peaks(upsample(dot_heatmaps(regions[rows].float(), queries)), grid)
        found.append(hit(points, items, 0.5 / grid))
    return np.stack(found)


def _drop(found: Floats, own: int, patients: list[str | None], context: Context) -> Figure:
    """Subtract the mean over the other experts from the own one, image by image."""
    others = np.delete(found, own, axis=0).mean(axis=0)
    lost = found[own] - others
    resampler = Resampler(patients, resamples=context.resamples, seed=[context.seed, 40_000])
    controls = {"chance": 0.0, "own": float(found[own].mean())}
    return Figure(float(lost.mean()), resampler.means(lost), len(lost), controls)


def _row(found: Floats, chance: float | None = None) -> dict[str, Any]:
    row: dict[str, Any] = {"n": found.shape[1], "experts": [float(value) for value in found.mean(axis=1)]}
    return row if chance is None else row | {"chance": chance}
