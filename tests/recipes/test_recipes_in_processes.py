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

# A batch norm takes its statistics from a whole batch, so a recipe that has one is refused in parts, with this remedy.
IN_PARTS = ("train.micro_batch=3", "model.pool_norm=layer", "model.vision.norm=group")


def step(name: str, *settings: str) -> tuple[float, Any]:
    """Give the loss of a recipe's first step and its gradients, in float64 where it can be."""
    config, reports = resolve_data(override(shrunk(name), list(settings)), phantoms())
    model = build_model(config.model, build_tokenizer(config.model.text, reports), seed=3)
    if config.train.micro_batch is not None:
        check_separable(training(model))
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


def test_two_processes_take_the_step_of_one_for_every_recipe(tmp_path: Path):
    wanted: list[tuple[str, tuple[str, ...]]] = [(name, ()) for name in RECIPES]
    wanted += [(name, IN_PARTS) for name in RECIPES if name != "router"]
    for (name, settings), *ranks in zip(wanted, *together(2, steps, tmp_path, wanted, timeout=120), strict=True):
        loss, expected = step(name, *settings)
        for found_loss, found in ranks:
            assert found_loss == pytest.approx(loss, rel=1e-6), name
            assert farthest(found, expected) < 1e-5, (name, settings)


def test_the_router_by_fixed_measures_which_standardises_them_over_the_batch_is_refused_in_parts():
    with pytest.raises(ConfigError, match=r"vision\.standard is a BatchNorm.*train\.freeze"):
        step("router", *IN_PARTS)
