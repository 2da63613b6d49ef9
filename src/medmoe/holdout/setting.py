"""Setting a gate without a look at unseen sites: on what the router says of each site it knows, had it not known it.

A router is surer of sites that it has seen, right or wrong. So every training source is left out in turn, and every
training modality, and what is then said of their images shows how sure and how near an image must be.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medmoe.config import RunConfig
from medmoe.errors import DataError
from medmoe.gate import Gate
from medmoe.holdout.bank import Bank
from medmoe.holdout.folds import Facts, Fold
from medmoe.holdout.head import BankRouter, Moments, cell_weights, sum_up
from medmoe.metrics import Bools, Floats, Ints
from medmoe.tasks.gate import acceptance_weights

_SCALES = np.geomspace(2, 60, 30)
_STEPS = 60  # thresholds looked at
_DRAWS = 300
_BOUND = 41  # first key of the random stream


@dataclass(frozen=True, slots=True)
class Rules:
    """What the gate is to do.

    Attributes:
        right: Mean over the modalities of the share of taken images that should be right.
        doubt: How often, over draws of the sources, a threshold may fall short of that; 0.5 leaves no margin.
        ridge: Of the head; see `Moments`.
    """

    right: float = 0.98
    doubt: float = 0.05
    ridge: float = 0.1


@dataclass(frozen=True, slots=True)
class Heard:
    """What was said of n images of the training sources by routers that didn't know their source or modality.

    Attributes:
        signals: [n, 2] of `Gate`.
        chosen: [n] modality named.
        right: [n] whether that was right; never for an image whose modality was left out.
        known: [n] whether its modality was known.
        unit: [n] which source or modality was left out.
        modality: [n] true place.
    """

    signals: Floats
    chosen: Ints
    right: Bools
    known: Bools
    unit: Ints
    modality: Ints

    def only(self, rows: Bools) -> Heard:
        """Keep some of the images."""
        return Heard(*(getattr(self, name)[rows] for name in Heard.__slots__))

    def weights(self) -> Floats:
        """Weigh each image so that modalities count alike, and sources with the root of their size: [n], sum 1."""
        pairs = np.stack([self.modality, self.unit])
        cells, cell, counts = np.unique(pairs, axis=1, return_inverse=True, return_counts=True)
        return np.asarray(cell_weights(cells[0], counts)[cell.ravel()])


def fit_router(
    bank: Bank, facts: Facts, fold: Fold, config: RunConfig, rules: Rules, *, seed: int
) -> tuple[BankRouter, dict[str, Gate]]:
    """Fit a router to a fold's training images, and set gates on their training and validation images.

    Args:
        bank: Measures of all images.
        facts: Of all images.
        fold: Whom to leave out.
        config: Its `model.router.hidden` and `data.balance`.
        rules: What a gate is to do.
        seed: Of the hidden layer.

    Returns:
        The router, and a gate for each row of `IDEAS`; the first is the one to use.
    """
    target = fold.target(facts)
    inside = ~fold.out & (target >= 0)
    rows = np.flatnonzero(inside & facts.where("train"))
    router, moments = sum_up(
        bank,
        rows,
        [facts.source[row] for row in rows],
        target[rows],
        hidden=config.model.router.hidden,
        modalities=len(fold.modalities),
        ridge=rules.ridge,
        balance=config.data.balance,
        seed=seed,
    )
    asked = np.flatnonzero(inside & facts.where("train", "val"))
    every = np.ones(len(moments.counts), dtype=bool)
    weight, bias = moments.head(every)
    means, inverse = moments.near(every)
    source = np.array([facts.source[row] for row in asked])
    scale, heard = hear(router, moments, bank.plain[asked], source, target[asked], where=fold.name)
    router.head.second.weight.copy_(weight * scale)
    router.head.second.bias.copy_(bias * scale)
    open_gate = Gate(1.0, 0.0, (-1e9,) * len(bias), means, inverse)
    return router, {name: idea(open_gate, heard, rules) for name, idea in IDEAS.items()}


def hear(
    router: BankRouter,
    moments: Moments,
    measures: Tensor,
    source: NDArray[np.str_],
    target: Ints,
    *,
    where: str = "",
) -> tuple[float, Heard]:
    """Leave each source and each modality out in turn, and ask about its images.

    Args:
        router: Standardises the measures and has the hidden layer; both stay, and saw no labels.
        moments: Of the training images.
        measures: [n, F] of images to ask about.
        source: [n] of each.
        target: [n] place of the modality of each.
        where: Name of the fold, for errors.

    Returns:
        The factor that makes probabilities of the scores, chosen so that they fit the sources left out best; and what
        was heard.

    Raises:
        DataError: If no modality has two sources.
    """
    placed = router.placed(measures)
    hidden = router.hidden(placed)
    names = np.array(moments.source)
    units = [(names == name, source == name) for name in sorted(set(moments.source))]
    units += [(moments.modality == place, target == place) for place in sorted(set(moments.modality.tolist()))]
    parts: list[_Part] = []
    for unit, (cells, asked) in enumerate(units):
        rows = np.flatnonzero(asked)
        left = set(moments.modality[~cells].tolist())
        whole = unit < len(set(moments.source)) and not left & set(target[rows].tolist())  # comes with its modality
        if not len(rows) or len(left) < 2 or whole:
            continue
        (weight, bias), (means, inverse) = moments.head(~cells), moments.near(~cells)
        scores = hidden[rows] @ weight.T + bias
        gate = Gate(1.0, 0.0, (0.0,), means, inverse)
        known = np.isin(target[rows], sorted(left))
        distance = gate.signals(scores, placed[rows])[:, 1]
        parts.append(_Part(scores, distance, target[rows], np.full(len(rows), unit), known))
    return _scaled(parts, where)


@dataclass(frozen=True, slots=True)
class _Part:
    """Scores [m, K] and distances [m] of m images, with their true places, what was left out, and whether known."""

    scores: Tensor
    distance: Tensor
    truth: Ints
    unit: Ints
    known: Bools


def _scaled(parts: list[_Part], where: str) -> tuple[float, Heard]:
    """Choose the scale of the scores, and put together what was heard."""
    if not any(part.known.any() for part in parts):
        raise DataError(
            "no modality has two sources to learn from, so that nothing tells how sure to be at a site never seen",
            where=where,
            remedy="give images of more sources",
        )
    scores, distance = torch.cat([part.scores for part in parts]), torch.cat([part.distance for part in parts])
    place, unit, known = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("truth", "unit", "known")
    )
    truth, chosen = torch.from_numpy(place), scores.argmax(dim=1)
    right = (chosen == truth).numpy() & known
    heard = Heard(np.zeros((len(unit), 2)), chosen.numpy(), right, known, unit, place)
    weights = torch.from_numpy(heard.only(known).weights())
    own, its = scores[known].double(), truth[known]
    losses = [
        float(weights @ torch.nn.functional.cross_entropy(own * scale, its, reduction="none")) for scale in _SCALES
    ]
    scale = float(_SCALES[int(np.argmin(losses))])
    logits = scores.double() * scale
    best = logits.gather(1, chosen[:, None])[:, 0]
    others = logits.scatter(1, chosen[:, None], -torch.inf).logsumexp(dim=1)
    return scale, replace(heard, signals=torch.stack([best - others, distance], dim=1).numpy())


def bounded(score: Floats, heard: Heard, rules: Rules) -> float:
    """Give the lowest threshold above which enough of what is taken is right, for all but few draws of the sources.

    Args:
        score: [n] of each image.
        heard: What was said of them, of known modalities alone.
        rules: How much is enough, and how few are few.

    Returns:
        A threshold; the highest looked at, if none is enough.
    """
    grid = np.quantile(score, np.linspace(0, 0.98, _STEPS))
    units, kinds = np.unique(heard.unit), np.unique(heard.modality)
    weights, taken = heard.weights(), score[None] >= grid[:, None]  # [T, n]
    place = np.searchsorted(kinds, heard.modality) * len(units) + np.searchsorted(units, heard.unit)
    cells = np.zeros((len(score), len(kinds) * len(units)))
    cells[np.arange(len(score)), place] = weights
    shape = (len(grid), len(kinds), len(units))
    every, good = ((taken * mask) @ cells for mask in (np.ones(len(score)), heard.right))
    rng = np.random.default_rng([0, _BOUND])
    times = rng.multinomial(len(units), np.full(len(units), 1 / len(units)), size=_DRAWS).T
    below, above = every.reshape(shape) @ times, good.reshape(shape) @ times  # [T, K, draws]
    some = below > 0
    share = np.divide(above, below, out=np.zeros_like(below), where=some)
    mean = share.sum(axis=1) / np.maximum(some.sum(axis=1), 1)  # [T, draws] over the modalities taken at all
    enough = np.quantile(mean, rules.doubt, axis=1) >= rules.right
    return float(grid[int(np.argmax(enough))] if enough.any() else grid[-1])


def _gate(gate: Gate, heard: Heard, rules: Rules, sure: float, near: float, about: str) -> Gate:
    """Set one threshold for all modalities on a weighing of the signals."""
    known = heard.only(heard.known)
    least = bounded(known.signals @ np.array([sure, -near]), known, rules)
    return replace(gate, sure=sure, near=near, least=(least,) * len(gate.least), about=about)


def _both(gate: Gate, heard: Heard, rules: Rules) -> Gate:
    sure, near = acceptance_weights(heard.signals, heard.right, heard.weights())
    aims = f"right {rules.right:g}, doubt {rules.doubt:g}"
    return _gate(gate, heard, rules, sure, near, f"{len(heard.right)} answers about what was left out; {aims}")


def _known_alone(gate: Gate, heard: Heard, rules: Rules) -> Gate:
    known = heard.only(heard.known)
    return _gate(gate, heard, rules, *acceptance_weights(known.signals, known.right, known.weights()), "")


def _each_modality(gate: Gate, heard: Heard, rules: Rules) -> Gate:
    """Set a threshold for each modality named, where enough images were said to be of it."""
    gate = _both(gate, heard, rules)
    known = heard.only(heard.known)
    least = list(gate.least)
    for place in range(len(least)):
        own = known.only(known.chosen == place)
        if len(np.unique(own.unit)) > 1:
            own = replace(own, modality=np.zeros_like(own.modality))
            least[place] = bounded(own.signals @ np.array([gate.sure, -gate.near]), own, rules)
    return replace(gate, least=tuple(least))


# Ways to set a gate; the first is the one that is kept.
IDEAS: dict[str, Callable[[Gate, Heard, Rules], Gate]] = {
    "both": _both,
    "no margin": lambda gate, heard, rules: _both(gate, heard, replace(rules, doubt=0.5)),
    "each modality": _each_modality,
    "known alone": _known_alone,
    "probability": lambda gate, heard, rules: _gate(gate, heard, rules, 1.0, 0.0, ""),
    "distance": lambda gate, heard, rules: _gate(gate, heard, rules, 0.0, 1.0, ""),
}
