from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from medmoe.optim import (
    WeightAverage,
    adamw,
    copy_state,
    load_state_tensors,
    set_lr,
    state_tensors,
    warmup_cosine,
)


def network(seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))


def make(model: nn.Module, *, lr: float = 0.1, weight_decay: float = 0.0) -> torch.optim.AdamW:
    return adamw(model, lr=lr, weight_decay=weight_decay, betas=(0.9, 0.98))


def step(model: nn.Module, optimizer: torch.optim.Optimizer, number: int = 0) -> None:
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(number))
    optimizer.zero_grad(set_to_none=True)
    model(x).square().sum().backward()
    optimizer.step()


def values(model: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def test_only_matrices_decay():
    model = network()
    optimizer = make(model, weight_decay=0.3)
    decay = {parameter: group["weight_decay"] for group in optimizer.param_groups for parameter in group["params"]}
    assert [decay[parameter] for parameter in model.parameters()] == [0.3, 0.0, 0.0, 0.0, 0.3, 0.0]


def test_a_frozen_parameter_is_not_the_optimisers():
    model = network()
    model[0].weight.requires_grad_(False)
    assert sum(len(group["params"]) for group in make(model).param_groups) == 5


def test_a_parameter_without_a_gradient_neither_moves_nor_decays():
    model = network()
    optimizer = make(model, weight_decay=0.5)
    before = values(model)
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, values(model), strict=True))


def test_the_rate_rises_linearly_then_falls_as_a_cosine_to_zero():
    rates = [warmup_cosine(step, steps=20, warmup=0.25) for step in range(21)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[5:] == pytest.approx([(1 + math.cos(math.pi * i / 15)) / 2 for i in range(16)])
    assert rates[-1] == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("warmup", [0.0, 1.0])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_the_rate_stays_between_nothing_and_its_peak(steps: int, warmup: float):
    rates = [warmup_cosine(step, steps=steps, warmup=warmup) for step in range(steps)]
    assert all(0 < rate <= 1 for rate in rates)
    assert max(rates) == 1.0


def test_the_rate_is_set_in_every_group():
    optimizer = make(network())
    set_lr(optimizer, 0.25)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.25]


def test_the_optimisers_memory_taken_back_goes_on_as_if_never_left():
    straight, stopped = network(), network()
    first, second = make(straight), make(stopped)
    for number in range(3):
        step(straight, first, number)
        step(stopped, second, number)
    third = make(stopped)
    load_state_tensors(stopped, third, state_tensors(stopped, second))
    for number in range(3, 6):
        step(straight, first, number)
        step(stopped, third, number)
    assert all(torch.equal(a, b) for a, b in zip(values(straight), values(stopped), strict=True))


def test_the_memory_taken_back_is_a_copy():
    model = network()
    optimizer = make(model)
    step(model, optimizer)
    kept = {name: value.clone() for name, value in state_tensors(model, optimizer).items()}
    again = make(model)
    load_state_tensors(model, again, kept)
    before = {name: value.clone() for name, value in kept.items()}
    step(model, again)
    assert all(torch.equal(kept[name], before[name]) for name in kept)


def test_the_memory_is_named_by_parameter_and_slot():
    model = network()
    optimizer = make(model)
    assert state_tensors(model, optimizer) == {}
    step(model, optimizer)
    names = set(state_tensors(model, optimizer))
    assert {"0.weight|exp_avg", "0.weight|exp_avg_sq", "0.weight|step"} <= names


def test_the_memory_follows_its_parameter_to_its_device():
    optimizer = make(network())
    model = network().to("meta")
    kept = {"0.weight|exp_avg": torch.zeros(4, 3)}
    load_state_tensors(model, optimizer, kept)
    assert optimizer.state[model[0].weight]["exp_avg"].device.type == "meta"


def test_memory_is_copied_from_one_parameter_to_another():
    model = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
    optimizer = make(model)
    model[0](torch.ones(1, 2)).sum().backward()
    optimizer.step()
    copy_state(optimizer, zip(model[0].parameters(), model[1].parameters(), strict=True))
    mine, its = (optimizer.state[layer.weight] for layer in model)
    assert torch.equal(mine["exp_avg"], its["exp_avg"])
    assert mine["exp_avg"] is not its["exp_avg"]


def test_a_parameter_without_memory_gives_none():
    model = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
    optimizer = make(model)
    copy_state(optimizer, zip(model[0].parameters(), model[1].parameters(), strict=True))
    assert len(optimizer.state) == 0


def test_plain_values_of_the_memory_are_copied_and_not_saved():
    model = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
    optimizer = make(model)
    optimizer.state[model[0].weight]["count"] = 3
    copy_state(optimizer, [(model[0].weight, model[1].weight)])
    assert optimizer.state[model[1].weight]["count"] == 3
    assert state_tensors(model, optimizer) == {}


def test_an_average_moves_by_its_decay_ramped_up_at_the_start():
    model = nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(0.0)
    average = WeightAverage(model, 0.5)
    model.weight.data.fill_(1.0)
    expected = 0.0
    for number in range(20):
        average.update(model, number)
        decay = min(0.5, (1 + number) / (10 + number))
        expected = decay * expected + (1 - decay) * 1.0
        assert float(average.weights["weight"]) == pytest.approx(expected)


def test_an_average_copies_what_can_not_be_averaged():
    model = nn.BatchNorm1d(2)
    average = WeightAverage(model, 0.9)
    model.num_batches_tracked.fill_(7)
    average.update(model, 0)
    assert int(average.weights["num_batches_tracked"]) == 7


def test_an_average_is_a_copy():
    model = nn.Linear(2, 2)
    average = WeightAverage(model, 0.9)
    model.weight.data.fill_(9.0)
    assert not (average.weights["weight"] == 9.0).any()


def test_the_average_of_all_weights_at_once_is_that_of_each_by_itself():
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Linear(2, 1).to(torch.float64))
    average = WeightAverage(model, 0.7)
    expected = {name: value.clone() for name, value in average.weights.items()}
    for number in range(3):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(number + 1)
        model[1].num_batches_tracked += 1
        average.update(model, number)
        decay = min(0.7, (1 + number) / (10 + number))
        for name, value in model.state_dict().items():
            moving = value.dtype.is_floating_point
            expected[name] = expected[name].lerp(value, 1 - decay) if moving else value.clone()
    assert average.weights.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(average.weights[name], value, rtol=1e-6, atol=1e-7)


def test_the_average_is_moved_without_reading_a_value_back():
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).to("meta")
    average = WeightAverage(model, 0.9)
    average.update(model, 5)  # on the meta device there is no value to read
    assert {value.device.type for value in average.weights.values()} == {"meta"}
