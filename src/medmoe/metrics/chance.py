"""What a random order of the candidates would score, exactly."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medmoe.metrics.arrays import Bools, Floats, Ints


def chance_at_k(relevant: Bools, k: int) -> float:
    """Compute recall@k of a random order exactly: the mean over queries of 1 - C(C - r, k) / C(C, k).

    Args:
        relevant: [Q, C] bool; r of a query is its number of relevant candidates.
        k: How many candidates count.

    Returns:
        From 0 to 1; NaN without a query, as all figures of chance.
    """
    return chance_of_hit(relevant.sum(axis=1), relevant.shape[1], k)


def chance_median_rank(relevant: Bools) -> float:
    """Give the smallest rank that a random order's first relevant candidate reaches half of the time.

    Args:
        relevant: [Q, C] bool.
    """
    return chance_of_median_rank(relevant.sum(axis=1), relevant.shape[1])


def relevant_counts(query_ids: ArrayLike, candidate_ids: ArrayLike) -> Ints:
    """Count for each query the candidates of its id, which are its relevant ones: [Q]."""
    ordered = np.sort(np.asarray(candidate_ids))
    queries = np.asarray(query_ids)
    return (np.searchsorted(ordered, queries, "right") - np.searchsorted(ordered, queries, "left")).astype(np.int64)


def chance_of_hit(counts: NDArray[Any], candidates: int, k: int) -> float:
    """Compute recall@k of a random order from how many candidates are relevant to each query.

    Args:
        counts: [Q] relevant candidates of each query.
        candidates: C.
        k: How many candidates count.
    """
    return float(_chances(counts, candidates, min(k, candidates))[-1]) if len(counts) else math.nan


def chance_of_median_rank(counts: NDArray[Any], candidates: int) -> float:
    """Compute `chance_median_rank` from how many candidates are relevant to each query."""
    if not len(counts):
        return math.nan
    reached = np.flatnonzero(_chances(counts, candidates, candidates) >= 0.5 - 1e-9)  # no rounding error decides
    return float(reached[0] + 1) if len(reached) else candidates + 1.0


def chance_of_average_precision(counts: NDArray[Any], candidates: int) -> float:
    """Compute the mean average precision of a random order exactly; a query without a relevant candidate scores 0.

    One of r relevant candidates stands at place i with probability 1 / C for each i, and each place before it then
    holds another relevant one with probability (r - 1) / (C - 1): the precision there is 1 / i plus that share of
    the i - 1 places before, over i.

    Args:
        counts: [Q] relevant candidates of each query.
        candidates: C.
    """
    if not len(counts):
        return math.nan
    harmonic = float(np.sum(1.0 / np.arange(1, candidates + 1)))
    others = (np.asarray(counts) - 1.0) / max(candidates - 1, 1)
    each = (harmonic + others * (candidates - harmonic)) / candidates
    return float(np.mean(np.where(np.asarray(counts) > 0, each, 0.0)))


def _chances(counts: NDArray[Any], candidates: int, k: int) -> Floats:
    """Give the chance of a hit at 1, 2, … k: [k]."""
    distinct, queries = np.unique(counts, return_counts=True)
    drawn = np.arange(k)
    missing = np.clip(candidates - distinct[:, None] - drawn, 0, None) / (candidates - drawn)
    misses = np.cumprod(missing, axis=1)  # [distinct r, k]
    result: Floats = queries @ (1.0 - misses) / queries.sum()
    return result
