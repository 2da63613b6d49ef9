"""The figures of held-out sources: recall by source and modality, what the gate takes, what it turns away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medmoe.holdout.folds import Facts
from medmoe.metrics import Floats, Resampler
from medmoe.tasks.figures import Figure, mean

LEAST = 10  # images of a source and modality below which its figure isn't averaged


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What became of n images, averaged over seeds.

    Attributes:
        row: [n] place among all images.
        cell: [n] source and modality of each.
        right: [n] share of the seeds in which the router was right.
        accepted: [n] share in which the gate took it.
        both: [n] share in which it was taken and right.
        taken_for: [n] modality chosen most often.
    """

    row: list[int]
    cell: list[tuple[str, str]]
    right: Floats
    accepted: Floats
    both: Floats
    taken_for: list[str]


def pooled(outcomes: Sequence[Mapping[str, Any]], facts: Facts, part: str, *, accepted: str = "accepted") -> Outcomes:
    """Average a part of the folds' outcomes over seeds; images of a modality that the fold lacks can't be right.

    Args:
        outcomes: Of `judge_fold`.
        facts: Of all images.
        part: `unseen` or `seen`.
        accepted: Which gate: `accepted` (all of it) or `sure` (by probability alone).
    """
    sums: dict[tuple[str, int], Floats] = {}
    votes: dict[tuple[str, int], list[str]] = {}
    for one in outcomes:
        names, said = one["modalities"], one[part]
        for row, chosen, taken in zip(said["rows"], said["chosen"], said[accepted], strict=True):
            right = names[chosen] == facts.modality[row]
            key = (one["fold"], row)
            sums[key] = sums.get(key, np.zeros(4)) + np.array([1, right, taken, taken and right])
            votes.setdefault(key, []).append(names[chosen])
    total = np.array([sums[key] for key in sums]).reshape(-1, 4)
    shares = total[:, 1:] / np.maximum(total[:, :1], 1)
    rows = [row for _, row in sums]
    return Outcomes(
        row=rows,
        cell=[(facts.source[row], facts.modality[row]) for row in rows],
        right=shares[:, 0],
        accepted=shares[:, 1],
        both=shares[:, 2],
        taken_for=[max(set(vote), key=vote.count) for vote in votes.values()],
    )


def summarise(
    outcomes: Sequence[Mapping[str, Any]], facts: Facts, *, resamples: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """Compute every figure, JSON-ready.

    Returns:
        `sources`: the folds that leave sources out, judged on images of modalities that the fold has elsewhere:
        figures by name, by modality and by source and modality, with the shares of wrong choices. `never_trained`:
        for images of a modality the fold lacks, by source or modality, the share turned away. `pictures`: the same
        for pictures that are no medical images. `seen`: recall on test images of the training sources.
    """
    by_source = [one for one in outcomes if not one["fold"].startswith("modality ")]
    lacking = {one["fold"]: set(one["modalities"]) for one in outcomes}
    known, unknown = [], []
    for one in outcomes:
        there = np.array([facts.modality[row] in lacking[one["fold"]] for row in one["unseen"]["rows"]], dtype=bool)
        if there.any() and one in by_source:
            known.append(_only(one, there))
        if not there.all():
            unknown.append(_only(one, ~there))
    result: dict[str, Any] = {"seeds": len({one["seed"] for one in outcomes}), "folds": len(lacking)}
    if known:
        result["sources"] = {
            gate: _recalls(pooled(known, facts, "unseen", accepted=gate), facts, resamples, seed)
            for gate in ("accepted", "sure")
        }
        result["seen"] = _recalls(pooled(by_source, facts, "seen"), facts, resamples, seed)["figures"]
    result["never_trained"] = {
        name: _turned_away([one for one in unknown if one["fold"] == name], facts, resamples, seed)
        for name in dict.fromkeys(one["fold"] for one in unknown)
    }
    taken = {gate: np.mean([np.mean(one["pictures"][gate]) for one in outcomes]) for gate in ("accepted", "sure")}
    result["pictures"] = {f"rejected_{gate}": round(float(1 - share), 4) for gate, share in taken.items()}
    return result


def _only(one: Mapping[str, Any], keep: Floats) -> dict[str, Any]:
    said = {name: [v for v, k in zip(values, keep, strict=True) if k] for name, values in one["unseen"].items()}
    return {**one, "unseen": said}


def _recalls(found: Outcomes, facts: Facts, resamples: int, seed: int) -> dict[str, Any]:
    """Give recall, coverage and recall among the accepted: by modality, by source and modality, and their means."""
    cells = sorted(set(found.cell), key=lambda cell: (facts.modalities.index(cell[1]), cell[0]))
    groups = {name: np.array([cell[1] == name for cell in found.cell]) for name in facts.modalities}
    groups = {name: own for name, own in groups.items() if own.any()}
    of_cell = {cell: np.array([one == cell for one in found.cell]) for cell in cells}
    figures: dict[str, Any] = {}
    modalities = {name: _figures(found, own, facts, resamples, seed) for name, own in groups.items()}
    each = {cell: _figures(found, own, facts, resamples, seed) for cell, own in of_cell.items()}
    large = {cell: own for cell, own in each.items() if own["recall"].n >= LEAST}
    for name in ("recall", "coverage", "accepted_right"):
        for kind, parts in (("modalities", modalities), ("cells", large)):
            usable = [own[name] for own in parts.values() if name in own]
            if usable:
                figures[f"{name}/{kind}"] = mean(usable).metric().to_json()
    figures["controls"] = {"chance": 1 / len(facts.modalities), "majority": 1 / len(modalities)}
    return {
        "figures": figures,
        "modalities": {name: _json(own) for name, own in modalities.items()},
        "cells": [
            {"source": cell[0], "modality": cell[1], **_json(own), "taken_for": _mistakes(found, of_cell[cell])}
            for cell, own in each.items()
        ],
    }


def _figures(found: Outcomes, own: Floats, facts: Facts, resamples: int, seed: int) -> dict[str, Figure]:
    places = np.flatnonzero(own)
    patients = [facts.patient[found.row[place]] for place in places]
    resampler = Resampler(patients, resamples=resamples, seed=seed)
    values = np.stack([found.right[own], found.accepted[own], found.both[own]], axis=1)
    draws, now = resampler.means(values), values.mean(axis=0)
    figures = {
        "recall": Figure(float(now[0]), draws[:, 0], len(places)),
        "coverage": Figure(float(now[1]), draws[:, 1], len(places)),
    }
    if now[1] > 0:
        with np.errstate(invalid="ignore"):
            ratio = draws[:, 2] / draws[:, 1]
        ratio = np.where(np.isnan(ratio), now[2] / now[1], ratio)
        figures["accepted_right"] = Figure(float(now[2] / now[1]), ratio, int(found.accepted[own].sum()))
    return figures


def _json(own: Mapping[str, Figure]) -> dict[str, Any]:
    return {name: figure.metric().to_json() for name, figure in own.items()}


def _mistakes(found: Outcomes, own: Floats) -> dict[str, float]:
    """Give the share of a cell's images that each wrong modality got, largest first."""
    wrong = [found.taken_for[p] for p in np.flatnonzero(own) if found.taken_for[p] != found.cell[p][1]]
    shares = {name: round(wrong.count(name) / int(own.sum()), 3) for name in set(wrong)}
    return dict(sorted(shares.items(), key=lambda pair: -pair[1]))


def _turned_away(outcomes: Sequence[Mapping[str, Any]], facts: Facts, resamples: int, seed: int) -> dict[str, Any]:
    """Give the share that the whole gate and its probability alone turn away."""
    result: dict[str, Any] = {}
    for gate in ("accepted", "sure"):
        found = pooled(outcomes, facts, "unseen", accepted=gate)
        patients = [facts.patient[row] for row in found.row]
        away = 1 - found.accepted
        draws = Resampler(patients, resamples=resamples, seed=seed).means(away)
        result[f"rejected_{gate}"] = Figure(float(away.mean()), draws, len(away)).metric().to_json()
        result["taken_for"] = _mistakes(found, np.ones(len(away), dtype=bool))
    return result
