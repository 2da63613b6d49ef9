"""The figures of held-out sources: recall by source and modality, what the gate takes, what it turns away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medmoe.holdout.folds import Facts
from medmoe.metrics import Bools, Floats, Resampler, auroc, interval
from medmoe.tasks.figures import Figure, mean

LEAST = 10  # images of a source and modality below which its figure isn't averaged
Fold = Mapping[str, Any]  # of `judge_fold`


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


def pooled(outcomes: Sequence[Fold], facts: Facts, part: str, idea: str) -> Outcomes:
    """Average a part of the folds' outcomes over seeds; images of a modality that the fold lacks can't be right.

    Args:
        outcomes: Of `judge_fold`.
        facts: Of all images.
        part: `unseen` or `seen`.
        idea: Which gate.
    """
    sums: dict[tuple[str, int], Floats] = {}
    votes: dict[tuple[str, int], list[str]] = {}
    for one in outcomes:
        names, said = one["modalities"], one[part]
        for row, chosen, taken in zip(said["rows"], said["chosen"], said["accepted"][idea], strict=True):
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


def summarise(outcomes: Sequence[Fold], facts: Facts, *, resamples: int = 1000, seed: int = 0) -> dict[str, Any]:
    """Compute every figure, JSON-ready.

    Returns:
        `sources`: the folds that leave sources out, judged on images of modalities that the fold has elsewhere:
        figures by name, by modality and by source and modality, with the shares of wrong choices. `never_trained`:
        for images of a modality that the fold lacks, by fold, what is turned away. `pictures`: the same for pictures
        that are no medical images. `seen`: recall on test images of the training sources. `ideas`: what other ways to
        set the gate would give.
    """
    kept = next(iter(outcomes[0]["unseen"]["accepted"]))
    known, unknown = split(outcomes, facts)
    result: dict[str, Any] = {"seeds": len({one["seed"] for one in outcomes})}
    result["folds"] = len({one["fold"] for one in outcomes})
    if known:
        result["sources"] = recalls(pooled(known, facts, "unseen", kept), facts, resamples, seed)
        result["seen"] = recalls(pooled(known, facts, "seen", kept), facts, resamples, seed)["figures"]
    result["never_trained"] = {
        name: turned_away([one for one in unknown if one["fold"] == name], known, facts, kept, resamples, seed)
        for name in dict.fromkeys(one["fold"] for one in unknown)
    }
    ideas = outcomes[0]["unseen"]["accepted"]
    result["ideas"] = {idea: _idea(known, unknown, facts, idea, resamples, seed) for idea in ideas}
    result["pictures"] = result["ideas"][kept]["pictures"]
    return result


def split(outcomes: Sequence[Fold], facts: Facts) -> tuple[list[Fold], list[Fold]]:
    """Part what was left out into images of modalities that a fold has elsewhere, and of those that it lacks."""
    known, unknown = [], []
    for one in outcomes:
        there = np.array([facts.modality[row] in one["modalities"] for row in one["unseen"]["rows"]], dtype=bool)
        if there.any():
            known.append(_only(one, there))
        if not there.all():
            unknown.append(_only(one, ~there))
    return known, unknown


def _only(one: Fold, keep: Bools) -> Fold:
    rows = np.flatnonzero(keep).tolist()
    said: dict[str, Any] = {name: [one["unseen"][name][row] for row in rows] for name in ("rows", "chosen", "score")}
    said["accepted"] = {idea: [taken[row] for row in rows] for idea, taken in one["unseen"]["accepted"].items()}
    return {**one, "unseen": said}


def recalls(found: Outcomes, facts: Facts, resamples: int, seed: int) -> dict[str, Any]:
    """Give recall, share taken and share right among the taken: by modality, by source and modality, their means."""
    cells = sorted(set(found.cell), key=lambda cell: (facts.modalities.index(cell[1]), cell[0]))
    of_cell = {cell: np.array([one == cell for one in found.cell]) for cell in cells}
    groups = {name: np.array([cell[1] == name for cell in found.cell]) for name in facts.modalities}
    modalities = {n: _figures(found, own, facts, resamples, seed) for n, own in groups.items() if own.any()}
    each = {cell: _figures(found, own, facts, resamples, seed) for cell, own in of_cell.items()}
    large = [own for own in each.values() if own["recall"].n >= LEAST]
    figures: dict[str, Any] = {}
    for name in ("recall", "coverage", "accepted_right"):
        for kind, parts in (("modalities", list(modalities.values())), ("cells", large)):
            usable = [own[name] for own in parts if name in own]
            if usable:
                figures[f"{name}/{kind}"] = mean(usable).metric().to_json()
                if kind == "cells":
                    figures[f"{name}/{kind}"] |= _over_cells([own.value for own in usable], resamples, seed)
    figures["controls"] = {"chance": 1 / len(facts.modalities), "majority": 1 / len(modalities)}
    return {
        "figures": figures,
        "modalities": {name: _json(own) for name, own in modalities.items()},
        "cells": [
            {"source": cell[0], "modality": cell[1], **_json(own), "taken_for": _mistakes(found, of_cell[cell])}
            for cell, own in each.items()
        ],
    }


def _over_cells(values: Sequence[float], resamples: int, seed: int) -> dict[str, float]:
    """Give the interval of a mean over sources that were themselves drawn, as another list of sources would be."""
    low, high = interval(Resampler([None] * len(values), resamples=resamples, seed=seed).means(np.array(values)))
    return {"low_over_sources": float(low), "high_over_sources": float(high)}


def _figures(found: Outcomes, own: Bools, facts: Facts, resamples: int, seed: int) -> dict[str, Figure]:
    places = np.flatnonzero(own)
    patients = [facts.patient[found.row[place]] for place in places]
    values = np.stack([found.right[own], found.accepted[own], found.both[own]], axis=1)
    draws, now = Resampler(patients, resamples=resamples, seed=seed).means(values), values.mean(axis=0)
    figures = {
        "recall": Figure(float(now[0]), draws[:, 0], len(places)),
        "coverage": Figure(float(now[1]), draws[:, 1], len(places)),
    }
    if now[1] > 0:
        ratio = np.full(len(draws), now[2] / now[1])
        np.divide(draws[:, 2], draws[:, 1], out=ratio, where=draws[:, 1] > 0)
        figures["accepted_right"] = Figure(float(now[2] / now[1]), ratio, round(float(found.accepted[own].sum())))
    return figures


def _json(own: Mapping[str, Figure]) -> dict[str, Any]:
    return {name: figure.metric().to_json() for name, figure in own.items()}


def _mistakes(found: Outcomes, own: Bools) -> dict[str, float]:
    """Give the share of a cell's images that each wrong modality got, largest first."""
    wrong = [found.taken_for[p] for p in np.flatnonzero(own) if found.taken_for[p] != found.cell[p][1]]
    shares = {name: round(wrong.count(name) / int(own.sum()), 3) for name in set(wrong)}
    return dict(sorted(shares.items(), key=lambda pair: (-pair[1], pair[0])))


def turned_away(
    outcomes: Sequence[Fold], known: Sequence[Fold], facts: Facts, idea: str, resamples: int, seed: int
) -> dict[str, Any]:
    """Give the share of images of a modality never trained on that a gate turns away, and how its score parts them.

    Args:
        outcomes: Of one fold, a seed each; what was left out is of modalities that it lacks.
        known: Of the folds that leave sources out: images that should be taken though their site was never seen.
        facts: Of all images.
        idea: Which gate.
        resamples: Bootstrap resamples.
        seed: Of these.

    Returns:
        `rejected`; `seen_rejected` and `unseen_rejected`, the same share of test images of the training sources and of
        images of other modalities from sources left out; `auroc` and `unseen_auroc` of the score between these and
        what was left out, averaged over seeds; and `taken_for`.
    """
    found = pooled(outcomes, facts, "unseen", idea)
    result: dict[str, Any] = {"taken_for": _mistakes(found, np.ones(len(found.row), dtype=bool))}
    strange = {facts.modality[row] for row in found.row}
    others = [_only(one, np.array([facts.modality[r] not in strange for r in one["unseen"]["rows"]])) for one in known]
    parts = {"": (outcomes, "unseen"), "seen_": (outcomes, "seen"), "unseen_": (others, "unseen")}
    for name, (folds, part) in parts.items():
        if any(one[part]["rows"] for one in folds):
            own = pooled(folds, facts, part, idea)
            draws = Resampler([facts.patient[row] for row in own.row], resamples=resamples, seed=seed).means(
                own.accepted
            )
            result[f"{name}rejected"] = (
                Figure(1 - float(own.accepted.mean()), 1 - draws, len(own.row)).metric().to_json()
            )
            if name:
                both = [_parted(one, _of_seed(folds, part, one["seed"]), facts, resamples, seed) for one in outcomes]
                value, drawn = np.mean([own[0] for own in both]), np.mean([own[1] for own in both], axis=0)
                result[f"{name}auroc"] = Figure(float(value), drawn, len(found.row)).metric().to_json()
    return result


def _away(found: Outcomes, facts: Facts, resamples: int, seed: int) -> dict[str, Any]:
    """Give the share that is turned away."""
    away, patients = 1 - found.accepted, [facts.patient[row] for row in found.row]
    draws = Resampler(patients, resamples=resamples, seed=seed).means(away)
    return Figure(float(away.mean()), draws, len(away)).metric().to_json()


def _of_seed(folds: Sequence[Fold], part: str, seed: int) -> tuple[list[int], list[float]]:
    """Give rows and scores of the folds of a seed."""
    own = [one[part] for one in folds if one["seed"] == seed]
    return [row for said in own for row in said["rows"]], [score for said in own for score in said["score"]]


def _parted(
    one: Fold, known: tuple[list[int], list[float]], facts: Facts, resamples: int, seed: int
) -> tuple[float, Floats]:
    """Give the AUROC of the score, images of known modalities above those left out, with its bootstrap draws."""
    rows, scores = known[0] + one["unseen"]["rows"], np.array(known[1] + one["unseen"]["score"])
    truth = np.arange(len(rows)) < len(known[0])
    resampler = Resampler([facts.patient[row] for row in rows], resamples=resamples, seed=seed)
    return float(auroc(scores, truth)), resampler.draws(lambda weights: auroc(scores, truth, weights))


def _idea(
    known: Sequence[Fold], unknown: Sequence[Fold], facts: Facts, idea: str, resamples: int, seed: int
) -> dict[str, Any]:
    """Give what one way to set the gate takes, how much of that is right, and what it turns away."""
    result: dict[str, Any] = {}
    if known:
        figures = recalls(pooled(known, facts, "unseen", idea), facts, resamples, seed)["figures"]
        result |= {name: value for name, value in figures.items() if name.startswith(("coverage", "accepted"))}
    away = [1 - float(np.mean(one["unseen"]["accepted"][idea])) for one in unknown]
    result["never_trained"] = float(np.mean(away)) if away else None
    pictures = [1 - float(np.mean(one["pictures"]["accepted"][idea])) for one in (*known, *unknown)]
    result["pictures"] = round(float(np.mean(pictures)), 4)
    return result
