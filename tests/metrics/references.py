"""What `test_references.py` is made of: inputs, random and degenerate, and slow references that are easy to believe."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from scipy import optimize, special, stats
from sklearn import metrics as sk

Maker = Callable[[np.random.Generator], list[tuple[Any, ...]]]
FAR = 1e9  # beyond every score


@dataclass(frozen=True)
class Family:
    """Figures that are given the same: how to make it at random, and every degenerate form of it."""

    title: str
    random: Maker
    degenerate: dict[str, Maker]


def repeated(reference: Callable[..., Any]) -> Callable[..., Any]:
    """Apply a reference that knows no weights to items repeated as often as each row of weights [R, n] says."""

    def each(*given: Any) -> np.ndarray:
        *arrays, weights = given
        rows = [np.repeat(np.arange(weights.shape[1]), row) for row in weights.astype(int)]
        return np.stack([np.asarray(reference(*(array[row] for array in arrays)), dtype=float) for row in rows])

    return each


def draws_of(rng: np.random.Generator, items: int) -> np.ndarray:
    """Give weights of five resamples: the first is the items themselves, some of the others leave some out."""
    weights = rng.integers(0, 4, (5, items)).astype(float)
    weights[0] = 1
    weights[:, :3] = 1  # so that every class is drawn
    return weights


# Scores of a finding.


def scored(rng: np.random.Generator) -> list[tuple[Any, ...]]:
    """Give scores with and without ties, whether each item is positive, and weights."""
    truth = rng.random(40) < 0.4
    truth[:2] = True, False
    kinds = rng.normal(size=40), rng.integers(0, 9, 40).astype(float)
    return [(scores, truth, draws_of(rng, 40)) for scores in kinds]


def changed(make: Maker, change: Callable[..., tuple[Any, ...]]) -> Maker:
    """Change what a maker makes."""
    return lambda rng: [change(rng, *given) for given in make(rng)]


def some(rng: np.random.Generator, values: np.ndarray) -> np.ndarray:
    """Make about a third of the values NaN, the first among them."""
    return np.where(
        (rng.random(values.shape) < 0.3) | (np.arange(values.size).reshape(values.shape) == 0), np.nan, values
    )


def nothing(make: Maker) -> Maker:
    """Leave no item, or no weight."""

    def both(rng: np.random.Generator) -> list[tuple[Any, ...]]:
        *arrays, weights = make(rng)[0]
        return [(*(array[:0] for array in arrays), weights[:, :0]), (*arrays, np.zeros_like(weights))]

    return both


SCORED = Family(
    "Scores of a finding",
    scored,
    {
        "no positive": changed(scored, lambda rng, s, t, w: (s, np.zeros_like(t), w)),
        "no negative": changed(scored, lambda rng, s, t, w: (s, np.ones_like(t), w)),
        "all tied": changed(scored, lambda rng, s, t, w: (np.full_like(s, 3.0), t, w)),
        "NaN scores": changed(scored, lambda rng, s, t, w: (some(rng, s), t, w)),
        "no item, no weight": nothing(scored),
    },
)


def against(scores: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Put NaN where it hurts: a positive's below all scores, a negative's above."""
    return np.where(np.isnan(scores), np.where(truth, -FAR, FAR), scores)


def slow_rates(scores: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give scikit-learn's false and true positive rates of all thresholds."""
    wrong, found, _ = sk.roc_curve(truth, against(scores, truth), drop_intermediate=False)
    return wrong, found


def at_three(scores: np.ndarray, truth: np.ndarray) -> list[float]:
    """Give F1, sensitivity, specificity and both predictive values at the threshold 3."""
    called = against(scores, truth) >= 3
    how = {"zero_division": np.nan}
    return [
        sk.f1_score(truth, called, **how),
        sk.recall_score(truth, called, **how),
        sk.recall_score(~truth, ~called, **how),
        sk.precision_score(truth, called, **how),
        sk.precision_score(~truth, ~called, **how),
    ]


def slow_threshold(scores: np.ndarray, truth: np.ndarray) -> float:
    """Try every score as a threshold and count."""
    placed = against(scores, truth)
    every = {
        one: 2 * (truth & (placed >= one)).sum() / (truth.sum() + (placed >= one).sum())
        for one in np.unique(scores[~np.isnan(scores)])
    }
    best = max(every.values())
    return max(one for one, value in every.items() if value >= best - 1e-12) if best > 0 else math.inf


def sk_roc(scores: np.ndarray, truth: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Give scikit-learn's ROC curve as [3, P]: x, y, thresholds."""
    placed = against(scores, truth)
    x, y, at = sk.roc_curve(truth, placed, sample_weight=weights[-1] + 1, drop_intermediate=False)
    return np.stack([x, y, _unbounded(at)])


def sk_pr(scores: np.ndarray, truth: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Give scikit-learn's precision-recall curve as [3, P]: recall, precision, thresholds."""
    placed = against(scores, truth)
    precision, recall, at = sk.precision_recall_curve(truth, placed, sample_weight=weights[-1] + 1)
    return np.stack([recall[::-1], precision[::-1], np.r_[np.inf, _unbounded(at)[::-1]]])


def _unbounded(thresholds: np.ndarray) -> np.ndarray:
    return np.select([thresholds == FAR, thresholds == -FAR], [np.inf, -np.inf], thresholds)


# Several findings at once.


def findings(rng: np.random.Generator) -> list[tuple[Any, ...]]:
    """Give scores and truth of three findings, and weights."""
    truth = rng.random((40, 3)) < 0.4
    truth[:2] = [[True], [False]]
    return [(rng.integers(0, 9, (40, 3)).astype(float), truth, draws_of(rng, 40))]


FINDINGS = Family(
    "Means over findings",
    findings,
    {
        "one finding of one class": changed(findings, lambda rng, s, t, w: (s, t & [True, True, False], w)),
        "every finding of one class": changed(findings, lambda rng, s, t, w: (s, t | [True, True, True], w)),
        "all tied": changed(findings, lambda rng, s, t, w: (np.zeros_like(s), t, w)),
        "NaN scores": changed(findings, lambda rng, s, t, w: (some(rng, s), t, w)),
        "no item, no weight": nothing(findings),
    },
)


def sk_macro(scores: np.ndarray, truth: np.ndarray) -> float:
    """Average scikit-learn's AUROC over the findings that have both classes."""
    both = [column for column in range(truth.shape[1]) if 0 < truth[:, column].sum() < len(truth)]
    return float(np.mean([sk.roc_auc_score(truth[:, c], against(scores[:, c], truth[:, c])) for c in both]))


# The class chosen.


def classes(rng: np.random.Generator) -> list[tuple[Any, ...]]:
    """Give scores of four classes with some ties, the class of each item (never the last one), and weights."""
    truth = rng.integers(0, 3, 40)
    truth[:3] = 0, 1, 2
    scores = rng.integers(0, 5, (40, 4)) + 2.0 * np.eye(4)[truth]
    return [(scores, truth, draws_of(rng, 40))]


CHOSEN = Family(
    "Classes chosen",
    classes,
    {
        "one class": changed(classes, lambda rng, s, t, w: (s, np.zeros_like(t), w)),
        "all tied": changed(classes, lambda rng, s, t, w: (np.zeros_like(s), t, w)),
        "NaN scores": changed(classes, lambda rng, s, t, w: (some(rng, s), t, w)),
        "no item, no weight": nothing(classes),
    },
)


def slow_choice(scores: np.ndarray) -> np.ndarray:
    """Choose the class that alone has the highest score, else none (-1)."""
    chosen = []
    for row in scores.tolist():
        best = [place for place, value in enumerate(row) if value == max(row)]
        chosen.append(best[0] if len(best) == 1 and not any(math.isnan(value) for value in row) else -1)
    return np.array(chosen, dtype=int)


def of_choice(figure: Callable[..., float], **how: Any) -> Callable[..., Any]:
    """Apply a figure of scikit-learn to the choices, over the classes that occur."""

    def reference(scores: np.ndarray, truth: np.ndarray) -> float:
        labels = {} if figure is sk.accuracy_score else {"labels": np.unique(truth)}
        return figure(truth, slow_choice(scores), **labels, **how)

    return repeated(reference)


# Probabilities.


def logits(rng: np.random.Generator) -> list[tuple[Any, ...]]:
    """Give logits of three classes that know something of the truth, the truth, and weights."""
    truth = rng.integers(0, 3, 60)
    truth[:3] = 0, 1, 2
    given = rng.normal(size=(60, 3)) + np.eye(3)[truth]
    return [(given, truth, draws_of(rng, 60)), (given.round(), truth, draws_of(rng, 60))]


_OF_LOGITS: dict[str, Callable[..., tuple[Any, ...]]] = {
    "one class": lambda rng, g, t, *w: (g, np.zeros_like(t), *w),
    "all tied": lambda rng, g, t, *w: (np.zeros_like(g), t, *w),
    "NaN logits": lambda rng, g, t, *w: (some(rng, g), t, *w),
}
CALIBRATION = Family(
    "Probabilities",
    logits,
    {name: changed(logits, change) for name, change in _OF_LOGITS.items()} | {"no item, no weight": nothing(logits)},
)


def unweighed(rng: np.random.Generator) -> list[tuple[Any, ...]]:
    """Give the same without weights."""
    return [given[:2] for given in logits(rng)]


ANSWERS = Family(
    "Answers, bins and temperature",
    unweighed,
    {name: changed(unweighed, change) for name, change in _OF_LOGITS.items()}
    | {"no item": changed(unweighed, lambda rng, g, t: (g[:0], t[:0]))},
)


def slow_confidences(given: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give each row's highest probability and whether it alone is the truth's."""
    probability = special.softmax(given, axis=1) if len(given) else given
    return probability.max(axis=1), slow_choice(probability) == truth


def slow_bins(confidence: np.ndarray, bins: int = 5) -> np.ndarray:
    """Give the bin of the middle of the places that an item's ties take, exactly; `bins` for NaN."""
    defined = confidence[~np.isnan(confidence)]
    found = []
    for value in confidence:
        middle = Fraction(int(2 * (defined < value).sum() + (defined == value).sum()), 2 * max(len(defined), 1))
        found.append(bins if math.isnan(value) else math.floor(bins * middle))
    return np.array(found, dtype=int)


def slow_ece(given: np.ndarray, truth: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Average over 1, 5 and 15 bins the gap of confidence and share right; NaN is full confidence in a wrong answer."""
    confidence, right = slow_confidences(given, truth)
    every = [slow_bins(confidence, bins) for bins in (1, 5, 15)]
    lost = np.isnan(confidence)
    confidence, right = np.where(lost, 1.0, confidence), right & ~lost

    def error(confidence: np.ndarray, right: np.ndarray, own: np.ndarray) -> float:
        return sum((own == b).mean() * abs(confidence[own == b].mean() - right[own == b].mean()) for b in set(own))

    return np.stack([repeated(error)(confidence, right, own, weights) for own in every], axis=-1)


def slow_reliability(given: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Give mean confidence, share right and items of each bin that has some: [3, B]."""
    confidence, right = slow_confidences(given, truth)
    own = slow_bins(confidence)
    bins = [own == b for b in range(5) if (own == b).any()]
    return np.array([[confidence[b].mean(), right[b].mean(), b.sum()] for b in bins]).reshape(-1, 3).T


def slow_brier(given: np.ndarray, truth: np.ndarray) -> float:
    """Add the squared errors of all classes; a NaN counts 2."""
    each = []
    for row, own in zip(special.softmax(given, axis=1), truth, strict=True):
        error = sum((value - (c == own)) ** 2 for c, value in enumerate(row))
        each.append(2.0 if math.isnan(error) else error)
    return float(np.mean(each))


def sk_brier(given: np.ndarray, truth: np.ndarray) -> float:
    """Give scikit-learn's Brier score of the first class as a finding; a NaN is 0 or 1, whichever is wrong."""
    probability, shown = special.expit(given[:, 0]), truth == 0
    return sk.brier_score_loss(shown, np.where(np.isnan(probability), ~shown, probability), pos_label=True)


def slow_temperature(given: np.ndarray, truth: np.ndarray) -> float:
    """Look with scipy for where the likelihood's slope along 1 / temperature is 0, between the allowed ends."""
    kept = np.isfinite(given).all(axis=1)
    table, right = given[kept], given[kept, truth[kept]]

    def slope(scale: float) -> float:
        return float(np.mean((special.softmax(scale * table, axis=1) * table).sum(axis=1) - right))

    if slope(1e4) <= 0:
        return 1e-4
    if slope(1e-4) >= 0:
        return 1e4
    return 1 / optimize.root_scalar(slope, bracket=(1e-4, 1e4), xtol=1e-15, rtol=1e-14).root


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
        "the same difference in all": changed(over_seeds, lambda rng, d: (0 * d + 0.1,)),
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
            subgroups, lambda rng, c, s, t, p: (["x" if i < 6 else "fm"[i // 2 % 2] for i in range(60)], s, t, p)
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
