"""Chance, exactly: against all orders of a few candidates."""

import itertools

import numpy as np
import pytest

from medmoe.metrics import (
    chance_at_k,
    chance_median_rank,
    chance_of_average_precision,
    chance_of_hit,
    chance_of_median_rank,
    hits_at_k,
    query_average_precision,
    relevant_counts,
)


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


@pytest.mark.parametrize(("candidates", "right"), [(6, 1), (6, 2), (5, 5), (4, 0), (1, 1), (6, 5)])
def test_chance_precision_is_the_mean_over_all_orders(candidates: int, right: int) -> None:
    orders = np.array(list(itertools.permutations(range(candidates))), dtype=float)
    relevant = np.broadcast_to(np.arange(candidates) < right, orders.shape)
    expected = query_average_precision(orders, relevant).mean()
    np.testing.assert_allclose(chance_of_average_precision(np.array([right]), candidates), expected, rtol=1e-12)


def test_chance_needs_only_how_many_candidates_are_relevant() -> None:
    rng = np.random.default_rng(25)
    queries, candidates = rng.integers(0, 9, 40), rng.integers(0, 9, 30)
    relevant = queries[:, None] == candidates
    counts = relevant_counts(queries, candidates)
    assert counts.tolist() == relevant.sum(axis=1).tolist()
    assert chance_of_hit(counts, 30, 5) == chance_at_k(relevant, 5)
    assert chance_of_median_rank(counts, 30) == chance_median_rank(relevant)
