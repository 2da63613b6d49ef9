"""Zero-shot retrieval: a report's image among the others, and an image's report, within each modality and over all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from medmoe.metrics import (
    Bools,
    Floats,
    Ints,
    Resampler,
    best_rank,
    chance_at_k,
    chance_median_rank,
    hits,
    weighted_median,
)
from medmoe.modalities import in_order
from medmoe.tasks.base import Context, Evidence, TaskResult, skipped
from medmoe.tasks.figures import Figure, by_group, metrics
from medmoe.tasks.similarity import of_pairs

# Metrics of the combined similarity have no prefix; those of its parts and those over all modalities have one.
_PREFIX = {"combined": "", "local": "local_", "global": "global_"}


@dataclass(frozen=True)
class Retrieval:
    """Recall@k and median rank in both directions, by combined, local and global similarity.

    Candidates are the images (reports) of one modality for `NAME/MODALITY`, whose mean over modalities is `NAME`;
    `overall_NAME` ranks over all modalities together. Relevant to a report are the images of every report of the same
    text. Candidates of an image are the *distinct* texts: a template that a hundred images share is one answer, and
    would fill the first hundred places otherwise. Images without a report are left out.

    Attributes:
        at: The k of recall@k.
        fewest: A modality with fewer candidates is left out of the mean, and named in the details.
        most: Overall figures are of at most so many candidates, drawn by the seed.
        shuffles: How often pairs are shuffled (within each modality) for the control.
    """

    name: ClassVar[str] = "zeroshot_retrieval"
    at: tuple[int, ...] = (1, 5, 10)
    fewest: int = 10
    most: int = 2000
    shuffles: int = 20

    def evaluate(self, evidence: Evidence, context: Context) -> TaskResult:
        """Judge retrieval."""
        rows = np.flatnonzero(evidence.has_report.numpy())
        if not len(rows):
            return skipped("no image of the split has a report")
        modality = np.array([evidence.samples[row].modality or "" for row in rows])
        names = in_order(modality.tolist())
        sizes = {name: int((modality == name).sum()) for name in names}
        kept = [name for name in names if sizes[name] >= self.fewest]
        details: dict[str, Any] = {
            "candidates": {name: _describe(evidence, rows[modality == name]) for name in kept},
            "left_out": {name: size for name, size in sizes.items() if size < self.fewest},
            "shuffles": self.shuffles,
        }
        groups = {
            name: self._group(evidence, context, rows[modality == name], stream)
            for stream, name in enumerate(kept, start=1)
        }
        figures = by_group(groups)
        if len(rows) >= self.fewest:
            rng = np.random.default_rng([context.seed, 0])
            drawn = rows if len(rows) <= self.most else np.sort(rng.choice(rows, self.most, replace=False))
            overall = self._group(evidence, context, drawn, 0)
            figures |= {f"overall_{name}": figure for name, figure in overall.items()}
            details["overall"] = _describe(evidence, drawn)
        if not figures:
            return skipped(f"fewer than {self.fewest} images have a report", left_out=details["left_out"])
        return TaskResult(metrics(figures), details)

    def _group(self, evidence: Evidence, context: Context, rows: Ints, stream: int) -> dict[str, Figure]:
        """Rank the pairs of `rows` among themselves."""
        seed = [context.seed, stream]
        resampler = Resampler(evidence.patients(rows.tolist()), resamples=context.resamples, seed=[*seed, 0])
        modality = [evidence.samples[row].modality for row in rows]
        shuffles = _shuffles(modality, self.shuffles, np.random.default_rng([*seed, 1]))
        text = np.array([normalised(evidence.samples[row].report or "") for row in rows])
        _, first, same = np.unique(text, return_index=True, return_inverse=True)
        relevant = same[:, None] == same[None, :]  # [images, reports]
        distinct = np.arange(len(first))
        matrices = of_pairs(evidence, rows.tolist())
        figures: dict[str, Figure] = {}
        for variant, matrix in matrices.items():
            images = [relevant[:, order].T for order in shuffles]
            texts = [same[order][:, None] == distinct for order in shuffles]
            for name, similarity, right, permuted in (
                ("report_to_image", matrix.T, relevant, images),
                ("image_to_report", matrix[:, first], same[:, None] == distinct, texts),
            ):
                prefix = f"{_PREFIX[variant]}{name}"
                figures |= self._direction(prefix, similarity, right, permuted, resampler)
        return figures

    def _direction(
        self, name: str, similarity: NDArray[Any], relevant: Bools, permuted: Sequence[Bools], resampler: Resampler
    ) -> dict[str, Figure]:
        """Rank candidates [Q, C] of one direction."""
        size, candidates = relevant.shape
        ranks = best_rank(similarity, relevant)
        shuffled = [best_rank(similarity, other) for other in permuted]

        def recalled(of: Floats) -> Floats:
            return np.stack([hits(of, k, candidates=candidates) for k in self.at], axis=1)  # [Q, len(at)]

        found, draws = recalled(ranks), resampler.means(recalled(ranks))
        lost, lost_draws = (
            np.stack([recalled(of).mean(axis=0) for of in shuffled]),
            resampler.means(recalled(shuffled[0])),
        )
        figures = {
            f"{name}_recall@{k}": Figure(
                float(found[:, column].mean()),
                draws[:, column],
                size,
                {"chance": chance_at_k(relevant, k)},
                lost[:, column],
                lost_draws[:, column],
            )
            for column, k in enumerate(self.at)
        }
        figures[f"{name}_median_rank"] = Figure(
            float(weighted_median(ranks)),
            resampler.draws(lambda weights: weighted_median(ranks, weights)),
            size,
            {"chance": chance_median_rank(relevant)},
            np.array([float(weighted_median(of)) for of in shuffled]),
            resampler.draws(lambda weights: weighted_median(shuffled[0], weights)),
        )
        return figures


def normalised(report: str) -> str:
    """Give a report's text without differences of case and space, by which two reports count as the same."""
    return " ".join(report.lower().split())


def _shuffles(groups: Sequence[str | None], times: int, rng: np.random.Generator) -> list[Ints]:
    """Draw permutations of the items that move each only within its group."""
    names = np.array([name or "" for name in groups])
    members = [np.flatnonzero(names == name) for name in dict.fromkeys(names.tolist())]
    orders = []
    for _ in range(times):
        order = np.arange(len(names))
        for own in members:
            order[own] = rng.permutation(own)
        orders.append(order)
    return orders


def _describe(evidence: Evidence, rows: Ints) -> dict[str, int]:
    samples = [evidence.samples[row] for row in rows]
    return {
        "pairs": len(samples),
        "distinct_reports": len({normalised(sample.report or "") for sample in samples}),
        "from_template": sum(sample.from_template for sample in samples),
    }
