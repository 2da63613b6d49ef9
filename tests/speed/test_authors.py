"""The published vision path against its description."""

from __future__ import annotations

import pytest
import torch

from medmoe.describe import multiply_adds
from medmoe.speed.plain.authors import DenseMixture

SWIN_T = tuple(zip((96, 192, 384, 768), (56, 28, 14, 7), strict=True))


def test_its_multiply_adds_are_those_of_the_description():
    with torch.device("meta"):
        dense, levels = DenseMixture([c for c, _ in SWIN_T]).eval(), [torch.zeros(1, c, s, s) for c, s in SWIN_T]
    assert multiply_adds(dense, levels) == pytest.approx(24.8e9, rel=0.01)


def test_all_experts_run_on_every_image_and_learn():
    torch.manual_seed(0)
    dense = DenseMixture((4, 8), experts=3, width=8, side=6)
    made = dense([torch.randn(2, 4, 6, 6), torch.randn(2, 8, 3, 3)])
    assert made.shape == (2, 8, 6, 6)
    made.square().sum().backward()
    assert all(expert.project[0].weight.grad.abs().max() > 0 for expert in dense.experts)
