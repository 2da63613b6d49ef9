"""Setting the gate without a look at unseen sources: on validation images judged by routers that never saw their site.

A router is surer of sites that it has seen, right or wrong. So the training sources are dealt into groups, a router is
trained without each group, and what it says of the group's validation images shows how sure one must be.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from medmoe.config import RunConfig
from medmoe.gate import Gate
from medmoe.holdout.bank import Bank
from medmoe.holdout.folds import Facts, Fold, deal
from medmoe.holdout.head import BankRouter, sample_weights, train_head
from medmoe.metrics import Bools, Floats, Ints

_LEAST_SPREAD = 0.2


@dataclass(frozen=True, slots=True)
class Rules:
    """What the gate is to do.

    Attributes:
        right: Share of the images taken, modalities balanced, that should be right.
        near: Share of the images that should be near enough.
        groups: Groups that the training sources are dealt into; 0 sets no gate.
    """

    right: float = 0.98
    near: float = 0.95
    groups: int = 4


@dataclass(frozen=True, slots=True)
class Opinion:
    """What a router says of n images.

    Attributes:
        chosen: [n] modality.
        probability: [n] of that.
        distance: [n] from it; see `Gate`.
    """

    chosen: Ints
    probability: Floats
    distance: Floats


@torch.no_grad()
def opinion(router: BankRouter, gate: Gate, measures: Tensor) -> Opinion:
    """Ask a router about measured images [n, F]."""
    features = router.features(measures)
    probability, chosen = router.head(features).double().softmax(dim=1).max(dim=1)
    return Opinion(chosen.numpy(), probability.numpy(), gate.distance(features, chosen).double().numpy())


def fit_router(
    bank: Bank, facts: Facts, fold: Fold, config: RunConfig, rules: Rules, *, seed: int
) -> tuple[BankRouter, Gate]:
    """Train a router on a fold's training images and set its gate on their sources' validation images.

    Args:
        bank: Measures of all images.
        facts: Of all images.
        fold: Whom to leave out.
        config: How to train.
        rules: What the gate is to do.
        seed: Of the training.
    """
    target = fold.target(facts)
    inside = ~fold.out & (target >= 0)
    train = inside & facts.where("train")
    router, open_gate = _fit(bank, facts, target, train, config, seed)
    if rules.groups == 0:
        return router, open_gate
    heard = _hear(bank, facts, target, train, inside & facts.where("val"), config, rules, seed)
    return router, _set(open_gate, heard, rules)


def _fit(bank: Bank, facts: Facts, target: Ints, train: Bools, config: RunConfig, seed: int) -> tuple[BankRouter, Gate]:
    """Train a router, and give a gate that takes all but knows what is near."""
    rows = np.flatnonzero(train)
    weights = _weights(facts, rows, config)
    router = train_head(bank, rows, target[rows], weights, config, seed=seed)
    return router, _around(router, bank, rows, target[rows])


def _weights(facts: Facts, rows: Ints, config: RunConfig) -> Floats:
    kinds, sites = ([names[row] for row in rows] for names in (facts.modality, facts.source))
    return sample_weights(kinds, sites, balance=config.data.balance)


@torch.no_grad()
def _around(router: BankRouter, bank: Bank, rows: Ints, target: Ints) -> Gate:
    """Find each modality's mean and spread over all views of the training images."""
    means, spreads = [], []
    for modality in range(int(target.max()) + 1):
        own = bank.measures[:, rows[target == modality]].flatten(0, 1)
        features = router.features(own)
        means.append(tuple(features.mean(dim=0).tolist()))
        spreads.append(tuple(features.std(dim=0, unbiased=False).clamp_min(_LEAST_SPREAD).tolist()))
    return Gate(0.0, math.inf, tuple(means), tuple(spreads))


@dataclass(frozen=True, slots=True)
class _Heard:
    """What routers said of validation images of sites that they never saw.

    Attributes:
        right: [n] whether it was right.
        probability: [n].
        distance: [n].
        weights: [n] modalities and sources balanced.
    """

    right: Bools
    probability: Floats
    distance: Floats
    weights: Floats


def _hear(
    bank: Bank, facts: Facts, target: Ints, train: Bools, val: Bools, config: RunConfig, rules: Rules, seed: int
) -> _Heard:
    """Leave each group of training sources out in turn, and ask about its validation images."""
    dealt = deal(facts, train, rules.groups)
    group = np.array([dealt.get(name, -1) for name in facts.source])
    rows: list[Ints] = []
    said: list[Opinion] = []
    for number in range(rules.groups):
        kept = train & (group != number)
        # a modality that would be gone keeps its images: there is nothing to ask about it
        lost = sorted(set(target[train].tolist()) - set(target[kept].tolist()))
        spared = np.isin(target, lost)
        asked = np.flatnonzero(val & (group == number) & ~spared)
        if not len(asked):
            continue
        router, gate = _fit(bank, facts, target, kept | (train & spared), config, seed * 100 + number)
        rows.append(asked)
        said.append(opinion(router, gate, bank.plain[asked]))
    if not rows:
        return _Heard(np.zeros(0, bool), np.zeros(0), np.zeros(0), np.zeros(0))
    every = np.concatenate(rows)
    return _Heard(
        right=np.concatenate([one.chosen for one in said]) == target[every],
        probability=np.concatenate([one.probability for one in said]),
        distance=np.concatenate([one.distance for one in said]),
        weights=_weights(facts, every, config),
    )


def _set(gate: Gate, heard: _Heard, rules: Rules) -> Gate:
    """Choose both thresholds."""
    sure, near = least_probability(heard.probability, heard.right, heard.weights, rules.right), math.inf
    if len(heard.distance):
        order = np.argsort(heard.distance)
        enough = np.cumsum(heard.weights[order]) >= rules.near * heard.weights.sum() - 1e-12
        near = float(heard.distance[order][np.argmax(enough)])
    about = f"{len(heard.right)} validation images of sites left out in {rules.groups} groups; aims: {rules.right:g}"
    return Gate(sure, near, gate.means, gate.spreads, f"{about} right, {rules.near:g} near")


def least_probability(probability: Floats, right: Bools, weights: Floats, share: float) -> float:
    """Give the lowest threshold above which at least a share of the weight is right; 2, which no image has, if none is.

    >>> least_probability(np.array([0.9, 0.8, 0.7]), np.array([True, True, False]), np.ones(3), 0.9)
    0.8
    """
    order = np.argsort(-probability, kind="stable")
    taken = np.cumsum(weights[order])
    good = np.cumsum((weights * right)[order]) >= share * taken - 1e-12
    last = np.r_[np.diff(probability[order]) != 0, True] if len(order) else np.zeros(0, bool)
    places = np.flatnonzero(good & last)  # a threshold takes all images that share its value
    return float(probability[order][places[-1]]) if len(places) else 2.0
