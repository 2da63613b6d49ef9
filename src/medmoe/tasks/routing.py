"""Routing: does each router send an image or report to its modality's expert, and do the two agree?"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from medmoe.metrics import Floats, Ints, Resampler, balanced_accuracy, decide
from medmoe.tasks.base import Context, Evidence, TaskResult, skipped
from medmoe.tasks.figures import Figure, metrics


@dataclass(frozen=True)
class Routing:
    """Accuracy of the image and text routers against the modality, their agreement, confusion, load and entropy.

    Figures without a suffix are pooled over the images whose modality is known and the model's; `/MODALITY`
    is the share of that modality's images (its recall). The text router and the agreement count images with a report.
    """

    name: ClassVar[str] = "routing"

    def evaluate(self, evidence: Evidence, context: Context) -> TaskResult:
        """Judge the routers."""
        place = {modality: index for index, modality in enumerate(evidence.modalities)}
        of_row = [sample.modality for sample in evidence.samples]
        outside = Counter(str(modality) for modality in of_row if modality not in place)
        true = np.array([place.get(modality or "", -1) for modality in of_row], dtype=np.int64)
        if not (true >= 0).any():
            return skipped("no image has a modality that the model knows", outside=dict(outside))
        image = decide(evidence.image_logits.double().numpy())
        text = decide(evidence.text_logits.double().numpy())
        known = np.flatnonzero(true >= 0)
        paired = known[evidence.has_report.numpy()[known]]
        details: dict[str, Any] = {
            "modalities": list(evidence.modalities),
            "outside": dict(outside),
            "image": _describe(true[known], image[known], evidence.image_logits[known]),
        }
        figures = _figures("image_router_accuracy", image == true, true, known, evidence, context)
        figures |= {"image_router_balanced_accuracy": _balanced(true[known], image[known], known, evidence, context)}
        if len(paired):
            agree = (image == text) & (image >= 0)
            figures |= _figures("text_router_accuracy", text == true, true, paired, evidence, context)
            figures |= _figures("router_agreement", agree, true, paired, evidence, context)
            details["text"] = _describe(true[paired], text[paired], evidence.text_logits[paired])
        return TaskResult(metrics(figures), details)


def _figures(name: str, right: Any, true: Ints, rows: Ints, evidence: Evidence, context: Context) -> dict[str, Figure]:
    """Give the share of right ones over `rows` and over each modality's; one modality has no majority or chance."""
    counts = np.bincount(true[rows], minlength=len(evidence.modalities))
    present = np.flatnonzero(counts)
    controls = {"chance": 1 / len(present), "majority": float(counts.max() / counts.sum())}
    values = right.astype(np.float64)
    figures = {name: _share(values, rows, evidence, context, controls)}
    for index in present:
        own = rows[true[rows] == index]
        only = {"chance": 1 / len(present)}
        figures[f"{name}/{evidence.modalities[index]}"] = _share(values, own, evidence, context, only)
    return figures


def _share(values: Floats, rows: Ints, evidence: Evidence, context: Context, controls: dict[str, float]) -> Figure:
    resampler = Resampler(evidence.patients(rows.tolist()), resamples=context.resamples, seed=context.seed)
    own = values[rows]
    return Figure(float(own.mean()), resampler.means(own), len(own), controls)


def _balanced(true: Ints, predicted: Ints, rows: Ints, evidence: Evidence, context: Context) -> Figure:
    resampler = Resampler(evidence.patients(rows.tolist()), resamples=context.resamples, seed=context.seed)
    draws = resampler.draws(lambda weights: balanced_accuracy(true, predicted, weights))
    constant = 1 / len(np.unique(true))
    value = float(balanced_accuracy(true, predicted))
    return Figure(value, draws, len(true), {"chance": constant, "majority": constant})


def _describe(true: Ints, predicted: Ints, logits: torch.Tensor) -> dict[str, Any]:
    """Give a router's confusion (rows true, columns chosen), load (share of each expert) and entropies in nats."""
    experts = logits.shape[1]
    decided = predicted >= 0
    confusion = np.zeros((experts, experts), dtype=np.int64)
    np.add.at(confusion, (true[decided], predicted[decided]), 1)
    load = np.bincount(predicted[decided], minlength=experts) / max(1, decided.sum())
    weight = torch.softmax(logits.double(), dim=1)
    each = torch.special.entr(weight).sum(dim=1).nanmean()
    of_load = -sum(share * np.log(share) for share in load if share > 0)
    return {
        "confusion": confusion.tolist(),
        "undecided": int((~decided).sum()),
        "load": [float(share) for share in load],
        "load_entropy": float(of_load),
        "entropy": float(each) if torch.isfinite(each) else None,
    }
