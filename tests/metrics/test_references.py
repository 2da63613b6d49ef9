"""Every public figure beside an independent reference, to 1e-9, on random and on degenerate input.

A row holds a figure of ours, its reference, and for each degenerate input of its family either the value itself or, in
words, what the reference gives there. `docs/metrics.md` shows the rows; to write its tables anew:
`python tests/metrics/test_references.py`.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import references as given
import references_of_draws as drawn
import references_of_tasks as of_tasks
from references import Family, repeated
from scipy import special, stats
from sklearn import metrics as sk

import medmoe.metrics as m
from medmoe.ablation import compare
from medmoe.metrics import Resampler
from medmoe.metrics.arrays import ratio
from medmoe.tasks import gate, heatmaps, outcomes, routing

DOCS = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"
TABLES = re.compile(r"(?<=<!-- figures -->\n).*?(?=<!-- /figures -->)", re.S)
SEEDS = range(4)


class Is(NamedTuple):
    """A value that a figure has, in words and as it is: a number, an array, or a function of the input."""

    words: str
    value: Any


class Refused(NamedTuple):
    """An input that is refused, in words and with the message."""

    words: str
    message: str


UNDEFINED = Is("undefined", math.nan)
AGAINST = "counts against the model"
DIVIDED = "undefined where its divisor is 0"
NO_POINT = Is("no point", np.empty(0))


@dataclass(frozen=True)
class Row:
    """A figure beside its reference.

    Attributes:
        family: What it is given.
        shown: How the documentation calls it.
        of: Public names that the row covers.
        against: The reference in words.
        ours: The figure.
        reference: The reference; given the same.
        cells: For each degenerate input of the family, a value, or in words what the reference gives.
    """

    family: Family
    shown: str
    of: tuple[Callable[..., Any], ...]
    against: str
    ours: Callable[..., Any]
    reference: Callable[..., Any]
    cells: tuple[Is | Refused | str | float, ...]


def of_scores(figure: Callable[..., Any], **how: Any) -> Callable[..., Any]:
    """Give (scores, truth, weights) → [R], and make sure that no weights are weights of one."""

    def ours(scores: Any, truth: Any, weights: Any) -> Any:
        found = figure(scores, truth, weights=weights, **how)
        if (weights[0] == 1).all():  # as where there is no item
            close(figure(scores, truth, **how), np.asarray(found)[0])
        return found

    return ours


def of_classes(figure: Callable[..., Any]) -> Callable[..., Any]:
    return of_scores(lambda scores, truth, weights=None: figure(truth, m.decide(scores), weights))


def _macro(scores: Any, truth: Any, weights: Any = None) -> Any:
    return m.macro(m.auroc, scores, truth, weights)


def _cells(scores: Any, truth: Any, weights: Any) -> Any:
    found = m.at_threshold(scores, truth, 3.0, weights)
    figures = [found.f1, found.sensitivity, found.specificity, found.precision, found.negative_precision]
    close(m.f1(scores, truth, 3.0, weights), figures[0])
    return np.stack(figures, axis=-1)


def curve(make: Callable[..., m.Curve]) -> Callable[..., Any]:
    def ours(scores: Any, truth: Any, weights: Any) -> Any:
        found = make(scores, truth, weights[-1] + (weights[-1].sum() > 0))
        return np.stack([found.x, found.y, found.thresholds]) if len(found.x) else np.empty(0)

    return ours


SCORES = [
    Row(given.SCORED, "AUROC", (m.auroc,), "scikit-learn `roc_auc_score`", of_scores(m.auroc),
        repeated(lambda s, t: sk.roc_auc_score(t, given.against(s, t))),
        (UNDEFINED, UNDEFINED, 0.5, AGAINST, UNDEFINED)),
    Row(given.SCORED, "average precision", (m.average_precision,), "scikit-learn `average_precision_score`",
        of_scores(m.average_precision), repeated(lambda s, t: sk.average_precision_score(t, given.against(s, t))),
        (UNDEFINED, 1, "the share of positives", AGAINST, UNDEFINED)),
    Row(given.SCORED, "sensitivity at 90 % specificity", (m.sensitivity_at_specificity,),
        "search of scikit-learn’s `roc_curve`", of_scores(m.sensitivity_at_specificity),
        repeated(lambda s, t: max(y for x, y in zip(*given.slow_rates(s, t), strict=True) if x <= 0.1 + 1e-12)),
        (UNDEFINED, UNDEFINED, 0, AGAINST, UNDEFINED)),
    Row(given.SCORED, "FPR@95", (m.fpr_at_tpr,), "search of scikit-learn’s `roc_curve`", of_scores(m.fpr_at_tpr),
        repeated(lambda s, t: min(x for x, y in zip(*given.slow_rates(s, t), strict=True) if y >= 0.95 - 1e-12)),
        (UNDEFINED, UNDEFINED, 1, AGAINST, UNDEFINED)),
    Row(given.SCORED, "F1, sensitivity, specificity, predictive values", (m.at_threshold, m.f1),
        "scikit-learn `f1_score`, `recall_score`, `precision_score`", _cells, repeated(given.at_three),
        (DIVIDED, DIVIDED, "all called alike", AGAINST, UNDEFINED)),
    Row(given.SCORED, "threshold of the best F1", (m.best_threshold,), "every score as a threshold",
        lambda s, t, w: [m.best_threshold(s, t, row) for row in w], repeated(given.slow_threshold),
        (Is("infinite: nothing is called positive", math.inf), "the lowest score", "their score", AGAINST,
         Is("infinite", math.inf))),
    Row(given.SCORED, "ROC curve", (m.roc_curve,), "scikit-learn `roc_curve`", curve(m.roc_curve), given.sk_roc,
        (NO_POINT, NO_POINT, "two points", AGAINST, NO_POINT)),
    Row(given.SCORED, "precision-recall curve", (m.pr_curve,), "scikit-learn `precision_recall_curve`",
        curve(m.pr_curve), given.sk_pr, (NO_POINT, "precision 1", "two points", AGAINST, NO_POINT)),
    Row(given.FINDINGS, "mean AUROC", (m.macro,), "mean of scikit-learn’s `roc_auc_score`", of_scores(_macro),
        repeated(given.sk_macro), ("left out", UNDEFINED, 0.5, AGAINST, UNDEFINED)),
]  # fmt: skip

CLASSES = [
    Row(given.CHOSEN, "accuracy", (m.accuracy,), "scikit-learn `accuracy_score`", of_classes(m.accuracy),
        given.of_choice(sk.accuracy_score), ("the share right", 0, "wrong", UNDEFINED)),
    Row(given.CHOSEN, "balanced accuracy", (m.balanced_accuracy,), "scikit-learn `recall_score`, classes that occur",
        of_classes(m.balanced_accuracy), given.of_choice(sk.recall_score, average="macro"),
        ("the recall of this class", 0, "wrong", UNDEFINED)),
    Row(given.CHOSEN, "macro F1", (m.macro_f1,), "scikit-learn `f1_score`, classes that occur", of_classes(m.macro_f1),
        given.of_choice(sk.f1_score, average="macro", zero_division=0),
        ("the F1 of this class", 0, "wrong", UNDEFINED)),
]  # fmt: skip


def _brier(logits: Any, truth: Any, weights: Any = None) -> Any:
    return m.brier(m.softmax(logits), truth, weights)


def _brier_of_finding(logits: Any, truth: Any, weights: Any = None) -> Any:
    return m.brier(special.expit(logits[:, 0]), truth == 0, weights)


def _ece(logits: Any, truth: Any, weights: Any = None) -> Any:
    confidence, right = m.confidences(m.softmax(logits), truth)
    return np.stack([m.ece(confidence, right, weights, bins=bins) for bins in (1, 5, 15)], axis=-1)


def _log_loss_of_finding(logits: Any, truth: Any, weights: Any = None) -> Any:
    return m.log_loss(logits[:, 0], truth == 0, 1.7, weights)


def _reliability(logits: Any, truth: Any) -> Any:
    found = m.reliability(*m.confidences(m.softmax(logits), truth), bins=5)
    return np.stack([found.confidence, found.right, found.n])


PROBABILITIES = [
    Row(given.CALIBRATION, "Brier score, several classes", (m.brier,), "loop over classes", of_scores(_brier),
        repeated(given.slow_brier), ("as any", "of even probabilities", "counts 2, the worst", UNDEFINED)),
    Row(given.CALIBRATION, "Brier score of a finding", (m.brier,), "scikit-learn `brier_score_loss`",
        of_scores(_brier_of_finding), repeated(given.sk_brier),
        ("as any", "of even probabilities", "counts 1, the worst", UNDEFINED)),
    Row(given.CALIBRATION, "log loss, several classes", (m.log_loss,), "scikit-learn `log_loss`",
        of_scores(m.log_loss, temperature=1.7),
        repeated(lambda g, t: sk.log_loss(t, special.softmax(g / 1.7, axis=1), labels=[0, 1, 2])),
        ("as any", "of even probabilities", UNDEFINED, UNDEFINED)),
    Row(given.CALIBRATION, "log loss of a finding", (m.log_loss,), "scikit-learn `log_loss`",
        of_scores(_log_loss_of_finding),
        repeated(lambda g, t: sk.log_loss(t == 0, special.expit(g[:, 0] / 1.7), labels=[False, True])),
        ("as any", "of even probabilities", UNDEFINED, UNDEFINED)),
    Row(given.CALIBRATION, "ECE", (m.ece,), "loop over bins", of_scores(_ece), given.slow_ece,
        ("as any", "one bin, nothing right", "counts 1, the worst", UNDEFINED)),
    Row(given.ANSWERS, "class chosen", (m.decide,), "loop", lambda g, t: m.decide(g), lambda g, t: given.slow_choice(g),
        ("as any", Is("none (−1)", -1), "none (−1)", Is("none", np.empty(0)))),
    Row(given.ANSWERS, "softmax", (m.softmax,), "scipy `softmax`", lambda g, t: m.softmax(g, 0.7),
        lambda g, t: special.softmax(g / 0.7, axis=1), ("as any", "even", "undefined", Is("none", np.empty((0, 3))))),
    Row(given.ANSWERS, "confidence, and whether it is right", (m.confidences,), "loop",
        lambda g, t: np.stack(m.confidences(m.softmax(g), t)), lambda g, t: np.stack(given.slow_confidences(g, t)),
        ("as any", "never right", "undefined, never right", Is("none", np.empty((2, 0))))),
    Row(given.ANSWERS, "bins of equal mass", (m.equal_mass_bins,), "exact fractions",
        lambda g, t: m.equal_mass_bins(m.softmax(g).max(axis=1), 5),
        lambda g, t: given.slow_bins(given.slow_confidences(g, t)[0]),
        ("as any", "one bin", "a bin of its own", Is("none", np.empty(0)))),
    Row(given.ANSWERS, "reliability plot", (m.reliability,), "loop over bins", _reliability, given.slow_reliability,
        ("as any", "one point", "left out", Is("no point", np.empty((3, 0))))),
    Row(given.ANSWERS, "temperature", (m.fit_temperature,), "scipy `root_scalar`", m.fit_temperature,
        given.slow_temperature,
        ("as any", Is("its lower end", 1e-4), "left out", Refused("refused", "no row to fit a temperature to"))),
]  # fmt: skip


def dense(figure: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *arrays: figure(*drawn.similar(*arrays))


def _rank_rows(queries: Any, candidates: Any, query_ids: Any, candidate_ids: Any) -> Any:
    similarity, _ = drawn.similar(queries, candidates, query_ids, candidate_ids)
    found = m.rank_rows(lambda start, stop: similarity[start:stop], query_ids, candidate_ids, block=7)
    return np.stack(found)


def _hits(similarity: Any, relevant: Any) -> Any:
    found = m.hits_at_k(similarity, relevant, 5)
    close(m.hits(m.best_rank(similarity, relevant), 5, candidates=similarity.shape[1]), found)
    return found


def both_ranks(*arrays: Any) -> Any:
    return np.stack([drawn.slow_rank(*arrays), drawn.slow_precision(*arrays)])


BEHIND = "behind all irrelevant ones tied with it"
RANKS = [
    Row(drawn.RANKED, "rank of the best relevant candidate", (m.best_rank,), "sorted list", dense(m.best_rank),
        drawn.slow_rank, ("candidates + 1", 1, BEHIND, AGAINST, Is("none", np.empty(0)))),
    Row(drawn.RANKED, "recall@k", (m.hits_at_k, m.hits), "sorted list", dense(_hits), drawn.slow_hits,
        (0, 1, BEHIND, AGAINST, Is("none", np.empty(0)))),
    Row(drawn.RANKED, "average precision of a query (mAP)", (m.query_average_precision,), "walk down the sorted list",
        dense(m.query_average_precision), drawn.slow_precision, (0, 1, BEHIND, AGAINST, Is("none", np.empty(0)))),
    Row(drawn.RANKED, "both, block by block", (m.rank_rows, m.rank_embeddings), "sorted list",
        lambda *a: np.stack([_rank_rows(*a), np.stack(m.rank_embeddings(*a))]),
        lambda *a: np.stack([both_ranks(*a)] * 2),
        ("as above", Is("1 and 1", 1), BEHIND, AGAINST, Is("none", np.empty((2, 2, 0))))),
    Row(drawn.RANKED, "relevant candidates of a query", (m.relevant_counts,), "table of all pairs",
        lambda q, c, qi, ci: m.relevant_counts(qi, ci), lambda *a: drawn.similar(*a)[1].sum(axis=1),
        (0, "all", "as any", "as any", Is("none", np.empty(0)))),
    Row(drawn.MEDIAN, "median rank", (m.weighted_median,), "numpy `median`", lambda v, w: m.weighted_median(v, w),
        repeated(drawn.slow_median),
        (Is("their value", 7), "above all values; undefined where it is the median", UNDEFINED)),
    Row(drawn.CHANCE, "recall@k by chance", (m.chance_at_k, m.chance_of_hit), "all orders",
        lambda r, c, k: [m.chance_at_k(np.arange(c) < r[:, None], k), m.chance_of_hit(r, c, k)],
        lambda r, c, k: [drawn.of_all_orders(lambda right, at: float(right[:at].any()))(r, c, k)] * 2,
        (0, 1, UNDEFINED)),
    Row(drawn.CHANCE, "median rank by chance", (m.chance_median_rank, m.chance_of_median_rank), "all orders",
        lambda r, c, k: [m.chance_median_rank(np.arange(c) < r[:, None]), m.chance_of_median_rank(r, c)],
        lambda r, c, k: [drawn.slow_chance_rank(r, c, k)] * 2, ("candidates + 1", 1, UNDEFINED)),
    Row(drawn.CHANCE, "mAP by chance", (m.chance_of_average_precision,), "all orders",
        lambda r, c, k: m.chance_of_average_precision(r, c), drawn.of_all_orders(drawn.precision_of_order),
        (0, 1, UNDEFINED)),
]  # fmt: skip


def resampler(patients: Any) -> Resampler:
    return Resampler(patients, resamples=drawn.RESAMPLES, seed=3)


def _codes(values: Any, patients: Any) -> list[int]:
    names = list(dict.fromkeys(patients))
    return [names.index(one) for one in patients]


def _draws(values: Any, patients: Any) -> Any:
    own = resampler(patients)
    found = own.means(values)
    close(own.draws(lambda w: w @ values / w.sum(axis=1)), found)
    return found


def slow_draws(values: Any, patients: Any) -> Any:
    own = resampler(patients)
    return np.array([values[rows].mean() for rows in drawn.drawn(own.counts, own.codes)])


def _left_out(values: Any, patients: Any) -> Any:
    own = resampler(patients)
    found = own.jackknife_means(values)
    close(own.jackknife(lambda w: ratio(w @ values, w.sum(axis=1))), found)
    return found


def slow_left_out(values: Any, patients: Any) -> Any:
    return [values[[one != other for other in patients]].mean() for one in dict.fromkeys(patients)]


def _bootstrap(values: Any, patients: Any, *, bca: bool = False) -> Any:
    found = m.bootstrap(values, patients, resamples=drawn.RESAMPLES, seed=3, bca=bca)
    own = resampler(patients)
    draws, mean = own.means(values), float(values.mean())
    close(found, m.bca_interval(draws, mean, own.jackknife_means(values)) if bca else m.interval(draws))
    return found


def scipy_bca(values: Any, patients: Any) -> Any:
    means = values.reshape(8, 3).mean(axis=1)  # of patients with as many images each
    draws = SimpleNamespace(bootstrap_distribution=slow_draws(values, patients))
    found = stats.bootstrap((means,), np.mean, n_resamples=0, bootstrap_result=draws, method="BCa")
    return list(found.confidence_interval)


THEIR_VALUE = Is("their value", 2)
NO_ITEM = Refused("refused", "nothing to resample")
THE_VALUE = Is("the value, without width", lambda values, patients: values.mean())
RESAMPLING = [
    Row(drawn.RESAMPLED, "clusters of patients", (m.cluster_codes,), "loop", lambda v, p: m.cluster_codes(p), _codes,
        (0, "as any", "as any", Is("none", np.empty(0)))),
    Row(drawn.RESAMPLED, "means of resamples", (Resampler,), "loop over resamples", _draws, slow_draws,
        ("all the same", THEIR_VALUE, UNDEFINED, NO_ITEM)),
    Row(drawn.RESAMPLED, "means without each patient", (Resampler,), "loop over patients", _left_out, slow_left_out,
        (UNDEFINED, THEIR_VALUE, UNDEFINED, NO_ITEM)),
    Row(drawn.RESAMPLED, "percentile interval", (m.bootstrap, m.interval), "numpy `percentile`", _bootstrap,
        lambda v, p: drawn.quantiles(slow_draws(v, p)), (THE_VALUE, THEIR_VALUE, UNDEFINED, NO_ITEM)),
    Row(drawn.RESAMPLED, "BCa interval", (m.bootstrap, m.bca_interval), "scipy `bootstrap`",
        lambda v, p: _bootstrap(v, p, bca=True), scipy_bca, (THE_VALUE, THEIR_VALUE, UNDEFINED, NO_ITEM)),
]  # fmt: skip


def plain(found: m.Difference) -> list[float]:
    return [found.value, found.low, found.high, found.p]


def _paired(first: Any, second: Any, patients: Any) -> Any:
    own = resampler(patients)
    found = plain(m.paired_means(first, second, own))
    each = [lambda w, v=values: w @ v / w.sum(axis=1) for values in (first, second)]
    close(plain(m.paired_difference(*each, own)), found)
    if own.clusters > 1:
        draws = own.means(first) - own.means(second)
        close(plain(m.difference_of_draws(found[0], draws, 24)), found)
    return found


def slow_paired(first: Any, second: Any, patients: Any) -> Any:
    draws = slow_draws(first, patients) - slow_draws(second, patients)
    return drawn.judged(float((first - second).mean()), draws)


NOT_TESTABLE = Is("value, no interval, no p", lambda a, b, p: [(a - b).mean(), *[math.nan] * 3])
TESTS = [
    Row(drawn.PAIRED, "difference of means, interval and p",
        (m.paired_means, m.paired_difference, m.difference_of_draws), "loop over resamples", _paired, slow_paired,
        (Is("0, from 0 to 0, p 1", [0, 0, 0, 1]), NOT_TESTABLE, UNDEFINED)),
    Row(drawn.PAIRED, "sign-flip test", (m.sign_flip,), "scipy `permutation_test`",
        lambda a, b, p: m.sign_flip(a - b, p), drawn.slow_sign_flip, (1, 1, "left out")),
    Row(drawn.PAIRED, "McNemar’s test", (m.mcnemar,), "scipy `binomtest`", lambda a, b, p: m.mcnemar(a > 0, b > 0),
        drawn.sk_mcnemar, (1, "images count as independent", "not right")),
    Row(drawn.DELONG, "difference of AUROCs (DeLong), interval and p", (m.delong,), "loop over pairs",
        lambda *a: plain(m.delong(*a)), drawn.slow_delong,
        (UNDEFINED, Is("0, from 0 to 0, p 1", [0, 0, 0, 1]),
         Is("value, no interval, no p",
            lambda a, b, t, p: [sk.roc_auc_score(t, a) - sk.roc_auc_score(t, b), *[math.nan] * 3]),
         Is("0, from 0 to 0, p 1", [0, 0, 0, 1]), AGAINST, UNDEFINED)),
    Row(drawn.HOLM, "Holm’s correction", (m.holm,), "step-down procedure at every level",
        lambda p: list(m.holm(dict(enumerate(p.tolist()))).values()), drawn.slow_holm,
        ("unchanged", "times their number", "stays undefined, not counted", Is("none", np.empty(0)))),
    Row(drawn.SEEDS, "Student’s test", (compare.t_test,), "scipy `ttest_1samp`", compare.t_test,
        lambda d: stats.ttest_1samp(d, 0).pvalue, (1, UNDEFINED, UNDEFINED, UNDEFINED)),
    Row(drawn.SEEDS, "Student’s interval", (compare.t_interval,), "scipy `ttest_1samp`", compare.t_interval,
        lambda d: list(stats.ttest_1samp(d, 0).confidence_interval()), (0, UNDEFINED, UNDEFINED, UNDEFINED)),
]  # fmt: skip


def _by_subgroup(column: Any, scores: Any, truth: Any, patients: Any) -> Any:
    own = resampler(patients)
    found = m.by_subgroup(column, lambda w: m.auroc(scores, truth, w), own, fewest=8, shuffles=3)
    listed = [x for one in found.groups.values() for x in (one.value, one.low, one.high, one.n)]
    gap = [found.gap.value, found.gap.low, found.gap.high] if found.gap is not None else []
    return [*listed, *gap, sum(found.too_few.values()), found.unknown]


def slow_by_subgroup(column: Any, scores: Any, truth: Any, patients: Any) -> Any:
    own = resampler(patients)
    return drawn.slow_subgroups(column, scores, truth, own.counts, own.codes)


SUBGROUPS = [
    Row(drawn.SUBGROUPS, "figure of each subgroup, and the gap", (m.by_subgroup,),
        "all pairs of the subgroup’s items", _by_subgroup, slow_by_subgroup,
        ("undefined, and no part in the gap", "no gap but 0", "left out and counted", "left out and counted",
         "no figure, no gap")),
]  # fmt: skip


def _pointing(maps: Any, boxes: Any) -> Any:
    points = heatmaps.peaks(maps, heatmaps.SIDE)
    return heatmaps.within(points, heatmaps.corners_of(list(boxes)), of_tasks.MARGIN)


def _on_masks(maps: Any, boxes: Any) -> Any:
    masks = np.stack([heatmaps.dilated(own, of_tasks.MARGIN) for own in _mask(boxes)])
    return heatmaps.marked_at(heatmaps.peaks(maps, heatmaps.SIDE), masks)


def _mask(boxes: Any) -> Any:
    return np.stack([heatmaps.inside(own, 0.0) for own in boxes])


HEATMAPS = [
    Row(of_tasks.HEATMAPS, "pointing", (heatmaps.peaks, heatmaps.within, heatmaps.corners_of),
        "loop", _pointing, of_tasks.slow_pointing, (0, 0, 0, 1)),
    Row(of_tasks.HEATMAPS, "pointing at a mask", (heatmaps.marked_at, heatmaps.dilated), "scipy `binary_dilation`",
        _on_masks, of_tasks.slow_on_masks, (0, 0, 0, 1)),
    Row(of_tasks.HEATMAPS, "points in a box", (heatmaps.inside,), "loop over boxes", lambda maps, boxes: _mask(boxes),
        lambda maps, boxes: of_tasks.marked(boxes), ("as any", "as any", 0, 1)),
    Row(of_tasks.HEATMAPS, "contrast", (heatmaps.contrast, heatmaps.standardised), "its formula",
        lambda maps, boxes: heatmaps.contrast(heatmaps.standardised(maps), _mask(boxes)),
        of_tasks.each_map(of_tasks.slow_contrast), (0, 0, 0, 0)),
    Row(of_tasks.HEATMAPS, "contrast-to-noise ratio (CNR)", (heatmaps.contrast_to_noise,), "its formula",
        lambda maps, boxes: heatmaps.contrast_to_noise(heatmaps.standardised(maps), _mask(boxes)),
        of_tasks.each_map(of_tasks.slow_cnr), (0, 0, 0, 0)),
    Row(of_tasks.HEATMAPS, "mask AUROC", (heatmaps.mask_auroc, heatmaps.ranks), "scikit-learn `roc_auc_score`",
        lambda maps, boxes: heatmaps.mask_auroc(heatmaps.ranks(heatmaps.standardised(maps)), _mask(boxes)),
        of_tasks.each_map(of_tasks.sk_mask_auroc), (0.5, 0.5, 0.5, 0.5)),
    Row(of_tasks.HEATMAPS, "IoU", (heatmaps.overlap, heatmaps.rescaled), "scikit-learn `jaccard_score`",
        lambda maps, boxes: heatmaps.overlap(heatmaps.rescaled(maps) >= 0.6, _mask(boxes)),
        of_tasks.each_map(of_tasks.sk_iou), (0, 0, 0, "the share above the threshold")),
]  # fmt: skip


def _evidence(scores: Any) -> Any:
    return SimpleNamespace(image_logits=of_tasks.tensors(scores)[0])


GATES = [
    Row(of_tasks.GATES, "gate by softmax", (gate.softmax_score,), "scipy `softmax`",
        lambda r, e, f, g: gate.softmax_score(_evidence(r)), lambda r, e, f, g: of_tasks.slow_gate(r),
        (Is("1 / K", 0.25), "undefined")),
    Row(of_tasks.GATES, "gate by energy", (gate.energy_score,), "scipy `logsumexp`",
        lambda r, e, f, g: gate.energy_score(_evidence(r)), lambda r, e, f, g: of_tasks.slow_energy(r),
        ("all tied", "undefined")),
    Row(of_tasks.GATES, "gate by neighbours", (gate.neighbour_score,), "scikit-learn `NearestNeighbors`",
        lambda r, e, f, g: gate.neighbour_score(*of_tasks.tensors(e, f), k=3),
        lambda r, e, f, g: of_tasks.sk_neighbour(e, f), ("all tied", "undefined")),
    Row(of_tasks.GATES, "gate by Mahalanobis distance", (gate.mahalanobis_score,), "scikit-learn `LedoitWolf`",
        lambda r, e, f, g: gate.mahalanobis_score(*of_tasks.tensors(e, f), g),
        lambda r, e, f, g: of_tasks.sk_mahalanobis(e, f, g), ("all tied", "undefined")),
    Row(of_tasks.GATES, "coverage at a threshold", (gate.threshold_at, gate.accepts), "every value as a threshold",
        lambda r, e, f, g: gate.accepts(r[:, 0], gate.threshold_at(r[:, 0], 0.7)).mean(),
        lambda r, e, f, g: of_tasks.slow_coverage(r[:, 0]), (1, "never let through")),
]  # fmt: skip


def described(name: str) -> Callable[..., Any]:
    def ours(true: Any, scores: Any) -> Any:
        found = routing.describe(true, m.decide(scores), of_tasks.tensors(scores)[0])[name]
        return math.nan if found is None else found

    return ours


ROUTING = [
    Row(of_tasks.ROUTED, "load of each expert", (routing.describe,), "loop", described("load"), of_tasks.slow_load,
        (Is("1 and 0", [1, 0, 0, 0]), Is("0 for each: nothing is decided", 0), "left out")),
    Row(of_tasks.ROUTED, "entropy of the load", (routing.describe,), "scipy `entropy`", described("load_entropy"),
        of_tasks.slow_load_entropy, (0, UNDEFINED, "left out")),
    Row(of_tasks.ROUTED, "entropy of the probabilities", (routing.describe,), "scipy `entropy`", described("entropy"),
        of_tasks.slow_entropy, ("as any", Is("log K", math.log(4)), "left out")),
]  # fmt: skip


def _folded(values: Any, cells: Any, weights: Any) -> Any:
    if (weights == weights[:1]).all():
        close(outcomes.shares(cells) @ values, outcomes.folded(values, cells))
    return outcomes.folded(values, cells, weights)


CELLS = [
    Row(of_tasks.CELLS, "mean over cells within cells", (outcomes.folded, outcomes.shares), "loop over cells", _folded,
        of_tasks.slow_fold, ("the mean", "left out", UNDEFINED, UNDEFINED)),
]  # fmt: skip

ROWS = [*SCORES, *CLASSES, *PROBABILITIES, *RANKS, *RESAMPLING, *TESTS, *SUBGROUPS, *HEATMAPS, *GATES, *ROUTING, *CELLS]
# What is public beside figures, and why it has no row.
NO_FIGURES = {
    "age_band": "a name for an age; see test_subgroups.py",
    "SIDE": "a size",
    "attention_heatmaps": "makes a heatmap; see tests/tasks/test_grounding.py",
    "late_heatmaps": "makes a heatmap; see tests/tasks/test_grounding.py",
    "dot_heatmaps": "makes a heatmap; see tests/tasks/test_grounding.py",
    "upsample": "makes a heatmap; see tests/tasks/test_grounding.py",
    "target_of": "chooses between two masks; see tests/tasks/test_grounding.py",
    "acceptance_weights": "fits a logistic regression; see tests/tasks/test_ood.py",
    "scores_by_name": "lists scores; see tests/tasks/test_ood.py",
    "neighbour_controls": "puts two rows together; see tests/tasks/test_ood.py",
    "compare": "puts several rows together; see tests/test_ablate.py",
    "figures": "puts one row in a list; see tests/test_ablate.py",
    "figure_interval": "puts two rows together; see tests/test_ablate.py",
}


def close(found: Any, expected: Any) -> None:
    """Hold figures against what they should be; one number stands for any shape."""
    found, expected = np.asarray(found, dtype=float), np.asarray(expected, dtype=float)
    assert not expected.ndim or found.shape == expected.shape, f"{found.shape} for {expected.shape}"
    np.testing.assert_allclose(found, np.broadcast_to(expected, found.shape), rtol=1e-9, atol=1e-9)


def inputs(make: given.Maker, seed: int) -> list[tuple[Any, ...]]:
    return make(np.random.default_rng([seed, 7]))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.shown)
@pytest.mark.parametrize("seed", SEEDS)
def test_every_figure_equals_its_reference_on_random_input(row: Row, seed: int) -> None:
    for one in inputs(row.family.random, seed):
        close(row.ours(*one), row.reference(*one))


@pytest.mark.parametrize(
    ("row", "kind", "cell"),
    [
        pytest.param(row, kind, cell, id=f"{row.shown}-{kind}")
        for row in ROWS
        for kind, cell in zip(row.family.degenerate, row.cells, strict=True)
    ],
)
def test_every_figure_of_degenerate_input_is_what_the_documentation_says(row: Row, kind: str, cell: Any) -> None:
    for one in (one for seed in SEEDS for one in inputs(row.family.degenerate[kind], seed)):
        if isinstance(cell, Refused):
            with pytest.raises(ValueError, match=cell.message):
                row.ours(*one)
        elif isinstance(cell, str):
            close(row.ours(*one), row.reference(*one))
        else:
            value = cell.value if isinstance(cell, Is) else cell
            close(row.ours(*one), value(*one) if callable(value) else value)


def test_every_public_figure_has_a_row() -> None:
    public = {name for name in m.__all__ if inspect.isfunction(getattr(m, name))} | {"Resampler"}
    for module in (heatmaps, gate, compare):
        own = inspect.getmembers(module, inspect.isfunction)
        public |= {name for name, one in own if one.__module__ == module.__name__ and not name.startswith("_")}
    rows = {one.__name__ for row in ROWS for one in row.of}
    assert public - rows - set(NO_FIGURES) == set(), "give each a row beside its reference"


def tables() -> str:
    """Write the rows as the documentation shows them."""
    parts = []
    for family in dict.fromkeys(id(row.family) for row in ROWS):
        rows = [row for row in ROWS if id(row.family) == family]
        heading = ["figure", "reference", *rows[0].family.degenerate]
        lines = [f"### {rows[0].family.title}", "", _line(heading), _line(["---"] * len(heading))]
        lines += [_line([row.shown, row.against, *map(_words, row.cells)]) for row in rows]
        parts.append("\n".join(lines))
    return "\n" + "\n\n".join(parts) + "\n\n"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _words(cell: Any) -> str:
    if isinstance(cell, str):
        return cell
    return cell.words if isinstance(cell, tuple) else f"{cell:g}"


def test_the_documentation_shows_these_rows() -> None:
    found = TABLES.search(DOCS.read_text(encoding="utf-8"))
    assert found is not None
    assert found[0] == tables(), "write them anew: python tests/metrics/test_references.py"


if __name__ == "__main__":
    DOCS.write_text(TABLES.sub(lambda _: tables(), DOCS.read_text(encoding="utf-8")), encoding="utf-8")
