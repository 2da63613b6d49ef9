"""A router's head in closed form: a random hidden layer and ridge regression, from sums that leave out any site.

Leaving out one more site costs a subtraction and a small linear system instead of a training, so that a gate can be set
on what the router would have said of every site and modality that it knows, had it not known it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medmoe.encoders.descriptor import Descriptor
from medmoe.experts.router import RouterHead, image_statistics
from medmoe.holdout.bank import Bank
from medmoe.metrics import Bools, Floats, Ints
from medmoe.types import Pyramid

_LAYER = 22  # first key of the random stream
_ABSENT = -1.0  # score of a modality without a training image, where 1 means yes and 0 no
_SHRINK = 0.1  # share of the mean variance that is added to every variance of the distance


class BankRouter(nn.Module):
    """What a bank's measures pass through on the way to logits: the same modules as in the whole model.

    Args:
        measures: F.
        hidden: H, width of the head's hidden layer, whose weights are drawn and stay.
        modalities: K.
        seed: Of these weights.
    """

    def __init__(self, measures: int, hidden: int, modalities: int, *, seed: int = 0) -> None:
        super().__init__()
        self.standard = nn.BatchNorm1d(measures, affine=False)
        with torch.random.fork_rng(devices=[]):  # the head's own draws are written over
            self.head = RouterHead(2 * measures, hidden, modalities)
        rng = np.random.default_rng([seed, _LAYER])
        with torch.no_grad():
            self.head.first.weight.zero_()  # the second half of what the head reads is the same for all images
            self.head.first.weight[:, :measures] = _drawn(rng, (hidden, measures), measures**-0.5)
            self.head.first.bias.copy_(_drawn(rng, (hidden,), 0.5))
        self.requires_grad_(False).eval()

    def placed(self, measures: Tensor) -> Tensor:
        """Standardise measures [..., F], extreme ones cut off."""
        flat: Tensor = self.standard(measures.flatten(0, -2))
        return flat.clamp(-Descriptor.most, Descriptor.most).view(measures.shape)

    def hidden(self, placed: Tensor) -> Tensor:
        """Give the head's hidden units for standardised measures [B, F]: [B, H]."""
        features = image_statistics(Pyramid((placed[:, :, None, None],)))
        return F.relu(self.head.first(self.head.norm(features)))

    def forward(self, measures: Tensor) -> Tensor:
        """Give logits [B, K] of measures [B, F]."""
        logits: Tensor = self.head.second(self.hidden(self.placed(measures)))
        return logits


def _drawn(rng: np.random.Generator, shape: tuple[int, ...], scale: float) -> Tensor:
    return torch.from_numpy(rng.standard_normal(shape) * scale).float()


def cell_weights(modality: Ints, counts: Ints, *, balance: float = 1.0) -> Floats:
    """Give the weight of each image of each cell (source and modality): [C], the sum over all images 1.

    Within a modality a source counts with the square root of its size, so that a large one doesn't stand for all.

    Args:
        modality: [C] of each cell.
        counts: [C] images of each cell; one without counts nothing.
        balance: Share of the modalities: 0 as they come, 1 equal.

    >>> (cell_weights(np.array([0, 0, 1]), np.array([9, 1, 4])) * np.array([9, 1, 4])).tolist()
    [0.375, 0.125, 0.5]
    """
    weights = np.zeros(len(counts))
    there = counts > 0
    weights[there] = counts[there] ** -0.5
    for kind in set(modality[there].tolist()):
        own = modality == kind
        weights[own] *= counts[own].sum() ** (1 - balance) / (weights[own] * counts[own]).sum()
    return np.asarray(weights / (weights * counts).sum())


@dataclass(frozen=True, slots=True)
class Moments:
    """Sums over the training images of each cell, all that head and distance are made from.

    Attributes:
        source: [C] of each cell.
        modality: [C] its place.
        counts: [C] images.
        hidden: [C, H + 1, H + 1] second moments of the hidden units and a one, summed over images, averaged over views.
        placed: [C, F + 1, F + 1] the same of the standardised measures.
        modalities: K.
        balance: Of the modalities; see `cell_weights`.
        ridge: Share of the hidden units' mean square that is added to each.
    """

    source: tuple[str, ...]
    modality: Ints
    counts: Ints
    hidden: Tensor
    placed: Tensor
    modalities: int
    balance: float
    ridge: float

    def head(self, kept: Bools) -> tuple[Tensor, Tensor]:
        """Fit scores, 1 for yes and 0 for no, to the images of some cells [C]: weight [K, H] and bias [K]."""
        weights = self._weights(kept)
        system = torch.einsum("c,cij->ij", weights, self.hidden)
        right = torch.zeros(len(system), self.modalities)
        for cell, place in enumerate(self.modality.tolist()):
            right[:, place] += weights[cell] * self.hidden[cell, -1]
        system = system + self.ridge * system.diagonal().mean() * torch.eye(len(system))
        solved = torch.linalg.solve(system, right).T  # [K, H + 1]
        absent = torch.from_numpy(~np.isin(np.arange(self.modalities), self.modality[kept & (self.counts > 0)]))
        solved[absent] = 0
        solved[absent, -1] = _ABSENT
        return solved[:, :-1].contiguous(), solved[:, -1].contiguous()

    def near(self, kept: Bools) -> tuple[Tensor, Tensor]:
        """Give each modality's mean [K, F] and the inverse [F, F] of their common covariance, shrunk, over F."""
        weights = self._weights(kept)
        count = self.placed.shape[1] - 1
        means, common, found = torch.zeros(self.modalities, count), torch.zeros(count, count), 0
        for place in range(self.modalities):
            own = torch.from_numpy((self.modality == place) & kept & (self.counts > 0))
            if not own.any():
                continue
            moments = torch.einsum("c,cij->ij", weights[own], self.placed[own])
            moments = moments / moments[-1, -1]
            means[place], found = moments[-1, :-1], found + 1
            common += moments[:-1, :-1] - torch.outer(means[place], means[place])
        common = common / found
        shrunk = common + _SHRINK * common.diagonal().mean() * torch.eye(count)
        return means, torch.linalg.inv(shrunk) / count

    def _weights(self, kept: Bools) -> Tensor:
        counts = np.where(kept, self.counts, 0)
        return torch.from_numpy(cell_weights(self.modality, counts, balance=self.balance)).float()


def sum_up(
    bank: Bank,
    rows: Ints,
    source: Sequence[str],
    target: Ints,
    *,
    hidden: int,
    modalities: int,
    ridge: float,
    balance: float,
    seed: int,
) -> tuple[BankRouter, Moments]:
    """Standardise the measures of training images, draw a hidden layer, and sum up.

    Args:
        bank: Measures of all images.
        rows: [m] the images to train on.
        source: [m] of each.
        target: [m] place of the modality of each.
        hidden: H.
        modalities: K.
        ridge: See `Moments`.
        balance: See `Moments`.
        seed: Of the hidden layer.

    Returns:
        A router whose last layer isn't set, and the moments to set it from.
    """
    pairs = list(zip(source, target.tolist(), strict=True))
    cells = sorted(set(pairs))
    cell = np.array([cells.index(pair) for pair in pairs])
    counts, modality = np.bincount(cell, minlength=len(cells)), np.array([place for _, place in cells])
    known = bank.measures[:, rows]  # [V, m, F]
    router = BankRouter(known.shape[2], hidden, modalities, seed=seed)
    weights = cell_weights(modality, counts, balance=balance)[cell]
    _standardise(router, known, weights)
    units, placed = [], []
    for place in range(len(cells)):
        own = router.placed(known[:, cell == place]).flatten(0, 1)
        placed.append(_second(own) / len(known))
        units.append(_second(router.hidden(own)) / len(known))
    names = tuple(name for name, _ in cells)
    return router, Moments(names, modality, counts, torch.stack(units), torch.stack(placed), modalities, balance, ridge)


def _second(values: Tensor) -> Tensor:
    """Sum the second moments of [n, D] and a one: [D + 1, D + 1]."""
    more = F.pad(values, (0, 1), value=1.0)
    return more.T @ more


def _standardise(router: BankRouter, known: Tensor, weights: Floats) -> None:
    """Take the measures' mean and variance from the training images [V, m, F], weighted."""
    share = torch.from_numpy(weights / len(known)).float()[None, :, None]
    mean = (known * share).sum(dim=(0, 1))
    router.standard.running_mean.copy_(mean)  # type: ignore[union-attr]
    router.standard.running_var.copy_(((known - mean).square() * share).sum(dim=(0, 1)))  # type: ignore[union-attr]
