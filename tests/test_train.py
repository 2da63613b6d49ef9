from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from medmoe import checkpoint
from medmoe.build import build_loader, load_model
from medmoe.config import RunConfig
from medmoe.errors import ConfigError, DataError, UserError
from medmoe.guards import Finite
from medmoe.objectives import total_loss
from medmoe.refusals import check_local_similarity
from medmoe.rundir import RunFolder
from medmoe.step import grow_step
from medmoe.train import (
    Interrupted,
    Meter,
    State,
    prepare,
    train_step,
    validate,
)
from medmoe.types import Sample
from small_runs import (
    TERMS,
    Memory,
    Row,
    batch_of,
    built,
    changed,
    losses,
    micro,
    phantoms,
    rows,
    same_weights,
    stop_at,
    train,
)

BERT = {
    "model_type": "bert",
    "vocab_size": 400,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 80,
}
GROWING = "model.experts.growing=true"


class Broken(Memory):
    """Some of its samples can't be read."""

    def __init__(self, samples: list[Sample], bad: set[int]) -> None:
        super().__init__(samples)
        self.bad = bad

    def __getitem__(self, index: int) -> Sample:
        if index in self.bad:
            raise DataError("truncated file", where=self.samples[index].key)
        return super().__getitem__(index)


def prepared(folder: Path, *settings: str, **more: Any) -> tuple[State, RunConfig]:
    arguments = {"train": phantoms(), "run": RunFolder(folder), "init": {}, "device": "cpu", **more}
    return prepare(micro(*settings), **arguments)


# Seeds and steps


def test_the_same_seed_gives_the_same_losses_and_another_seed_others(tmp_path: Path):
    train(tmp_path / "a", "train.steps=3")
    torch.manual_seed(99)
    train(tmp_path / "b", "train.steps=3")
    train(tmp_path / "c", "train.steps=3", "train.seed=1")
    assert losses(tmp_path / "a") == losses(tmp_path / "b")
    assert not set(losses(tmp_path / "a")) & set(losses(tmp_path / "c"))


def test_training_lowers_the_loss_of_samples_it_sees_again_and_again(tmp_path: Path):
    eight = Memory(phantoms().samples[:8])  # every batch is the same, so that its losses can be compared
    train(tmp_path, "train.steps=20", "train.save_every=20", "data.augment=0", "train.lr=0.01", source=eight)
    found = losses(tmp_path)
    assert found[-1] < 0.9 * found[0]


def test_accumulated_gradients_are_the_mean_of_the_batches(tmp_path: Path):
    settings = ("train.accum_freq=2", "train.clip=1000000", "data.augment=0")
    state, config = prepared(tmp_path / "a", *settings)
    twin, _ = prepared(tmp_path / "b", *settings)
    twin.model.train()
    batches = iter(build_loader(phantoms(), twin.model, config, train=True))
    for batch in (next(batches), next(batches)):
        total_loss(twin.model(batch), batch, config.objectives).total.div(2).backward()
    train_step(state, iter(build_loader(phantoms(), state.model, config, train=True)), config, "cpu")
    expected = dict(twin.model.named_parameters())
    for name, parameter in state.model.named_parameters():
        assert (parameter.grad is None) == (expected[name].grad is None), name
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, expected[name].grad)


def test_the_gradient_is_clipped_and_its_true_norm_logged(tmp_path: Path):
    state, config = prepared(tmp_path, "train.clip=0.01")
    batches = iter(build_loader(phantoms(), state.model, config, train=True))
    _, _, norm = train_step(state, batches, config, "cpu")
    grads = [parameter.grad for parameter in state.model.parameters() if parameter.grad is not None]
    after = math.sqrt(sum(float(grad.square().sum()) for grad in grads))
    assert after == pytest.approx(0.01, rel=1e-3)
    assert float(norm) > 0.01


def test_bf16_trains_float32_weights_close_to_fp32(tmp_path: Path):
    model = train(tmp_path / "half", "train.steps=2", "train.precision=bf16", val=phantoms())
    train(tmp_path / "full", "train.steps=2")
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32, torch.bool}
    half, full = losses(tmp_path / "half"), losses(tmp_path / "full")
    assert half[0] == pytest.approx(full[0], rel=0.01)  # of equal weights; Adam's first step then parts them
    assert half[0] != full[0]
    assert len(half) == 2


def test_a_batch_with_nothing_to_learn_from_moves_nothing(tmp_path: Path):
    state, config = prepared(tmp_path)
    before = {name: value.clone() for name, value in state.model.state_dict().items()}
    bare = changed(phantoms(), report=None, modality=None)
    batches = iter(build_loader(bare, state.model, config, train=True))
    loss, _, norm = train_step(state, batches, config, "cpu")
    assert (set(loss.inactive), loss.terms, float(norm)) == (set(TERMS), {}, 0.0)
    assert all(torch.equal(value, before[name]) for name, value in state.model.state_dict().items())


# Trouble


@pytest.mark.parametrize("logged", ["train.log_every=1", "train.log_every=100"])
def test_a_loss_that_is_not_finite_ends_the_run_before_it_is_saved(tmp_path: Path, logged: str):
    wild = ("train.lr=1e30", "train.warmup=0", "train.clip=1e30", "train.save_every=2", logged)
    with pytest.raises(UserError, match=r"(loss|norm) is (nan|inf) at step \d+.*; lower --set train.lr"):
        train(tmp_path, *wild)
    told = [json.loads(line) for line in (tmp_path / "bad_steps.jsonl").read_text().splitlines()]
    assert [row["step"] for row in told] == list(range(told[0]["step"], 7))
    assert all(len(row["keys"]) == 8 for row in told)
    for folder in checkpoint.found(tmp_path):
        assert all(value.isfinite().all() for value in checkpoint.load(folder).weights.values())


def guarded(patience: int, folder: Path) -> tuple[torch.nn.Module, torch.optim.Optimizer, Finite]:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    return model, optimizer, Finite(model, optimizer, patience=patience, log=folder / "bad.jsonl")


@pytest.mark.parametrize(("total", "norm"), [(math.nan, 1.0), (math.inf, 1.0), (1.0, math.nan), (1.0, math.inf)])
def test_a_step_whose_loss_or_gradient_is_no_number_moves_nothing_and_is_written_down(
    tmp_path: Path, total: float, norm: float
):
    model, optimizer, guard = guarded(3, tmp_path)

    def step(number: int, value: float, total: float, norm: float) -> None:
        optimizer.zero_grad()
        model(torch.full((4, 2), value) + torch.randn(4, 2)).square().sum().backward()
        guard.judge(number, torch.tensor(total), torch.tensor(norm), [f"sample {number}"])
        optimizer.step()

    step(1, 1.0, 1.0, 1.0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    step(2, math.nan, total, norm)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert guard.read() == 1
    step(3, 1.0, 1.0, 1.0)
    assert (guard.read(), guard.in_a_row) == (1, 0)
    assert all(value.isfinite().all() for value in model.state_dict().values())
    assert not torch.equal(model[0].weight, before["0.weight"])
    (row,) = map(json.loads, (tmp_path / "bad.jsonl").read_text().splitlines())
    assert row == {"step": 2, "loss": str(total), "norm": str(norm), "keys": ["sample 2"]}


def test_bad_steps_in_a_row_stop_the_run_only_beyond_those_allowed(tmp_path: Path):
    _, _, guard = guarded(2, tmp_path)
    for number in (1, 2):
        guard.judge(number, torch.tensor(math.nan), torch.tensor(1.0), [])
    assert guard.read() == 2
    guard.judge(3, torch.tensor(math.nan), torch.tensor(1.0), [])
    with pytest.raises(UserError, match=r"the loss is nan at step 3 \(3 bad steps in a row\); lower --set train.lr"):
        guard.read()


def test_a_bad_sample_ends_the_run_by_name_unless_bad_ones_are_skipped(tmp_path: Path):
    data = Broken(phantoms().samples, bad={2, 5})
    with pytest.raises(DataError, match="truncated file"):
        train(tmp_path / "a", source=data)
    train(tmp_path / "b", "data.on_bad_sample=skip", source=data)
    told = [json.loads(line) for line in (tmp_path / "b" / "quarantine.jsonl").read_text().splitlines()]
    assert sorted(row["key"] for row in told) == sorted(data.samples[index].key for index in (2, 5))
    assert all("truncated file" in row["reason"] for row in told)
    assert rows(tmp_path / "b")[-1]["skipped"] >= 2


# What a run says


def test_a_row_of_training_holds_every_term_and_how_images_were_routed(tmp_path: Path):
    train(tmp_path, "train.steps=2")
    for number, row in enumerate(rows(tmp_path), start=1):
        assert row["step"] == number
        assert row["terms"].keys() == set(TERMS)
        assert row["inactive"] == []
        assert row["loss"] == pytest.approx(0.5 * sum(row["terms"].values()), rel=1e-5)
        assert 0 <= row["router_entropy"] <= math.log(6) + 1e-6
        assert len(row["load"]) == 6
        assert sum(row["load"]) == pytest.approx(1.0, abs=1e-3)
        assert 0 <= row["data_wait"] <= 1
        assert row["images_per_second"] > 0
        assert row["grad_norm"] > 0
        assert row["logit_scale"] == pytest.approx(1 / 0.07, rel=0.1)


def test_what_is_watched_is_what_is_written(tmp_path: Path):
    seen: list[Row] = []
    train(tmp_path, val=phantoms(), watch=seen.append)
    assert seen == RunFolder(tmp_path, resume=True).history()


def test_the_metrics_have_the_first_the_last_and_every_so_many_steps(tmp_path: Path):
    train(tmp_path, "train.steps=7", "train.log_every=3", "train.val_every=2", val=phantoms())
    assert [row["step"] for row in rows(tmp_path)] == [1, 3, 6, 7]
    assert [row["step"] for row in rows(tmp_path, "val")] == [2, 4, 6, 7]


def test_each_step_is_taken_at_its_rate_of_the_schedule(tmp_path: Path):
    state, config = prepared(tmp_path, "train.steps=4", "train.warmup=0.5", "train.lr=0.01")
    batches = iter(build_loader(phantoms(), state.model, config, train=True))
    for step, rate in enumerate((0.005, 0.01, 0.01, 0.005)):
        state.step = step
        train_step(state, batches, config, "cpu")
        assert [group["lr"] for group in state.optimizer.param_groups] == pytest.approx([rate, rate])


def test_the_rate_logged_is_the_rate_of_the_step(tmp_path: Path):
    train(tmp_path, "train.steps=4", "train.warmup=0.5", "train.lr=0.01")
    assert [row["lr"] for row in rows(tmp_path)] == pytest.approx([0.005, 0.01, 0.01, 0.005])


def test_terms_without_their_fields_are_told_as_inactive(tmp_path: Path):
    train(tmp_path, "train.steps=1", 'model.modalities=["ct","mri"]', source=changed(phantoms(), modality=None))
    (row,) = rows(tmp_path)
    assert set(row["inactive"]) == {"report_type", "image_modality"}
    assert row["terms"].keys() == {"global", "local", "router_distillation"}


def test_the_run_folder_holds_what_the_run_was(tmp_path: Path):
    train(tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"config.json", "run.json", "metrics.jsonl", "checkpoints", "model", "trained_on.json", ".lock"}
    assert [path.name for path in checkpoint.found(tmp_path)] == ["step-0000003", "step-0000006"]


def test_the_model_left_behind_is_the_one_returned(tmp_path: Path):
    model = train(tmp_path, "train.ema=0.5")
    assert not model.training
    assert same_weights(load_model(tmp_path), model)


# Validation


def test_every_validation_goes_through_the_whole_set_once(tmp_path: Path):
    data = Memory(phantoms(seed=3).samples[:19])  # the last batch has three
    train(tmp_path, val=data)
    assert [row["images"] for row in rows(tmp_path, "val")] == [19, 19]
    assert rows(tmp_path, "val")[0]["terms"].keys() == set(TERMS)


def test_validating_again_gives_the_same_figures_and_changes_no_weight(tmp_path: Path):
    state, config = prepared(tmp_path, "train.ema=0.9")
    loader = build_loader(phantoms(seed=3), state.model, config, train=False)
    train_step(state, iter(build_loader(phantoms(), state.model, config, train=True)), config, "cpu")
    before = {name: value.clone() for name, value in state.model.state_dict().items()}
    assert validate(state, loader, config, "cpu") == validate(state, loader, config, "cpu")
    assert all(torch.equal(value, before[name]) for name, value in state.model.state_dict().items())
    assert state.model.training


def test_the_validated_accuracy_is_the_image_routers_over_labelled_images(tmp_path: Path):
    state, config = prepared(tmp_path)
    samples = phantoms(seed=3).samples[:12]
    half = Memory([dataclasses.replace(s, modality=None) if i % 2 else s for i, s in enumerate(samples)])
    row = validate(state, build_loader(half, state.model, config, train=False), config, "cpu")
    right = []
    for index in range(0, 12, 2):
        batch = next(iter(build_loader(Memory([samples[index]]), state.model, config, train=False)))
        best = int(state.model.eval().encode_image(batch.image).logits.argmax())
        right.append(state.model.modalities[best] == samples[index].modality)
    assert row["image_router_accuracy"] == pytest.approx(np.mean(right))


def test_validation_without_labels_gives_no_accuracy(tmp_path: Path):
    state, config = prepared(tmp_path)
    bare = build_loader(changed(phantoms(), modality=None), state.model, config, train=False)
    assert validate(state, bare, config, "cpu")["image_router_accuracy"] is None


def test_validation_is_a_mean_over_images(tmp_path: Path):
    state, config = prepared(tmp_path, "data.batch_size=5")
    loader = build_loader(Memory(phantoms().samples[:7]), state.model, config, train=False)
    state.model.eval()
    parts = [(len(b.keys), float(total_loss(state.model(b), b, config.objectives).total.detach())) for b in loader]
    row = validate(state, loader, config, "cpu")
    assert [count for count, _ in parts] == [5, 2]
    assert row["loss"] == pytest.approx(sum(count * loss for count, loss in parts) / 7)


# Averaged weights


def test_the_average_is_what_is_validated_returned_and_saved_beside_the_weights(tmp_path: Path):
    model = train(tmp_path, "train.ema=0.5", val=phantoms())
    end = checkpoint.load_latest(tmp_path)
    assert end is not None
    assert end.average is not None
    assert all(torch.equal(value, end.average[name]) for name, value in model.state_dict().items())
    assert any(not torch.equal(value, end.weights[name]) for name, value in model.state_dict().items())
    state = State(model, torch.optim.SGD(model.parameters()), None, step=6)
    config = micro("train.ema=0.5")
    again = validate(state, build_loader(phantoms(), model, config, train=False), config, "cpu")
    assert again["loss"] == pytest.approx(rows(tmp_path, "val")[-1]["loss"])


# Experts


def stopped_just_grown(folder: Path, *settings: str) -> checkpoint.Checkpoint:
    grown_at_two = ("train.steps=4", "train.grow_at=0.5", GROWING, *settings)
    with pytest.raises(Interrupted):
        train(folder, *grown_at_two, watch=stop_at(2))
    found = checkpoint.load_latest(folder)
    assert found is not None
    return found


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_grown_experts_start_with_the_weights_memory_and_average_of_the_one_before(tmp_path: Path, norm: str):
    found = stopped_just_grown(tmp_path, "train.ema=0.9", f"model.experts.norm={norm}")
    assert found.average is not None
    for tensors in (found.weights, found.optimizer, found.average):
        first = {name: value for name, value in tensors.items() if name.startswith("experts.special.0.")}
        assert first
        for other in range(1, 6):
            for name, value in first.items():
                assert torch.equal(tensors[name.replace("special.0", f"special.{other}")], value), name
    assert bool(found.weights["experts.grown"])
    assert bool(found.average["experts.grown"])
    assert any(value.any() for name, value in found.optimizer.items() if "special.5" in name and "exp_avg" in name)


def test_before_they_part_growing_experts_are_one(tmp_path: Path):
    with pytest.raises(Interrupted):
        train(tmp_path, "train.steps=4", "train.grow_at=0.5", GROWING, watch=stop_at(1))
    found = checkpoint.load_latest(tmp_path)
    assert found is not None
    assert not bool(found.weights["experts.grown"])
    assert [name for name in found.optimizer if name.startswith("experts.special.1")] == []


def test_experts_that_have_grown_part(tmp_path: Path):
    model = train(tmp_path, "train.steps=6", "train.grow_at=0.34", GROWING, "model.router.train=label")
    assert not same_weights(model.experts.special[0], model.experts.special[1])


@pytest.mark.parametrize(("share", "step"), [(0.5, 3), (0.34, 2), (0.01, 1), (0.99, 6)])
def test_experts_part_within_the_run(share: float, step: int):
    assert grow_step(micro(f"train.grow_at={share}")) == step


def test_an_expert_that_had_images_is_not_moved_by_a_step_that_gives_it_none(tmp_path: Path):
    settings = ("model.router.train=label", 'model.modalities=["xray","ct"]', "train.weight_decay=0.5")
    state, config = prepared(tmp_path, *settings, train=phantoms())
    of = {name: Memory([s for s in phantoms().samples if s.modality == name]) for name in state.model.modalities}
    xray, ct = (batch_of(state.model, of[name]) for name in ("xray", "ct"))
    train_step(state, iter([xray]), config, "cpu")
    before = {name: value.clone() for name, value in state.model.experts.special[0].state_dict().items()}
    train_step(state, iter([ct]), config, "cpu")
    after = state.model.experts.special[0].state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_an_expert_without_images_is_not_moved(tmp_path: Path):
    data = Memory([sample for sample in phantoms().samples if sample.modality in ("xray", "mri")])
    settings = ("model.router.train=label", 'model.modalities=["xray","ct","mri"]', "train.weight_decay=0.5")
    model = train(tmp_path, *settings, source=data)
    fresh = built(*settings, source=data)
    same = [same_weights(model.experts.special[k], fresh.experts.special[k]) for k in range(3)]
    assert same == [False, True, False]


# Frozen parts


def test_a_frozen_text_encoder_stays_bit_identical(tmp_path: Path):
    settings = (
        "model.text.name=hf",
        f"model.text.hf={json.dumps(BERT)}",
        "model.text.last_layers=1",
        "train.weight_decay=0.5",
    )
    model = train(tmp_path, *settings)
    fresh = built(*settings)
    assert same_weights(model.text, fresh.text)
    assert not same_weights(model.text_projection, fresh.text_projection)


def test_what_a_pattern_freezes_stays_and_the_rest_moves(tmp_path: Path):
    model = train(tmp_path, 'train.freeze=["text","vision.*.bias"]')
    fresh = built()
    still = {name for name, value in model.named_parameters() if torch.equal(value, fresh.get_parameter(name))}
    assert same_weights(model.text, fresh.text)
    assert {name for name in still if name.startswith("vision")} == {
        name for name, _ in model.named_parameters() if name.startswith("vision") and name.endswith(".bias")
    }
    assert "text_projection.weight" not in still


def test_a_pattern_that_freezes_nothing_is_a_mistake(tmp_path: Path):
    with pytest.raises(ConfigError, match="no parameter to freeze matches 'txt'"):
        train(tmp_path, 'train.freeze=["txt"]')


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["objectives.late_interaction=0.5", "objectives.local=0"], "reads words and regions by 'attention'"),
        (["model.local_similarity=late_interaction"], "'local' trains another similarity"),
    ],
)
def test_a_model_is_trained_by_the_similarity_it_is_read_by(settings: list[str], said: str):
    with pytest.raises(ConfigError, match=said):
        check_local_similarity(micro(*settings))
    both = ["objectives.late_interaction=0.5", "model.local_similarity=late_interaction"]
    check_local_similarity(micro(*both))
    check_local_similarity(micro("objectives.local=0"))


def test_waiting_is_a_share_of_the_steps_and_not_of_validation(monkeypatch: pytest.MonkeyPatch):
    now = iter([0.0, 10.0, 70.0, 80.0, 84.0])  # made; paused from 10 to 70; read; read again
    monkeypatch.setattr("medmoe.train.time.perf_counter", lambda: next(now))
    loader = SimpleNamespace(waited=0.0)
    meter = Meter(loader)  # type: ignore[arg-type]
    with meter.paused():
        pass
    loader.waited = 5.0
    meter.count(40)
    assert meter.read() == {"images_per_second": 2.0, "data_wait": 0.25}
    assert meter.read() == {"images_per_second": 0.0, "data_wait": 0.0}
