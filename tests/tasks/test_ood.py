"""The gate against unknown images, and its parts against other people's code."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from constructed import context
from pixel_model import images, look, looking
from sklearn.metrics import roc_auc_score, roc_curve
from sklearn.neighbors import NearestNeighbors

from medmoe.data.nonmedical import PICTURES
from medmoe.errors import DataError
from medmoe.tasks.base import Change, Evidence
from medmoe.tasks.gate import (
    acceptance_weights,
    accepts,
    energy_score,
    mahalanobis_score,
    neighbour_controls,
    neighbour_score,
    scores_by_name,
    softmax_score,
    threshold_at,
)
from medmoe.tasks.ood import OutOfDistribution, Replaced

TASK = OutOfDistribution()


@pytest.mark.parametrize("rate", [0.5, 0.9, 0.95, 1.0])
def test_a_threshold_is_the_highest_that_accepts_enough(rate: float) -> None:
    scores = np.round(np.random.default_rng(2).normal(size=41), 1)
    found = threshold_at(scores, rate)
    higher = [value for value in scores if value > found]
    assert accepts(scores, found).mean() >= rate
    assert all(accepts(scores, value).mean() < rate for value in higher)


def test_nan_is_never_let_through() -> None:
    scores = np.array([1.0, np.nan, 2.0, 3.0])
    assert threshold_at(scores, 0.75) == 1
    assert threshold_at(scores, 1.0) == -np.inf
    assert accepts(scores, -np.inf).tolist() == [True, False, True, True]


def test_signals_are_weighed_by_what_they_tell_of_being_right() -> None:
    rng = np.random.default_rng(0)
    signals = np.stack([rng.normal(size=2000), 5 * rng.normal(size=2000)], axis=1)
    right = rng.random(2000) < 1 / (1 + np.exp(-(2 * signals[:, 0] - 0.4 * signals[:, 1])))
    sure, near = acceptance_weights(signals, right, np.ones(2000))
    assert (sure, near) == pytest.approx((2, 0.4), rel=0.15)
    repeated = acceptance_weights(np.r_[signals, signals], np.r_[right, right], np.r_[np.ones(2000), np.ones(2000)])
    assert repeated == pytest.approx((sure, near), rel=0.05)


def test_a_signal_that_points_the_wrong_way_counts_nothing() -> None:
    rng = np.random.default_rng(1)
    signals = rng.normal(size=(500, 2))
    right = signals[:, 0] + signals[:, 1] > 0  # the farther, the righter
    sure, near = acceptance_weights(signals, right, np.ones(500))
    assert sure > 0
    assert near == 0
    assert acceptance_weights(signals, np.ones(500, bool), np.ones(500)) == (1.0, 0.0)


def test_feature_scores_need_finite_training_images_of_known_modalities() -> None:
    good = look(images())
    assert set(scores_by_name(good)) == {"softmax", "energy", "neighbour", "mahalanobis"}
    nan = replace(good, image_embed=torch.full_like(good.image_embed, float("nan")))
    foreign = replace(good, samples=tuple(replace(own, modality="oct") for own in good.samples))
    for fit in (None, nan, foreign):
        assert set(scores_by_name(fit)) == {"softmax", "energy"}


@pytest.mark.parametrize("value", [0.0, 1.0, float("nan")])
def test_feature_scores_of_level_features_say_nothing(value: float) -> None:
    fit = torch.ones(5, 3)
    embed = torch.full((4, 3), value)
    for scores in (neighbour_score(embed, fit), mahalanobis_score(embed, fit, [0, 0, 1, 1, 1])):
        assert scores.shape == (4,)
        assert len(np.unique(scores)) == 1


def test_untrained_features_are_a_control_of_the_neighbour_where_all_have_them() -> None:
    generator = torch.Generator().manual_seed(1)
    fit, judged = torch.randn(40, 4, generator=generator) + 3, torch.randn(26, 4, generator=generator) + 3
    samples = with_foreign()
    found = replace(look(samples), features={"raw_pixels": judged})
    trained = replace(look(images(40, split="fit")), features={"raw_pixels": fit, "random_weights": fit})
    metric = TASK.evaluate(found, replace(context(), fit=trained)).metrics["modalities_neighbour_auroc"]
    centred = NearestNeighbors(n_neighbors=5, metric="cosine").fit(fit - fit.mean(dim=0))
    nearest = -centred.kneighbors(judged - fit.mean(dim=0))[0][:, -1]
    truth = [own.modality != "oct" for own in samples]
    assert metric.controls == {"chance": 0.5, "raw_pixels": pytest.approx(roc_auc_score(truth, nearest))}
    bare = look(samples)
    assert neighbour_controls((found, np.arange(18)), (bare, np.arange(18, 26)), trained) == {}


def with_foreign() -> list:
    return images(18) + [
        replace(own, key=f"oct:{i}", patient=f"o{i // 2}")
        for i, own in enumerate(images(8, ("oct",)))
    ]  # fmt: skip


def test_foreign_modalities_are_told_from_known_ones() -> None:
    found = look(with_foreign())
    result = TASK.evaluate(found, context())
    truth = [own.modality != "oct" for own in found.samples]
    for name, score in (("softmax", softmax_score), ("energy", energy_score)):
        metric = result.metrics[f"modalities_{name}_auroc"]
        assert metric.value == pytest.approx(roc_auc_score(truth, score(found)), abs=1e-12)
        assert metric.n == 26
        assert metric.controls == {"chance": 0.5}
    assert result.metrics["modalities_energy_fpr@95"].value == 0
    assert result.details["unknown"] == {"modalities": 8}
    assert result.details["kinds"]["modalities"]["energy"]["oct"]["images"] == 8
    assert "pictures" in result.details["left_out"]


def test_pictures_take_the_place_of_every_image() -> None:
    samples = images(24)
    result = TASK.evaluate(look(samples), looking(samples))
    assert result.details["unknown"] == {"pictures": 24}
    kinds = result.details["kinds"]["pictures"]["softmax"]
    assert set(kinds) == set(PICTURES)
    assert {row["images"] for row in kinds.values()} == {4}
    drawn = look([Replaced(tuple(PICTURES), 0)(i, own) for i, own in enumerate(samples)])
    scores = np.r_[energy_score(look(samples)), energy_score(drawn)]
    truth = [True] * 24 + [False] * 24
    expected = roc_auc_score(truth, scores)
    passed, accepted, _ = roc_curve(truth, scores, drop_intermediate=False)
    rate = result.metrics["pictures_energy_fpr@95"]
    assert rate.value == pytest.approx(passed[np.argmax(accepted >= 0.95)], abs=1e-12)
    assert rate.controls["chance"] == pytest.approx(accepted[np.argmax(accepted >= 0.95)], abs=1e-12)
    assert result.metrics["pictures_energy_auroc"].value == pytest.approx(expected, abs=1e-12)
    assert expected > 0.5


def test_chance_of_the_false_positive_rate_is_what_was_let_through() -> None:
    samples = images(24)
    level = replace(look(samples), image_logits=torch.zeros(24, 6))
    metrics = TASK.evaluate(level, replace(context(), again=lambda change: level)).metrics
    assert metrics["pictures_softmax_auroc"].value == 0.5
    assert metrics["pictures_softmax_fpr@95"].value == 1
    assert metrics["pictures_softmax_fpr@95"].controls == {"chance": 1.0}


def gated(**options: object) -> tuple:
    samples = with_foreign()
    found = look(samples)
    # two of the six images of each modality are unlike the others, and one of these is misrouted
    logits = found.image_logits.clone()
    logits[:6] *= 0.5
    logits[0] = torch.tensor([-6.0, -5.0, -100, -100, -100, -40])
    others = look(images(18, split="tune")).samples
    tune = replace(found, samples=others, image_logits=found.image_logits[:18])
    return replace(found, image_logits=logits), replace(looking(samples), tune=tune, **options)


def test_the_gate_is_set_on_validation_images_alone() -> None:
    found, given = gated(again=None)
    result = replace(TASK, accept=1.0).evaluate(found, given)
    threshold = threshold_at(energy_score(given.tune)[:18], 1.0)
    inside = energy_score(found)[:18]
    taken = inside >= threshold
    assert result.metrics["energy_coverage"].value == pytest.approx(taken.mean())
    assert result.metrics["energy_coverage"].controls["validation"] == 1
    assert result.metrics["modalities_energy_rejected"].value == np.mean(energy_score(found)[18:] < threshold)
    assert result.metrics["modalities_energy_rejected"].controls["chance"] == pytest.approx(1 - taken.mean())
    point = result.details["gate"]["energy"][0]
    assert (point["target"], point["threshold"]) == (1.0, threshold)


def test_accuracy_is_of_the_images_let_through() -> None:
    found, given = gated(again=None)
    metrics = replace(TASK, accept=1.0).evaluate(found, given).metrics
    accuracy, balanced = metrics["energy_accepted_accuracy"], metrics["energy_accepted_balanced_accuracy"]
    assert accuracy.controls["ungated"] == pytest.approx(17 / 18)
    assert accuracy.value == balanced.value == 1
    assert accuracy.n == 17
    assert metrics["energy_coverage/xray"].value == pytest.approx(5 / 6)
    assert metrics["energy_coverage/ct"].value == 1


def test_fewer_are_let_through_as_the_target_falls() -> None:
    found, given = gated(fit=look(images(30, split="fit")))
    details = TASK.evaluate(found, given).details
    assert set(details["gate"]) == {"softmax", "energy", "neighbour", "mahalanobis"}
    for curve in details["gate"].values():
        coverage = [point["coverage"] for point in curve]
        assert coverage == sorted(coverage, reverse=True)
        assert set(curve[0]["rejected"]) == {"modalities", "pictures"}


def test_a_gate_that_lets_nothing_through_has_no_accuracy() -> None:
    found, given = gated(again=None)
    blind = replace(found, image_logits=torch.full_like(found.image_logits, float("nan")))
    result = TASK.evaluate(blind, given)
    assert result.metrics["energy_coverage"].value == 0
    assert "energy_accepted_accuracy" not in result.metrics
    assert result.metrics["modalities_energy_rejected"].value <= 1
    json.dumps(result.details, allow_nan=False)


def test_known_images_alone_still_have_a_coverage() -> None:
    samples = images()
    result = TASK.evaluate(look(samples), replace(context(), tune=look(images(split="tune"))))
    assert result.metrics["softmax_coverage"].controls["chance"] == 1
    assert not any(name.startswith(("pictures", "modalities")) for name in result.metrics)


def test_without_a_router_or_known_or_unknown_images_it_is_skipped() -> None:
    samples = images()
    found = look(samples)
    assert (
        "router" in TASK.evaluate(replace(found, image_logits=torch.zeros(24, 0)), looking(samples)).details["skipped"]
    )
    nameless = replace(found, samples=tuple(replace(own, modality=None) for own in found.samples))
    assert "modality" in TASK.evaluate(nameless, looking(samples)).details["skipped"]
    assert "unknown" in TASK.evaluate(found, context()).details["skipped"]


def test_pictures_are_told_by_untrained_features_too() -> None:
    samples = images(24)

    def seen(own: list, *, controls: bool) -> Evidence:
        pixels = torch.stack([torch.from_numpy(one.image).double().mean() for one in own])[:, None]
        features = {"raw_pixels": torch.cat([pixels, pixels**2], dim=1)} if controls else {}
        return replace(look(own), features=features)

    def again(change: Change, *, controls: bool = False) -> Evidence:
        return seen([change(index, one) for index, one in enumerate(samples)], controls=controls)

    fit = seen(images(30, split="fit"), controls=True)
    metrics = TASK.evaluate(seen(samples, controls=True), replace(context(), fit=fit, again=again)).metrics
    assert set(metrics["pictures_neighbour_auroc"].controls) == {"chance", "raw_pixels"}
    bare = TASK.evaluate(look(samples), replace(context(), fit=replace(fit, features={}), again=again)).metrics
    assert set(bare["pictures_neighbour_auroc"].controls) == {"chance"}


def test_the_commonest_modality_is_a_control_of_accuracy() -> None:
    samples = [own for own in images(30) if own.modality == "xray" or own.key in ("row:1", "row:2")]
    accuracy = TASK.evaluate(look(samples), replace(context(), tune=look(images(split="tune")))).metrics
    assert accuracy["energy_accepted_accuracy"].controls["majority"] == pytest.approx(10 / 12)
    assert accuracy["energy_accepted_balanced_accuracy"].controls["majority"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("split", ["fit", "tune"])
def test_a_patient_whom_the_gate_has_seen_is_not_judged(split: str) -> None:
    with pytest.raises(DataError, match=r"12 patients of the (training|validation) split are evaluated too"):
        TASK.evaluate(look(images()), replace(looking(images()), **{split: look(images())}))


def test_the_same_seed_gives_the_same_bytes() -> None:
    found, given = gated(fit=look(images(30, split="fit")))
    first, second = (TASK.evaluate(found, given) for _ in range(2))
    assert first == second
    json.dumps([{n: m.to_json() for n, m in first.metrics.items()}, first.details], allow_nan=False)
