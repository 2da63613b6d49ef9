"""Calibration against scikit-learn, scipy and loops."""

import json

import numpy as np
import pytest
from scipy import special

from medmoe.metrics import (
    Resampler,
    ece,
    equal_mass_bins,
    fit_temperature,
    reliability,
    softmax,
)

CLOSE = {"rtol": 1e-9, "atol": 1e-12}


def test_softmax_matches_scipy_at_any_temperature_and_size() -> None:
    logits = np.array([[1e4, 0.0, -1e4], [0.1, 0.2, 0.3]])
    np.testing.assert_allclose(softmax(logits, 0.7), special.softmax(logits / 0.7, axis=1), **CLOSE)


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


def test_a_calibrated_model_has_hardly_any_error_and_a_boasting_one_has_its_excess() -> None:
    rng = np.random.default_rng(44)
    confidence = rng.uniform(0.5, 1, 20_000)
    assert ece(confidence, rng.random(20_000) < confidence) < 0.02
    assert ece(np.ones(1000), np.arange(1000) < 600) == pytest.approx(0.4)


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
