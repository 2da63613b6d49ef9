"""Figures of a classification against scikit-learn and loops, with weights, ties, NaN and classes that are absent."""

import numpy as np
import pytest
from sklearn import metrics as sk

from medmoe.metrics import (
    accuracy,
    at_threshold,
    auroc,
    average_precision,
    balanced_accuracy,
    best_threshold,
    decide,
    f1,
    fpr_at_tpr,
    macro,
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


def test_auroc_is_undefined_without_both_classes_and_a_half_for_constant_scores() -> None:
    assert np.isnan(auroc([0.1, 0.2], [True, True]))
    assert auroc([1.0, 1.0, 1.0], [True, False, True]) == 0.5


def test_nan_scores_count_against_auroc() -> None:
    assert auroc([np.nan, 0.0, 1.0], [True, False, False]) == 0
    assert auroc([0.5, np.nan], [True, False]) == 0


SCORED = {
    "auroc": (auroc, sk.roc_auc_score),
    "average precision": (average_precision, sk.average_precision_score),
}


@pytest.mark.parametrize("name", SCORED)
@pytest.mark.parametrize("seed", range(5))
def test_areas_match_scikit_learn_with_ties_and_weights(name: str, seed: int) -> None:
    ours, theirs = SCORED[name]
    scores, truth, weights = tied_scores(seed)
    np.testing.assert_allclose(ours(scores, truth), theirs(truth, scores), **CLOSE)
    expected = [theirs(truth, scores, sample_weight=row) for row in weights]
    np.testing.assert_allclose(ours(scores, truth, weights), expected, **CLOSE)


CHOSEN = {
    "accuracy": (accuracy, sk.accuracy_score, {}),
    "balanced accuracy": (balanced_accuracy, sk.balanced_accuracy_score, {}),
    "macro F1": (macro_f1, sk.f1_score, {"average": "macro"}),
}


@pytest.mark.parametrize("name", CHOSEN)
@pytest.mark.parametrize("seed", range(5))
def test_chosen_classes_match_scikit_learn_with_and_without_weights(name: str, seed: int) -> None:
    ours, theirs, options = CHOSEN[name]
    rng = np.random.default_rng(seed)
    true, predicted = rng.integers(0, 3, 60), rng.integers(0, 3, 60)
    weights = rng.integers(1, 4, (5, 60)).astype(float)
    np.testing.assert_allclose(ours(true, predicted), theirs(true, predicted, **options), **CLOSE)
    expected = [theirs(true, predicted, sample_weight=row, **options) for row in weights]
    np.testing.assert_allclose(ours(true, predicted, weights), expected, **CLOSE)


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


@pytest.mark.parametrize("seed", range(8))
def test_the_best_threshold_is_the_highest_of_those_with_the_best_f1(seed: int) -> None:
    scores, truth, weights = tied_scores(seed, items=25)
    for drawn in (None, weights[0]):
        every = {score: sk.f1_score(truth, scores >= score, sample_weight=drawn) for score in np.unique(scores)}
        highest = max(every.values())
        expected = max(score for score, value in every.items() if value >= highest - 1e-12)
        assert best_threshold(scores, truth, drawn) == expected


def test_no_threshold_is_best_where_no_positive_can_be_found() -> None:
    assert best_threshold([0.1, 0.2], [False, False]) == np.inf
    assert best_threshold([np.nan, 0.2], [True, False]) == np.inf
    assert best_threshold([], []) == np.inf
    assert best_threshold([np.nan, 0.3, 0.1], [True, True, False]) == 0.3


def test_nan_scores_are_wrong_at_any_threshold() -> None:
    found = at_threshold([np.nan, np.nan, 1.0], [True, False, True], -np.inf)
    assert [float(cell) for cell in found] == [1, 1, 1, 0]


@pytest.mark.parametrize("seed", range(4))
def test_the_roc_curve_matches_scikit_learn(seed: int) -> None:
    scores, truth, weights = tied_scores(seed)
    curve = roc_curve(scores, truth, weights[0] + 1)
    x, y, thresholds = sk.roc_curve(truth, scores, sample_weight=weights[0] + 1, drop_intermediate=False)
    np.testing.assert_allclose(curve.x, x, **CLOSE)
    np.testing.assert_allclose(curve.y, y, **CLOSE)
    np.testing.assert_array_equal(curve.thresholds, thresholds)


@pytest.mark.parametrize("seed", range(4))
def test_the_precision_recall_curve_matches_scikit_learn(seed: int) -> None:
    scores, truth, weights = tied_scores(seed)
    curve = pr_curve(scores, truth, weights[0] + 1)
    precision, recall, thresholds = sk.precision_recall_curve(truth, scores, sample_weight=weights[0] + 1)
    np.testing.assert_allclose(curve.x, recall[::-1], **CLOSE)
    np.testing.assert_allclose(curve.y, precision[::-1], **CLOSE)
    np.testing.assert_array_equal(curve.thresholds[1:], thresholds[::-1])


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


def test_nan_counts_against_the_rates() -> None:
    assert fpr_at_tpr([np.nan, 0.5], [True, False]) == 1
    assert sensitivity_at_specificity([1.0, np.nan], [True, False], 0.9) == 0


EVERY = [auroc, average_precision, sensitivity_at_specificity, fpr_at_tpr]


@pytest.mark.parametrize("statistic", EVERY)
def test_no_items_and_no_weight_are_undefined_not_zero(statistic) -> None:
    assert np.isnan(statistic([], []))
    assert np.isnan(statistic([], [], weights=np.empty((3, 0)))).tolist() == [True] * 3
    assert np.isnan(statistic([0.1, 0.9], [False, True], weights=np.zeros((2, 2)))).all()
    assert np.isnan(statistic([0.1, 0.9], [False, False])).all()


@pytest.mark.parametrize("statistic", [auroc, sensitivity_at_specificity, fpr_at_tpr])
def test_rates_are_undefined_without_negatives(statistic) -> None:
    assert np.isnan(statistic([0.1, 0.9], [True, True]))


def test_average_precision_is_one_without_negatives_and_the_prevalence_for_constant_scores() -> None:
    assert average_precision([0.1, 0.9], [True, True]) == 1
    assert average_precision([1.0] * 5, [True, True, False, False, False]) == pytest.approx(0.4)


@pytest.mark.parametrize("statistic", [accuracy, balanced_accuracy, macro_f1])
def test_choices_without_weight_are_undefined(statistic) -> None:
    assert np.isnan(statistic([], []))
    assert np.isnan(statistic([0, 1], [0, 1], np.zeros(2)))


def test_figures_are_averaged_over_the_findings_where_they_are_defined() -> None:
    rng = np.random.default_rng(12)
    scores, truth = rng.normal(size=(30, 3)), rng.random((30, 3)) < 0.5
    truth[:, 2] = False
    expected = (auroc(scores[:, 0], truth[:, 0]) + auroc(scores[:, 1], truth[:, 1])) / 2
    np.testing.assert_allclose(macro(auroc, scores, truth), expected, **CLOSE)
    assert np.isnan(macro(auroc, scores[:, 2:], truth[:, 2:]))


def test_every_figure_of_weights_is_that_of_items_repeated_so_often() -> None:
    scores, truth, weights = tied_scores(13)
    scores[::7] = np.nan
    for statistic in EVERY:
        rows = [np.repeat(np.arange(len(scores)), drawn.astype(int)) for drawn in weights]
        expected = [statistic(scores[row], truth[row]) for row in rows]
        np.testing.assert_allclose(statistic(scores, truth, weights=weights), expected, **CLOSE)


def test_weights_of_other_items_are_refused() -> None:
    with pytest.raises(ValueError, match="weights of 3 items beside 2 items"):
        auroc([0.1, 0.2], [True, False], np.ones(3))
