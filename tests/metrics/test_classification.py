"""Figures of a classification against scikit-learn and loops, with weights, ties, NaN and classes that are absent."""

import numpy as np
import pytest
from sklearn import metrics as sk

from medmoe.metrics import (
    at_threshold,
    auroc,
    balanced_accuracy,
    best_threshold,
    decide,
    f1,
    fpr_at_tpr,
    macro_f1,
    pr_curve,
    roc_curve,
    sensitivity_at_specificity,
)

CLOSE = {"rtol": 1e-9, "atol": 1e-12}


def tied_scores(seed: int, items: int = 60) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Give scores with ties, a truth, and weights of six resamples, some of which are 0."""
    rng = np.random.default_rng(seed)
    weights = rng.integers(0, 4, (6, items)).astype(float)
    return rng.integers(0, 9, items).astype(float), rng.random(items) < 0.4, weights


def test_decide_gives_no_class_for_ties_and_nan() -> None:
    scores = np.array([[0.1, 0.9], [0.5, 0.5], [np.nan, 1.0], [2.0, 1.0]])
    assert decide(scores).tolist() == [1, -1, -1, 0]


def test_a_class_that_a_resample_lacks_is_left_out_of_balanced_accuracy() -> None:
    weights = np.array([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    found = balanced_accuracy([0, 0, 1], [0, 1, 0], weights)
    assert found[0] == 0.5
    assert np.isnan(found[1])


def test_macro_f1_averages_over_classes_that_occur_and_an_undecided_answer_is_none() -> None:
    true, predicted = np.array([0, 0, 1, 1, 2]), np.array([0, -1, 1, 3, -1])
    expected = sk.f1_score(true, predicted, labels=[0, 1, 2], average="macro", zero_division=0)
    np.testing.assert_allclose(macro_f1(true, predicted), expected, **CLOSE)
    weights = np.array([[1.0, 1, 1, 1, 0], [0, 0, 0, 0, 0]])
    found = macro_f1(true, predicted, weights)
    np.testing.assert_allclose(found, [(2 / 3 + 2 / 3) / 2, np.nan], **CLOSE)


@pytest.mark.parametrize("threshold", [-1.0, 0.0, 3.0, 3.5, 8.0, 99.0])
def test_figures_at_a_threshold_match_scikit_learn(threshold: float) -> None:
    scores, truth, weights = tied_scores(7)
    called = scores >= threshold
    found = at_threshold(scores, truth, threshold, weights)
    for row, drawn in enumerate(weights):
        options = {"sample_weight": drawn, "zero_division": np.nan}
        np.testing.assert_allclose(found.f1[row], sk.f1_score(truth, called, **options), **CLOSE)
        np.testing.assert_allclose(found.sensitivity[row], sk.recall_score(truth, called, **options), **CLOSE)
        np.testing.assert_allclose(found.precision[row], sk.precision_score(truth, called, **options), **CLOSE)
        np.testing.assert_allclose(found.specificity[row], sk.recall_score(~truth, ~called, **options), **CLOSE)
        np.testing.assert_allclose(
            found.negative_precision[row], sk.precision_score(~truth, ~called, **options), **CLOSE
        )
    np.testing.assert_allclose(f1(scores, truth, threshold), sk.f1_score(truth, called), **CLOSE)


def test_no_threshold_is_best_where_no_positive_can_be_found() -> None:
    assert best_threshold([0.1, 0.2], [False, False]) == np.inf
    assert best_threshold([np.nan, 0.2], [True, False]) == np.inf
    assert best_threshold([], []) == np.inf
    assert best_threshold([np.nan, 0.3, 0.1], [True, True, False]) == 0.3


def test_nan_scores_are_wrong_at_any_threshold() -> None:
    found = at_threshold([np.nan, np.nan, 1.0], [True, False, True], -np.inf)
    assert [float(cell) for cell in found] == [1, 1, 1, 0]


def test_items_that_a_resample_lacks_make_no_point_without_precision() -> None:
    curve = pr_curve([0.9, 0.5, 0.1], [False, True, False], np.array([0.0, 1.0, 1.0]))
    assert curve.y.tolist() == [1, 1, 0.5]
    assert curve.thresholds.tolist() == [np.inf, 0.5, 0.1]


def test_curves_without_a_class_have_no_point() -> None:
    assert roc_curve([0.1, 0.2], [True, True]).to_json() == {"x": [], "y": [], "thresholds": []}
    assert pr_curve([0.1, 0.2], [False, False]).x.size == 0


def test_a_thinned_curve_keeps_its_ends_and_hardly_any_area_is_lost() -> None:
    rng = np.random.default_rng(9)
    truth = rng.random(5000) < 0.3
    curve = roc_curve(rng.normal(size=5000) + truth, truth)
    thin = curve.thinned(100)
    assert len(thin.x) <= 102
    assert (thin.x[0], thin.y[0], thin.x[-1], thin.y[-1]) == (0, 0, 1, 1)
    assert sk.auc(thin.x, thin.y) == pytest.approx(sk.auc(curve.x, curve.y), abs=0.002)
    assert curve.thinned(10_000) is curve
    assert thin.to_json()["thresholds"][0] is None


def slow_rates(scores: np.ndarray, truth: np.ndarray, weights: np.ndarray) -> list[tuple[float, float]]:
    """Give (false positive rate, true positive rate) of every threshold, the one that calls nothing included."""
    rates = []
    for threshold in [np.inf, *np.unique(scores)]:
        called = scores >= threshold
        rates.append(
            (
                weights[called & ~truth].sum() / weights[~truth].sum(),
                weights[called & truth].sum() / weights[truth].sum(),
            )
        )
    return rates


@pytest.mark.parametrize("at", [0.0, 0.25, 0.5, 0.9, 0.95, 1.0])
def test_rates_at_a_rate_match_a_search_of_all_thresholds(at: float) -> None:
    scores, truth, weights = tied_scores(11, items=40)
    rates = [slow_rates(scores, truth, row) for row in weights]
    sensitivity = [max(found for wrong, found in row if 1 - wrong >= at - 1e-12) for row in rates]
    np.testing.assert_allclose(sensitivity_at_specificity(scores, truth, at, weights), sensitivity, **CLOSE)
    false = [min(wrong for wrong, found in row[1:] if found >= at - 1e-12) for row in rates]
    np.testing.assert_allclose(fpr_at_tpr(scores, truth, at, weights), false, **CLOSE)


def test_rates_that_are_met_exactly_are_met() -> None:
    scores, truth = np.arange(20.0), np.arange(20) >= 10
    assert fpr_at_tpr(np.r_[scores, 0.0], np.r_[truth, False], 0.7) == 0
    assert sensitivity_at_specificity([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 9.5], [False] * 10 + [True], 0.9) == 1


def test_weights_of_other_items_are_refused() -> None:
    with pytest.raises(ValueError, match="weights of 3 items beside 2 items"):
        auroc([0.1, 0.2], [True, False], np.ones(3))
