"""Ranks and average precisions against loops; blocked ones against dense ones; ties and NaN never help."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from medmoe.metrics import (
    best_rank,
    hits_at_k,
    query_average_precision,
    rank_embeddings,
    rank_rows,
)


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


def slow_average_precision(row: list[float], truth: list[bool]) -> float:
    """Walk down the order: highest first, irrelevant before relevant at a tie; NaN lowest, last of all if relevant."""
    undefined = [value != value for value in row]
    order = sorted(range(len(row)), key=lambda c: (np.inf if undefined[c] else -row[c], truth[c], undefined[c]))
    found, total = 0, 0.0
    for place, candidate in enumerate(order, start=1):
        if truth[candidate] and not undefined[candidate]:
            found += 1
            total += found / place
    return total / sum(truth) if any(truth) else 0.0


@pytest.mark.parametrize("share", [0.05, 0.4, 0.9])
@pytest.mark.parametrize("lowest", [0.0, -np.inf])
def test_average_precisions_match_a_walk_down_the_order(share: float, lowest: float) -> None:
    rng = np.random.default_rng(20)
    similarity = rng.integers(0, 6, (60, 45)).astype(float)
    similarity[similarity == 0] = lowest
    similarity[rng.random(similarity.shape) < 0.1] = np.nan
    relevant = rng.random(similarity.shape) < share
    expected = [slow_average_precision(*pair) for pair in zip(similarity.tolist(), relevant.tolist(), strict=True)]
    np.testing.assert_allclose(query_average_precision(similarity, relevant), expected, rtol=1e-12)


def test_average_precisions_match_scikit_learn_without_ties() -> None:
    rng = np.random.default_rng(21)
    similarity, relevant = rng.normal(size=(30, 50)), rng.random((30, 50)) < 0.3
    expected = [average_precision_score(truth, row) for row, truth in zip(similarity, relevant, strict=True)]
    np.testing.assert_allclose(query_average_precision(similarity, relevant), expected, rtol=1e-12)


def test_a_query_with_one_relevant_candidate_scores_one_over_its_rank() -> None:
    similarity = np.random.default_rng(22).integers(0, 9, (40, 40)).astype(float)
    pairs = np.eye(40, dtype=bool)
    np.testing.assert_allclose(query_average_precision(similarity, pairs), 1 / best_rank(similarity, pairs))


def test_constant_similarity_puts_every_relevant_candidate_last() -> None:
    found = query_average_precision(np.zeros((1, 10)), np.arange(10)[None] < 2)
    np.testing.assert_allclose(found, [(1 / 9 + 2 / 10) / 2])


@pytest.mark.parametrize("texts", [3, 12, 400])
def test_blocked_ranks_equal_dense_ones_with_ties_nan_and_texts_that_recur(texts: int) -> None:
    rng = np.random.default_rng(texts)
    queries, candidates = rng.integers(-2, 3, (70, 4)), rng.integers(-2, 3, (90, 4))
    queries, candidates = queries.astype(np.float32), candidates.astype(np.float32)
    queries[3], candidates[5], candidates[6, 1] = np.nan, np.nan, np.inf
    query_ids, candidate_ids = rng.integers(0, texts, 70), rng.integers(0, texts, 90)
    relevant = query_ids[:, None] == candidate_ids
    with np.errstate(invalid="ignore"):
        similarity = queries @ candidates.T
    dense = best_rank(similarity, relevant), query_average_precision(similarity, relevant)
    for block in (1, 90 * 7, 10**6):
        blocked = rank_rows(lambda start, stop: similarity[start:stop], query_ids, candidate_ids, block=block)
        np.testing.assert_array_equal(blocked.best_rank, dense[0])
        np.testing.assert_array_equal(blocked.average_precision, dense[1])
    embedded = rank_embeddings(queries, candidates, query_ids, candidate_ids)
    np.testing.assert_array_equal(embedded.best_rank, dense[0])
    np.testing.assert_array_equal(embedded.average_precision, dense[1])


def test_embeddings_of_unit_length_rank_as_their_cosines_do() -> None:
    rng = np.random.default_rng(23)
    queries, candidates = rng.normal(size=(2, 150, 24)).astype(np.float32)
    ids = rng.integers(0, 60, 150)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    candidates /= np.linalg.norm(candidates, axis=1, keepdims=True)
    found = rank_embeddings(queries, candidates, ids, ids)
    similarity = queries.astype(np.float64) @ candidates.T.astype(np.float64)
    relevant = ids[:, None] == ids
    np.testing.assert_array_equal(found.best_rank, best_rank(similarity, relevant))
    np.testing.assert_allclose(found.average_precision, query_average_precision(similarity, relevant), rtol=1e-12)


@pytest.mark.parametrize("size", [7, 33, 130])
def test_candidates_with_the_same_embedding_tie_whatever_the_matrix_product_rounds(size: int) -> None:
    rng = np.random.default_rng(24)
    queries = rng.normal(size=(size, 37)).astype(np.float32)
    candidates = np.repeat(rng.normal(size=(1, 37)).astype(np.float32), size, axis=0)
    found = rank_embeddings(queries, candidates, np.arange(size), np.arange(size))
    assert set(found.best_rank.tolist()) == {float(size)}


def test_queries_whose_text_no_candidate_has_rank_behind_all() -> None:
    one = np.ones((2, 3), dtype=np.float32)
    found = rank_embeddings(one, one, [7, 8], [1, 2])
    assert found.best_rank.tolist() == [3, 3]
    assert found.average_precision.tolist() == [0, 0]
