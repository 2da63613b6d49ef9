"""Training the router's head on a bank of measures, sites and modalities balanced: several heads, averaged into one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medmoe.config import RunConfig
from medmoe.encoders.descriptor import Descriptor
from medmoe.experts.router import RouterHead, image_statistics
from medmoe.holdout.bank import Bank
from medmoe.metrics import Floats, Ints
from medmoe.optim import adamw, set_lr, warmup_cosine
from medmoe.types import Pyramid

_DRAWS = 22  # first key of the random stream


class BankRouter(nn.Module):
    """What a bank's measures pass through on the way to logits: the same modules as in the whole model.

    Args:
        measures: F.
        hidden: Width of the head's hidden layer.
        modalities: K.
    """

    def __init__(self, measures: int, hidden: int, modalities: int) -> None:
        super().__init__()
        self.standard = nn.BatchNorm1d(measures, affine=False)
        self.head = RouterHead(2 * measures, hidden, modalities)
        self.eval()

    @torch.no_grad()
    def features(self, measures: Tensor) -> Tensor:
        """Give what the head reads of measures [B, F]: [B, 2F], of which the second half is the same for all."""
        placed = self.standard(measures).clamp(-Descriptor.most, Descriptor.most)
        return image_statistics(Pyramid((placed[:, :, None, None],)))

    @torch.no_grad()
    def forward(self, measures: Tensor) -> Tensor:
        """Give logits [B, K] of measures [B, F]."""
        logits: Tensor = self.head(self.features(measures))
        return logits


def sample_weights(modality: Sequence[str], source: Sequence[str], *, balance: float) -> Floats:
    """Give each sample's chance to be drawn: [n], their sum 1.

    Within a modality a source counts with the square root of its size, so that a large one doesn't stand for all.

    Args:
        modality: [n].
        source: [n].
        balance: Share of the modalities: 0 as they come, 1 equal.
    """
    kinds, sites = np.array(modality), np.array(source)
    weights = np.zeros(len(kinds))
    for kind in set(modality):
        own = kinds == kind
        for site in set(sites[own].tolist()):
            both = own & (sites == site)
            weights[both] = both.sum() ** -0.5
        weights[own] *= own.sum() ** (1 - balance) / weights[own].sum()
    return np.asarray(weights / weights.sum())


class _Members(nn.Module):
    """Heads side by side, each a `RouterHead` by itself; the measures' spreads, which are constant, they don't read.

    Args:
        members: E.
        measures: F.
        hidden: Width H of each head.
        modalities: K.
        generator: Draws the first weights.
    """

    def __init__(self, members: int, measures: int, hidden: int, modalities: int, generator: torch.Generator) -> None:
        super().__init__()
        wide = 2 * measures

        def drawn(*shape: int, fan: int) -> nn.Parameter:
            return nn.Parameter((torch.rand(shape, generator=generator) * 2 - 1) / fan**0.5)

        self.first, self.first_bias = drawn(members, measures, hidden, fan=wide), drawn(members * hidden, fan=wide)
        self.second, self.second_bias = (
            drawn(members, hidden, modalities, fan=hidden),
            drawn(members * modalities, fan=hidden),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Give logits [E, B, K] of features [E, B, 2F]."""
        members, measures, _ = self.first.shape
        normal = F.layer_norm(features, features.shape[-1:])[..., :measures]
        inner = F.relu(normal @ self.first + self.first_bias.view(members, 1, -1))
        return inner @ self.second + self.second_bias.view(members, 1, -1)

    @torch.no_grad()
    def averaged(self, head: RouterHead) -> None:
        """Write the mean of the heads' logits into one head of E·H hidden units, which gives exactly that."""
        members, measures, hidden = self.first.shape
        head.first.weight.zero_()
        head.first.weight[:, :measures] = self.first.permute(0, 2, 1).reshape(members * hidden, measures)
        head.first.bias.copy_(self.first_bias)
        head.second.weight.copy_(self.second.flatten(0, 1).T / members)
        head.second.bias.copy_(self.second_bias.view(members, -1).mean(dim=0))


def train_heads(
    bank: Bank, rows: Ints, target: Ints, weights: Floats, config: RunConfig, *, heads: int, seed: int
) -> BankRouter:
    """Train heads side by side, each on draws of its own, and average them.

    Args:
        bank: Measures of all images.
        rows: [m] the images to train on.
        target: [m] modality of each.
        weights: [m] chance of each to be drawn, their sum 1.
        config: Its `train`, `data.batch_size` and `model.router.hidden`, the hidden units of all heads together.
        heads: E, by which the hidden units can be divided.
        seed: Of the weights, the draws and the dropout.

    Returns:
        The router in evaluation mode.
    """
    settings, hidden, modalities = config.train, config.model.router.hidden, int(target.max()) + 1
    generator, rng = torch.Generator().manual_seed(seed), np.random.default_rng([seed, _DRAWS])
    views, _, measures = bank.measures.shape
    with torch.random.fork_rng(devices=[]):  # its weights are written over
        router = BankRouter(measures, hidden, modalities)
    known, truth = bank.measures[:, rows], torch.from_numpy(target)
    _standardise(router, known, weights)
    placed = torch.stack([router.features(view) for view in known])  # [V, m, 2F]
    members = _Members(heads, measures, hidden // heads, modalities, generator)
    optimizer = adamw(members, lr=settings.lr, weight_decay=settings.weight_decay, betas=settings.betas)
    chances = np.cumsum(weights) / np.sum(weights)
    for step in range(settings.steps):
        set_lr(optimizer, settings.lr * warmup_cosine(step, steps=settings.steps, warmup=settings.warmup))
        drawn = np.searchsorted(chances, rng.random((heads, config.data.batch_size)))  # [E, B]
        features = placed[rng.integers(views, size=drawn.shape), drawn].clone()
        kept = torch.rand((*drawn.shape, measures), generator=generator) >= Descriptor.dropped
        features[..., :measures] *= kept / (1 - Descriptor.dropped)
        logits = members(features)
        loss = heads * F.cross_entropy(logits.flatten(0, 1), truth[drawn].flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(members.parameters(), settings.clip * heads**0.5)
        optimizer.step()
    members.averaged(router.head)
    return router


def _standardise(router: BankRouter, known: Tensor, weights: Floats) -> None:
    """Take the measures' mean and variance from the training images [V, m, F], as often as each would be drawn."""
    share = torch.from_numpy(weights / weights.sum() / len(known)).float()[None, :, None]
    mean = (known * share).sum(dim=(0, 1))
    router.standard.running_mean.copy_(mean)
    router.standard.running_var.copy_(((known - mean).square() * share).sum(dim=(0, 1)))
