"""Few-shot adapters: a cache of labelled images beside prompts that know, guess or mislead."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from blobs import NAMES, blobs, split, three
from constructed import code
from torch.nn.functional import normalize

from medmoe.errors import DataError
from medmoe.tasks.base import Context, Evidence
from medmoe.tasks.few_shot import FewShot, cached
from medmoe.types import TextEmbedding

QUICK = FewShot(shots=(2,), seeds=2)


def told(around: Context, *, shift: int) -> Context:
    """Let prompts embed as the class they name, or as the one `shift` further on."""

    def encode_text(texts: Sequence[str]) -> TextEmbedding:
        found = around.encode_text(texts)
        place = [next((i for i, name in enumerate(NAMES) if name in text.lower()), None) for text in texts]
        known = [None if i is None else f"blob {NAMES[(i + shift) % 3]}" for i in place]
        rows = [code(name or text) for name, text in zip(known, texts, strict=True)]
        return replace(found, embed=normalize(torch.stack(rows), dim=1))

    return replace(around, encode_text=encode_text)


def test_the_cache_is_the_formula_of_the_paper() -> None:
    rng = np.random.default_rng(0)
    images, keys = rng.normal(size=(5, 4)), rng.normal(size=(6, 4))
    values = np.eye(3)[[0, 1, 2, 0, 1, 2]]
    expected = np.zeros((5, 3))
    for row in range(5):
        for key in range(6):
            expected[row] += np.exp(-2.5 * (1 - images[row] @ keys[key])) * values[key]
    np.testing.assert_allclose(cached(images, keys, values, 2.5), expected)


def test_a_few_examples_repair_prompts_that_mislead() -> None:
    judged, around = split(noise=0.3)
    metric = QUICK.evaluate(judged, told(around, shift=1)).metrics["balanced_accuracy@2-shot"]
    assert metric.value == metric.controls["cache"] == 1
    assert metric.controls["zero_shot"] == 0
    assert metric.controls["shuffled"] < 0.9
    assert metric.controls["chance"] == pytest.approx(1 / 3)


def test_prompts_that_know_are_not_spoilt_by_the_cache() -> None:
    judged, around = split(noise=1.0)
    result = QUICK.evaluate(judged, told(around, shift=0))
    metric = result.metrics["balanced_accuracy@2-shot"]
    assert metric.value == metric.controls["zero_shot"] == metric.controls["shuffled"] == 1
    (group,) = result.details["groups"]
    assert group["budgets"]["2-shot"]["alpha"] == [0.1, 0.1]
    assert group["budgets"]["2-shot"]["balanced_accuracy"]["gain_over"]["zero_shot"] == {
        "value": 0,
        "low": 0,
        "high": 0,
    }


def test_figures_are_means_over_draws_of_each_number_of_examples() -> None:
    judged, around = split(noise=4.0)
    result = FewShot(shots=(1, 4), seeds=3).evaluate(judged, around)
    assert set(result.metrics) == {
        f"{name}@{k}-shot{of}" for name in ("balanced_accuracy", "accuracy") for k in (1, 4) for of in ("", "/xray")
    }
    for k in (1, 4):
        by_draw = result.details["groups"][0]["budgets"][f"{k}-shot"]["accuracy"]["by_draw"]
        assert len(by_draw) == 3
        assert result.metrics[f"accuracy@{k}-shot"].value == pytest.approx(np.mean(by_draw))


@pytest.mark.parametrize("value", [0.0, float("nan")])
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


def test_what_is_chosen_follows_validation_alone() -> None:
    judged, around = split(noise=4.0)

    def chosen(found: Evidence, context: Context) -> list[object]:
        budget = QUICK.evaluate(found, context).details["groups"][0]["budgets"]["2-shot"]
        return [budget["alpha"], budget["beta"], budget["cache_beta"]]

    assert around.tune is not None
    other = replace(judged, image_embed=-judged.image_embed)
    assert chosen(judged, around) == chosen(other, around)
    turned = replace(around, tune=replace(around.tune, image_embed=-around.tune.image_embed))
    assert chosen(judged, turned) != chosen(judged, around)


def test_without_validation_training_patients_are_set_aside_and_no_example_is_one_of_them() -> None:
    judged, around = split(fit=10, tune=None)
    (group,) = FewShot(shots=(8,), seeds=1).evaluate(judged, around).details["groups"]
    assert group["chosen_on"] == "20% of the training patients, set aside"
    assert group["chosen_on_images"] == 6
    assert [own["fit"] for own in group["classes"].values()] == [8, 8, 8]


def test_the_task_is_skipped_with_a_reason_and_leaks_are_errors() -> None:
    judged, around = split()
    assert "no training split" in QUICK.evaluate(judged, replace(around, fit=None)).details["skipped"]
    assert "two classes" in QUICK.evaluate(blobs([("a",)] * 9), around).details["skipped"]
    few = replace(around, fit=blobs(three(1), first=1000))
    result = QUICK.evaluate(judged, few)
    assert not result.metrics
    assert "enough training images" in result.details["skipped"]
    assert result.details["groups"][0]["budgets"]["2-shot"] == {"left_out": "a class has fewer images"}
    elsewhere = replace(around, fit=blobs(three(5), first=1000, modality="ct"))
    assert QUICK.evaluate(judged, elsewhere).details["left_out"]
    with pytest.raises(DataError, match="30 patients of the training split"):
        QUICK.evaluate(judged, replace(around, fit=judged))


def test_a_cache_of_untrained_features_is_a_control() -> None:
    judged, around = split(noise=0.3)
    assert around.fit is not None
    assert around.tune is not None

    def carrying(found: Evidence) -> Evidence:
        noise = torch.randn(len(found), 5, generator=torch.Generator().manual_seed(len(found)))
        return replace(found, features={"raw_pixels": found.image_embed + 9, "random_weights": noise})

    whole = replace(around, fit=carrying(around.fit), tune=carrying(around.tune))
    result = QUICK.evaluate(carrying(judged), whole)
    controls = result.metrics["balanced_accuracy@2-shot"].controls
    assert controls["raw_pixels"] == controls["cache"] == 1
    assert controls["random_weights"] < 0.7
    gains = result.details["groups"][0]["budgets"]["2-shot"]["accuracy"]["gain_over"]
    assert set(gains) == {"zero_shot", "cache", "raw_pixels", "random_weights"}
    assert "raw_pixels" not in QUICK.evaluate(judged, whole).metrics["balanced_accuracy@2-shot"].controls


def test_the_same_seed_gives_the_same_figures() -> None:
    first, second = (QUICK.evaluate(*split(noise=4.0)) for _ in range(2))
    assert first == second
