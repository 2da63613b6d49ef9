"""The steps that are timed are the steps that are meant, the GPU's included."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from medmoe.speed.item import Size
from medmoe.speed.items import ITEMS, step

SMALL = Size(small=True)
LOOKS = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")


@pytest.fixture(autouse=True)
def _seed() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@LOOKS
@pytest.mark.parametrize("way", ["ours", "compiled", "plain", "plain_compiled"])
def test_the_step_of_a_gpu_runs_here_when_small(way: str):
    call = ITEMS["gpu-step"].ways(SMALL)[way]()
    loss, output, norm = call()
    assert loss.total.isfinite()
    assert norm > 0
    assert ("local" in loss.terms) == (not way.startswith("plain"))
    assert output.image.regions.shape == (6, 8, 4, 4)


@LOOKS
def test_its_figures_count_operations_and_time():
    figures = step._large_figures(SMALL)
    assert figures["multiply_adds"] > 1e6
    assert figures["eager_ms"] > 0
    assert figures["compiled_ms"] > 0
    assert "eager_mfu" not in figures  # a CPU is no card


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA L4", 121e12),
        ("Something else", None),
    ],
)
def test_the_peak_of_a_card_is_found_by_its_name(name: str, peak: float | None):
    assert step.peak_of_card(name) == peak


def test_what_is_left_out_of_the_tiny_step_is_what_its_name_says():
    ways = ITEMS["tiny-step"].ways(SMALL)
    whole, no_local, no_experts = (ways[name]()() for name in ("ours", "without_local", "without_experts"))
    assert {"late_interaction", "region_words"} <= whole[0].terms.keys()
    assert whole[0].terms.keys() - no_local[0].terms.keys() == {"late_interaction", "region_words"}
    assert no_experts[0].terms.keys() == whole[0].terms.keys()
    assert no_local[0].total.requires_grad
    assert no_local[1].image.regions.requires_grad
    assert no_experts[1].image.regions.shape == whole[1].image.regions.shape


def test_the_three_ways_of_a_frozen_text_encoder_learn_alike():
    pytest.importorskip(step.MINILM)
    ways = ITEMS["text-cache"].ways(SMALL)
    found = [float(ways[name]()()[0].total.detach()) for name in ("ours", "plain", "floor")]
    assert found[1:] == pytest.approx(found[:1] * 2, rel=1e-4)
