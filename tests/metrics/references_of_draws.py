"""The same as `references.py`, for ranks, resamples, tests and subgroups."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from references import Family, against, changed, draws_of, nothing, some
from scipy import stats

# Ranks.


def ranked(rng: np.random.Generator) -> list[tuple[Any, ...]]:
    """Give embeddings of queries and candidates whose similarities are whole and often tie, and their ids."""
    queries, candidates = rng.integers(-2, 3, (20, 3)), rng.integers(-2, 3, (30, 3))
    ids = rng.integers(0, 12, 20), rng.integers(0, 12, 30)
    return [(queries.astype(np.float32), candidates.astype(np.float32), *ids)]


def _with_nan(rng: np.random.Generator, q: Any, c: Any, qi: Any, ci: Any) -> tuple[Any, ...]:
    return some(rng, q).astype(np.float32), some(rng, c).astype(np.float32), qi, ci


RANKED = Family(
    "Ranks",
    ranked,
    {
        "no relevant candidate": changed(ranked, lambda rng, q, c, qi, ci: (q, c, qi, ci + 100)),
        "only relevant candidates": changed(ranked, lambda rng, q, c, qi, ci: (q, c, 0 * qi, 0 * ci)),
        "all tied": changed(ranked, lambda rng, q, c, qi, ci: (0 * q + 1, 0 * c + 1, qi, ci)),
        "NaN embeddings": changed(ranked, _with_nan),
        "no query": changed(ranked, lambda rng, q, c, qi, ci: (q[:0], c, qi[:0], ci)),
    },
)


def similar(queries: np.ndarray, candidates: np.ndarray, query_ids: Any, candidate_ids: Any) -> tuple[Any, Any]:
    """Give similarities [Q, C] and which candidates are relevant."""
    return queries.astype(float) @ candidates.astype(float).T, query_ids[:, None] == candidate_ids


def orders(similarity: np.ndarray, relevant: np.ndarray) -> list[list[int | None]]:
    """Sort each query's candidates, irrelevant ones first among ties and NaN last; a relevant NaN is not found."""
    found = []
    for row, right in zip(similarity.tolist(), relevant.tolist(), strict=True):
        undefined = [value != value for value in row]
        order = sorted(range(len(row)), key=lambda c: (math.inf if undefined[c] else -row[c], right[c], undefined[c]))
        found.append([c if right[c] and not undefined[c] else None for c in order])
    return found


def slow_rank(*given: Any) -> np.ndarray:
    """Give the place of the first relevant candidate, or one behind all."""
    return np.array(
        [next((p for p, c in enumerate(o, 1) if c is not None), len(o) + 1) for o in orders(*similar(*given))]
    )


def slow_hits(*given: Any) -> np.ndarray:
    """Tell whether one of the first five is relevant."""
    return np.array([any(c is not None for c in order[:5]) for order in orders(*similar(*given))], dtype=float)


def slow_precision(*given: Any) -> np.ndarray:
    """Average the precision over the relevant candidates, those never found counting 0."""
    similarity, relevant = similar(*given)
    every = []
    for order, right in zip(orders(similarity, relevant), relevant, strict=True):
        places = [place for place, c in enumerate(order, 1) if c is not None]
        every.append(sum(n / place for n, place in enumerate(places, 1)) / max(right.sum(), 1))
    return np.array(every)


def counted(rng: np.random.Generator) -> list[tuple[Any, ...]]:
    """Give how many of a few candidates are relevant to each query, how many there are, and k."""
    return [(rng.integers(0, c + 1, 4), c, int(rng.integers(1, c + 2))) for c in (1, 4, 5)]


CHANCE = Family(
    "Ranks by chance",
    counted,
    {
        "no relevant candidate": changed(counted, lambda rng, r, c, k: (0 * r, c, k)),
        "only relevant candidates": changed(counted, lambda rng, r, c, k: (0 * r + c, c, k)),
        "no query": changed(counted, lambda rng, r, c, k: (r[:0], c, k)),
    },
)


def of_all_orders(figure: Callable[[np.ndarray, int], float]) -> Callable[..., float]:
    """Average a figure of one order over all orders and queries."""

    def reference(counts: np.ndarray, candidates: int, k: int) -> float:
        every = [
            figure(np.array(order) < right, k)
            for right in counts
            for order in itertools.permutations(range(candidates))
        ]
        return float(np.mean(every))

    return reference


def precision_of_order(right: np.ndarray, k: int) -> float:
    """Give the average precision of one order."""
    places = np.flatnonzero(right) + 1
    return float(np.mean(np.arange(1, len(places) + 1) / places)) if len(places) else 0.0


def slow_chance_rank(counts: np.ndarray, candidates: int, k: int) -> float:
    """Give the smallest rank that half of all orders reach."""
    share = of_all_orders(lambda right, at: float(right[:at].any()))
    reached = [at for at in range(1, candidates + 1) if share(counts, candidates, at) >= 0.5 - 1e-12]
    return reached[0] if reached else candidates + 1


def listed(rng: np.random.Generator) -> list[tuple[Any, ...]]:
    """Give values with and without ties, and weights."""
    return [(values, draws_of(rng, 25)) for values in (rng.normal(size=25), rng.integers(1, 9, 25).astype(float))]


MEDIAN = Family(
    "Medians",
    listed,
    {
        "all tied": changed(listed, lambda rng, v, w: (0 * v + 7, w)),
        "NaN values": changed(listed, lambda rng, v, w: (some(rng, v), w)),
        "no item, no weight": nothing(listed),
    },
)


def slow_median(values: np.ndarray) -> float:
    """Give numpy's median with NaN above all values."""
    found = float(np.median(np.where(np.isnan(values), np.inf, values)))
    return found if math.isfinite(found) else math.nan


# Resampling.

PATIENTS = [f"p{i}" for i in range(8) for _ in range(3)]
RESAMPLES = 200


def grouped(rng: np.random.Generator) -> list[tuple[Any, ...]]:
    """Give values of eight patients' three images each."""
    return [(rng.exponential(size=24), PATIENTS)]


RESAMPLED = Family(
    "Intervals",
    grouped,
    {
        "one patient": changed(grouped, lambda rng, v, p: (v, ["a"] * 24)),
        "all equal": changed(grouped, lambda rng, v, p: (0 * v + 2, p)),
        "NaN value": changed(grouped, lambda rng, v, p: (np.r_[np.nan, v[1:]], p)),
        "no item": changed(grouped, lambda rng, v, p: (v[:0], [])),
    },
)


def drawn(counts: np.ndarray, codes: np.ndarray) -> list[np.ndarray]:
    """Give the items of each resample, a patient's images as often as the patient was drawn."""
    return [np.repeat(np.arange(len(codes)), row[codes]) for row in counts]


def quantiles(draws: np.ndarray) -> np.ndarray:
    """Give the middle 95 % of what is defined."""
    return np.nanpercentile(draws, [2.5, 97.5])


def two_models(rng: np.random.Generator) -> list[tuple[Any, ...]]:
    """Give two models' values of eight patients' three images each."""
    first, second = rng.normal(size=(2, 24)).round(2)
    return [(first, second + 0.2, PATIENTS)]


PAIRED = Family(
    "Two models, item by item",
    two_models,
    {
        "no difference": changed(two_models, lambda rng, a, b, p: (a, a, p)),
        "one patient": changed(two_models, lambda rng, a, b, p: (a, b, ["a"] * 24)),
        "NaN value": changed(two_models, lambda rng, a, b, p: (np.r_[np.nan, a[1:]], b, p)),
    },
)


def judged(value: float, draws: np.ndarray) -> list[float]:
    """Give a difference, its interval and p: twice the share of draws on the rarer side of 0, one added to each."""
    rarer = min(sum(draw <= 0 for draw in draws), sum(draw >= 0 for draw in draws))
    return [value, *quantiles(draws), min(1, 2 * (rarer + 1) / (len(draws) + 1))]


def slow_sign_flip(first: np.ndarray, second: np.ndarray, patients: list[str]) -> float:
    """Exchange the models for whole patients in all ways with scipy, items that are undefined left out."""
    less = np.nan_to_num(first - second)
    sums = np.array([sum(less[i] for i in range(24) if patients[i] == p) for p in dict.fromkeys(patients)])
    return float(
        stats.permutation_test(
            (sums, 0 * sums), lambda a, b: np.sum(a - b), permutation_type="samples", n_resamples=np.inf
        ).pvalue
    )


def sk_mcnemar(first: np.ndarray, second: np.ndarray, patients: list[str]) -> float:
    """Test with scipy the items that one model alone has right (here: above 0)."""
    one, other = int(((first > 0) & ~(second > 0)).sum()), int((~(first > 0) & (second > 0)).sum())
    return float(stats.binomtest(one, one + other).pvalue)


def two_scores(rng: np.random.Generator) -> list[tuple[Any, ...]]:
    """Give two models' scores of 30 images of ten patients, and whether each is positive."""
    truth = rng.random(30) < 0.5
    truth[:6] = [True, False, False, False, True, False]
    first, second = rng.normal(size=(2, 30)).round(1) + truth
    return [(first, second, truth, np.repeat(np.arange(10), 3).tolist()), (first, second, truth, None)]


DELONG = Family(
    "Two AUROCs",
    two_scores,
    {
        "one class": changed(two_scores, lambda rng, a, b, t, p: (a, b, t | True, p)),
        "no difference": changed(two_scores, lambda rng, a, b, t, p: (a, a, t, p)),
        "one patient": changed(two_scores, lambda rng, a, b, t, p: (a, b, t, ["a"] * 30)),
        "all tied": changed(two_scores, lambda rng, a, b, t, p: (0 * a, 0 * b, t, p)),
        "NaN scores": changed(two_scores, lambda rng, a, b, t, p: (some(rng, a), b, t, p)),
        "no item": changed(two_scores, lambda rng, a, b, t, p: (a[:0], b[:0], t[:0], [])),
    },
)


def slow_delong(first: np.ndarray, second: np.ndarray, truth: np.ndarray, patients: list[int] | None) -> list[float]:
    """Work DeLong's covariance of two AUROCs (Obuchowski's, with patients) through in loops."""
    owners = list(range(len(truth))) if patients is None else patients
    components = []
    for scores in (against(first, truth), against(second, truth)):
        pairs = [[(a > b) + (a == b) / 2 for b in scores[~truth]] for a in scores[truth]]
        components.append((np.mean(pairs, axis=1), np.mean(pairs, axis=0)))
    less = [components[0][side] - components[1][side] for side in (0, 1)]
    value = float(less[0].mean())
    sides = [np.flatnonzero(truth), np.flatnonzero(~truth)]
    names = dict.fromkeys(owners)
    sums = np.zeros((2, len(names)))
    for side in (0, 1):
        for place, name in enumerate(names):
            own = [less[side][k] - value for k, item in enumerate(sides[side]) if owners[item] == name]
            sums[side, place] = sum(own)
    variance = 2 * len(names) / (len(names) - 1) * float(sums[0] @ sums[1]) / (len(sides[0]) * len(sides[1]))
    for side in (0, 1):
        count = len({owners[item] for item in sides[side]})
        variance += count / (count - 1) * float(sums[side] @ sums[side]) / len(sides[side]) ** 2
    error = math.sqrt(variance)
    return [value, *stats.norm.interval(0.95, value, error), 2 * stats.norm.sf(abs(value) / error)]


def p_values(rng: np.random.Generator) -> list[tuple[Any, ...]]:
    """Give p values, some of them equal."""
    return [((rng.random(6) ** 3).round(2),)]


HOLM = Family(
    "Several p values",
    p_values,
    {
        "one p": changed(p_values, lambda rng, p: (p[:1],)),
        "all equal": changed(p_values, lambda rng, p: (0 * p + 0.02,)),
        "NaN p": changed(p_values, lambda rng, p: (np.r_[np.nan, p[1:]],)),
        "no p": changed(p_values, lambda rng, p: (p[:0],)),
    },
)


def slow_holm(p: np.ndarray) -> np.ndarray:
    """Give for each p the lowest level at which Holm's step-down procedure rejects it; NaN isn't counted."""
    defined = [one for one in p if not math.isnan(one)]
    levels = sorted({min(1.0, one * times) for one in defined for times in range(1, len(defined) + 1)} | {1.0})

    def rejects(level: float, wanted: float) -> bool:
        for order, one in enumerate(sorted(defined)):
            if one * (len(defined) - order) > level + 1e-15:
                return False
            if one == wanted:
                return True
        return False

    lowest = [next((level for level in levels if rejects(level, one)), 1.0) for one in p]
    return np.where(np.isnan(p), np.nan, lowest)


def over_seeds(rng: np.random.Generator) -> list[tuple[Any, ...]]:
    """Give differences between two arms trained with the same five seeds."""
    return [(rng.normal(size=5) + 0.3,)]


SEEDS = Family(
    "Two arms, seed by seed",
    over_seeds,
    {
        "no difference in any seed": changed(over_seeds, lambda rng, d: (0 * d,)),
        "the same difference in all": lambda rng: [(np.full(5, 0.1),), (np.array([0.3, 0.1 + 0.2, 0.3]),)],
        "NaN difference": changed(over_seeds, lambda rng, d: (np.r_[np.nan, d[1:]],)),
        "one seed, none": lambda rng: [(rng.normal(size=1),), (np.empty(0),)],
    },
)


# Subgroups.


def subgroups(rng: np.random.Generator) -> list[tuple[Any, ...]]:
    """Give the subgroup of each of 60 images of 30 patients, scores, and whether each is positive."""
    column = np.repeat(np.array(["f", "m", "x"] * 10), 2).tolist()
    truth = np.arange(60) % 4 < 2
    return [(column, rng.normal(size=60).round(1) + truth, truth, np.repeat(np.arange(30), 2).tolist())]


def _without(rng: np.random.Generator, column: list[Any], *rest: Any) -> tuple[Any, ...]:
    blank = itertools.cycle([None, "", math.nan])
    return [next(blank) if own == "x" else own for own in column], *rest


SUBGROUPS = Family(
    "Subgroups",
    subgroups,
    {
        "a subgroup of one class": changed(subgroups, lambda rng, c, s, t, p: (c, s, t | (np.array(c) == "x"), p)),
        "all tied": changed(subgroups, lambda rng, c, s, t, p: (c, 0 * s, t, p)),
        "no value in the column": changed(subgroups, _without),
        "too few patients": changed(
            subgroups, lambda rng, c, s, t, p: (["x" if i < 8 else "fm"[i // 2 % 2] for i in range(60)], s, t, p)
        ),
        "no subgroup large enough": changed(subgroups, lambda rng, c, s, t, p: ([str(one) for one in p], s, t, p)),
    },
)


def slow_subgroups(column: list[Any], scores: np.ndarray, truth: np.ndarray, counts: np.ndarray, codes: Any) -> Any:
    """Give each large subgroup's AUROC, interval and items; the widest gap and its interval; what was left out."""
    names = sorted({one for one in column if isinstance(one, str) and one})
    members = {name: np.array([i for i, one in enumerate(column) if one == name]) for name in names}
    large = {name: own for name, own in members.items() if len({codes[i] for i in own}) >= 8}
    resampled = drawn(counts, codes)
    values, draws = {}, {}
    for name, own in large.items():
        values[name] = _auroc(scores[own], truth[own])
        rows = [items[np.isin(items, own)] for items in resampled]
        draws[name] = np.array([_auroc(scores[row], truth[row]) for row in rows])
    found = [x for name, own in large.items() for x in (values[name], *_ends(draws[name]), len(own))]
    defined = [name for name in large if not math.isnan(values[name])]
    if len(defined) > 1:
        high, low = max(defined, key=values.__getitem__), min(defined, key=values.__getitem__)
        found += [values[high] - values[low], *_ends(draws[high] - draws[low])]
    unknown = sum(not (isinstance(one, str) and one) for one in column)
    return [*found, sum(len(own) for name, own in members.items() if name not in large), unknown]


def _auroc(scores: np.ndarray, truth: np.ndarray) -> float:
    pairs = scores[truth][:, None] - scores[~truth]
    return float(np.mean((pairs > 0) + (pairs == 0) / 2)) if pairs.size else math.nan


def _ends(draws: np.ndarray) -> Any:
    return quantiles(draws) if not np.isnan(draws).all() else (math.nan, math.nan)
