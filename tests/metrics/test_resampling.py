"""Resampling of patients: draws against loops, BCa against scipy, and coverage of the truth in simulation."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats
from scipy.special import ndtr

from medmoe.metrics import Resampler, auroc, bca_interval, bootstrap, interval, weighted_median


def test_resampling_draws_whole_patients() -> None:
    resampler = Resampler(["a", "a", "b", None, None], resamples=200, seed=5)
    seen = resampler.draws(lambda weights: weights[:, 0] - weights[:, 1])
    assert not seen.any()
    assert resampler.counts.shape == (200, 4)
    assert (resampler.counts.sum(axis=1) == 4).all()


def test_means_of_resamples_match_a_loop() -> None:
    patients = ["a", "b", "a", None, "b"]
    values = np.random.default_rng(6).normal(size=(5, 2))
    resampler = Resampler(patients, resamples=30, seed=6)
    slow = [np.average(values, axis=0, weights=row[resampler.codes]) for row in resampler.counts]
    assert resampler.means(values) == pytest.approx(np.array(slow))
    assert resampler.means(values[:, 1]) == pytest.approx(np.array(slow)[:, 1])
    by_weights = resampler.draws(lambda weights: weights @ values[:, 0] / weights.sum(axis=1))
    assert by_weights == pytest.approx(np.array(slow)[:, 0])


def test_each_patient_is_drawn_equally_often() -> None:
    counts = Resampler([None] * 4, resamples=4000, seed=7).counts
    assert counts.mean(axis=0) == pytest.approx(np.ones(4), abs=0.06)
    assert Counter(counts[:, 0].tolist())[0] / 4000 == pytest.approx(0.75**4, abs=0.03)


def test_the_interval_of_a_mean_has_the_textbook_width() -> None:
    values = np.random.default_rng(8).normal(size=400)
    low, high = bootstrap(values, [None] * 400, resamples=2000)
    half = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.02)


def test_images_of_one_patient_widen_the_interval() -> None:
    truth = np.random.default_rng(9).normal(size=40)
    values = np.repeat(truth, 10)
    low, high = bootstrap(values, np.repeat(np.arange(40), 10).tolist())
    apart = bootstrap(values, [None] * 400)
    assert high - low > 2 * (apart[1] - apart[0])


def test_bootstrap_takes_any_statistic_of_values_and_weights() -> None:
    values = np.arange(101.0)
    low, high = bootstrap(values, [None] * 101, statistic=weighted_median, seed=3)
    assert 30 < low < 50 < high < 70


def test_the_same_seed_gives_the_same_interval_and_another_seed_another() -> None:
    values, patients = np.random.default_rng(10).normal(size=50), [None] * 50
    assert bootstrap(values, patients, seed=1) == bootstrap(values, patients, seed=1)
    assert bootstrap(values, patients, seed=1) != bootstrap(values, patients, seed=2)


def test_undefined_draws_are_left_out_of_the_interval() -> None:
    assert interval(np.array([np.nan, 1.0, 1.0])) == (1.0, 1.0)
    assert np.isnan(interval(np.array([np.nan]))).all()


def test_nothing_to_resample_is_an_error() -> None:
    with pytest.raises(ValueError, match="nothing to resample"):
        Resampler([])


def test_long_lists_are_resampled_block_by_block() -> None:
    items = 3000
    resampler = Resampler([None] * items, resamples=1500, seed=0)
    totals = resampler.draws(lambda weights: weights.sum(axis=1))
    assert (totals == items).all()


def test_leaving_out_each_patient_matches_a_loop() -> None:
    patients = ["a", "b", "a", None, "b", None]
    rng = np.random.default_rng(30)
    values, truth = rng.normal(size=6), np.array([True, False, False, True, True, False])
    resampler = Resampler(patients, resamples=1)
    kept = [resampler.codes != cluster for cluster in range(4)]
    expected = [auroc(values[rows], truth[rows]) for rows in kept]
    np.testing.assert_allclose(resampler.jackknife(lambda weights: auroc(values, truth, weights)), expected)
    np.testing.assert_allclose(resampler.jackknife_means(values), [values[rows].mean() for rows in kept])


def test_many_patients_are_left_out_in_groups_of_equal_size() -> None:
    patients = np.repeat(np.arange(90), 2).tolist()
    values = np.random.default_rng(31).exponential(size=180)
    resampler = Resampler(patients, resamples=1)
    left_out = resampler.jackknife(lambda weights: (weights == 0).sum(axis=1), most=30)
    assert left_out.tolist() == [6] * 30
    means = resampler.jackknife(lambda weights: weights @ values / weights.sum(axis=1), most=30)
    np.testing.assert_allclose(resampler.jackknife_means(values, most=30), means)


@pytest.mark.parametrize("level", [0.9, 0.95])
def test_bca_intervals_match_scipy_for_items_without_patients(level: float) -> None:
    values = np.random.default_rng(32).exponential(size=25)
    resampler = Resampler([None] * 25, resamples=999, seed=1)
    draws = resampler.means(values)
    theirs = stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=0,
        bootstrap_result=SimpleNamespace(bootstrap_distribution=draws),
        method="BCa",
        confidence_level=level,
    ).confidence_interval
    ours = bca_interval(draws, values.mean(), resampler.jackknife_means(values), level=level)
    np.testing.assert_allclose(ours, theirs, rtol=1e-9)
    np.testing.assert_allclose(bootstrap(values, [None] * 25, resamples=999, seed=1, level=level, bca=True), ours)


def test_bca_intervals_of_patients_match_the_formula_worked_through_again() -> None:
    rng = np.random.default_rng(33)
    patients = np.repeat(np.arange(20), 3)
    truth = np.repeat(rng.random(20) < 0.5, 3)
    scores = rng.normal(size=60) + 2 * truth
    resampler = Resampler(patients.tolist(), resamples=500, seed=2)
    draws = resampler.draws(lambda weights: auroc(scores, truth, weights))
    value = float(auroc(scores, truth))
    left = np.array([auroc(scores[patients != p], truth[patients != p]) for p in range(20)])
    deviation = left.mean() - left
    acceleration = (deviation**3).sum() / (6 * (deviation**2).sum() ** 1.5)
    bias = stats.norm.ppf(np.mean((draws < value) + 0.5 * (draws == value)))
    ends = bias + stats.norm.ppf([0.025, 0.975])
    expected = np.quantile(draws, ndtr(bias + ends / (1 - acceleration * ends)))
    found = bca_interval(draws, value, resampler.jackknife(lambda weights: auroc(scores, truth, weights)))
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    again = bootstrap(scores, patients.tolist(), statistic=lambda v, w: auroc(v, truth, w), resamples=500, seed=2)
    assert again == interval(draws)
    corrected = bootstrap(
        scores, patients.tolist(), statistic=lambda v, w: auroc(v, truth, w), resamples=500, seed=2, bca=True
    )
    assert corrected == found


def test_a_symmetric_statistic_needs_no_correction() -> None:
    draws = np.linspace(-3, 3, 1001)
    assert bca_interval(draws, 0.0, np.array([-1.0, 0.0, 1.0])) == pytest.approx(interval(draws))


@pytest.mark.parametrize("value", [1.0, 0.0, 2.0])
def test_bca_of_draws_that_do_not_vary_is_a_point(value: float) -> None:
    assert bca_interval(np.ones(50), value, np.full(5, value)) == (1.0, 1.0)


def test_bca_leaves_out_what_is_undefined() -> None:
    draws, jackknife = np.r_[np.nan, np.linspace(0, 1, 101)], np.array([0.1, np.nan, 0.4])
    assert bca_interval(draws, 0.5, jackknife) == bca_interval(draws[1:], 0.5, jackknife[[0, 2]])
    assert np.isnan(bca_interval(draws, float("nan"), jackknife)).all()
    assert np.isnan(bca_interval(np.full(3, np.nan), 0.5, jackknife)).all()
    assert np.isfinite(bca_interval(draws, 0.5, np.full(4, np.nan))).all()


def test_bca_beyond_its_range_is_the_percentile_interval() -> None:
    draws = np.linspace(0, 1, 1001)
    one_patient_is_all = np.r_[np.zeros(999), -1.0]
    assert bca_interval(draws, 5.0, one_patient_is_all, level=0.9999) == interval(draws, level=0.9999)


def test_one_patient_has_an_interval_without_width() -> None:
    values = np.array([0.0, 1.0, 1.0])
    assert np.isnan(Resampler(["a"] * 3, resamples=5).jackknife_means(values)).all()
    assert bootstrap(values, ["a"] * 3, bca=True) == pytest.approx((2 / 3, 2 / 3))


def test_statistics_of_several_values_are_drawn_together() -> None:
    values = np.random.default_rng(34).normal(size=(12, 2))
    resampler = Resampler([None] * 12, resamples=40)
    found = resampler.draws(lambda weights: weights @ values / 12)
    np.testing.assert_allclose(found, resampler.means(values))


@pytest.mark.parametrize("bca", [False, True])
def test_intervals_over_patients_cover_the_truth_as_often_as_they_say_and_naive_ones_do_not(bca: bool) -> None:
    rng = np.random.default_rng(35)
    patients = np.repeat(np.arange(80), 5)
    clustered, naive, sets = 0, 0, 300
    by_patient = Resampler(patients.tolist(), resamples=300, seed=1)
    by_item = Resampler([None] * 400, resamples=300, seed=1)
    for _ in range(sets):
        chance = np.repeat(rng.beta(1.4, 0.6, 80), 5)  # mean 0.7; images of a patient are alike
        hits = (rng.random(400) < chance).astype(float)
        for resampler in (by_patient, by_item):
            low, high = (
                bca_interval(resampler.means(hits), hits.mean(), resampler.jackknife_means(hits))
                if bca
                else interval(resampler.means(hits))
            )
            covers = low <= 0.7 <= high
            clustered, naive = (clustered + covers, naive) if resampler is by_patient else (clustered, naive + covers)
    assert 0.92 <= clustered / sets <= 0.98
    assert naive / sets < 0.9
