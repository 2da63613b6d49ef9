"""What `test_references.py` is made of: inputs, random and degenerate, and slow references that are easy to believe."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from scipy import optimize, special
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
