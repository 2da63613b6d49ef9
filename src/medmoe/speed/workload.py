"""Training steps for the benchmarks: a recipe's step on batches made beforehand, whole or with a part replaced."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medmoe.build import build_loader, build_model, build_tokenizer, resolve_data
from medmoe.config import RunConfig, override
from medmoe.data.sources.phantom import PhantomSource
from medmoe.optim import adamw
from medmoe.speed.item import Call
from medmoe.step import compiled, eager
from medmoe.train import State, train_step
from medmoe.types import Batch, Loss, Output, Pyramid, Routing

LOCAL = ("local", "late_interaction", "region_words")


class PlainRegions(nn.Module):
    """What is left where the experts are taken out: the levels they read, pooled to the grid and cut to D channels."""

    def __init__(self, *, width: int, grid: int, levels: Sequence[int]) -> None:
        super().__init__()
        self.width, self.grid, self.levels = width, grid, tuple(levels)

    def forward(self, pyramid: Pyramid, routing: Routing) -> Tensor:
        """Give [B, D, G, G] with a gradient for every level."""
        pooled = [F.adaptive_avg_pool2d(pyramid.levels[level], self.grid) for level in self.levels]
        stacked = torch.cat(pooled, 1)
        missing = -(-self.width // stacked.shape[1])
        return stacked.repeat(1, missing, 1, 1)[:, : self.width]


class PlainScores(nn.Module):
    """What is left where a router's head is taken out: the first K of its inputs."""

    def __init__(self, experts: int) -> None:
        super().__init__()
        self.experts = experts

    def forward(self, feature: Tensor) -> Tensor:
        """Give [B, K]."""
        return feature[:, : self.experts]


def batches_of(
    config: RunConfig, *, patients: int, count: int, text: Path | None = None
) -> tuple[State, RunConfig, list[Batch]]:
    """Build a recipe's model on phantoms, and the first batches that it would train on; `text` brings a tokenizer."""
    source = PhantomSource(patients, size=config.model.vision.image_size)
    config, reports = resolve_data(override(config, ["data.workers=0"]), source)
    model = build_model(config.model, build_tokenizer(config.model.text, reports, folder=text))
    loader = iter(build_loader(source, model, config, train=True))
    return state_of(model, config), config, [next(loader) for _ in range(count)]


def state_of(model: nn.Module, config: RunConfig) -> State:
    """Give a model the optimiser of its recipe."""
    settings = config.train
    optimizer = adamw(model, lr=settings.lr, weight_decay=settings.weight_decay, betas=settings.betas)
    return State(model, optimizer, None)  # type: ignore[arg-type]


def step_of(state: State, config: RunConfig, batches: Sequence[Batch], device: str) -> Call:
    """Give one training step after another, over the same batches again and again."""
    if config.train.compile:
        state.forward = compiled(config, device)
    return partial(train_step, state, itertools.cycle(batches), config, device)


def without_local(config: RunConfig) -> RunConfig:
    """Leave out the losses on words and regions."""
    kept = {name: weight for name, weight in config.objectives.items() if name not in LOCAL}
    return config.model_copy(update={"objectives": kept})


def mean_for_local(state: State, config: RunConfig, device: str) -> None:
    """Put a mean of words and regions in the place of the losses on them, so that all before them has its gradient."""
    rest = eager(without_local(config), device)

    def forward(model: nn.Module, batch: Batch) -> tuple[Output, Loss]:
        output, loss = rest(model, batch)  # type: ignore[arg-type]
        assert output.text is not None
        small = output.image.regions.float().mean() + output.text.words.float().mean()
        return output, Loss(loss.total + small, loss.terms)

    state.forward = forward


def without_experts(state: State, config: RunConfig, *, routers: bool = True) -> None:
    """Take the experts out of a model, and the heads of its routers with what they read."""
    experts, model = config.model.experts, state.model
    model.experts = PlainRegions(width=experts.width, grid=experts.grid, levels=experts.levels)  # type: ignore[assignment]
    model.special_projection = None
    if routers:
        count = len(model.modalities)
        model.image_router, model.text_router = PlainScores(count), PlainScores(count)
    settings = config.train
    state.optimizer = adamw(model, lr=settings.lr, weight_decay=settings.weight_decay, betas=settings.betas)


__all__ = [
    "batches_of",
    "mean_for_local",
    "state_of",
    "step_of",
    "without_experts",
    "without_local",
]
