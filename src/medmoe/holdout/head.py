"""Training the router's head on a bank of measures, sites and modalities balanced."""

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
        dropout: Share of the measures left out in training.
    """

    def __init__(self, measures: int, hidden: int, modalities: int, dropout: float) -> None:
        super().__init__()
        self.standard = nn.BatchNorm1d(measures, affine=False)
        self.dropout = nn.Dropout(dropout)
        self.head = RouterHead(2 * measures, hidden, modalities)

    @torch.no_grad()
    def features(self, measures: Tensor) -> Tensor:
        """Give what the router reads of measures [B, F]: [B, 2F]; nothing before it learns by gradient."""
        placed = self.dropout(self.standard(measures).clamp(-Descriptor.most, Descriptor.most))
        return image_statistics(Pyramid((placed[:, :, None, None],)))

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


def train_head(bank: Bank, rows: Ints, target: Ints, weights: Floats, config: RunConfig, *, seed: int) -> BankRouter:
    """Train a head.

    Args:
        bank: Measures of all images.
        rows: [m] the images to train on.
        target: [m] modality of each.
        weights: [m] chance of each to be drawn.
        config: Its `train` and `data.batch_size`, and the width of the router.
        seed: Of the weights, the draws and the dropout.

    Returns:
        The router in evaluation mode.
    """
    settings, batch = config.train, config.data.batch_size
    views, _, count = bank.measures.shape
    rng = np.random.default_rng([seed, _DRAWS])
    truth = torch.from_numpy(target)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        router = BankRouter(count, config.model.router.hidden, int(target.max()) + 1, Descriptor.dropped).train()
        optimizer = adamw(router, lr=settings.lr, weight_decay=settings.weight_decay, betas=settings.betas)
        for step in range(settings.steps):
            set_lr(optimizer, settings.lr * warmup_cosine(step, steps=settings.steps, warmup=settings.warmup))
            drawn = rng.choice(len(rows), batch, p=weights)
            measures = bank.measures[rng.integers(views, size=batch), rows[drawn]]
            loss = F.cross_entropy(router(measures), truth[drawn])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(router.parameters(), settings.clip)
            optimizer.step()
    return router.eval()
