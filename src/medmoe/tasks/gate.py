"""A gate's scores: how much an image looks like those that the model knows, by its router or by its neighbours."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from medmoe.metrics import Bools, Floats, Ints, auroc
from medmoe.tasks.base import Evidence

# Similarities held at a time.
_ROWS = 1024


def softmax_score(evidence: Evidence) -> Floats:
    """Give the image router's largest probability (Hendrycks, Gimpel, 2017, https://arxiv.org/abs/1610.02136): [n]."""
    return _floats(torch.softmax(evidence.image_logits.double(), dim=1).amax(dim=1))


def energy_score(evidence: Evidence) -> Floats:
    """Give the logsumexp of the image router's scores (Liu et al., 2020, https://arxiv.org/abs/2010.03759): [n]."""
    return _floats(torch.logsumexp(evidence.image_logits.double(), dim=1))


def neighbour_score(embed: Tensor, fit: Tensor, *, k: int = 5) -> Floats:
    """Give the cosine with the k-th nearest training image (Sun et al., 2022, https://arxiv.org/abs/2204.06507).

    Args:
        embed: [n, E] images to judge.
        fit: [m, E] training images.
        k: Which neighbour; the last one where there are fewer.

    Returns:
        [n]; NaN for an image that has a NaN.
    """
    known = torch.nn.functional.normalize(fit.double(), dim=1)
    parts = []
    for block in torch.split(torch.nn.functional.normalize(embed.double(), dim=1), _ROWS):
        nearest = torch.topk(block @ known.T, min(k, len(known)), dim=1).values[:, -1]
        parts.append(nearest.masked_fill(block.isnan().any(dim=1), float("nan")))
    return _floats(torch.cat(parts))


def mahalanobis_score(embed: Tensor, fit: Tensor, groups: ArrayLike) -> Floats:
    """Give minus the squared distance to the nearest group's mean (Lee et al., 2018, https://arxiv.org/abs/1807.03888).

    The covariance is common to the groups, and shrunk (Ledoit and Wolf, 2004) since training images may be few.

    Args:
        embed: [n, E] images to judge.
        fit: [m, E] training images, at least 2.
        groups: [m] group of each.

    Returns:
        [n]; NaN for an image that has a NaN.
    """
    from sklearn.covariance import ledoit_wolf  # takes long to import

    known, labels = fit.double().numpy(), np.asarray(groups)
    names, place = np.unique(labels, return_inverse=True)
    means = np.stack([known[labels == name].mean(axis=0) for name in names])
    covariance, _ = ledoit_wolf(known - means[place], assume_centered=True)
    inverse = np.linalg.pinv(covariance, hermitian=True)
    away = embed.double().numpy()
    distances = [np.einsum("ne,ef,nf->n", away - mean, inverse, away - mean, optimize=True) for mean in means]
    result: Floats = -np.min(distances, axis=0)
    return result


def scores_by_name(fit: Evidence | None) -> dict[str, Callable[[Evidence], Floats]]:
    """Give the scores that can be computed, by name: the router's, and with training images those of features."""
    scores: dict[str, Callable[[Evidence], Floats]] = {"softmax": softmax_score, "energy": energy_score}
    if fit is None:
        return scores
    finite = fit.image_embed.isfinite().all(dim=1).numpy()
    modality = np.array([sample.modality or "" for sample in fit.samples])
    rows = np.flatnonzero(finite & np.isin(modality, fit.modalities))
    if len(rows) < 2:
        return scores
    embed, groups = fit.image_embed[rows], modality[rows]
    scores["neighbour"] = lambda found: neighbour_score(found.image_embed, embed)
    scores["mahalanobis"] = lambda found: mahalanobis_score(found.image_embed, embed, groups)
    return scores


def neighbour_controls(known: tuple[Evidence, Ints], unknown: tuple[Evidence, Ints], fit: Evidence) -> dict[str, float]:
    """Give the AUROC of the nearest neighbour by features that nobody trained, where all three have them, by name.

    Args:
        known: Evidence and its rows that a gate should let through.
        unknown: Evidence and its rows that it should turn away.
        fit: Evidence of training images.
    """
    truth = np.r_[np.ones(len(known[1]), bool), np.zeros(len(unknown[1]), bool)]
    controls = {}
    for name, features in fit.features.items():
        if name in known[0].features and name in unknown[0].features:
            judged = torch.cat([own.features[name][rows] for own, rows in (known, unknown)])
            middle = features.double().mean(dim=0)
            scores = neighbour_score(judged.double() - middle, features.double() - middle)
            controls[name] = float(auroc(scores, truth))
    return controls


def acceptance_weights(signals: Floats, right: Bools, weights: Floats) -> tuple[float, float]:
    """Weigh log-odds against distance by logistic regression, so that what is right scores above what isn't.

    Args:
        signals: [n, 2] log-odds of the class named, and distance from it.
        right: [n] whether it was right.
        weights: [n] how much each image counts.

    Returns:
        The weights of log-odds and of nearness (minus the distance), 0 or more; 1 and 0 where neither tells right from
        wrong, or all are one or the other.
    """
    from sklearn.linear_model import LogisticRegression  # takes long to import

    if right.all() or not right.any():
        return 1.0, 0.0
    spread = signals.std(axis=0) + 1e-9
    fitted = LogisticRegression(max_iter=1000).fit(signals / spread, right, sample_weight=weights / weights.mean())
    sure, near = np.maximum(fitted.coef_[0] / spread * (1, -1), 0).tolist()
    return (sure, near) if sure > 0 or near > 0 else (1.0, 0.0)


def threshold_at(scores: Floats, rate: float) -> float:
    """Give the highest threshold that accepts at least `rate` of some scores; a NaN is never accepted.

    >>> threshold_at(np.array([1.0, 2.0, 3.0, 4.0]), 0.75)
    2.0
    """
    ordered = np.sort(scores[~np.isnan(scores)])[::-1]
    wanted = max(1, int(np.ceil(rate * len(scores) - 1e-9)))
    return float(ordered[wanted - 1]) if wanted <= len(ordered) else float("-inf")


def accepts(scores: Floats, threshold: float) -> Bools:
    """Tell which images a gate lets through; a NaN stays outside."""
    return np.asarray(scores >= threshold)


def _floats(values: Tensor) -> Floats:
    result: Floats = values.numpy()
    return result
