"""A whole training forward is one compiled graph, whichever experts are chosen."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from medmoe.model import MedVLM
from medmoe.types import Batch, Output, Tokens
from small_runs import batch_of, built

ARRANGEMENTS = {
    "separate experts": (),
    "shared and special": ("model.experts.shared=1", "model.experts.zero=true", "model.special_projection=true"),
    "two each": ("model.router.selection=top_k", "model.router.k=2"),
    "low-rank": ("model.experts.shared=1", "model.experts.rank=2"),
    "straight through": ("model.router.gradient=straight_through", "model.experts.levels=[0,1,2]"),
    "batch norms outside the experts": ("model.vision.norm=batch", "model.pool=pyramid", "model.pool_norm=batch"),
}


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def loss(output: Output) -> Tensor:
    assert output.text is not None
    pairs = output.image.embed @ output.text.embed.T * output.logit_scale
    return pairs.diag().sum() + output.image.regions.square().sum() + output.text.words.square().sum()


def turned(batch: Batch) -> Batch:
    """Give the same images beside each other's reports, which choose other experts."""
    assert batch.tokens is not None
    fields = {field.name: getattr(batch.tokens, field.name).roll(3, 0) for field in dataclasses.fields(Tokens)}
    return dataclasses.replace(batch, tokens=Tokens(**fields))


def learnt(model: MedVLM, made: Output) -> dict[str, Tensor]:
    """Give the gradients of every parameter, zeros where there is none."""
    values = dict(model.named_parameters())
    found = torch.autograd.grad(loss(made), list(values.values()), allow_unused=True)
    return {
        name: torch.zeros_like(value) if one is None else one
        for (name, value), one in zip(values.items(), found, strict=True)
    }


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_a_training_forward_is_one_graph_that_equals_the_eager_one(arrangement: str):
    model = built(*ARRANGEMENTS[arrangement]).train()
    batch = batch_of(model)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    for given in (batch, turned(batch)):
        got, want = compiled(given), model(given)
        torch.testing.assert_close(got.image.regions, want.image.regions, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(got.image.embed, want.image.embed)
        torch.testing.assert_close(got.text.words, want.text.words)
        own, eager = learnt(model, got), learnt(model, want)
        whole = max(float(value.norm()) for value in eager.values())
        for name, value in eager.items():
            assert float((own[name] - value).norm()) <= 1e-3 * float(value.norm()) + 1e-5 * whole, name


def test_other_groups_of_images_need_no_other_graph():
    model = built().train()
    batch = batch_of(model)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    chosen = [compiled(given).image.routing.expert for given in (batch, turned(batch))]
    assert not torch.equal(chosen[0], chosen[1])
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]
