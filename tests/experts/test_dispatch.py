"""The form of dispatch that reads no sizes against the form that groups rows."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from medmoe.errors import ModelError
from medmoe.experts.dispatch import batched, dispatch, grouped
from medmoe.experts.low_rank import LowRankExpert
from medmoe.experts.moe import MixtureOfExperts, SpecialProjection
from medmoe.experts.pyramid import PyramidExpert
from medmoe.types import Pyramid, Routing

CHANNELS, SIDES = (3, 5, 7), (9, 5, 2)  # odd sides: none divides another
ROUTES = {
    "hard": ([2, 0, 1, 2, 0, 0, 3], None),
    "an expert without rows": ([2, 0, 2, 2, 0, 0, 3], None),
    "a group for each row": ([3], None),
    "one expert for all": ([1, 1, 1, 1, 1, 1, 1], None),
    "weighed": ([2, 0, 1, 2], [[0.5], [1.5], [0.0], [2.0]]),
    "two each": ([[0, 1], [1, 2], [2, 0], [0, 3], [1, 0]], [[0.7, 0.3]] * 5),
    "all": ([[0, 1, 2, 3]] * 3, [[0.1, 0.2, 0.3, 0.4]] * 3),
}
EXPERTS = {
    "pyramid": {},
    "dense 3×3": {"conv": "dense"},
    "1×1": {"conv": "dense", "kernel": 1, "norm": "layer"},
    "coarse levels last": {"upsample": "last", "levels": (0, 1, 2)},
    "flattened": {"interpolation": "flattened"},
}


def experts(count: int = 4, **options: object) -> tuple[nn.Module, ...]:
    torch.manual_seed(0)
    given = {"width": 6, "grid": 4, "levels": (0, 2), **options}
    return tuple(PyramidExpert(CHANNELS, **given) for _ in range(count))  # type: ignore[arg-type]


def low_rank(count: int = 4) -> tuple[nn.Module, ...]:
    torch.manual_seed(0)
    made = tuple(LowRankExpert(CHANNELS, rank=2, width=6, grid=4, levels=(0, 2)) for _ in range(count))
    for one in made:
        nn.init.normal_(one.up.weight)
    return made


def rows(batch: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    draw = torch.Generator().manual_seed(1)
    levels = (torch.randn(batch, c, s, s, generator=draw) for c, s in zip(CHANNELS, SIDES, strict=True))
    return tuple(level.to(dtype).requires_grad_() for level in levels)


def on_meta(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(level.detach().to("meta") for level in inputs)


def route(chosen: Sequence[object], weight: object) -> tuple[Tensor, Tensor]:
    experts_ = torch.tensor(chosen)
    experts_ = experts_[:, None] if experts_.ndim == 1 else experts_
    return experts_, torch.ones(experts_.shape) if weight is None else torch.tensor(weight)


def gradients(made: Tensor, values: Sequence[Tensor]) -> list[Tensor]:
    """Give the gradients of a sum of squares; none counts as zeros."""
    taken = torch.autograd.grad(made.float().square().sum(), values, allow_unused=True)
    return [torch.zeros_like(value) if one is None else one for one, value in zip(taken, values, strict=True)]


def far(one: Tensor, other: Tensor) -> float:
    """Give the norm of a difference as a share of the other's."""
    return float((one - other).detach().float().norm() / (other.detach().float().norm() + 1e-3))


def hold_equal(
    modules: Sequence[nn.Module], inputs: tuple[Tensor, ...], chosen: Tensor, weight: Tensor, within: float = 1e-4
):
    """Hold values and every gradient equal, up to a share of their norm."""
    weight.requires_grad_()
    values = [*inputs, weight, *(parameter for one in modules for parameter in one.parameters())]
    got = batched(modules, inputs, chosen, weight, pack=Pyramid)
    want = grouped(modules, inputs, chosen, weight, pack=Pyramid)
    assert got.dtype == want.dtype
    for one, other in zip([got, *gradients(got, values)], [want, *gradients(want, values)], strict=True):
        assert far(one, other) <= within


@pytest.mark.parametrize("name", EXPERTS)
@pytest.mark.parametrize("case", ROUTES)
def test_both_forms_give_the_same_values_and_gradients(name: str, case: str):
    chosen, weight = route(*ROUTES[case])
    hold_equal(experts(**EXPERTS[name]), rows(len(chosen)), chosen, weight)


@pytest.mark.parametrize("case", ROUTES)
def test_low_rank_experts_are_the_same_in_both_forms(case: str):
    chosen, weight = route(*ROUTES[case])
    hold_equal(low_rank(), rows(len(chosen)), chosen, weight)


def test_batch_norms_that_keep_their_statistics_are_the_same_in_both_forms():
    made = experts(norm="batch")
    for number, one in enumerate(made):
        for part in one.modules():
            if isinstance(part, nn.BatchNorm2d):
                nn.init.normal_(part.running_mean)
                part.running_var.fill_(number + 0.5)
        one.eval()
    chosen, weight = route(*ROUTES["hard"])
    hold_equal(made, rows(len(chosen)), chosen, weight)


def test_weights_of_half_precision_are_the_same_in_both_forms_up_to_its_rounding():
    made = tuple(one.bfloat16() for one in experts())
    chosen, weight = route(*ROUTES["two each"])
    hold_equal(made, rows(len(chosen), torch.bfloat16), chosen, weight, within=0.1)


def test_autocast_gives_both_forms_one_type_and_values_as_near_to_full_precision():
    made, (chosen, weight) = experts(), route(*ROUTES["hard"])
    inputs = rows(len(chosen))
    values = [*inputs, *(parameter for one in made for parameter in one.parameters())]
    exact = grouped(made, inputs, chosen, weight, pack=Pyramid)
    want = [exact, *gradients(exact, values)]
    apart = []
    for form in (grouped, batched):
        with torch.autocast("cpu", torch.bfloat16):
            got = form(made, inputs, chosen, weight, pack=Pyramid)
        assert got.dtype == torch.bfloat16
        apart.append([far(one, other) for one, other in zip([got, *gradients(got, values)], want, strict=True)])
    assert max(one[0] for one in apart) < 0.02
    assert statistics.median(apart[1]) < 1.5 * statistics.median(apart[0])


def test_a_special_projection_is_the_same_in_both_forms():
    torch.manual_seed(0)
    maps = tuple(nn.Linear(5, 4) for _ in range(3))
    feature, (chosen, weight) = torch.randn(4, 5), route([[0, 1], [1, 2], [2, 0], [0, 0]], [[0.7, 0.3]] * 4)
    made = [form(maps, (feature,), chosen, weight, pack=lambda given: given[0]) for form in (batched, grouped)]
    torch.testing.assert_close(*made)


@pytest.mark.parametrize("grown", [False, True])
@pytest.mark.parametrize("case", ["hard", "two each"])
def test_on_an_accelerator_no_value_is_read_from_the_device(case: str, grown: bool):
    mixture = MixtureOfExperts(experts(1), experts(), growing=True).to("meta")
    projection = SpecialProjection(4, 5, 6).to("meta")
    if grown:
        mixture.grown.fill_(True)
    chosen, weight = (value.to("meta") for value in route(*ROUTES[case]))
    routing = Routing(torch.zeros(len(chosen), 4, device="meta"), chosen, weight)
    regions = mixture(Pyramid(on_meta(rows(len(chosen)))), routing)
    mapped = projection(torch.zeros(len(chosen), 5, device="meta"), routing)
    (regions.sum() + mapped.sum()).backward()
    assert regions.shape == (len(chosen), 6, 4, 4)
    assert mapped.shape == (len(chosen), 6)
    assert all(one.out.weight.grad is not None for one in mixture.special)


def test_training_batch_norms_are_grouped_on_an_accelerator_too():
    made = tuple(one.to("meta") for one in experts(norm="batch"))
    chosen, weight = (value.to("meta") for value in route(*ROUTES["hard"]))
    levels = on_meta(rows(len(chosen)))
    with pytest.raises((RuntimeError, NotImplementedError), match="Meta"):  # it asks for the groups' sizes
        dispatch(made, levels, chosen, weight, pack=Pyramid)
    for one in made:
        one.eval()
    assert dispatch(made, levels, chosen, weight, pack=Pyramid).shape == (7, 6, 4, 4)


def test_a_cpu_runs_an_expert_once_and_one_that_nobody_chose_has_no_gradient():
    made, (chosen, weight) = experts(), route(*ROUTES["an expert without rows"])
    dispatch(made, rows(7), chosen, weight, pack=Pyramid).sum().backward()
    assert [one.out.weight.grad is None for one in made] == [False, True, False, False]


def test_experts_of_different_shapes_are_refused_where_they_run_in_one_call():
    unlike, (chosen, weight) = (*experts(1), *experts(1, kernel=1)), route([0, 1], None)
    with pytest.raises(ModelError, match="different shapes"):
        batched(unlike, rows(2), chosen, weight, pack=Pyramid)
    assert grouped(unlike, rows(2), chosen, weight, pack=Pyramid).shape == (2, 6, 4, 4)


@pytest.mark.gpu
def test_a_gpu_gives_what_the_cpu_gives_without_waiting_for_the_device():
    chosen, weight = route(*ROUTES["two each"])
    want = dispatch(experts(), rows(5), chosen, weight, pack=Pyramid)
    made = tuple(one.cuda() for one in experts())
    levels = tuple(level.cuda() for level in rows(5))
    there = (chosen.cuda(), weight.cuda())
    torch.cuda.set_sync_debug_mode("error")
    try:
        got = dispatch(made, levels, *there, pack=Pyramid)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(got.cpu(), want, atol=1e-3, rtol=1e-3)
