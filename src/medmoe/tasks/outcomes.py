"""What a model got right, item by item, so that two models can be compared on the same items.

The mean of a metric's items, folded class by class and modality by modality, is the figure of the task that it is
taken from: within-modality recall, balanced accuracy, pointing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medmoe.metrics import Floats, Ints, best_rank, chance_at_k, decide, hits
from medmoe.modalities import in_order
from medmoe.tasks.base import Context, Evidence
from medmoe.tasks.classes import Classes, class_sets
from medmoe.tasks.grounding import find_items, hit
from medmoe.tasks.heatmaps import dot_heatmaps, peaks, upsample
from medmoe.tasks.retrieval import Retrieval, normalised
from medmoe.tasks.similarity import of_pairs
from medmoe.tasks.wordings import class_embeddings
from medmoe.tasks.zero_shot import ZeroShot

# name → how a table calls it
METRICS = {
    "report_to_image": "report → image R@5",
    "image_to_report": "image → report R@5",
    "global_report_to_image": "report → image R@5, global",
    "zero_shot": "zero-shot balanced accuracy",
    "pointing": "pointing",
    "image_router": "image router",
}
# name → the task and its figure that the items fold to
FIGURES = {
    "report_to_image": ("zeroshot_retrieval", "report_to_image_recall@5"),
    "image_to_report": ("zeroshot_retrieval", "image_to_report_recall@5"),
    "global_report_to_image": ("zeroshot_retrieval", "global_report_to_image_recall@5"),
    "zero_shot": ("zeroshot_classification", "balanced_accuracy"),
    "pointing": ("grounding", "pointing"),
    "image_router": ("routing", "image_router_accuracy"),
}
_AT = 5  # the k of recall@k
_BLOCK = 256  # findings whose heatmaps are computed at a time


@dataclass(frozen=True, slots=True)
class Outcome:
    """A metric's items.

    Attributes:
        values: [n] 1.0 where the model was right, 0.0 where not.
        chance: [n] how often an uninformed answer would be.
        items: [n] what was asked: the same in two models that were asked the same.
        patients: [n] whom each item is of (`Sample.person`); empty where unknown.
        cells: [n] path of the cell that an item counts in, parts joined by `|`: cells count alike, whatever their size.
    """

    values: Floats
    chance: Floats
    items: tuple[str, ...]
    patients: tuple[str, ...]
    cells: tuple[str, ...]


def folded(values: Floats, cells: tuple[str, ...], weights: Floats | None = None) -> Floats:
    """Average items within each cell, then cells within the cell above, up to one figure.

    Args:
        values: [n].
        cells: [n] paths of one depth, parts joined by `|`.
        weights: [n] or [R, n] how often each item counts; None: once. A cell of weight 0 is left out.

    Returns:
        [] or [R]; NaN where nothing has weight.

    >>> float(folded(np.array([1.0, 0.0, 0.0]), ("ct", "ct", "mri")))
    0.25
    """
    names, index = np.unique(np.array(cells), return_inverse=True)
    member = np.eye(len(names))[index]  # [n, leaves]
    weights = np.ones(len(values)) if weights is None else weights
    means = _ratio(weights @ (member * values[:, None]), weights @ member)
    paths = [tuple(name.split("|")) for name in names.tolist()]
    while paths[0]:
        above = list(dict.fromkeys(path[:-1] for path in paths))
        inside_of = [[place for place, path in enumerate(paths) if path[:-1] == parent] for parent in above]
        means = np.stack([_mean_of_defined(means[..., own]) for own in inside_of], axis=-1)
        paths = above
    result: Floats = means[..., 0]
    return result


def shares(cells: tuple[str, ...]) -> Floats:
    """Give what each item counts in `folded`: [n] that add up to 1, and whose product with the values is the figure.

    >>> shares(("ct", "ct", "mri")).tolist()
    [0.25, 0.25, 0.5]
    """
    paths = [tuple(cell.split("|")) for cell in cells]
    own = np.ones(len(cells))
    for depth in range(len(paths[0])):
        below = Counter(path[:depth] for path in {path[: depth + 1] for path in paths})  # cells within each cell
        own /= [below[path[:depth]] for path in paths]
    size = Counter(paths)
    result: Floats = own / [size[path] for path in paths]
    return result


def _ratio(above: Floats, below: Floats) -> Floats:
    return np.asarray(np.where(below > 0, above / np.where(below > 0, below, 1.0), np.nan), dtype=np.float64)


def _mean_of_defined(values: Floats) -> Floats:
    defined = ~np.isnan(values)
    return _ratio(np.where(defined, values, 0.0).sum(axis=-1), defined.sum(axis=-1).astype(np.float64))


def outcomes_of(evidence: Evidence, context: Context, *, zero_shot: ZeroShot | None = None) -> dict[str, Outcome]:
    """Judge a model's evidence item by item; a metric whose data are absent is left out.

    Args:
        evidence: What the model said.
        context: What tasks need beside it.
        zero_shot: The task whose prompts are used; None: with those that come with the library.
    """
    found = _retrieval(evidence, context) | _zero_shot(evidence, context, zero_shot or ZeroShot())
    found |= _pointing(evidence, context) | _routing(evidence, context)
    return {name: found[name] for name in METRICS if name in found}


def add_items(results: dict[str, Any], outcomes: Mapping[str, Outcome]) -> None:
    """Put outcomes into an evaluation's details, in the form that `medmoe report` pairs runs by.

    Args:
        results: What `evaluate_all` gave; `details[TASK]["items"]` is added for each task that was run.
        outcomes: From `outcomes_of`.
    """
    for name, outcome in outcomes.items():
        task, figure = FIGURES[name]
        if figure in results["tasks"].get(task, {}):
            block = {
                "patients": [patient or None for patient in outcome.patients],
                "keys": list(outcome.items),
                "groups": _groups(outcome.cells),
                figure: outcome.values.tolist(),
            }
            results["details"][task].setdefault("items", []).append(block)


def _groups(cells: Sequence[str]) -> list[str]:
    """Name cells by their parts, without one that follows from the part above it (the only data set of a modality)."""
    paths = [cell.split("|") for cell in cells]
    below: dict[str, set[str]] = {}
    for path in paths:
        if len(path) == 3:
            below.setdefault(path[0], set()).add(path[1])
    single = all(len(sources) == 1 for sources in below.values())
    return ["/".join((path[0], path[2]) if len(path) == 3 and single else path) for path in paths]


class _Collector:
    """Gathers a metric's items."""

    def __init__(self, evidence: Evidence) -> None:
        self.evidence = evidence
        self.rows: list[tuple[float, float, str, str, str]] = []

    def add(self, row: int, value: float, chance: float, cell: str, *, what: str = "") -> None:
        sample = self.evidence.samples[row]
        item = f"{sample.key}|{what}" if what else sample.key
        self.rows.append((float(value), float(chance), item, sample.person or "", cell))

    def outcome(self, name: str) -> dict[str, Outcome]:
        if not self.rows:
            return {}
        values, chance, items, patients, cells = zip(*self.rows, strict=True)
        return {name: Outcome(np.array(values), np.array(chance), items, patients, cells)}


def _retrieval(evidence: Evidence, context: Context) -> dict[str, Outcome]:
    """Ask each report for its image and each image for its report, among those of the modality."""
    rows = np.flatnonzero(evidence.has_report.numpy())
    modality = np.array([evidence.samples[row].modality or "" for row in rows])
    names = ("report_to_image", "image_to_report", "global_report_to_image")
    found = {name: _Collector(evidence) for name in names}
    for group in in_order(modality.tolist()):
        own = rows[modality == group]
        if len(own) < Retrieval.fewest:
            continue
        text = np.array([normalised(evidence.samples[row].report or "") for row in own])
        _, first, same = np.unique(text, return_index=True, return_inverse=True)
        images, texts = same[:, None] == same, same[:, None] == np.arange(len(first))  # a text is one candidate
        matrices = of_pairs(evidence, own.tolist())
        combined, cosine = matrices["combined"], matrices["global"]
        asked = ((combined.T, images), (combined[:, first], texts), (cosine.T, images))
        for name, (similarity, relevant) in zip(names, asked, strict=True):
            right = hits(best_rank(similarity, relevant), _AT, candidates=relevant.shape[1])
            for row, value, mine in zip(own.tolist(), right, relevant, strict=True):
                found[name].add(row, value, chance_at_k(mine[None], _AT), group)
    return {name: outcome for own in names for name, outcome in found[own].outcome(own).items()}


def _zero_shot(evidence: Evidence, context: Context, task: ZeroShot) -> dict[str, Outcome]:
    """Ask for the finding of each image that shows exactly one of its data set's classes."""
    found = _Collector(evidence)
    for own in class_sets(evidence, fewest=task.fewest):
        if len(own.names) < 2:
            continue
        chosen = _choices(own, task, evidence, context)
        for place, row in enumerate(own.rows):
            if own.true[place] >= 0:
                parts = (own.modality, own.source, own.names[own.true[place]])
                cell = "|".join(part.replace("|", "/") for part in parts)
                found.add(row, float(chosen[place] == own.true[place]), 1 / len(own.names), cell)
    return found.outcome("zero_shot")


def _choices(own: Classes, task: ZeroShot, evidence: Evidence, context: Context) -> Ints:
    """Give the class whose prompts each image is most like by the global similarity: [rows], -1 for a tie."""
    embed = class_embeddings(own, own.names, task.prompts, context)
    return decide((evidence.image_embed[list(own.rows)].double() @ embed.T).numpy())


def _pointing(evidence: Evidence, context: Context) -> dict[str, Outcome]:
    """Ask each named finding for its place by the raw dot product of its words with the regions."""
    items, _ = find_items(evidence, context)
    margin, found = 0.5 / evidence.regions.shape[-1], _Collector(evidence)
    for start in range(0, len(items), _BLOCK):
        block = items[start : start + _BLOCK]
        rows = [item.row for item in block]
        queries = torch.stack([evidence.words[item.row, list(item.words)].float().sum(dim=0) for item in block])
        maps = upsample(dot_heatmaps(evidence.regions[rows].float(), queries))
        points = peaks(maps, evidence.regions.shape[-1])
        right = hit(points, block, margin)
        for item, value in zip(block, right, strict=True):
            cell = evidence.samples[item.row].modality or "unknown"
            found.add(item.row, value, item.area(margin).mean(), cell, what=item.label)
    return found.outcome("pointing")


def _routing(evidence: Evidence, context: Context) -> dict[str, Outcome]:
    """Ask the image router for each image's modality."""
    if not evidence.image_logits.shape[1]:
        return {}
    place = {modality: index for index, modality in enumerate(evidence.modalities)}
    chosen, found = decide(evidence.image_logits.double().numpy()), _Collector(evidence)
    known = [(row, place[sample.modality]) for row, sample in enumerate(evidence.samples) if sample.modality in place]
    present = len({true for _, true in known})
    for row, true in known:
        found.add(row, float(chosen[row] == true), 1 / present, "all")
    return found.outcome("image_router")


def save_outcomes(path: Path, outcomes: Mapping[str, Outcome]) -> Path:
    """Write outcomes as one compressed file of plain arrays."""
    arrays: dict[str, NDArray[Any]] = {}
    for name, outcome in outcomes.items():
        arrays |= {f"{name}/values": outcome.values, f"{name}/chance": outcome.chance}
        texts = {"items": outcome.items, "patients": outcome.patients, "cells": outcome.cells}
        arrays |= {f"{name}/{part}": np.array(text) for part, text in texts.items()}
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    return path


def load_outcomes(path: Path) -> dict[str, Outcome]:
    """Read outcomes back."""
    with np.load(path, allow_pickle=False) as arrays:
        names = dict.fromkeys(key.split("/")[0] for key in arrays.files)
        return {
            name: Outcome(
                values=arrays[f"{name}/values"],
                chance=arrays[f"{name}/chance"],
                items=tuple(arrays[f"{name}/items"].tolist()),
                patients=tuple(arrays[f"{name}/patients"].tolist()),
                cells=tuple(arrays[f"{name}/cells"].tolist()),
            )
            for name in names
        }
