"""Routing: does each router choose its modality's expert, do the two agree, and does the choice matter?"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from medmoe.metrics import Floats, Ints, Resampler, balanced_accuracy, decide
from medmoe.tasks.base import Context, Evidence, TaskResult, skipped
from medmoe.tasks.expert_swap import swap
from medmoe.tasks.figures import Figure, by_group, metrics
from medmoe.tasks.prompts import NO_FINDING


@dataclass(frozen=True)
class Routing:
    """Accuracy of the image and text routers against the modality, their agreement, and what each expert is used for.

    Images of modalities that the model lacks count as `outside`, and nowhere else but in what the experts are used for.
    Figures without a suffix are pooled over the images whose modality is known and the model's; `/MODALITY`
    is the share of that modality's images (its recall). The text router and the agreement count images with a report.
    Where two routers choose independently of each other, each with its own load, they agree by the control
    `independent`.

    `swap_recall@5_drop` and `swap_pointing_drop` say what is lost when images pass the other experts in place of their
    modality's, where the evidence holds the regions through every expert: local image → report recall@5 within the
    modality, and the pointing game. They are averaged over modalities; control `own` is the score with the own expert.

    The details hold, for each router, the confusion (rows true, columns chosen), load and entropies; the joint counts
    of both routers' choices; how often images of each finding went to each expert, beside the median of the
    probability they went with; and the score of each modality through each expert.

    Attributes:
        fewest: Pairs or findings of a modality that the swap needs.
        most: Pairs of a modality that the swap ranks among, drawn by the seed.
    """

    name: ClassVar[str] = "routing"
    sees_foreign: ClassVar[bool] = True
    fewest: int = 10
    most: int = 200

    def evaluate(self, evidence: Evidence, context: Context) -> TaskResult:
        """Judge the routers."""
        if not evidence.image_logits.shape[1]:
            return skipped("the model has no image router")
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
            "image": describe(true[known], image[known], evidence.image_logits[known]),
            "findings": usage(evidence, image),
        }
        figures = _figures("image_router_accuracy", image == true, true, known, evidence, context)
        figures |= {"image_router_balanced_accuracy": _balanced(true[known], image[known], known, evidence, context)}
        if len(paired):
            agree = (image == text) & (image >= 0)
            figures |= _figures("text_router_accuracy", text == true, true, paired, evidence, context)
            agreement = _figures("router_agreement", agree, true, paired, evidence, context)
            experts = evidence.image_logits.shape[1]
            joint = _joint(image[paired], text[paired], experts)
            agreement["router_agreement"].controls["independent"] = _by_accident(joint, len(paired))
            figures |= agreement
            details["image_by_text"] = joint.tolist()
            details["text"] = describe(true[paired], text[paired], evidence.text_logits[paired])
        swapped, details["swap"] = swap(evidence, context, fewest=self.fewest, most=self.most)
        return TaskResult(metrics(figures | by_group(swapped)), details)


def usage(evidence: Evidence, chosen: Ints) -> dict[str, dict[str, Any]]:
    """Count how often images of each finding, by modality, went to each expert.

    Args:
        evidence: The images.
        chosen: [n] the expert of each, -1 where the router couldn't decide.

    Returns:
        `{"MODALITY/FINDING": {"images", "experts": [K], "probability"}}`: counts of each expert, and the median over
        images of the largest routing probability (None where undefined); `no_finding` for images annotated with none.
    """
    probability = torch.softmax(evidence.image_logits.double(), dim=1).amax(dim=1).numpy()
    members: dict[str, list[int]] = {}
    for row, sample in enumerate(evidence.samples):
        for label in [] if sample.labels is None else dict.fromkeys(sample.labels or (NO_FINDING,)):
            members.setdefault(f"{sample.modality or 'unknown'}/{label}", []).append(row)
    table = {}
    for name, rows in sorted(members.items()):
        decided = chosen[rows][chosen[rows] >= 0]
        median = float(np.median(probability[rows]))
        table[name] = {
            "images": len(rows),
            "experts": np.bincount(decided, minlength=evidence.image_logits.shape[1]).tolist(),
            "probability": median if np.isfinite(median) else None,
        }
    return table


def _joint(image: Ints, text: Ints, experts: int) -> Ints:
    """Count pairs by the image router's choice (rows) and the text router's (columns)."""
    joint = np.zeros((experts, experts), dtype=np.int64)
    decided = (image >= 0) & (text >= 0)
    np.add.at(joint, (image[decided], text[decided]), 1)
    return joint


def _by_accident(joint: Ints, pairs: int) -> float:
    """Give how often two routers with these loads would agree if neither knew of the other's choice."""
    return float((joint.sum(axis=1) / pairs) @ (joint.sum(axis=0) / pairs))


def _figures(name: str, right: Any, true: Ints, rows: Ints, evidence: Evidence, context: Context) -> dict[str, Figure]:
    """Give the share of right ones over `rows` and over each modality's; one modality has no majority or chance."""
    counts = np.bincount(true[rows], minlength=len(evidence.modalities))
    present = np.flatnonzero(counts)
    chance = _chance(len(present), evidence)
    controls = {"chance": chance, **({"majority": float(counts.max() / counts.sum())} if len(present) > 1 else {})}
    values = right.astype(np.float64)
    figures = {name: _share(values, rows, evidence, context, controls)}
    for index in present:
        own = rows[true[rows] == index]
        only = {"chance": chance}
        figures[f"{name}/{evidence.modalities[index]}"] = _share(values, own, evidence, context, only)
    return figures


def _share(values: Floats, rows: Ints, evidence: Evidence, context: Context, controls: dict[str, float]) -> Figure:
    resampler = Resampler(evidence.patients(rows.tolist()), resamples=context.resamples, seed=context.seed)
    own = values[rows]
    return Figure(float(own.mean()), resampler.means(own), len(own), controls)


def _balanced(true: Ints, predicted: Ints, rows: Ints, evidence: Evidence, context: Context) -> Figure:
    resampler = Resampler(evidence.patients(rows.tolist()), resamples=context.resamples, seed=context.seed)
    draws = resampler.draws(lambda weights: balanced_accuracy(true, predicted, weights))
    present = len(np.unique(true))
    chance = _chance(present, evidence)
    value = float(balanced_accuracy(true, predicted))
    return Figure(value, draws, len(true), {"chance": chance, **({"majority": chance} if present > 1 else {})})


def _chance(present: int, evidence: Evidence) -> float:
    """Give the accuracy of guessing among the modalities at hand, or where that is one, among all the model knows."""
    return 1 / (present if present > 1 else max(1, len(evidence.modalities)))


def describe(true: Ints, predicted: Ints, logits: torch.Tensor) -> dict[str, Any]:
    """Say how a router chose.

    Args:
        true: [n] place of each image's modality.
        predicted: [n] the expert chosen, or -1.
        logits: [n, K] the router's scores.

    Returns:
        `confusion` [K, K] (rows true, columns chosen), `undecided`, `load` [K] (share of each expert among the decided;
        all 0 where none is), `load_entropy` and `entropy` in nats (None where nothing is decided, or every row has a
        NaN).
    """
    experts = logits.shape[1]
    decided = predicted >= 0
    confusion = np.zeros((experts, experts), dtype=np.int64)
    np.add.at(confusion, (true[decided], predicted[decided]), 1)
    load = np.bincount(predicted[decided], minlength=experts) / max(1, decided.sum())
    weight = torch.softmax(logits.double(), dim=1)
    each = torch.special.entr(weight).sum(dim=1).nanmean()
    of_load = -sum(share * np.log(share) for share in load if share > 0) if decided.any() else None
    return {
        "confusion": confusion.tolist(),
        "undecided": int((~decided).sum()),
        "load": [float(share) for share in load],
        "load_entropy": None if of_load is None else float(of_load),
        "entropy": float(each) if torch.isfinite(each) else None,
    }
