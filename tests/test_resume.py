"""Runs that don't begin at nothing: resumed ones, and ones that start from saved weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from medmoe import checkpoint
from medmoe.build import adopt, build_text, load_model, tokenizer_of
from medmoe.cli.train import _begins
from medmoe.config import RunConfig, TextConfig, parse
from medmoe.data.text import ReportTokenizer
from medmoe.errors import ConfigError, ModelError, UserError
from medmoe.model import MedVLM
from medmoe.rundir import RunFolder
from medmoe.train import Interrupted, fit, prepare
from small_runs import Crash, Memory, batch_of, built, losses, micro, phantoms, rows, same_weights, stop_at, train

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
EARLY = (GROWING, "train.grow_at=0.34", "train.ema=0.9")  # they part at step 2, before the stop
LATE = (GROWING, "train.grow_at=0.84", "train.ema=0.9")  # at step 5, after it


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, MedVLM]:
    """Give a run that was never stopped, and its model; copy the folder before changing it."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    return folder, train(folder, val=phantoms())


@pytest.mark.parametrize(
    ("settings", "ending"),
    [
        ((), KeyboardInterrupt),
        ((), Crash),
        (("train.accum_freq=2",), KeyboardInterrupt),
        (("data.batching=within", "data.balance=0.5"), KeyboardInterrupt),
        (EARLY, KeyboardInterrupt),
        (EARLY, Crash),
        (LATE, KeyboardInterrupt),
        (('train.freeze=["text"]', "train.precision=bf16"), KeyboardInterrupt),
    ],
    ids=lambda value: ",".join(value) or "plain" if isinstance(value, tuple) else value.__name__,
)
def test_a_run_stopped_and_resumed_is_bit_identical_to_one_never_stopped(
    tmp_path: Path, settings: tuple[str, ...], ending: type[BaseException]
):
    straight = train(tmp_path / "straight", *settings)
    # Ctrl-C saves step 4 itself; after a crash there the checkpoint of step 3 is taken up
    with pytest.raises((Interrupted, Crash)):
        train(tmp_path / "stopped", *settings, watch=stop_at(4, ending))
    resumed = train(tmp_path / "stopped", *settings, resume=True)
    assert same_weights(straight, resumed)
    assert losses(tmp_path / "straight") == losses(tmp_path / "stopped")
    one, other = (checkpoint.load(checkpoint.found(tmp_path / name)[-1]) for name in ("straight", "stopped"))
    for mine, its in ((one.weights, other.weights), (one.optimizer, other.optimizer)):
        assert mine.keys() == its.keys()
        assert all(torch.equal(mine[name], its[name]) for name in mine)


def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path: Path):
    with pytest.raises(Interrupted, match=r"stopped at step 2, saved in .*; go on with --resume latest") as got:
        train(tmp_path, watch=stop_at(2))
    assert str(tmp_path) in str(got.value)
    assert [path.name for path in checkpoint.found(tmp_path)] == ["step-0000002"]
    assert not (tmp_path / "model").exists()


def test_a_stopped_run_is_already_a_model(tmp_path: Path):
    with pytest.raises(Interrupted):
        train(tmp_path, watch=stop_at(2))
    assert load_model(tmp_path).modalities == built().modalities


def test_each_step_is_in_the_metrics_once_after_a_crash(tmp_path: Path):
    with pytest.raises(Crash):
        train(tmp_path, val=phantoms(), watch=stop_at(5, Crash))
    assert [row["step"] for row in rows(tmp_path)] == [1, 2, 3, 4, 5]
    train(tmp_path, val=phantoms(), resume=True)
    assert [row["step"] for row in rows(tmp_path)] == [1, 2, 3, 4, 5, 6]
    assert [row["step"] for row in rows(tmp_path, "val")] == [3, 6]


def test_a_run_that_crashed_before_its_first_checkpoint_starts_over(tmp_path: Path, finished: tuple[Path, MedVLM]):
    with pytest.raises(Crash):
        train(tmp_path, watch=stop_at(2, Crash))
    resumed = train(tmp_path, resume=True)
    assert [row["step"] for row in rows(tmp_path)] == [1, 2, 3, 4, 5, 6]
    assert same_weights(resumed, finished[1])


def test_resuming_in_an_empty_folder_starts_afresh(tmp_path: Path, finished: tuple[Path, MedVLM]):
    assert same_weights(train(tmp_path, resume=True), finished[1])


def test_a_run_folder_that_holds_a_run_is_not_written_over(finished: tuple[Path, MedVLM]):
    before = (finished[0] / "metrics.jsonl").read_bytes()
    with pytest.raises(UserError, match="exists and isn't empty"):
        train(finished[0])
    assert (finished[0] / "metrics.jsonl").read_bytes() == before


def test_resuming_a_finished_run_changes_nothing(tmp_path: Path, finished: tuple[Path, MedVLM]):
    folder, first = shutil.copytree(finished[0], tmp_path / "run"), finished[1]
    before = (folder / "metrics.jsonl").read_bytes()
    assert same_weights(first, train(folder, val=phantoms(), resume=True))
    assert (folder / "metrics.jsonl").read_bytes() == before


def test_a_finished_run_goes_on_to_more_steps(tmp_path: Path, finished: tuple[Path, MedVLM]):
    folder = shutil.copytree(finished[0], tmp_path / "run")
    train(folder, "train.steps=8", resume=True)
    assert [row["step"] for row in rows(folder)] == list(range(1, 9))


def test_a_broken_newest_checkpoint_costs_steps_not_the_run(tmp_path: Path, finished: tuple[Path, MedVLM]):
    folder = shutil.copytree(finished[0], tmp_path / "run")
    (checkpoint.found(folder)[-1] / "model.safetensors").write_bytes(b"torn")
    assert same_weights(finished[1], train(folder, resume=True))


def test_a_resumed_run_keeps_its_vocabulary(tmp_path: Path):
    with pytest.raises(Interrupted):
        train(tmp_path, watch=stop_at(2))
    kept = (tmp_path / "checkpoints" / "step-0000002" / "tokenizer.json").read_bytes()
    train(tmp_path, source=phantoms(30, seed=7), resume=True, allow_changes=True)
    assert (tmp_path / "model" / "tokenizer.json").read_bytes() == kept


def test_modalities_from_the_data_are_the_same_after_resuming(tmp_path: Path):
    data = Memory([sample for sample in phantoms().samples if sample.modality in ("mri", "ct")])
    with pytest.raises(Interrupted):
        train(tmp_path, source=data, watch=stop_at(2))
    model = train(tmp_path, source=Memory(data.samples[::-1]), resume=True, allow_changes=True)
    assert model.modalities == ("ct", "mri")
    written = parse(RunConfig, json.loads((tmp_path / "config.json").read_text()))
    assert written.model.modalities == ("ct", "mri")


@pytest.mark.parametrize("change", ["data", "settings"])
def test_resuming_with_what_the_checkpoint_does_not_fit_is_told(finished: tuple[Path, MedVLM], change: str):
    data = Memory([sample for sample in phantoms().samples if sample.modality in ("mri", "ct")])
    more = {"source": data} if change == "data" else {}
    settings = () if change == "data" else ("model.embed_dim=8",)
    with pytest.raises(ModelError, match="weights don't fit the configuration") as got:
        train(finished[0], *settings, resume=True, allow_changes=True, **more)
    assert got.value.where == str(finished[0])
    assert "config.json" in (got.value.remedy or "")


def test_a_run_goes_on_with_its_own_recipe_and_data_only_and_says_what_differs(tmp_path: Path):
    with pytest.raises(Interrupted):
        train(tmp_path, watch=stop_at(2))
    before = (tmp_path / "config.json").read_text()
    with pytest.raises(UserError, match=r"made with others: train\.lr was 0\.003, now 0\.1; .*--allow-changes"):
        train(tmp_path, "train.lr=0.1", resume=True)
    with pytest.raises(UserError, match=r"made with others: the training samples \(their keys, reports, labels"):
        train(tmp_path, source=phantoms(24, seed=3), resume=True)
    assert (tmp_path / "config.json").read_text() == before
    train(tmp_path, "train.steps=7", "train.log_every=2", "train.save_every=1", resume=True)
    assert rows(tmp_path)[-1]["step"] == 7


def test_two_writers_of_one_run_are_kept_apart(tmp_path: Path):
    run = RunFolder(tmp_path)
    with run.locked(), pytest.raises(UserError, match=r"being written by process \d+ on .* since 20.*; wait for it"):
        train(tmp_path, resume=True)
    train(tmp_path, resume=True)


def test_a_run_that_starts_from_a_model_begins_with_its_embeddings_and_says_so(tmp_path: Path):
    saved = train(tmp_path / "first").eval()
    init = {"model": str(tmp_path / "first")}
    config = adopt(micro(), init)
    run = RunFolder(tmp_path / "second")
    state, _ = prepare(config, train=phantoms(30, seed=7), run=run, init=init, device="cpu")
    batch = batch_of(saved, phantoms(seed=5))
    with torch.inference_mode():
        wanted, got = saved(batch), state.model.eval()(batch_of(state.model, phantoms(seed=5)))
    torch.testing.assert_close(got.image.embed, wanted.image.embed, rtol=0, atol=1e-6)
    torch.testing.assert_close(got.text.embed, wanted.text.embed, rtol=0, atol=1e-6)
    count = len(saved.state_dict())
    told = json.loads((tmp_path / "second" / "run.json").read_text())["initialised_from"]
    assert told == {"model": f"used {count} of {count} tensors (the model has {count})"}


def test_a_run_started_from_a_model_remembers_it_after_resuming(tmp_path: Path):
    train(tmp_path / "first", "train.steps=1")
    init = {"model": str(tmp_path / "first")}
    settings = ("train.steps=3", "train.seed=8")
    with pytest.raises(Interrupted):
        train(tmp_path / "b", *settings, init=init, watch=stop_at(2))
    resumed = train(tmp_path / "b", *settings, init=init, resume=True)
    assert same_weights(resumed, train(tmp_path / "c", *settings, init=init))
    assert "used" in json.loads((tmp_path / "b" / "run.json").read_text())["initialised_from"]["model"]


def test_a_text_folder_brings_its_tokenizer_and_weights(tmp_path: Path):
    reports = [sample.report or "" for sample in phantoms().samples]
    folder = tmp_path / "bert"
    tokenizer = ReportTokenizer.train(reports, vocab_size=200)
    tokenizer.save(folder)
    hf = {**BERT, "vocab_size": tokenizer.vocab_size}
    (folder / "config.json").write_text(json.dumps(hf))
    init = {"text": str(folder)}
    config = adopt(micro("model.text.last_layers=1"), init)
    donor = build_text(TextConfig(name="hf", hf=hf, last_layers=1))
    save_file(donor.state_dict(), folder / "model.safetensors")
    model = fit(config, train=phantoms(seed=2), val=None, run=RunFolder(tmp_path / "run"), init=init)
    assert tokenizer_of(model).vocab_size == tokenizer.vocab_size
    assert same_weights(model.text, donor)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_run_resumes_on_a_gpu(tmp_path: Path):
    run = RunFolder(tmp_path)
    with pytest.raises(Interrupted):
        fit(micro("train.ema=0.9"), train=phantoms(), val=None, run=run, device="cuda", watch=stop_at(2))
    model = fit(micro("train.ema=0.9"), train=phantoms(), val=phantoms(), run=run, device="cuda")
    assert next(model.parameters()).is_cuda


def test_a_run_does_not_go_on_to_fewer_steps_than_it_has_done(finished: tuple[Path, MedVLM]):
    with pytest.raises(
        ConfigError, match=r"train\.steps: 2 steps, and the run that is there has done 6; give 6 or more"
    ):
        train(finished[0], "train.steps=2", resume=True)
    assert json.loads((finished[0] / "config.json").read_text())["train"]["steps"] == 6


def test_the_command_says_where_a_run_goes_on(tmp_path: Path, finished: tuple[Path, MedVLM]):
    assert _begins(finished[0], 8) == f"going on in {finished[0]}, whose newest checkpoint is of step 6 of 8"
    assert _begins(tmp_path, 8) == f"nothing to go on from in {tmp_path}: a new run"
