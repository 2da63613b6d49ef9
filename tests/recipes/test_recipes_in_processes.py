"""Every recipe takes the same step in two processes that share the batch as in one that has all of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_recipes import shrunk
from torch import nn

from medmoe.build import build_loader, build_model, build_tokenizer, resolve_data
from medmoe.caching import check_separable
from medmoe.config import override
from medmoe.distributed import World, over_all, sum_gradients
from medmoe.encoders.pretrained import training
from medmoe.errors import ConfigError
from medmoe.optim import adamw
from medmoe.recipes import RECIPES
from medmoe.state import State
from medmoe.train import add_gradients
from processes import together
from small_runs import phantoms
from test_caching import farthest, gradients


def step(name: str, *settings: str) -> tuple[float, Any]:
    """Give the loss of a recipe's first step and its gradients, in float64 where it can be."""
    config, reports = resolve_data(override(shrunk(name), list(settings)), phantoms())
    model = build_model(config.model, build_tokenizer(config.model.text, reports), seed=3)
    if config.model.vision.name != "descriptor":  # whose measures are in float32
        model = model.double()
    for module in model.modules():
        if isinstance(module, nn.Dropout):  # which each process draws for its own images
            module.p = 0.0
    state = State(training(over_all(model)), adamw(model, lr=1e-3, weight_decay=0.0, betas=(0.9, 0.98)), None)
    batch = next(iter(build_loader(phantoms(), model, config, train=True, alone=False)))
    batch = replace(batch, image=batch.image.to(model.log_scale.dtype))
    loss, _ = add_gradients(state, batch, config, "cpu")
    sum_gradients(model)
    return float(loss.total.detach()), gradients(model)


def steps(world: World, wanted: list[tuple[str, tuple[str, ...]]]) -> list[Any]:
    return [step(name, *settings) for name, settings in wanted]


def separable(name: str) -> bool:
    config, reports = resolve_data(shrunk(name), phantoms())
    try:
        check_separable(training(build_model(config.model, build_tokenizer(config.model.text, reports))))
    except ConfigError:
        return False
    return True


def test_two_processes_take_the_step_of_one_for_every_recipe(tmp_path: Path):
    wanted: list[tuple[str, tuple[str, ...]]] = [(name, ()) for name in RECIPES]
    wanted += [(name, ("train.micro_batch=3",)) for name in RECIPES if separable(name)]
    assert any(settings for _, settings in wanted)
    for (name, settings), *ranks in zip(wanted, *together(2, steps, tmp_path, wanted, timeout=120), strict=True):
        loss, expected = step(name, *settings)
        for found_loss, found in ranks:
            assert found_loss == pytest.approx(loss, rel=1e-6), name
            assert farthest(found, expected) < 1e-5, (name, settings)
