from __future__ import annotations

import math
import mmap
import sys
from pathlib import Path

import pytest
import torch

from medmoe import measures
from medmoe.measures import expert_agreement, gradient_norms, memory, of_step, part_of, read_once
from medmoe.report.curves import curves
from medmoe.types import Routing
from small_runs import batch_of, built, micro, phantoms, rows, train


def routing(logits: list[list[float]]) -> Routing:
    scores = torch.tensor(logits)
    return Routing(logits=scores, expert=scores.argmax(1, keepdim=True), weight=torch.ones(len(scores), 1))


def test_every_parameter_of_a_model_belongs_to_a_part_that_a_reader_knows():
    model = built("model.report_words=true", "model.special_projection=true")
    parts = {part_of(name, model.modalities) for name, _ in model.named_parameters()}
    experts = {f"experts.special.{name}" for name in model.modalities}
    assert parts == {"vision", "text", "routers", "projections", "heads", "logit_scale", *experts}
    assert part_of("experts.shared.0.out.weight", model.modalities) == "experts.shared"


def test_the_parts_norms_are_each_ones_own_and_add_up_to_the_whole():
    model = built()
    model(batch_of(model)).image.embed.sum().backward()
    norms = gradient_norms(model, model.modalities)
    vision = [p.grad.square().sum() for p in model.vision.parameters() if p.grad is not None]
    assert norms["vision"].item() == pytest.approx(torch.stack(vision).sum().sqrt().item(), rel=1e-5)
    every = [p.grad.square().sum() for p in model.parameters() if p.grad is not None]
    total = sum(float(norm) ** 2 for norm in norms.values())
    assert total == pytest.approx(float(torch.stack(every).sum()), rel=1e-5)


def test_an_expert_that_no_image_chose_and_a_frozen_part_have_no_norm():
    model = built()
    model.vision.requires_grad_(False)
    model.eval()
    embedding = model.encode_image(batch_of(model).image, expert=torch.full((8,), 2))
    embedding.regions.sum().backward()
    norms = gradient_norms(model, model.modalities)
    assert f"experts.special.{model.modalities[2]}" in norms
    assert f"experts.special.{model.modalities[0]}" not in norms
    assert "vision" not in norms


def test_norms_are_those_before_clipping(tmp_path: Path):
    train(tmp_path / "run", "train.clip=0.001", "train.steps=2", "data.batch_size=8")
    for row in rows(tmp_path / "run"):
        assert row["grad_norm"] > 0.001
        whole = math.sqrt(sum(norm**2 for norm in row["grad_norms"].values()))
        assert whole == pytest.approx(row["grad_norm"], rel=1e-3)


def test_agreement_counts_known_modalities_alone():
    scores = routing([[2.0, 0.0], [2.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    agreement = expert_agreement(scores, torch.tensor([0, 1, 1, -1]))
    assert agreement is not None
    assert agreement.item() == pytest.approx(2 / 3)


def test_a_router_that_prefers_no_expert_agrees_as_often_as_chance_does():
    agreement = expert_agreement(routing([[1.0] * 4] * 3), torch.tensor([0, 1, 3]))
    assert agreement is not None
    assert agreement.item() == pytest.approx(1 / 4)


def test_without_a_known_modality_there_is_no_agreement():
    assert expert_agreement(routing([[1.0, 0.0]]), None) is None
    model = built()
    output = model(batch_of(model))
    unknown = of_step(model, output, torch.full((8,), -1), torch.tensor(1.0), 1.0)
    assert "expert_agreement" not in unknown


def test_values_that_are_no_number_are_left_out():
    values = {"a": torch.tensor(1.5), "b": torch.tensor(float("nan")), "c": torch.tensor(float("inf"))}
    assert read_once(values) == {"a": 1.5}
    assert read_once({}) == {}


def test_memory_rises_with_what_is_held():
    before = memory()
    held = mmap.mmap(-1, 48 * measures.MIB)  # the allocator would give what it has kept of memory freed before
    held.write(bytes(48 * measures.MIB))
    after = memory()
    assert after["rss_peak_mib"] - before["rss_peak_mib"] >= 0
    assert after["rss_peak_mib"] >= after.get("rss_mib", 0)
    if sys.platform == "linux":
        assert after["rss_mib"] - before["rss_mib"] > 40
    held.close()


def test_where_there_is_no_proc_the_systems_accounts_give_the_peak(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(measures, "_STATUS", tmp_path / "none")
    assert list(memory()) == ["rss_peak_mib"]
    assert memory()["rss_peak_mib"] > 10


@pytest.mark.gpu
def test_on_a_device_its_allocator_is_asked_too():
    held = torch.ones(measures.MIB, device="cuda")
    assert memory("cuda")["cuda_allocated_peak_mib"] >= 4
    assert memory("cuda")["cuda_reserved_peak_mib"] >= 4
    del held


def test_the_loss_knows_the_modalities_it_was_taken_over(tmp_path: Path):
    train(tmp_path / "run", "train.steps=2", "data.batch_size=8", "train.micro_batch=4")
    assert all(0 <= row["expert_agreement"] <= 1 for row in rows(tmp_path / "run"))


def test_routing_by_label_agrees_always(tmp_path: Path):
    train(tmp_path / "run", "train.steps=2", "data.batch_size=8", "model.router.train=label")
    assert [row["expert_agreement"] for row in rows(tmp_path / "run")] == [1.0, 1.0]
    assert micro().model.router.train != "label"
    assert all(sample.modality for sample in phantoms().samples)


def test_the_runs_page_draws_norms_by_part_and_a_gap_where_a_part_had_none():
    history = [
        {"kind": "train", "step": 1, "loss": 1.0, "grad_norms": {"vision": 2.0, "experts.special.ct": 0.5}},
        {"kind": "train", "step": 2, "loss": 1.0, "grad_norms": {"vision": 3.0}},
    ]
    text = str(curves(history, []))
    assert "Gradient norm by part" in text
    assert "vision from 2.00 to 3.00; experts.special.ct from 0.500 to 0.500" in text
    assert "Gradient norm by part" not in str(curves([{"kind": "train", "step": 1, "loss": 1.0}], []))
