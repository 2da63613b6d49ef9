"""Routers judged against the modality."""

import json

import numpy as np
import pytest
import torch
from constructed import context, evidence, sample
from torch.nn.functional import one_hot

from medmoe.tasks.routing import Routing

MODALITIES = ["xray"] * 6 + ["ct"] * 3 + ["fundus"]


def samples(report: str | None = "a report") -> list:
    return [sample(i, report, modality, patient=f"p{i // 2}") for i, modality in enumerate(MODALITIES)]


def logits(chosen: list[int]) -> torch.Tensor:
    return one_hot(torch.tensor(chosen), 6).float()


def test_perfect_routers_score_one_and_agree() -> None:
    metrics = Routing().evaluate(evidence(samples()), context()).metrics
    for name in ("image_router_accuracy", "text_router_accuracy", "router_agreement", "image_router_balanced_accuracy"):
        assert (metrics[name].value, metrics[name].low, metrics[name].high) == (1, 1, 1)


def test_accuracy_is_pooled_and_suffixed_figures_are_recalls() -> None:
    chosen = [0, 0, 0, 0, 1, 1, 1, 1, 0, 5]
    metrics = Routing().evaluate(evidence(samples(), image_logits=logits(chosen)), context()).metrics
    assert metrics["image_router_accuracy"].value == pytest.approx(0.7)
    assert metrics["image_router_accuracy/xray"].value == pytest.approx(4 / 6)
    assert metrics["image_router_accuracy/ct"].value == pytest.approx(2 / 3)
    assert metrics["image_router_accuracy/fundus"].n == 1
    assert metrics["image_router_balanced_accuracy"].value == pytest.approx((4 / 6 + 2 / 3 + 1) / 3)
    assert metrics["router_agreement"].value == pytest.approx(0.7)


def test_controls_are_chance_among_the_present_and_the_commonest() -> None:
    controls = Routing().evaluate(evidence(samples()), context()).metrics["image_router_accuracy"].controls
    assert controls == {"chance": pytest.approx(1 / 3), "majority": pytest.approx(0.6)}


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_constant_or_nan_scores_are_never_right(value: float) -> None:
    useless = torch.full((10, 6), value)
    found = Routing().evaluate(evidence(samples(), image_logits=useless, text_logits=useless), context())
    assert found.metrics["image_router_accuracy"].value == 0
    assert found.metrics["router_agreement"].value == 0
    assert found.details["image"]["undecided"] == 10
    json.dumps(found.details, allow_nan=False)


def test_confusion_has_the_true_modality_in_rows_and_load_sums_to_one() -> None:
    details = Routing().evaluate(evidence(samples(), image_logits=logits([1] * 10)), context()).details
    confusion = np.array(details["image"]["confusion"])
    assert details["modalities"][:2] == ["xray", "ct"]
    assert confusion[0, 1] == 6
    assert confusion.sum() == 10
    assert details["image"]["load"] == [0, 1, 0, 0, 0, 0]
    assert details["image"]["load_entropy"] == 0
    assert details["text"]["confusion"][0][0] == 6


def test_images_of_unknown_or_foreign_modality_are_counted_apart() -> None:
    more = [*samples(), sample(10, "a", None), sample(11, "a", "oct")]
    found = Routing().evaluate(evidence(more), context())
    assert found.metrics["image_router_accuracy"].n == 10
    assert found.details["outside"] == {"None": 1, "oct": 1}


def test_without_reports_only_the_image_router_is_judged() -> None:
    found = Routing().evaluate(evidence(samples(None)), context())
    assert "image_router_accuracy" in found.metrics
    assert not any(name.startswith(("text_router", "router_agreement")) for name in found.metrics)


def test_without_a_known_modality_the_task_is_skipped() -> None:
    found = Routing().evaluate(evidence([sample(0, "a", None)]), context())
    assert not found.metrics
    assert "modality" in found.details["skipped"]
