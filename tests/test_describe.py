from __future__ import annotations

import pytest
import torch
from torch import nn

from medmoe.build import build_model, build_tokenizer
from medmoe.config import TextConfig
from medmoe.describe import describe, multiply_adds, parameters
from medmoe.layers import Pointwise
from medmoe.recipes import RECIPES
from small_runs import built


@pytest.mark.parametrize(
    ("conv", "by_hand"),
    [
        # places × output channels × input channels of a group × kernel
        (nn.Conv2d(3, 8, 3, padding=1), 10 * 10 * 8 * 3 * 9),
        (nn.Conv2d(3, 8, 3, padding=1, stride=2, bias=False), 5 * 5 * 8 * 3 * 9),
        (Pointwise(3, 8), 10 * 10 * 8 * 3),
        (nn.Conv2d(3, 6, 1, groups=3), 10 * 10 * 6 * 1 * 1),
    ],
)
def test_the_multiply_adds_of_a_convolution_are_those_counted_by_hand(conv: nn.Module, by_hand: int):
    assert multiply_adds(conv, torch.zeros(1, 3, 10, 10)) == by_hand


def test_the_multiply_adds_of_a_linear_layer_are_those_counted_by_hand():
    assert multiply_adds(nn.Linear(5, 7), torch.zeros(3, 5)) == 3 * 5 * 7


def test_parameters_are_counted_frozen_ones_too():
    layer = nn.Linear(5, 7).requires_grad_(False)
    assert parameters(layer) == 5 * 7 + 7


def test_a_model_is_described_by_its_parts():
    model = built()
    facts = describe(model, name="micro", image_size=32)
    counts = facts["parameters"]
    assert counts["total"] == parameters(model)
    assert counts["backbone"] == parameters(model.vision)
    parts = ("backbone", "image_router", "experts", "image_projection")
    assert facts["vision_parameters"] == sum(counts[part] for part in parts)
    assert facts["gflops"] > facts["backbone_gflops"] > 0
    assert (facts["name"], facts["image_size"], facts["modalities"]) == ("micro", 32, list(model.modalities))


def test_only_one_expert_of_many_is_counted_in_the_cost_but_all_in_the_parameters():
    many, one = (describe(built(f"model.modalities={names}"), name="", image_size=32) for names in (SIX, ONE))
    heads = 8 * 5 / 1e9  # the image router scores five more experts
    assert many["gflops"] == pytest.approx(one["gflops"] + heads)
    assert many["parameters"]["experts"] == 6 * one["parameters"]["experts"]


SIX = '["xray","ct","mri","ultrasound","pathology","fundus"]'
ONE = '["ct"]'


@pytest.mark.slow
def test_the_papers_system_keeps_to_its_size_and_cost():
    config = RECIPES["medmoe"]().model
    config = config.model_copy(update={"text": TextConfig(width=16, depth=1, heads=2)})  # the vision side is measured
    model = build_model(config, build_tokenizer(config.text, ["a scan"]))
    facts = describe(model, name="medmoe", image_size=config.vision.image_size)
    assert facts["vision_parameters"] <= 37e6
    assert facts["gflops"] <= 5.6
    assert facts["backbone_gflops"] == pytest.approx(4.5, abs=0.2)  # Swin-T (Liu et al., 2021)
