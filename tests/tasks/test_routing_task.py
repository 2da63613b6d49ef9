"""Routers judged against the modality."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from constructed import WIDTH, context, evidence, holding, sample
from sklearn.metrics import cohen_kappa_score
from torch.nn.functional import one_hot

from medmoe.modalities import SIX
from medmoe.tasks.base import Evidence
from medmoe.tasks.expert_swap import swap
from medmoe.tasks.routing import Routing, usage
from medmoe.types import Box

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


def test_agreement_by_accident_is_that_of_cohens_kappa() -> None:
    image, text = [0, 0, 1, 1, 1, 2, 0, 0, 1, 5], [0, 1, 1, 1, 0, 2, 0, 0, 1, 1]
    found = Routing().evaluate(evidence(samples(), image_logits=logits(image), text_logits=logits(text)), context())
    agreement = found.metrics["router_agreement"]
    kappa = (agreement.value - agreement.controls["independent"]) / (1 - agreement.controls["independent"])
    assert kappa == pytest.approx(cohen_kappa_score(image, text), abs=1e-12)
    joint = np.array(found.details["image_by_text"])
    assert joint.sum() == 10
    assert joint[1, 0] == 1
    assert joint[0, 1] == 1


def test_usage_counts_the_experts_of_each_finding_by_modality() -> None:
    given = [
        sample(0, "a", "xray", ("nodule", "mass")),
        sample(1, "a", "xray", ("nodule",)),
        sample(2, "a", "ct", ("nodule", "nodule")),
        sample(3, "a", "ct", ()),
        sample(4, "a", "ct", None),
        sample(5, "a", None, ("mass",)),
        sample(6, "a", "xray", ("nodule",)),
    ]
    found = evidence(given, image_logits=logits([0, 1, 1, 1, 1, 2, 0]))
    table = usage(found, np.array([0, 1, 1, 1, 1, 2, -1]))
    assert {name: (row["images"], row["experts"]) for name, row in table.items()} == {
        "ct/no_finding": (1, [0, 1, 0, 0, 0, 0]),
        "ct/nodule": (1, [0, 1, 0, 0, 0, 0]),
        "unknown/mass": (1, [0, 0, 1, 0, 0, 0]),
        "xray/mass": (1, [1, 0, 0, 0, 0, 0]),
        "xray/nodule": (3, [1, 1, 0, 0, 0, 0]),
    }
    assert table["xray/nodule"]["probability"] == pytest.approx(np.e / (np.e + 5))
    assert Routing().evaluate(found, context()).details["findings"]["xray/mass"] == table["xray/mass"]


def through_experts(count: int = 12) -> Evidence:
    """Give radiographs whose own expert (the first) keeps their words; the second forgets every other image's."""
    reports = [f"nodule word{i}" for i in range(count)]
    box = (Box("nodule", 0.0, 0.0, 0.25, 0.25),)
    given = [sample(i, report, boxes=box, patient=f"p{i // 2}") for i, report in enumerate(reports)]
    good = holding(reports)
    half = good.clone()
    half[::2] = 0
    every = torch.stack([good, half, *[torch.zeros_like(good)] * 4])
    return replace(evidence(given, regions=good), candidate_regions=every)


def test_a_swap_costs_the_own_score_less_the_mean_of_the_others() -> None:
    found = Routing().evaluate(through_experts(), context())
    for kind in ("recall@5", "pointing"):
        scores = found.details["swap"][kind]["xray"]["experts"]
        assert scores == [1, 0.5, 0, 0, 0, 0]
        metric = found.metrics[f"swap_{kind}_drop"]
        assert metric.value == pytest.approx(1 - 0.5 / 5)
        assert metric.controls == {"chance": 0, "own": 1}
        assert metric == found.metrics[f"swap_{kind}_drop/xray"]
    assert found.details["swap"]["recall@5"]["xray"]["chance"] == pytest.approx(5 / 12)
    assert found.details["swap"]["experts"] == list(SIX)


def test_equal_experts_cost_nothing() -> None:
    given = through_experts()
    same = replace(given, candidate_regions=given.candidate_regions[:1].expand(6, -1, -1, -1, -1))
    metric = Routing().evaluate(same, context()).metrics["swap_recall@5_drop"]
    assert (metric.value, metric.low, metric.high) == (0, 0, 0)


def test_a_swap_ranks_among_at_most_so_many_pairs_and_needs_a_few() -> None:
    given = through_experts(14)
    assert swap(given, context(), fewest=2, most=11)[1]["recall@5"]["xray"]["n"] == 11
    figures, details = swap(given, context(), fewest=15, most=20)
    assert figures == {}
    assert details["recall@5"] == details["pointing"] == {}


def test_foreign_images_are_not_swapped() -> None:
    given = through_experts()
    foreign = replace(given, samples=tuple(replace(own, modality="oct") for own in given.samples))
    assert swap(foreign, context(), fewest=2, most=20)[0] == {}


def test_a_swap_that_cannot_be_made_says_why() -> None:
    given = through_experts()
    for every, reason in (
        (None, "candidate-experts"),
        (torch.zeros(6, 12, 0, 1, 1), "local"),
        (torch.zeros(1, 12, WIDTH, 4, 4), "single"),
    ):
        found = Routing().evaluate(replace(given, candidate_regions=every), context())
        assert reason in found.details["swap"]["skipped"]
        assert "image_router_accuracy" in found.metrics
        assert not any(name.startswith("swap") for name in found.metrics)


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_useless_regions_have_nothing_to_lose(value: float) -> None:
    given = through_experts()
    useless = replace(given, candidate_regions=torch.full_like(given.candidate_regions, value))
    figures, details = swap(useless, context(), fewest=2, most=20)
    assert {figure.value for figure in figures["xray"].values()} == {0.0}
    json.dumps(details, allow_nan=False)


def test_without_a_router_the_task_is_skipped() -> None:
    found = Routing().evaluate(replace(evidence(samples()), image_logits=torch.zeros(10, 0)), context())
    assert not found.metrics
    assert "router" in found.details["skipped"]
