"""Figures of zero-shot classification on one data set, each with its interval and controls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medmoe.metrics import Floats, Ints, Resampler, decide
from medmoe.tasks.figures import Figure
from medmoe.tasks.scoring import Statistic, accurate, balanced, macro_auroc, permutations, shuffled_figure

_SHUFFLES = 20


def single_label(
    cosine: NDArray[np.float64],
    true: Ints,
    patients: Sequence[str | None],
    *,
    scale: float,
    positive: int | None,
    seed: Sequence[int],
    resamples: int,
) -> dict[str, Figure]:
    """Judge images of one class each: accuracy, balanced accuracy, and AUROC of the classes' probabilities.

    Controls: chance, the commonest class for every image, the class that the prompts favour for every image
    (`prompt_prior`), and shuffled labels.

    Args:
        cosine: [n, C] similarity of each image to each class's prompts.
        true: [n] class.
        patients: [n] patient of each image, or None.
        scale: Multiplier of the cosine before the softmax.
        positive: The positive one of two classes; None averages each class against the rest.
        seed: Seed of resamples and shuffles.
        resamples: Bootstrap resamples.
    """
    classes = cosine.shape[1]
    answer = decide(cosine)
    counts = np.bincount(true, minlength=classes)
    always = {"majority": int(counts.argmax()), "prompt_prior": prompt_prior(cosine)}

    def controls(judge: Callable[[Ints], Statistic]) -> dict[str, float]:
        constant = {name: float(judge(np.full_like(true, one))(true)) for name, one in always.items()}
        return {"chance": 1 / classes, **constant}

    ranked = _one_against_rest(_softmax(scale * cosine), positive)
    statistics: dict[str, tuple[Statistic, dict[str, float]]] = {
        "accuracy": (accurate(answer), controls(accurate)),
        "balanced_accuracy": (balanced(answer), controls(balanced)),
        "auroc": (ranked, dict.fromkeys(("chance", *always), 0.5)),
    }
    return _figures(statistics, true, patients, seed, resamples)


def prompt_prior(cosine: NDArray[np.float64]) -> int:
    """Give the class whose prompts the mean of all images is most like, or -1 where a tie decides: cosine is [n, C]."""
    return int(decide(cosine.mean(axis=0, keepdims=True))[0])


def multi_label(
    cosine: NDArray[np.float64],
    truth: NDArray[np.bool_],
    patients: Sequence[str | None],
    *,
    scale: float,
    seed: Sequence[int],
    resamples: int,
) -> dict[str, Figure]:
    """Judge images of any number of classes: AUROC of each class against the rest, averaged.

    Args:
        cosine: [n, C].
        truth: [n, C] bool.
        patients: [n].
        scale: Multiplier of the cosine before the softmax over classes.
        seed: Seed of resamples and shuffles.
        resamples: Bootstrap resamples.
    """
    statistic = macro_auroc(_softmax(scale * cosine))
    return _figures({"auroc": (statistic, {"chance": 0.5, "majority": 0.5})}, truth, patients, seed, resamples)


def _figures(
    statistics: dict[str, tuple[Statistic, dict[str, float]]],
    truth: NDArray[Any],
    patients: Sequence[str | None],
    seed: Sequence[int],
    resamples: int,
) -> dict[str, Figure]:
    """Compute statistics of the same images over the same resamples and shuffles."""
    resampler = Resampler(patients, resamples=resamples, seed=[*seed, 0])
    orders = permutations(len(truth), _SHUFFLES, [*seed, 1])
    return {
        name: shuffled_figure(statistic, truth, orders, resampler, controls)
        for name, (statistic, controls) in statistics.items()
    }


def _one_against_rest(probability: NDArray[np.float64], positive: int | None) -> Statistic:
    """Give the AUROC of the positive class, or of each against the rest, averaged; the truth is [n] classes."""
    columns = np.arange(probability.shape[1]) if positive is None else np.array([positive])
    ranked = macro_auroc(probability[:, columns])

    def statistic(truth: NDArray[Any], weights: Floats | None = None) -> Floats:
        return ranked(truth[:, None] == columns, weights)

    return statistic


def _softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    result: NDArray[np.float64] = torch.softmax(torch.from_numpy(logits), dim=1).numpy()
    return result
