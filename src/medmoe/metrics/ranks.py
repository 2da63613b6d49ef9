"""Ranks of the relevant candidates among all, a tie or a NaN against the model, never for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medmoe.metrics.arrays import BLOCK, Bools, Floats, Ints, weighed

# A query with more relevant candidates than this has its row sorted once instead of read once for each.
_FEW = 16


class Ranking(NamedTuple):
    """How well each query's relevant candidates are placed.

    Attributes:
        best_rank: [Q] as `best_rank` gives it, from 1 to C + 1.
        average_precision: [Q] as `query_average_precision` gives it, from 0 to 1.
    """

    best_rank: Floats
    average_precision: Floats


def best_rank(similarity: NDArray[Any], relevant: Bools) -> Floats:
    """Rank each query's best relevant candidate, ties and NaN against it.

    The rank is 1 + the number of irrelevant candidates at least as similar as the best relevant one. A query
    whose relevant candidates are all NaN, or that has none, gets C + 1.

    Args:
        similarity: [Q, C] higher is more similar.
        relevant: [Q, C] bool.

    Returns:
        [Q] ranks from 1 to C + 1.
    """
    undefined = np.isnan(similarity)
    values = np.where(undefined, -np.inf, similarity)
    best = np.max(values, axis=1, where=relevant, initial=-np.inf)
    rank = 1.0 + np.count_nonzero((values >= best[:, None]) & ~relevant, axis=1)
    found = np.any(relevant & ~undefined, axis=1)
    result: Floats = np.where(found, rank, similarity.shape[1] + 1.0)
    return result


def query_average_precision(similarity: NDArray[Any], relevant: Bools) -> Floats:
    """Average, over each query's relevant candidates, the share of relevant ones down to where it stands.

    Irrelevant candidates tied with a relevant one stand before it; a relevant candidate that is NaN is never found
    and adds 0; a query without a relevant candidate scores 0. The mean over queries is mAP.

    Args:
        similarity: [Q, C] higher is more similar.
        relevant: [Q, C] bool.

    Returns:
        [Q] from 0 to 1.
    """
    rows = zip(similarity, relevant, strict=True)
    return np.array([_place(row, np.flatnonzero(own))[1] for row, own in rows], dtype=np.float64)


def rank_embeddings(
    queries: NDArray[np.float32], candidates: NDArray[np.float32], query_ids: ArrayLike, candidate_ids: ArrayLike
) -> Ranking:
    """Rank candidates by inner product without ever holding all Q × C similarities.

    Candidates with the same embedding get the same similarity to the last bit, which a matrix product alone does not
    promise, so that a tie stays one.

    Args:
        queries: [Q, E] embeddings, of unit length for cosines.
        candidates: [C, E].
        query_ids: [Q] a candidate is relevant to a query of the same id, as two reports of the same text have.
        candidate_ids: [C].
    """
    first: dict[bytes, int] = {}
    origin = np.array([first.setdefault(row.tobytes(), place) for place, row in enumerate(candidates)], dtype=np.int64)
    copies = np.flatnonzero(origin != np.arange(len(candidates)))
    columns = np.ascontiguousarray(candidates).T

    def similarity(start: int, stop: int) -> NDArray[Any]:
        with np.errstate(invalid="ignore", over="ignore"):  # what comes out NaN is ranked last
            block = queries[start:stop] @ columns
        if len(copies):
            block[:, copies] = block[:, origin[copies]]
        return np.asarray(block)

    return rank_rows(similarity, query_ids, candidate_ids)


def rank_rows(
    similarity: Callable[[int, int], NDArray[Any]],
    query_ids: ArrayLike,
    candidate_ids: ArrayLike,
    *,
    block: int = 8 * BLOCK,
) -> Ranking:
    """Rank candidates by any similarity, given some rows at a time.

    Args:
        similarity: Maps (start, stop) to the similarities [stop - start, C] of these queries to all candidates.
        query_ids: [Q] a candidate is relevant to a query of the same id.
        candidate_ids: [C].
        block: How many similarities to ask for at a time, roughly (by itself 16 million: 64 MB of float32).
    """
    queries, candidates = np.asarray(query_ids), np.asarray(candidate_ids)
    order = np.argsort(candidates, kind="stable")
    starts = np.searchsorted(candidates[order], queries, "left")
    stops = np.searchsorted(candidates[order], queries, "right")
    places = np.empty((len(queries), 2))
    rows = max(1, block // max(1, len(candidates)))
    for start in range(0, len(queries), rows):
        for query, row in enumerate(similarity(start, min(start + rows, len(queries))), start=start):
            places[query] = _place(row, order[starts[query] : stops[query]])
    return Ranking(places[:, 0], places[:, 1])


def _place(row: NDArray[Any], relevant: Ints) -> tuple[float, float]:
    """Give the best rank and the average precision of one query from its similarities [C]."""
    own = row[relevant]
    found = np.sort(own[~np.isnan(own)])[::-1]
    if not len(found):
        return len(row) + 1.0, 0.0
    if np.isneginf(found[-1]):  # only there does it matter that NaN counts as the lowest
        row = np.where(np.isnan(row), -np.inf, row)
        own = row[relevant]
    if len(found) <= _FEW:
        reached = np.array([np.count_nonzero(row >= value) for value in found])
    else:
        ordered = np.sort(row)  # NaN last
        reached = len(row) - np.count_nonzero(np.isnan(row)) - np.searchsorted(ordered, found, "left")
    related = np.sort(own)
    related = related[~np.isnan(related)]
    ahead = reached - (len(related) - np.searchsorted(related, found, "left"))  # irrelevant, before it or tied
    place = np.arange(1, len(found) + 1)
    return 1.0 + float(ahead[0]), float(np.sum(place / (place + ahead))) / len(relevant)


def hits_at_k(similarity: NDArray[Any], relevant: Bools, k: int) -> Floats:
    """Tell for each query whether a relevant candidate is among its first k, ties and NaN against it.

    Args:
        similarity: [Q, C].
        relevant: [Q, C] bool.
        k: How many candidates count.

    Returns:
        [Q] 1.0 for a hit, 0.0 for a miss; its mean is recall@k.
    """
    return hits(best_rank(similarity, relevant), k, candidates=similarity.shape[1])


def hits(ranks: Floats, k: int, *, candidates: int) -> Floats:
    """Turn ranks from `best_rank` into hits at k: [Q] of 0.0 and 1.0."""
    return (ranks <= min(k, candidates)).astype(np.float64)


def weighted_median(values: Floats, weights: Floats | None = None) -> Floats:
    """Compute the median of items that count several times, as if each were repeated `weights` times.

    Args:
        values: [n].
        weights: [n] or [R, n] whole, not negative.

    Returns:
        [] or [R]; NaN where nothing has weight. A NaN value counts as the highest: the median is NaN where it falls on
        one.
    """
    given = weighed(weights, len(values))
    if not len(values):
        return np.full(given.shape[:-1], np.nan)
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    reached = np.cumsum(given[..., order], axis=-1)
    half = reached[..., -1:] / 2
    middle = (ordered[(reached >= half).argmax(axis=-1)] + ordered[(reached > half).argmax(axis=-1)]) / 2
    result: Floats = np.where(reached[..., -1] > 0, middle, np.nan)
    return result
