"""Can the intervals be trusted, and what do they cost?

    python benchmarks/intervals.py coverage
    python benchmarks/intervals.py cost

`coverage` simulates sets of 150 patients with 5 images each, whose images are alike, and counts how often the 95 %
interval of a recall and of an AUROC holds the true value: resampling patients (percentile and BCa) and, as it must not
be done, images. `cost` times 2,000 resamples of 20,000 rows and a retrieval among 20,000 pairs, intervals included,
and reads the most memory that each took. Writes JSON to the screen.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import platform
import resource
import sys
import time
from collections.abc import Callable
from statistics import NormalDist

import numpy as np

from medmoe.metrics import (
    Resampler,
    auroc,
    average_precision,
    bca_interval,
    best_threshold,
    chance_of_average_precision,
    chance_of_hit,
    ece,
    f1,
    hits,
    interval,
    macro_f1,
    paired_difference,
    rank_embeddings,
    relevant_counts,
    sign_flip,
    weighted_median,
)

PATIENTS, IMAGES = 150, 5
Statistic = Callable[[np.ndarray], np.ndarray]


def a_recall(rng: np.random.Generator, patients: np.ndarray) -> tuple[Statistic, float]:
    """Draw hits that are 0.7 in the mean and alike within a patient; give their weighted mean and the truth."""
    hit = (rng.random(len(patients)) < rng.beta(1.4, 0.6, patients[-1] + 1)[patients]).astype(float)
    return lambda weights: weights @ hit / weights.sum(axis=-1), 0.7


def an_auroc(rng: np.random.Generator, patients: np.ndarray) -> tuple[Statistic, float]:
    """Draw scores of patients that have a finding or not, half of their spread between patients.

    Two patients' scores differ by a normal number of mean 1.5 and variance 2 (1 + 1).
    """
    truth = (rng.random(patients[-1] + 1) < 0.4)[patients]
    scores = 1.5 * truth + rng.normal(size=patients[-1] + 1)[patients] + rng.normal(size=len(patients))
    return lambda weights: auroc(scores, truth, weights), NormalDist().cdf(1.5 / 2)


def coverage(sets: int, resamples: int) -> dict[str, dict[str, float]]:
    """Count how often each kind of interval holds the truth."""
    patients = np.repeat(np.arange(PATIENTS), IMAGES)
    result = {}
    for name, draw in (("recall", a_recall), ("auroc", an_auroc)):
        held = dict.fromkeys(["percentile", "bca", "naive"], 0)
        for number in range(sets):
            statistic, truth = draw(np.random.default_rng([1, number]), patients)
            clustered = Resampler(patients.tolist(), resamples=resamples, seed=[2, number])
            draws = clustered.draws(statistic)
            value = float(statistic(np.ones(len(patients))))
            ends = {
                "percentile": interval(draws),
                "bca": bca_interval(draws, value, clustered.jackknife(statistic)),
                "naive": interval(Resampler([None] * len(patients), resamples=resamples, seed=3).draws(statistic)),
            }
            for kind, (low, high) in ends.items():
                held[kind] += low <= truth <= high
        result[name] = {kind: count / sets for kind, count in held.items()}
        result[name]["error"] = round(math.sqrt(0.05 * 0.95 / sets), 4)
    return result


def resample_rows(rows: int = 20_000, resamples: int = 2000) -> dict[str, float]:
    """Time each statistic with its intervals over 5 images a patient, in seconds."""
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(rows // 5), 5).tolist()
    truth = rng.random(rows) < 0.3
    scores, other = truth + rng.normal(size=rows), truth + 1.1 * rng.normal(size=rows)
    true, predicted = rng.integers(0, 8, (2, rows))
    probability = 1 / (1 + np.exp(-scores))
    threshold = best_threshold(scores, truth)
    start = time.perf_counter()
    resampler = Resampler(patients, resamples=resamples)
    seconds = {"draw patients": time.perf_counter() - start}
    work: dict[str, Callable[[], object]] = {
        "means of 10 columns": lambda: resampler.means(rng.random((rows, 10))),
        "auroc": lambda: resampler.draws(lambda w: auroc(scores, truth, w)),
        "auroc, patients left out for BCa": lambda: resampler.jackknife(lambda w: auroc(scores, truth, w)),
        "average precision": lambda: resampler.draws(lambda w: average_precision(scores, truth, w)),
        "f1": lambda: resampler.draws(lambda w: f1(scores, truth, threshold, w)),
        "macro f1": lambda: resampler.draws(lambda w: macro_f1(true, predicted, w)),
        "ece": lambda: resampler.draws(lambda w: ece(probability, truth, w)),
        "paired auroc": lambda: paired_difference(
            lambda w: auroc(scores, truth, w), lambda w: auroc(other, truth, w), resampler
        ),
        "sign flip": lambda: sign_flip(scores - other, patients),
    }
    for name, statistic in work.items():
        start = time.perf_counter()
        statistic()
        seconds[name] = time.perf_counter() - start
    return {name: round(value, 2) for name, value in seconds.items()}


def retrieve(pairs: int = 20_000, width: int = 512, resamples: int = 2000) -> dict[str, float]:
    """Time a retrieval in both directions with its intervals, in seconds; a tenth of the reports recur."""
    rng = np.random.default_rng(0)
    ids = np.where(rng.random(pairs) < 0.1, rng.integers(0, pairs // 20, pairs), np.arange(pairs) + pairs)
    texts = rng.normal(size=(2 * pairs, width)).astype(np.float32)[ids]
    images = texts + 8 * rng.normal(size=(pairs, width)).astype(np.float32)
    texts, images = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (texts, images))
    start = time.perf_counter()
    rankings = [rank_embeddings(images, texts, ids, ids), rank_embeddings(texts, images, ids, ids)]
    ranked = time.perf_counter()
    resampler = Resampler(np.repeat(np.arange(pairs // 5), 5).tolist(), resamples=resamples)
    counts = relevant_counts(ids, ids)
    chance_of_average_precision(counts, pairs)
    for ranking in rankings:
        found = np.stack([hits(ranking.best_rank, k, candidates=pairs) for k in (1, 5, 10)], axis=1)
        draws = resampler.means(np.column_stack([found, ranking.average_precision]))
        medians = resampler.draws(lambda w, ranks=ranking.best_rank: weighted_median(ranks, w))
        for column in (*draws.T, medians):
            interval(column)
        for k in (1, 5, 10):
            chance_of_hit(counts, pairs, k)
    end = time.perf_counter()
    recall = float(hits(rankings[0].best_rank, 1, candidates=pairs).mean())
    parts = {"rank": ranked - start, "intervals": end - ranked, "in all": end - start, "recall@1": recall}
    return {name: round(value, 3) for name, value in parts.items()}


def in_a_process_of_its_own(work: Callable[[], dict[str, float]]) -> dict[str, float]:
    """Run work where its peak of memory is its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measured, (work,))


def _measured(work: Callable[[], dict[str, float]]) -> dict[str, float]:
    result = work()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return result | {"peak memory (GiB)": round(peak / 2**30, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["coverage", "cost"])
    parser.add_argument("--sets", type=int, default=1000)
    parser.add_argument("--resamples", type=int, default=1000)
    arguments = parser.parse_args()
    if arguments.part == "coverage":
        result: dict[str, object] = dict(coverage(arguments.sets, arguments.resamples))
    else:
        result = {
            "2,000 resamples of 20,000 rows (s)": in_a_process_of_its_own(resample_rows),
            "20,000 × 20,000 retrieval (s)": in_a_process_of_its_own(retrieve),
        }
    print(json.dumps(result | {"numpy": np.__version__, "machine": platform.machine()}, indent=2, ensure_ascii=False))


if __name__ == "__main__":
    main()
