"""Sparse dispatch against running every expert on every image."""

import pytest
import torch

from medmoe.experts.moe import EXPERTS, MixtureOfExperts, SpecialProjection
from medmoe.experts.pyramid import PyramidExpert
from medmoe.types import Pyramid, Routing

CHANNELS = (3, 5)


def expert(**options):
    return PyramidExpert(CHANNELS, width=4, grid=4, levels=(0, 1), **options)


def mixture(shared=0, special=3, **options):
    torch.manual_seed(0)
    return MixtureOfExperts([expert() for _ in range(shared)], [expert() for _ in range(special)], **options)


def levels(batch=6):
    generator = torch.Generator().manual_seed(1)
    return Pyramid(
        tuple(torch.randn(batch, c, s, s, generator=generator) for c, s in zip(CHANNELS, (8, 4), strict=True))
    )


def routing(chosen, weight=None):
    chosen = torch.tensor(chosen)
    chosen = chosen[:, None] if chosen.ndim == 1 else chosen
    weight = torch.ones(chosen.shape) if weight is None else torch.tensor(weight)
    return Routing(logits=torch.zeros(len(chosen), 3), expert=chosen, weight=weight)


def dense(model, pyramid, route):
    """Run every special expert on every image, then pick: slow and obvious."""
    every = torch.stack([one(pyramid) for one in model.special], dim=1)  # [B, K, D, G, G]
    rows = []
    for image in range(len(route.expert)):
        rows.append(sum(w * every[image, k] for k, w in zip(route.expert[image], route.weight[image], strict=True)))
    return torch.stack(rows) + sum(one(pyramid) for one in model.shared)


@pytest.mark.parametrize("shared", [0, 1, 2])
@pytest.mark.parametrize(
    ("chosen", "weight"),
    [
        ([2, 0, 1, 2, 0, 0], None),
        ([1, 1, 1, 1, 1, 1], None),
        ([2, 0, 1, 2, 0, 0], [[0.5], [1.5], [1.0], [0.1], [0.0], [2.0]]),
        ([[0, 1], [1, 2], [2, 0], [0, 2], [1, 0], [2, 1]], [[0.7, 0.3]] * 6),
        ([[0, 1, 2]] * 6, [[0.2, 0.3, 0.5]] * 6),
    ],
)
def test_sparse_dispatch_equals_dense_in_values_and_gradients(shared, chosen, weight):
    model, pyramid, route = mixture(shared), levels(), routing(chosen, weight)
    sparse, reference = model(pyramid, route), dense(model, pyramid, route)
    torch.testing.assert_close(sparse, reference, atol=1e-5, rtol=1e-4)
    want = torch.autograd.grad(reference.square().sum(), list(model.parameters()), allow_unused=True)
    got = torch.autograd.grad(sparse.square().sum(), list(model.parameters()), allow_unused=True)
    for one, other in zip(got, want, strict=True):
        if one is None:
            assert other is None or other.abs().max() == 0
        else:
            torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-3)


def test_hard_routing_runs_only_chosen_experts_once_each():
    model, ran = mixture(), []
    for index, one in enumerate(model.special):
        one.register_forward_hook(lambda _m, args, _o, index=index: ran.append((index, len(args[0].levels[0]))))
    model(levels(), routing([2, 0, 2, 2, 0, 2]))
    assert ran == [(0, 2), (2, 4)]


def test_permuting_the_batch_permutes_the_output():
    model, pyramid, chosen = mixture(shared=1), levels(), [2, 0, 1, 2, 0, 0]
    order = torch.tensor([4, 2, 0, 5, 1, 3])
    straight = model(pyramid, routing(chosen))
    moved = model(Pyramid(tuple(x[order] for x in pyramid.levels)), routing(torch.tensor(chosen)[order].tolist()))
    torch.testing.assert_close(moved, straight[order], atol=1e-5, rtol=1e-4)


def test_an_expert_no_image_chose_is_not_moved_by_the_optimiser():
    model = mixture()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
    for chosen in ([0, 1, 2, 0, 1, 2], [0, 0, 1, 1, 0, 1]):
        before = [p.clone() for p in model.special[2].parameters()]
        optimizer.zero_grad(set_to_none=True)
        model(levels(), routing(chosen)).square().sum().backward()
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, model.special[2].parameters(), strict=True))


def test_one_image_with_several_experts():
    model, pyramid = mixture(), levels(batch=1)
    route = routing([[0, 2]], [[0.25, 0.75]])
    torch.testing.assert_close(model(pyramid, route), dense(model, pyramid, route), atol=1e-5, rtol=1e-4)


def test_special_experts_at_zero_change_nothing_at_first():
    shared = expert()
    model = MixtureOfExperts([shared], [expert(zero=True) for _ in range(3)])
    pyramid = levels()
    torch.testing.assert_close(model(pyramid, routing([0, 1, 2, 0, 1, 2])), shared(pyramid))


def test_growing_experts_are_one_until_they_part():
    model, pyramid, route = mixture(growing=True), levels(), routing([2, 0, 1, 2, 0, 0])
    torch.testing.assert_close(model(pyramid, route), model.special[0](pyramid))
    pairs = model.grow()
    assert len(pairs) == 2 * len(list(model.special[0].parameters()))
    torch.testing.assert_close(model(pyramid, route), model.special[0](pyramid), atol=1e-5, rtol=1e-4)
    with torch.no_grad():
        model.special[2].out.bias.add_(1.0)
    assert not torch.allclose(model(pyramid, route), model.special[0](pyramid))


def test_whether_experts_have_parted_is_saved_with_the_weights():
    model, other = mixture(growing=True), mixture(growing=True)
    model.grow()
    other.load_state_dict(model.state_dict())
    assert bool(other.grown)


@pytest.mark.parametrize("name", EXPERTS)
def test_every_expert_turns_a_pyramid_into_regions(name):
    one = EXPERTS[name](CHANNELS, width=4, grid=4, levels=(0, 1))
    regions = one(levels())
    assert regions.shape == (6, 4, 4, 4)
    assert regions.isfinite().all()


@pytest.mark.parametrize(
    ("chosen", "weight"),
    [([2, 0, 2, 0, 2, 2], None), ([[0, 1], [1, 2], [2, 0], [0, 2], [1, 0], [2, 1]], [[0.7, 0.3]] * 6)],
)
def test_a_special_projection_is_the_chosen_maps_weighed(chosen, weight):
    torch.manual_seed(0)
    projection, route, feature = SpecialProjection(3, 5, 4), routing(chosen, weight), torch.randn(6, 5)
    for one in projection.maps:
        torch.nn.init.normal_(one.weight)
        torch.nn.init.normal_(one.bias)
    by_hand = [
        sum(w * projection.maps[k](row) for k, w in zip(ks.tolist(), ws, strict=True))
        for row, ks, ws in zip(feature, route.expert, route.weight, strict=True)
    ]
    torch.testing.assert_close(projection(feature, route), torch.stack(by_hand))


def test_a_special_projection_starts_at_zero_and_moves_only_what_was_chosen():
    projection = SpecialProjection(3, 5, 4)
    mapped = projection(torch.randn(6, 5), routing([2, 0, 2, 0, 2, 2]))
    assert (mapped == 0).all()
    mapped.sum().backward()
    assert [one.weight.grad is None for one in projection.maps] == [False, True, False]


@pytest.mark.parametrize("interpolation", ["grid", "flattened"])
def test_levels_averaged_once_for_all_experts_give_what_each_expert_gives_by_itself(interpolation: str):
    torch.manual_seed(0)
    experts = [PyramidExpert((3, 5), width=4, grid=4, levels=(0, 1), interpolation=interpolation) for _ in range(3)]
    levels = (torch.randn(5, 3, 8, 8, requires_grad=True), torch.randn(5, 5, 2, 2, requires_grad=True))
    chosen = torch.tensor([0, 1, 1, 0, 0])
    mixture = MixtureOfExperts(experts[:1], experts[1:])
    routing = Routing(logits=torch.zeros(5, 2), expert=chosen[:, None], weight=torch.ones(5, 1))
    got = mixture(Pyramid(levels), routing)
    own = [experts[0](Pyramid(levels))[i] + experts[1 + e](Pyramid(levels))[i] for i, e in enumerate(chosen.tolist())]
    expected = torch.stack(own)
    torch.testing.assert_close(got, expected)
    for one, other in zip(
        torch.autograd.grad(got.square().sum(), levels),
        torch.autograd.grad(expected.square().sum(), levels),
        strict=True,
    ):
        torch.testing.assert_close(one, other)
