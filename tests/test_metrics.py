"""Figures against brute force and scikit-learn; ties and NaN never help."""

import itertools
import json
from collections import Counter

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from medmoe.metrics import (
    Metric,
    Resampler,
    auroc,
    balanced_accuracy,
    best_rank,
    bootstrap,
    chance_at_k,
    chance_median_rank,
    decide,
    hits_at_k,
    interval,
    weighted_median,
)


def slow_rank(similarity: np.ndarray, relevant: np.ndarray) -> list[float]:
    ranks = []
    for row, truth in zip(similarity.tolist(), relevant.tolist(), strict=True):
        good = [value for value, right in zip(row, truth, strict=True) if right and value == value]
        bad = [value for value, right in zip(row, truth, strict=True) if not right]
        ranks.append(1.0 + sum(value >= max(good) for value in bad) if good else len(row) + 1.0)
    return ranks


def test_ranks_match_a_loop_with_ties_nan_and_several_relevant() -> None:
    rng = np.random.default_rng(0)
    similarity = rng.integers(0, 4, (40, 7)).astype(float)
    similarity[rng.random((40, 7)) < 0.1] = np.nan
    relevant = rng.random((40, 7)) < 0.3
    assert best_rank(similarity, relevant).tolist() == slow_rank(similarity, relevant)


@pytest.mark.parametrize("value", [0.0, 1.0, np.nan, -np.inf])
def test_constant_and_nan_embeddings_score_no_hit(value: float) -> None:
    similarity = np.full((20, 20), value)
    assert hits_at_k(similarity, np.eye(20, dtype=bool), 10).max() == 0


def test_nan_is_no_hit_even_when_every_candidate_counts() -> None:
    similarity = np.full((3, 3), np.nan)
    assert hits_at_k(similarity, np.ones((3, 3), dtype=bool), 99).tolist() == [0, 0, 0]


def test_nan_of_the_relevant_candidate_alone_loses_and_of_others_does_not_win() -> None:
    similarity = np.array([[np.nan, 0.1, 0.2], [0.5, np.nan, np.nan]])
    relevant = np.array([[True, False, False], [True, False, False]])
    assert best_rank(similarity, relevant).tolist() == [4, 1]


def test_the_true_pair_on_top_is_a_hit_at_one() -> None:
    assert hits_at_k(np.eye(5), np.eye(5, dtype=bool), 1).tolist() == [1] * 5


@pytest.mark.parametrize(
    ("candidates", "right", "k"), [(6, 1, 1), (6, 2, 3), (5, 3, 4), (4, 4, 1), (5, 0, 2), (3, 1, 9)]
)
def test_chance_is_the_share_of_orders_with_a_hit(candidates: int, right: int, k: int) -> None:
    orders = list(itertools.permutations(range(candidates)))
    share = sum(any(place < right for place in order[:k]) for order in orders) / len(orders)
    relevant = np.arange(candidates)[None, :] < right
    assert chance_at_k(relevant, k) == pytest.approx(share)


def test_chance_averages_over_queries() -> None:
    relevant = np.array([[True, False, False, False], [True, True, False, False]])
    assert chance_at_k(relevant, 1) == pytest.approx((0.25 + 0.5) / 2)


def test_the_median_rank_of_chance_is_half_of_the_candidates() -> None:
    assert chance_median_rank(np.eye(100, dtype=bool)) == 50
    assert chance_median_rank(np.zeros((2, 4), dtype=bool)) == 5


def test_recall_of_random_embeddings_lies_at_chance() -> None:
    rng = np.random.default_rng(1)
    relevant = rng.random((2000, 30)) < 0.1
    found = hits_at_k(rng.normal(size=relevant.shape), relevant, 5).mean()
    assert found == pytest.approx(chance_at_k(relevant, 5), abs=0.03)


def test_decide_gives_no_class_for_ties_and_nan() -> None:
    scores = np.array([[0.1, 0.9], [0.5, 0.5], [np.nan, 1.0], [2.0, 1.0]])
    assert decide(scores).tolist() == [1, -1, -1, 0]


def test_balanced_accuracy_matches_scikit_learn_with_and_without_weights() -> None:
    rng = np.random.default_rng(2)
    true, predicted = rng.integers(0, 3, 60), rng.integers(0, 3, 60)
    weights = rng.integers(1, 4, (5, 60)).astype(float)
    assert balanced_accuracy(true, predicted) == pytest.approx(balanced_accuracy_score(true, predicted))
    expected = [balanced_accuracy_score(true, predicted, sample_weight=row) for row in weights]
    assert balanced_accuracy(true, predicted, weights) == pytest.approx(expected)


def test_a_class_that_a_resample_lacks_is_left_out_of_balanced_accuracy() -> None:
    weights = np.array([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    found = balanced_accuracy([0, 0, 1], [0, 1, 0], weights)
    assert found[0] == 0.5
    assert np.isnan(found[1])


def test_auroc_matches_scikit_learn_with_ties_and_weights() -> None:
    rng = np.random.default_rng(3)
    scores, truth = rng.integers(0, 8, 50).astype(float), rng.random(50) < 0.4
    weights = rng.integers(1, 5, (6, 50)).astype(float)
    assert auroc(scores, truth) == pytest.approx(roc_auc_score(truth, scores))
    assert auroc(scores, truth, weights) == pytest.approx(
        [roc_auc_score(truth, scores, sample_weight=w) for w in weights]
    )


def test_auroc_is_undefined_without_both_classes_and_a_half_for_constant_scores() -> None:
    assert np.isnan(auroc([0.1, 0.2], [True, True]))
    assert auroc([1.0, 1.0, 1.0], [True, False, True]) == 0.5


def test_nan_scores_count_against_auroc() -> None:
    assert auroc([np.nan, 0.0, 1.0], [True, False, False]) == 0
    assert auroc([0.5, np.nan], [True, False]) == 0


def test_the_weighted_median_is_that_of_the_repeated_items() -> None:
    rng = np.random.default_rng(4)
    values, weights = rng.normal(size=9), rng.integers(0, 4, (20, 9))
    expected = [np.median(np.repeat(values, row)) for row in weights]
    assert weighted_median(values, weights.astype(float)) == pytest.approx(expected)
    assert weighted_median(values) == np.median(values)


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


def test_a_metric_is_plain_json_and_undefined_values_are_null() -> None:
    metric = Metric(0.5, float("nan"), np.float64(0.7), np.int64(3), {"chance": np.float64(0.1), "lost": float("inf")})
    assert json.loads(json.dumps(metric.to_json(), allow_nan=False)) == {
        "value": 0.5,
        "low": None,
        "high": 0.7,
        "n": 3,
        "controls": {"chance": 0.1, "lost": None},
    }


def test_long_lists_are_resampled_block_by_block() -> None:
    items = 3000
    resampler = Resampler([None] * items, resamples=1500, seed=0)
    totals = resampler.draws(lambda weights: weights.sum(axis=1))
    assert (totals == items).all()
