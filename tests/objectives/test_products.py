import pytest
import torch

from medmoe.objectives import products as kernels
from medmoe.objectives.products import product, products


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
