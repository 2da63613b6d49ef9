"""Linear probes on features whose classes are known directions, or nothing at all."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from blobs import NAMES, blobs, split, three
from constructed import context
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from medmoe.errors import DataError
from medmoe.tasks.base import Evidence
from medmoe.tasks.linear_probe import LinearProbe

QUICK = LinearProbe(shares=(1.0,), shots=(4,), seeds=2, shuffles=2, strengths=(1e-4, 1e-2, 1.0))


def with_features(found: Evidence, **features: torch.Tensor) -> Evidence:
    return replace(found, features=features)


def test_separable_classes_are_told_apart_with_every_budget() -> None:
    result = replace(QUICK, shares=(0.01, 0.1, 1.0), shots=(1, 16)).evaluate(*split(noise=0.3, fit=100))
    names = {name for name in result.metrics if "/" not in name}
    budgets = ("1%", "10%", "100%", "1-shot", "16-shot")
    assert names == {f"{name}@{budget}" for name in ("balanced_accuracy", "auroc") for budget in budgets}
    for name in names - {"balanced_accuracy@1%", "balanced_accuracy@1-shot"}:
        assert result.metrics[name].value > 0.95, name
    assert result.metrics["balanced_accuracy@1-shot"].value > 0.6
    assert result.metrics["balanced_accuracy@100%/xray"] == result.metrics["balanced_accuracy@100%"]


def test_the_probe_is_that_of_scikit_learn() -> None:
    judged, around = split(noise=5.0, fit=40)
    task = LinearProbe(shares=(1.0,), shots=(), strengths=(1e-2,))
    metrics = task.evaluate(judged, around).metrics
    assert around.fit is not None
    features, others = around.fit.image_embed.double().numpy(), judged.image_embed.double().numpy()
    length = np.sqrt(np.square(features - features.mean(0)).sum(1).mean())
    truth, judged_truth = ([own.labels[0] for own in found.samples if own.labels] for found in (around.fit, judged))
    c = 1 / (1e-2 * len(features))
    model = LogisticRegression(C=c, class_weight="balanced", tol=1e-4, max_iter=1000)
    model.fit((features - features.mean(0)) / length, truth)
    moved = (others - features.mean(0)) / length
    expected = balanced_accuracy_score(judged_truth, model.predict(moved))
    assert metrics["balanced_accuracy@100%"].value == pytest.approx(expected)
    areas = []
    for name in NAMES:
        model.fit((features - features.mean(0)) / length, np.array(truth) == name)
        areas.append(roc_auc_score(np.array(judged_truth) == name, model.decision_function(moved)))
    assert metrics["auroc@100%"].value == pytest.approx(np.mean(areas), abs=2e-3)


def test_features_that_say_nothing_lie_at_chance() -> None:
    judged, around = split(noise=0.3, each=40)
    assert around.fit is not None
    mixed = around.fit.image_embed[torch.randperm(len(around.fit), generator=torch.Generator().manual_seed(0))]
    metrics = QUICK.evaluate(judged, replace(around, fit=replace(around.fit, image_embed=mixed))).metrics
    assert metrics["balanced_accuracy@100%"].value == pytest.approx(1 / 3, abs=0.15)
    assert metrics["auroc@100%"].value == pytest.approx(0.5, abs=0.15)


@pytest.mark.parametrize("value", [0.0, 1.0, float("nan")])
def test_constant_or_nan_features_are_never_above_chance(value: float) -> None:
    judged, around = split()
    assert around.fit is not None
    assert around.tune is not None

    def flat(found: Evidence) -> Evidence:
        return replace(found, image_embed=torch.full_like(found.image_embed, value))

    result = QUICK.evaluate(flat(judged), replace(around, fit=flat(around.fit), tune=flat(around.tune)))
    for name, metric in result.metrics.items():
        assert metric.value <= metric.controls["chance"] + 1e-9, name
    json.dumps([result.details, [metric.to_json() for metric in result.metrics.values()]], allow_nan=False)


def test_an_image_without_features_counts_as_wrong() -> None:
    judged, around = split(noise=0.1)
    broken = judged.image_embed.clone()
    broken[:3] = float("nan")
    result = QUICK.evaluate(replace(judged, image_embed=broken), around)
    assert result.metrics["balanced_accuracy@100%"].value == pytest.approx(0.9)


def test_shuffled_labels_and_other_features_are_controls() -> None:
    judged, around = split(noise=0.3, each=30)
    assert around.fit is not None
    assert around.tune is not None
    noise = torch.randn(400, 5, generator=torch.Generator().manual_seed(0))
    result = replace(QUICK, shots=(), shuffles=30).evaluate(
        with_features(judged, raw_pixels=noise[: len(judged)], useful=judged.image_embed, absent=noise),
        replace(
            around,
            fit=with_features(around.fit, raw_pixels=noise[100:190], useful=around.fit.image_embed),
            tune=with_features(around.tune, raw_pixels=noise[200:230], useful=around.tune.image_embed),
        ),
    )
    metric = result.metrics["balanced_accuracy@100%"]
    assert metric.controls["chance"] == metric.controls["majority"] == pytest.approx(1 / 3)
    assert metric.controls["shuffled"] == pytest.approx(1 / 3, abs=0.15)
    assert metric.controls["shuffled"] < metric.controls["shuffled_high"]
    assert metric.controls["raw_pixels"] == pytest.approx(1 / 3, abs=0.2)
    assert metric.controls["useful"] == metric.value
    assert "absent" not in metric.controls
    gains = result.details["groups"][0]["budgets"]["100%"]["balanced_accuracy"]["gain_over"]
    assert gains["useful"] == {"value": 0, "low": 0, "high": 0}
    assert gains["raw_pixels"]["low"] > 0.2
    assert gains["raw_pixels"]["value"] == pytest.approx(metric.value - metric.controls["raw_pixels"])


def test_an_image_may_have_several_findings() -> None:
    kinds: list[tuple[str, ...]] = [("a",), ("b",), ("a", "b"), ()]
    judged, fit, tune = (
        blobs(kinds * count, first=first, noise=0.3, seed=first) for first, count in ((0, 10), (1000, 25), (2000, 10))
    )
    around = replace(context(resamples=20), fit=fit, tune=tune)
    metrics = QUICK.evaluate(judged, around).metrics
    assert metrics["auroc@100%"].value > 0.97
    assert metrics["auroc@100%"].n == 40
    assert metrics["balanced_accuracy@100%"].n == 20


def test_findings_that_never_stand_alone_have_an_auroc_only() -> None:
    kinds: list[tuple[str, ...]] = [("a", "b"), ("a",)]
    judged = blobs([("a", "b")] * 6 + [()] * 2 + [("a",)] * 4)
    fit = blobs([*kinds, ()] * 12, first=1000)
    result = QUICK.evaluate(judged, replace(context(resamples=20), fit=fit))
    assert {name.partition("@")[0] for name in result.metrics} == {"auroc"}
    assert list(result.details["groups"][0]["budgets"]) == ["100%"]


def test_regularisation_is_chosen_on_validation_or_on_training_patients_set_aside() -> None:
    judged, around = split(noise=0.5)
    (group,) = QUICK.evaluate(judged, around).details["groups"]
    assert group["chosen_on"] == "validation split"
    assert group["budgets"]["100%"]["images"] == [90]
    (alone,) = QUICK.evaluate(judged, replace(around, tune=None)).details["groups"]
    assert alone["chosen_on"] == "20% of the training patients, set aside"
    assert alone["budgets"]["100%"]["images"] == [72]
    assert alone["chosen_on_images"] == 18
    elsewhere = replace(around, tune=blobs(three(9), first=5000, modality="ct"))
    assert QUICK.evaluate(judged, elsewhere).details["groups"][0]["chosen_on"] == alone["chosen_on"]


def test_evaluated_images_have_no_say_in_what_is_chosen() -> None:
    judged, around = split(noise=5.0)
    other = replace(judged, image_embed=-judged.image_embed)
    strengths = [
        QUICK.evaluate(found, around).details["groups"][0]["budgets"]["100%"]["balanced_accuracy"]["strength"]
        for found in (judged, other)
    ]
    assert strengths[0] == strengths[1]


def test_patients_of_other_splits_among_the_evaluated_are_an_error() -> None:
    judged, around = split()
    with pytest.raises(DataError, match=r"30 patients of the training split are evaluated too: p0, p1, p2, …"):
        QUICK.evaluate(judged, replace(around, fit=judged))
    with pytest.raises(DataError, match=r"1 patients of the validation split are evaluated too: p29; give splits"):
        QUICK.evaluate(judged, replace(around, tune=blobs(three(9), first=29)))


def test_a_budget_that_a_class_cannot_fill_is_left_out_and_said_so() -> None:
    judged, around = split(fit=5)
    result = LinearProbe(shares=(), shots=(4, 16), seeds=2).evaluate(judged, around)
    assert set(result.metrics) == {
        f"{name}@4-shot{of}" for name in ("balanced_accuracy", "auroc") for of in ("", "/xray")
    }
    budgets = result.details["groups"][0]["budgets"]
    assert budgets["16-shot"] == {"left_out": "a class has fewer images"}
    assert budgets["4-shot"]["images"] == [12, 12]


def test_without_training_images_the_task_is_skipped_with_a_reason() -> None:
    judged, around = split()
    assert "no training split" in QUICK.evaluate(judged, replace(around, fit=None)).details["skipped"]
    assert "two findings" in QUICK.evaluate(blobs([None] * 8), around).details["skipped"]
    elsewhere = replace(around, fit=blobs(three(9), first=1000, source="another"))
    result = QUICK.evaluate(judged, elsewhere)
    assert result.details["skipped"] == "no data set has two classes to fit on"
    assert result.details["left_out"][0]["reason"] == "the training split has fewer than two of its classes"


def test_a_training_split_of_one_patient_a_class_needs_a_validation_split() -> None:
    judged, around = split()
    few = replace(around, fit=blobs(three(1), first=1000))
    assert "balanced_accuracy@100%" in QUICK.evaluate(judged, few).metrics
    result = QUICK.evaluate(judged, replace(few, tune=None))
    assert "too few patients" in result.details["left_out"][0]["reason"]


def test_the_same_seed_gives_the_same_bytes_and_another_draws_other_images() -> None:
    first, second, other = (QUICK.evaluate(*split(noise=5.0, seed=seed)) for seed in (0, 0, 1))

    def text(result: object) -> str:
        return json.dumps(getattr(result, "details"), allow_nan=False)  # noqa: B009

    assert text(first) == text(second) != text(other)
    assert first.metrics == second.metrics
    assert first.metrics["balanced_accuracy@100%"].value == other.metrics["balanced_accuracy@100%"].value
