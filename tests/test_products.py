import pytest
import torch
import torch.nn.functional as F

from medmoe import products as kernels
from medmoe.layers import Linear, Pointwise, quicken
from medmoe.products import linear, product, products


@pytest.mark.parametrize("least", [1, 1 << 40], ids=["oneDNN where it is", "torch's own"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("rows", "inner", "others"), [(1, 1, 1), (5, 7, 3), (33, 20, 65)])
def test_products_are_those_of_float64_whatever_the_strides(rows, inner, others, dtype, least, monkeypatch):
    monkeypatch.setattr(kernels, "LEAST", least)
    draw = torch.Generator().manual_seed(0)
    left = torch.randn(3, rows, inner, generator=draw, dtype=dtype)
    right = torch.randn(3, inner, others, generator=draw, dtype=dtype).transpose(1, 2)
    expected = torch.einsum("irk,ick->irc", left.double(), right.double()).to(dtype)
    torch.testing.assert_close(products(left, right), expected, atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(products(left[:1], right[:1]), expected[:1], atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(product(left[1], right[1]), expected[1], atol=2e-5, rtol=1e-5)


def test_an_empty_product_is_empty(monkeypatch):
    monkeypatch.setattr(kernels, "LEAST", 0)
    assert product(torch.zeros(0, 3), torch.zeros(2, 3)).shape == (0, 2)
    assert products(torch.zeros(0, 2, 3), torch.zeros(0, 4, 3)).shape == (0, 2, 4)


@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 7, 3), (2, 33, 20, 65), (6, 9, 4)], ids=str)
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("narrow", [1, 64])
def test_a_linear_map_has_the_values_and_gradients_of_torchs_own(shape, biased, narrow, monkeypatch):
    monkeypatch.setattr(kernels, "LEAST_OF_LAYER", 1)
    monkeypatch.setattr(kernels, "NARROW", narrow)
    draw = torch.Generator().manual_seed(0)
    *rows, inputs, outputs = shape
    given = [torch.randn(*rows, inputs, generator=draw), torch.randn(outputs, inputs, generator=draw)]
    given += [torch.randn(outputs, generator=draw)] if biased else []
    given = [value.requires_grad_() for value in given]
    mapped, expected = linear(*given), F.linear(*given)
    torch.testing.assert_close(mapped, expected, atol=1e-5, rtol=1e-5)
    weight = torch.randn(expected.shape, generator=draw)
    own, other = (torch.autograd.grad((value * weight).sum(), given) for value in (mapped, expected))
    for one, same in zip(own, other, strict=True):
        torch.testing.assert_close(one, same, atol=1e-4, rtol=1e-4)


def test_only_what_needs_a_gradient_gets_one(monkeypatch):
    monkeypatch.setattr(kernels, "LEAST_OF_LAYER", 1)
    weight = torch.ones(3, 2, requires_grad=True)
    linear(torch.ones(4, 2), weight).sum().backward()
    assert weight.grad is not None
    torch.testing.assert_close(weight.grad, torch.full((3, 2), 4.0))


def test_a_quickened_network_keeps_its_weights_names_and_values_and_can_be_slowed_again(monkeypatch):
    monkeypatch.setattr(kernels, "LEAST_OF_LAYER", 1)
    network = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.ReLU(), torch.nn.Linear(5, 4))
    names, rows = list(network.state_dict()), torch.randn(7, 6)
    expected = network(rows)
    quicken(network)
    assert type(network[0]) is Linear
    assert list(network.state_dict()) == names
    torch.testing.assert_close(network(rows), expected)
    quicken(network, quick=False)
    assert type(network[0]) is torch.nn.Linear


def test_vectorised_cast_and_compiled_maps_are_torchs_own(monkeypatch):
    monkeypatch.setattr(kernels, "LEAST_OF_LAYER", 1)
    monkeypatch.setattr(kernels, "_by_onednn", lambda *_: pytest.fail("oneDNN was asked"))
    rows, weights = torch.randn(3, 4, 6), torch.randn(3, 5, 6)
    torch.testing.assert_close(torch.vmap(linear)(rows, weights), torch.einsum("brk,bck->brc", rows, weights))
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(rows[0], weights[0]).dtype == torch.bfloat16
    compiled = torch.compile(linear, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(rows[0], weights[0]), rows[0] @ weights[0].T)
    with kernels.plain():
        assert Pointwise(6, 5)(torch.randn(1, 6, 9, 9)).shape == (1, 5, 9, 9)
