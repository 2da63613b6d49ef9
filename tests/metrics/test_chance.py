"""Chance, exactly: against all orders of a few candidates."""

import numpy as np
import pytest

from medmoe.metrics import (
    chance_at_k,
    chance_median_rank,
    chance_of_hit,
    chance_of_median_rank,
    hits_at_k,
    relevant_counts,
)


def test_the_median_rank_of_chance_is_half_of_the_candidates() -> None:
    assert chance_median_rank(np.eye(100, dtype=bool)) == 50
    assert chance_median_rank(np.zeros((2, 4), dtype=bool)) == 5


def test_recall_of_random_embeddings_lies_at_chance() -> None:
    rng = np.random.default_rng(1)
    relevant = rng.random((2000, 30)) < 0.1
    found = hits_at_k(rng.normal(size=relevant.shape), relevant, 5).mean()
    assert found == pytest.approx(chance_at_k(relevant, 5), abs=0.03)


def test_chance_needs_only_how_many_candidates_are_relevant() -> None:
    rng = np.random.default_rng(25)
    queries, candidates = rng.integers(0, 9, 40), rng.integers(0, 9, 30)
    relevant = queries[:, None] == candidates
    counts = relevant_counts(queries, candidates)
    assert counts.tolist() == relevant.sum(axis=1).tolist()
    assert chance_of_hit(counts, 30, 5) == chance_at_k(relevant, 5)
    assert chance_of_median_rank(counts, 30) == chance_median_rank(relevant)
