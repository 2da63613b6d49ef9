"""Logistic regression on frozen features, its strength of regularisation chosen on other images."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from medmoe.metrics import Bools, Floats, Ints

# λ of mean loss + λ/2 · ‖w‖², for features of mean squared length 1.
STRENGTHS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)


@dataclass(frozen=True)
class Scale:
    """Centres features, brings them to a mean squared length of 1 and drops directions that no image has.

    The solution of a regularised regression lies in the span of the images it is fitted on, so that with fewer images
    than features nothing is lost by turning the features into that span, and much time is saved.

    Attributes:
        centre: [F].
        basis: [F, S], scaled; S = 0 where the features say nothing.
    """

    centre: Floats
    basis: Floats

    @classmethod
    def of(cls, features: Floats) -> Scale:
        """Take the scale of finite features [n, F]."""
        centre = features.mean(axis=0)
        centred = features - centre
        length = np.sqrt(np.square(centred).sum(axis=1).mean())
        size = features.shape[1]
        if length <= 1e-9 * max(1.0, float(np.abs(features).max(initial=0.0))):
            return cls(centre, np.zeros((size, 0)))
        if len(features) > size:
            return cls(centre, np.eye(size) / length)
        _, strength, directions = np.linalg.svd(centred, full_matrices=False)
        return cls(centre, directions[strength > 1e-9 * strength[0]].T / length)

    def __call__(self, features: Floats) -> Floats:
        """Give [n, S]; NaN stays NaN."""
        moved: Floats = (features - self.centre) @ self.basis
        return moved


@dataclass(frozen=True)
class Chosen:
    """What the chosen regression says.

    Attributes:
        scores: [n, outputs] logits of other images; all 0 where the features say nothing.
        strength: λ.
        unfinished: Fits that stopped before they converged.
    """

    scores: Floats
    strength: float
    unfinished: int


def fit_classes(
    features: Floats, true: Ints, classes: int, *, strengths: Sequence[float] = STRENGTHS
) -> Callable[[Floats], list[tuple[Floats, int]]]:
    """Fit a multinomial regression, every class weighing the same, once for each strength.

    Args:
        features: [n, F]; images with a feature that isn't finite are left out.
        true: [n] class, -1 for images to leave out.
        classes: How many there are; one that doesn't occur is never answered.
        strengths: λ of each fit.

    Returns:
        What maps features [m, F] to, for each strength, logits [m, classes] and fits that didn't converge.
    """
    usable = np.isfinite(features).all(axis=1) & (true >= 0)
    return _path(features[usable], true[usable], classes, strengths)


def _path(
    features: Floats, true: Ints, classes: int, strengths: Sequence[float]
) -> Callable[[Floats], list[tuple[Floats, int]]]:
    from sklearn.exceptions import ConvergenceWarning  # these take long to import
    from sklearn.linear_model import LogisticRegression

    present = np.unique(true)
    if len(present) < 2:
        return lambda others: [(np.zeros((len(others), classes)), 0) for _ in strengths]
    scale = Scale.of(features)
    moved = scale(features)
    if not moved.shape[1]:
        return lambda others: [(_blank(others, classes), 0) for _ in strengths]
    fits: dict[float, tuple[Floats, Floats, int]] = {}
    model = LogisticRegression(class_weight="balanced", max_iter=200, tol=1e-4, warm_start=True)
    for strength in sorted(strengths, reverse=True):  # from the easiest on, each starting where the last one ended
        model.set_params(C=1 / (strength * len(moved)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(moved, true)
        fits[strength] = (model.coef_.copy(), model.intercept_.copy(), int(np.max(model.n_iter_) >= model.max_iter))

    def apply(others: Floats) -> list[tuple[Floats, int]]:
        placed, found = scale(others), []
        for strength in strengths:
            weight, bias, unfinished = fits[strength]
            logits = placed @ weight.T + bias
            if logits.shape[1] == 1:  # of two classes only the second has a logit
                logits = np.concatenate([-logits / 2, logits / 2], axis=1)
            scores = np.full((len(others), classes), -np.inf)
            scores[:, present] = logits
            scores[np.isnan(logits).any(axis=1)] = np.nan
            found.append((scores, unfinished))
        return found

    return apply


def _blank(others: Floats, classes: int) -> Floats:
    """Give scores that tell no class from another; NaN where the features are."""
    return np.where(np.isfinite(others).all(axis=1), 0.0, np.nan)[:, None] * np.ones(classes)


def choose_classes(
    features: tuple[Floats, Floats, Floats],
    true: Ints,
    classes: int,
    judge: Callable[[Floats], float],
    *,
    strengths: Sequence[float] = STRENGTHS,
) -> Chosen:
    """Fit classes, and choose the strength by what a judge makes of its scores on other images.

    Args:
        features: Of the images to fit on [n, F], to choose on [t, F], and to score [m, F].
        true: [n] class of the images to fit on.
        classes: How many classes there are.
        judge: Gives the merit of scores [t, classes] of the images to choose on; of equal ones the strongest
            regularisation is chosen.
        strengths: λ to choose from.
    """
    fit, tune, rest = features
    apply = fit_classes(fit, true, classes, strengths=strengths)
    tuned = apply(tune)
    best = _best([judge(scores) for scores, _ in tuned], strengths)
    scores, unfinished = apply(rest)[best]
    return Chosen(scores, strengths[best], unfinished)


def choose_findings(
    features: tuple[Floats, Floats, Floats],
    shown: Bools,
    judge: Callable[[Floats], float],
    *,
    strengths: Sequence[float] = STRENGTHS,
) -> Chosen:
    """Fit one finding against the rest, for each finding, with one strength chosen for all of them.

    Args:
        features: Of the images to fit on [n, F], to choose on [t, F], and to score [m, F].
        shown: [n, findings] which findings the images to fit on show.
        judge: Gives the merit of scores [t, findings] of the images to choose on.
        strengths: λ to choose from.
    """
    fit, tune, rest = features
    fits = [
        fit_classes(fit, shown[:, column].astype(np.int64), 2, strengths=strengths) for column in range(shown.shape[1])
    ]
    tuned = [apply(tune) for apply in fits]  # [findings][strengths]

    def joined(parts: list[list[tuple[Floats, int]]], place: int) -> tuple[Floats, int]:
        scores = [of[place][0][:, 1] for of in parts]
        return np.stack(scores, axis=1), sum(of[place][1] for of in parts)

    best = _best([judge(joined(tuned, place)[0]) for place in range(len(strengths))], strengths)
    scores, unfinished = joined([apply(rest) for apply in fits], best)
    return Chosen(scores, strengths[best], unfinished)


def _best(merits: Sequence[float], strengths: Sequence[float]) -> int:
    """Give the place of the highest merit; of equal ones that of the strongest regularisation, NaN being lowest."""
    return max(range(len(merits)), key=lambda place: (np.nan_to_num(merits[place], nan=-np.inf), strengths[place]))
