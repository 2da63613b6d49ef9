"""Logistic regression against scikit-learn's own on the untouched features."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from medmoe.metrics import Floats
from medmoe.tasks.logistic import Scale, choose_classes, choose_findings, fit_classes


def drawn(count: int, width: int, classes: int, seed: int = 0) -> tuple[Floats, np.ndarray]:
    rng = np.random.default_rng(seed)
    true = np.arange(count) % classes
    return rng.normal(size=(count, width)) + 0.8 * np.eye(classes, width)[true] + 3, true


@pytest.mark.parametrize(("count", "width"), [(60, 5), (12, 40)])
@pytest.mark.parametrize("classes", [2, 3])
def test_probabilities_are_those_of_scikit_learn_with_more_or_fewer_images_than_features(
    count: int, width: int, classes: int
) -> None:
    features, true = drawn(count, width, classes)
    others, _ = drawn(20, width, classes, seed=1)
    ((logits, unfinished),) = fit_classes(features, true, classes, strengths=(0.01,))(others)
    centre = features.mean(axis=0)
    length = np.sqrt(np.square(features - centre).sum(axis=1).mean())
    model = LogisticRegression(C=1 / (0.01 * count), class_weight="balanced", tol=1e-8, max_iter=2000)
    model.fit((features - centre) / length, true)
    probability = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(probability, model.predict_proba((others - centre) / length), atol=5e-3)
    assert unfinished == 0


def test_a_class_that_never_occurs_is_never_answered() -> None:
    features, true = drawn(30, 4, 2)
    ((logits, _),) = fit_classes(features, np.where(true == 1, 3, 0), 4, strengths=(0.1,))(features)
    assert set(logits.argmax(axis=1).tolist()) == {0, 3}
    assert np.isneginf(logits[:, 1:3]).all()


def test_nan_features_are_not_fitted_on_and_give_nan() -> None:
    features, true = drawn(30, 4, 2)
    broken = features.copy()
    broken[:2, 1] = np.nan
    ((logits, _),) = fit_classes(broken, true, 2, strengths=(0.1,))(broken)
    assert np.isnan(logits[:2]).all()
    ((clean, _),) = fit_classes(features[2:], true[2:], 2, strengths=(0.1,))(features[2:])
    np.testing.assert_array_equal(logits[2:], clean)


@pytest.mark.parametrize("features", [np.zeros((6, 3)), np.full((6, 3), 7.3), np.full((6, 3), np.nan)])
def test_features_that_say_nothing_give_equal_scores(features: Floats) -> None:
    found = fit_classes(features, np.arange(6) % 2, 2, strengths=(0.1, 1.0))(np.ones((4, 3)))
    assert [scores.tolist() for scores, _ in found] == [[[0, 0]] * 4] * 2


def test_one_class_alone_gives_equal_scores() -> None:
    features, _ = drawn(6, 3, 2)
    assert not fit_classes(features, np.zeros(6, dtype=np.int64), 2)(features)[0][0].any()


def test_the_strength_that_the_judge_prefers_is_chosen_and_of_equals_the_strongest() -> None:
    features, true = drawn(30, 4, 2)
    parts = (features, features[:5], features[:7])
    sizes: list[float] = []

    def largest(scores: Floats) -> float:
        sizes.append(float(np.abs(scores).max()))
        return sizes[-1]

    chosen = choose_classes(parts, true, 2, largest, strengths=(1e-3, 1e-1, 1e1))
    assert chosen.strength == 1e-3
    assert sizes == sorted(sizes, reverse=True)
    assert chosen.scores.shape == (7, 2)
    assert choose_classes(parts, true, 2, lambda scores: 1.0, strengths=(1e-3, 1e1, 1e-1)).strength == 1e1
    assert choose_classes(parts, true, 2, lambda scores: float("nan"), strengths=(1e-3, 1e1)).strength == 1e1


def test_findings_are_told_from_the_rest_one_by_one() -> None:
    features, true = drawn(60, 4, 3)
    shown = true[:, None] == np.arange(2)
    chosen = choose_findings((features, features, features[:9]), shown, lambda scores: 0.0, strengths=(0.01,))
    for column in range(2):
        ((alone, _),) = fit_classes(features, shown[:, column].astype(int), 2, strengths=(0.01,))(features[:9])
        np.testing.assert_array_equal(chosen.scores[:, column], alone[:, 1])


def test_the_scale_centres_and_brings_to_unit_length_without_losing_anything() -> None:
    for count, width in ((50, 6), (5, 9)):
        features, _ = drawn(count, width, 2)
        moved = Scale.of(features)(features)
        np.testing.assert_allclose(moved.mean(axis=0), 0, atol=1e-12)
        assert np.square(moved).sum(axis=1).mean() == pytest.approx(1)
        centred = features - features.mean(axis=0)
        distance = np.linalg.norm(centred[0] - centred[1]) / np.linalg.norm(centred[0])
        assert np.linalg.norm(moved[0] - moved[1]) / np.linalg.norm(moved[0]) == pytest.approx(distance)
