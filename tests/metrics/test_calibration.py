"""Calibration against scikit-learn, scipy and loops."""

import json

import numpy as np
import pytest
from scipy import optimize, special
from sklearn.metrics import brier_score_loss
from sklearn.metrics import log_loss as sk_log_loss

from medmoe.metrics import (
    Resampler,
    brier,
    confidences,
    ece,
    equal_mass_bins,
    fit_temperature,
    log_loss,
    reliability,
    softmax,
)

CLOSE = {"rtol": 1e-9, "atol": 1e-12}


def test_softmax_matches_scipy_at_any_temperature_and_size() -> None:
    logits = np.array([[1e4, 0.0, -1e4], [0.1, 0.2, 0.3]])
    np.testing.assert_allclose(softmax(logits, 0.7), special.softmax(logits / 0.7, axis=1), **CLOSE)


def test_brier_matches_scikit_learn_with_weights() -> None:
    rng = np.random.default_rng(40)
    probability, truth = rng.random(50), rng.random(50) < 0.4
    weights = rng.integers(1, 4, (4, 50)).astype(float)
    np.testing.assert_allclose(brier(probability, truth), brier_score_loss(truth, probability), **CLOSE)
    expected = [brier_score_loss(truth, probability, sample_weight=row) for row in weights]
    np.testing.assert_allclose(brier(probability, truth, weights), expected, **CLOSE)


def test_brier_of_several_classes_adds_their_squared_errors() -> None:
    rng = np.random.default_rng(41)
    probability, truth = rng.dirichlet(np.ones(4), 30), rng.integers(0, 4, 30)
    expected = np.mean(
        [sum((p - (c == t)) ** 2 for c, p in enumerate(row)) for row, t in zip(probability, truth, strict=True)]
    )
    np.testing.assert_allclose(brier(probability, truth), expected, **CLOSE)


def test_undefined_probabilities_count_as_wrong() -> None:
    assert brier([np.nan, 1.0], [True, True]) == 0.5
    assert brier([[np.nan, 1.0], [0.0, 1.0]], [1, 1]) == 1
    assert np.isnan(brier([], []))


def slow_ece(confidence: np.ndarray, right: np.ndarray, bins: np.ndarray) -> float:
    total = 0.0
    for own in set(bins.tolist()):
        rows = bins == own
        total += rows.mean() * abs(confidence[rows].mean() - right[rows].mean())
    return total


def test_bins_hold_the_same_number_where_nothing_ties() -> None:
    rng = np.random.default_rng(42)
    assert np.bincount(equal_mass_bins(rng.random(60), 12)).tolist() == [5] * 12
    values = rng.random(47)
    bins = equal_mass_bins(values, 10)
    assert set(np.bincount(bins).tolist()) <= {4, 5}
    assert (np.diff(bins[np.argsort(values)]) >= 0).all()


def test_equal_confidences_share_a_bin() -> None:
    bins = equal_mass_bins([0.5] * 50 + [0.9] * 2 + [np.nan], 10)
    assert len(set(bins[:50].tolist())) == 1
    assert bins[50] == bins[51] != bins[0]
    assert bins[52] == 10


@pytest.mark.parametrize("bins", [1, 5, 15])
def test_calibration_error_matches_a_loop_over_bins(bins: int) -> None:
    rng = np.random.default_rng(43)
    confidence = rng.random(200).round(2)
    right = rng.random(200) < confidence**2
    own = equal_mass_bins(confidence, bins)
    np.testing.assert_allclose(ece(confidence, right, bins=bins), slow_ece(confidence, right, own), **CLOSE)
    weights = rng.integers(0, 4, (5, 200))
    rows = [np.repeat(np.arange(200), drawn) for drawn in weights]
    expected = [slow_ece(confidence[row], right[row], own[row]) for row in rows]
    np.testing.assert_allclose(ece(confidence, right, weights.astype(float), bins=bins), expected, **CLOSE)


def test_a_calibrated_model_has_hardly_any_error_and_a_boasting_one_has_its_excess() -> None:
    rng = np.random.default_rng(44)
    confidence = rng.uniform(0.5, 1, 20_000)
    assert ece(confidence, rng.random(20_000) < confidence) < 0.02
    assert ece(np.ones(1000), np.arange(1000) < 600) == pytest.approx(0.4)


def test_undefined_confidence_is_full_error_and_no_item_is_undefined() -> None:
    assert ece([np.nan, 1.0], [True, True]) == 0.5
    assert np.isnan(ece([], []))
    assert np.isnan(ece([0.5], [True], np.zeros(1)))


def test_points_of_the_reliability_plot_are_means_of_the_bins() -> None:
    rng = np.random.default_rng(45)
    confidence = rng.random(90)
    right = rng.random(90) < confidence
    confidence[4] = np.nan
    resampler = Resampler(np.repeat(np.arange(30), 3).tolist(), resamples=200)
    found = reliability(confidence, right, bins=6, resampler=resampler)
    own = equal_mass_bins(confidence, 6)
    np.testing.assert_allclose(found.confidence, [confidence[own == b].mean() for b in range(6)], **CLOSE)
    np.testing.assert_allclose(found.right, [right[own == b].mean() for b in range(6)], **CLOSE)
    assert found.n.sum() == 89
    assert (found.low <= found.right).all()
    assert (found.right <= found.high).all()
    assert (found.low < found.high).sum() == 5  # nothing is right in the other bin, nor in any draw of it


def test_reliability_without_items_or_resampler_is_plain_data() -> None:
    assert reliability([np.nan], [True], resampler=Resampler(["a"])).to_json() == []
    point = json.loads(json.dumps(reliability([0.5, 0.5], [True, False]).to_json(), allow_nan=False))
    assert point == [{"confidence": 0.5, "right": 0.5, "low": None, "high": None, "n": 2}]


@pytest.mark.parametrize("classes", [2, 5])
def test_the_temperature_matches_scipys_minimum_of_the_loss(classes: int) -> None:
    rng = np.random.default_rng(classes)
    logits = 3 * rng.normal(size=(200, classes))
    truth = np.array([rng.choice(classes, p=row) for row in special.softmax(logits / 2.5, axis=1)])
    found = fit_temperature(logits, truth)
    theirs = optimize.root_scalar(
        lambda b: np.mean((special.softmax(b * logits, axis=1) * logits).sum(1) - logits[np.arange(200), truth]),
        bracket=(1e-3, 1e3),
        xtol=1e-15,
        rtol=1e-14,
    ).root
    assert found == pytest.approx(1 / theirs, rel=1e-9)
    for other in (0.99, 1.01):
        assert log_loss(logits, truth, found) < log_loss(logits, truth, found * other)


def test_the_temperature_of_a_finding_is_that_of_its_two_classes() -> None:
    rng = np.random.default_rng(46)
    logits = 4 * rng.normal(size=300)
    truth = rng.random(300) < special.expit(logits / 3)
    found = fit_temperature(logits, truth)
    assert found == pytest.approx(fit_temperature(np.column_stack([0 * logits, logits]), truth), rel=1e-12)
    assert found == pytest.approx(3, rel=0.35)


def test_scaled_logits_have_the_scaled_temperature() -> None:
    rng = np.random.default_rng(47)
    logits, truth = rng.normal(size=(80, 3)), rng.integers(0, 3, 80)
    logits[np.arange(80), truth] += 0.7
    for scale in (0.01, 100.0):
        assert fit_temperature(scale * logits, truth) == pytest.approx(scale * fit_temperature(logits, truth), rel=1e-9)


def test_the_temperature_stops_at_an_end_where_none_is_likeliest() -> None:
    assert fit_temperature([[5.0, 0.0], [0.0, 5.0]], [0, 1]) == 1e-4
    assert fit_temperature([[5.0, 0.0], [0.0, 5.0]], [1, 0]) == 1e4
    assert fit_temperature([[1.0, 1.0]], [0]) == 1e-4


def test_rows_that_are_undefined_do_not_move_the_temperature() -> None:
    logits, truth = np.array([[2.0, 0.0], [0.0, 2.0], [2.0, 0.0]]), np.array([0, 1, 1])
    worse = np.vstack([logits, [np.nan, 1.0], [np.inf, 0.0]])
    assert fit_temperature(worse, np.r_[truth, 0, 1]) == fit_temperature(logits, truth)
    with pytest.raises(ValueError, match="no row to fit"):
        fit_temperature([[np.nan, 0.0]], [0])


def test_the_loss_matches_scikit_learn_with_weights() -> None:
    rng = np.random.default_rng(48)
    logits, truth = rng.normal(size=(40, 3)), rng.integers(0, 3, 40)
    weights = rng.integers(1, 4, (3, 40)).astype(float)
    expected = [sk_log_loss(truth, special.softmax(logits / 1.7, axis=1), sample_weight=row) for row in weights]
    np.testing.assert_allclose(log_loss(logits, truth, 1.7, weights), expected, **CLOSE)
    finding = rng.random(40) < 0.5
    expected_finding = sk_log_loss(finding, special.expit(logits[:, 0]))
    np.testing.assert_allclose(log_loss(logits[:, 0], finding), expected_finding, **CLOSE)


def test_a_tie_of_the_highest_probability_is_no_right_answer() -> None:
    highest, right = confidences(np.array([[0.5, 0.5], [0.2, 0.8], [0.9, 0.1], [np.nan, 0.4]]), [0, 1, 1, 1])
    assert highest[:3].tolist() == [0.5, 0.8, 0.9]
    assert np.isnan(highest[3])
    assert right.tolist() == [False, True, False, False]
