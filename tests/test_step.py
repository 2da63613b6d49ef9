"""What makes a step fast changes nothing of what it computes: text cache, compiling, bf16, augmenting on the device."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from medmoe import step as step_module
from medmoe.build import build_loader, load_model
from medmoe.config import RunConfig
from medmoe.encoders.cached_text import CachedText
from medmoe.errors import ConfigError
from medmoe.rundir import RunFolder
from medmoe.step import check_backend, compiled, eager
from medmoe.train import Interrupted, State, prepare, ready, train_step
from medmoe.types import Batch
from small_runs import BERT, TERMS, Memory, batch_of, built, losses, micro, phantoms, rows, same_weights, stop_at, train

FROZEN = ("model.text.name=hf", f"model.text.hf={json.dumps(BERT)}", "model.text.last_layers=1")
TRACED = ("train.compile=true", "train.compile_backend=eager")
FEW = ("objectives.local=0", "model.experts.special=false", "model.experts.shared=1")  # fewer graphs to trace


def prepared(folder: Path, *settings: str, **more: Any) -> tuple[State, RunConfig]:
    arguments = {"train": phantoms(), "run": RunFolder(folder), "init": {}, "device": "cpu", **more}
    return prepare(micro(*settings), **arguments)


def gradients(state: State, config: RunConfig) -> dict[str, Tensor]:
    """Take one step and give the gradients, before they were clipped."""
    config = config.model_copy(update={"train": config.train.model_copy(update={"clip": 1e9})})
    train_step(state, iter(build_loader(phantoms(), state.model, config, train=True)), config, "cpu")
    return {name: p.grad for name, p in state.model.named_parameters() if p.grad is not None}


# The frozen text encoder's features


def test_training_with_known_text_features_is_training_without(tmp_path: Path):
    kept = train(tmp_path / "kept", *FROZEN, val=phantoms(seed=3))
    plain = train(tmp_path / "plain", *FROZEN, "train.text_cache=false", val=phantoms(seed=3))
    assert losses(tmp_path / "kept") == pytest.approx(losses(tmp_path / "plain"), rel=1e-4)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(kept.state_dict()[name], value, rtol=1e-2, atol=1e-4)
    assert (tmp_path / "kept" / "cache" / "text").is_dir()
    assert not (tmp_path / "plain" / "cache").exists()
    assert "text_known" not in rows(tmp_path / "plain")[0]
    assert 0 <= rows(tmp_path / "kept")[0]["text_known"] < 0.7
    assert rows(tmp_path / "kept")[-1]["text_known"] == 1.0  # two batches of eight make all 24 known


def test_a_model_trained_with_known_text_features_loads_without(tmp_path: Path):
    model = train(tmp_path, *FROZEN)
    shutil.rmtree(tmp_path / "cache")
    assert same_weights(load_model(tmp_path), model)


def test_a_run_with_known_text_features_resumes_bit_identically(tmp_path: Path):
    straight = train(tmp_path / "straight", *FROZEN)
    with pytest.raises(Interrupted):
        train(tmp_path / "stopped", *FROZEN, watch=stop_at(4))
    resumed = train(tmp_path / "stopped", *FROZEN, resume=True)
    assert losses(tmp_path / "straight") == losses(tmp_path / "stopped")
    assert same_weights(straight, resumed)


def test_runs_may_share_a_folder_and_find_all_known(tmp_path: Path):
    shared = f"train.text_cache={json.dumps(str(tmp_path / 'shared'))}"
    train(tmp_path / "one", *FROZEN, shared)
    train(tmp_path / "two", *FROZEN, shared)
    assert {row["text_known"] for row in rows(tmp_path / "two")} == {1.0}
    assert losses(tmp_path / "one") == losses(tmp_path / "two")
    assert not (tmp_path / "two" / "cache").exists()


def test_a_full_cache_is_said_in_the_metrics_and_changes_no_loss(tmp_path: Path):
    words = "a small nodule in the lung, " * 4
    source = Memory([dataclasses.replace(s, report=f"Report {n}: {words}") for n, s in enumerate(phantoms().samples)])
    bert = {**BERT, "hidden_size": 512, "num_hidden_layers": 1}  # 50 kB a report
    settings = (FROZEN[0], f"model.text.hf={json.dumps(bert)}", FROZEN[2], "train.steps=4")
    train(tmp_path / "full", *settings, "train.text_cache_mb=1", source=source)
    train(tmp_path / "all", *settings, source=source)
    assert rows(tmp_path / "full")[-1]["text_cache"] == "full: 1 MiB of 1"
    assert losses(tmp_path / "full") == pytest.approx(losses(tmp_path / "all"), rel=1e-5)


@pytest.mark.parametrize("settings", [(), (*FROZEN, "model.text.frozen=false"), (*FROZEN, "train.text_cache=false")])
def test_only_a_frozen_encoders_features_are_kept_and_only_if_asked(tmp_path: Path, settings: tuple[str, ...]):
    assert prepared(tmp_path, *settings)[0].text is None


def test_the_encoder_is_not_run_in_a_step_of_known_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    state, config = prepared(tmp_path, *FROZEN)
    batch = batch_of(state.model)
    assert isinstance(state.text, CachedText)
    wanted = ready(batch, state, "cpu")
    monkeypatch.setattr(type(state.model.text), "forward", None)  # would fail if it were called
    output, _ = eager(config, "cpu")(state.model, ready(batch, state, "cpu"))
    assert output.text is not None
    assert wanted.text is not None


# Compiling. Where a graph breaks, torch itself looks at the gradients of tensors that have none.

LOOKS = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")


@LOOKS
def test_a_compiled_step_gives_the_losses_and_gradients_of_an_eager_one(tmp_path: Path):
    plain, config = prepared(tmp_path / "plain", *FEW)
    traced, its = prepared(tmp_path / "traced", *FEW, *TRACED)
    assert traced.forward is not None
    mine, other = gradients(plain, config), gradients(traced, its)
    assert mine.keys() == other.keys()
    for name, value in mine.items():
        torch.testing.assert_close(other[name], value, rtol=1e-5, atol=1e-7)


@LOOKS
def test_a_compiled_run_trains_validates_resumes_and_saves_as_an_eager_one(tmp_path: Path):
    plain = train(tmp_path / "plain", "train.ema=0.9", *FEW, val=phantoms(seed=3))
    with pytest.raises(Interrupted):
        train(tmp_path / "traced", "train.ema=0.9", *FEW, *TRACED, val=phantoms(seed=3), watch=stop_at(4))
    traced = train(tmp_path / "traced", "train.ema=0.9", *FEW, *TRACED, val=phantoms(seed=3), resume=True)
    assert losses(tmp_path / "traced") == pytest.approx(losses(tmp_path / "plain"), rel=1e-3)
    mine, other = (rows(tmp_path / name, "val")[-1] for name in ("plain", "traced"))
    assert other["loss"] == pytest.approx(mine["loss"], rel=1e-3)
    assert traced.state_dict().keys() == plain.state_dict().keys()
    assert same_weights(load_model(tmp_path / "traced"), traced)


@LOOKS
def test_no_third_length_of_report_is_compiled_anew():
    model = built(*FEW).train()
    forward = compiled(micro(*FEW, *TRACED, "objectives.report_type=0"), "cpu")
    graphs = []
    for length in (3, 7, 4, 9):
        words = " ".join(["small nodule"] * length)
        told = [dataclasses.replace(s, report=f"{words} {n}") for n, s in enumerate(phantoms().samples[:8])]
        forward(model, batch_of(model, Memory(told)))
        graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert graphs[0] > 0
    assert graphs[1:] == [graphs[1]] * 3


@pytest.mark.parametrize(
    ("device", "missing", "message"),
    [
        (
            "cpu",
            "compiler",
            r"train\.compile: compiling needs a C\+\+ compiler; found no .*; install it, or train with",
        ),
        ("cuda", "compiler", r"train\.compile: compiling needs a C\+\+ compiler; found no gcc or clang"),
        ("cuda", "triton", r"train\.compile: compiling for CUDA needs the package triton; install it, or train"),
    ],
)
def test_what_compiling_lacks_is_told_before_the_first_step(
    device: str, missing: str, message: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(step_module.shutil, "which", lambda name: None if missing == "compiler" else name)
    monkeypatch.setattr(step_module.importlib.util, "find_spec", lambda name: None if missing == "triton" else name)
    with pytest.raises(ConfigError, match=message):
        check_backend("inductor", device)


def test_compiling_a_batch_in_parts_is_refused():
    with pytest.raises(ConfigError, match=r"train\.compile: a batch that goes through the model in parts .*leave one"):
        compiled(micro(*TRACED, "train.micro_batch=4"), "cpu")


def test_an_unknown_backend_is_told():
    with pytest.raises(ConfigError, match=r"train\.compile_backend: unknown backend 'egaer' \(did you mean 'eager'"):
        check_backend("egaer", "cpu")


@LOOKS
@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling needs g++")
def test_inductor_computes_what_the_eager_step_computes(tmp_path: Path):
    plain, config = prepared(tmp_path / "plain", *FEW)
    quick, its = prepared(tmp_path / "quick", *FEW, "train.compile=true")
    mine, other = gradients(plain, config), gradients(quick, its)
    assert mine.keys() <= other.keys()
    unread = [other[name] for name in other.keys() - mine.keys()]  # nothing reads the regions: zeros for no gradient
    assert all((value == 0).all() for value in unread)
    one, two = (torch.cat([grads[name].flatten() for name in mine]) for grads in (mine, other))
    assert float((one - two).norm() / one.norm()) < 1e-4  # sums in another order


# bf16


def test_bf16_gradients_point_where_those_of_float32_do(tmp_path: Path):
    full = gradients(*prepared(tmp_path / "full"))
    half = gradients(*prepared(tmp_path / "half", "train.precision=bf16"))
    assert full.keys() == half.keys()
    assert {value.dtype for value in half.values()} == {torch.float32}
    one, other = (torch.cat([grads[name].flatten() for name in full]) for grads in (full, half))
    assert float(torch.cosine_similarity(one, other, dim=0)) > 0.98
    assert float(other.norm() / one.norm()) == pytest.approx(1, abs=0.05)
    assert not torch.equal(one, other)


def test_under_bf16_losses_norms_and_router_are_float32(tmp_path: Path):
    state, config = prepared(tmp_path, "train.precision=bf16")
    loss, output, norm = train_step(state, repeated(batch_of(state.model)), config, "cpu")
    assert {loss.total.dtype, norm.dtype, *(value.dtype for value in loss.terms.values())} == {torch.float32}
    assert {output.image.embed.dtype, output.image.logits.dtype, output.image.routing.logits.dtype} == {torch.float32}
    assert output.text is not None
    assert {output.text.embed.dtype, output.text.logits.dtype, output.logit_scale.dtype} == {torch.float32}
    assert {value.dtype for slots in state.optimizer.state.values() for value in slots.values()} == {torch.float32}


def repeated(batch: Batch) -> Any:
    while True:
        yield batch


# Augmenting on the device


def test_augmented_on_the_device_a_run_learns_from_other_images_each_step(tmp_path: Path):
    train(tmp_path / "device", "data.augment_on=device", val=phantoms(seed=3))
    train(tmp_path / "again", "data.augment_on=device", val=phantoms(seed=3))
    train(tmp_path / "never", "data.augment=0", val=phantoms(seed=3))
    assert losses(tmp_path / "device") == losses(tmp_path / "again")
    assert losses(tmp_path / "device") != losses(tmp_path / "never")


def test_augmented_on_the_device_losses_are_those_of_workers_up_to_the_grain(tmp_path: Path):
    state, config = prepared(tmp_path)
    found = []
    for place in ("device", "worker"):
        placed = config.model_copy(update={"data": config.data.model_copy(update={"augment_on": place})})
        batch = next(iter(build_loader(phantoms(), state.model, placed, train=True)))
        _, loss = eager(config, "cpu")(state.model.eval(), ready(batch, state, "cpu"))
        found.append(float(loss.total.detach()))
    assert found[0] == pytest.approx(found[1], rel=0.05)
    assert found[0] != found[1]


# Nothing is read from the device


def test_a_step_of_every_objective_reads_nothing_from_an_accelerator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """On the meta device there are no values: whatever asks for one fails."""
    heads = ("model.report_words=true", "model.region_words=true")
    more = [f"objectives.{name}=1" for name in ("late_interaction", "report_words", "region_words")]
    state, config = prepared(tmp_path, "train.ema=0.9", "data.augment_on=device", *heads, *more)
    batch = next(iter(build_loader(phantoms(), state.model, config, train=True)))
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())  # meta has none
    state.model.to("meta")
    assert state.average is not None
    state.average.weights = {name: value.to("meta") for name, value in state.average.weights.items()}
    # the fused one has no kernel for meta
    state.optimizer = torch.optim.AdamW(state.model.parameters(), fused=False)
    loss, _, norm = train_step(state, repeated(batch), config, "meta")
    assert loss.terms.keys() == {*TERMS, "late_interaction", "report_words", "region_words"}
    assert {loss.total.device.type, norm.device.type} == {"meta"}
    assert any(parameter.grad is not None for parameter in state.model.parameters())
