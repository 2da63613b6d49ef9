"""Each mistake a user can make is told in one line: what, where, remedy; and the command exits with 2."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from micro import image_rows, medmoe, train, truncate, write_manifest


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a manifest of twelve good rows without splits."""
    folder = tmp_path_factory.mktemp("good")
    return write_manifest(folder, image_rows(folder))


def nan_tiff(folder: Path) -> str:
    pixels = np.zeros((32, 32), np.float32)
    pixels[3, 5] = np.nan
    Image.fromarray(pixels).save(folder / "nan.tiff")
    return "nan.tiff"


def changed(folder: Path, row: int, **values: str) -> Path:
    """Write a manifest in which one row (from 1) has other values."""
    rows = image_rows(folder)
    rows[row - 1].update(values)
    return write_manifest(folder, rows)


# Manifests


def test_a_missing_manifest(tmp_path: Path):
    missing = tmp_path / "no.csv"
    told = train(missing, tmp_path / "run").mistake
    assert told == f"{missing}: no such manifest; check the path, or make one with: medmoe data scan FOLDER"
    assert not (tmp_path / "run").exists()


def test_a_missing_image_file(tmp_path: Path):
    path = changed(tmp_path, 3, image="lost.jpg")
    told = train(path, tmp_path / "run").mistake
    assert told.startswith(f"{path}:3: the image file 'lost.jpg' does not exist; paths are relative to the manifest")


def test_no_column_of_images(tmp_path: Path):
    rows = [{"imgae": row.pop("image"), **row} for row in image_rows(tmp_path)]
    path = write_manifest(tmp_path, rows)
    told = train(path, tmp_path / "run").mistake
    assert told.startswith(f"{path}: no column 'image'; unknown column 'image' (did you mean 'imgae'?)")
    assert told.endswith("rename the column of image paths, or map it: image=ITS_NAME")


def test_a_mapping_to_a_column_that_is_not_there(good: Path, tmp_path: Path):
    told = train(good, tmp_path / "run", "--column", "text=txet").mistake
    assert told.startswith(f"{good}: unknown column 'txet' (did you mean 'text'?)")
    assert told.endswith("(asked for as 'text'); correct the column mapping")


def test_a_mapping_of_a_column_nobody_reads(good: Path, tmp_path: Path):
    told = train(good, tmp_path / "run", "--column", "txt=text").mistake
    assert told.startswith(f"{good}: unknown manifest column 'txt' (did you mean 'text'?); allowed: ")


@pytest.mark.parametrize("value", ["text", "=caption", "text="])
def test_a_mapping_that_maps_nothing(good: Path, tmp_path: Path, value: str):
    told = train(good, tmp_path / "run", "--column", value).mistake
    assert told == f"--column: got {value!r}, allowed: name=value"


def test_an_unknown_modality(tmp_path: Path):
    path = changed(tmp_path, 7, modality="xrey")
    told = train(path, tmp_path / "run").mistake
    assert told.startswith(f"{path}:7: unknown modality 'xrey' (did you mean 'xray'?); allowed: ct, dermoscopy, ")
    assert told.endswith("correct the value, or add a row to medmoe/modalities.py")


def test_a_modality_that_the_trained_model_lacks(run: Path, tmp_path: Path):
    path = changed(tmp_path, 2, modality="oct")
    told = medmoe("eval", run, "--data", path, "--split", "all", "--workers", 0).mistake
    assert told.startswith("manifest.csv:2: unknown modality 'oct' (did you mean 'ct'?); allowed: ct, fundus, ")
    assert told.endswith(
        """--set 'model.modalities=["xray", "ct", "mri", "ultrasound", "pathology", "fundus", "oct"]'"""
    )


def test_one_patient_in_two_splits(tmp_path: Path):
    rows = image_rows(tmp_path)
    for number, row in enumerate(rows):
        row["split"] = "train" if number < 8 else "test"
    rows[9]["patient_id"] = rows[4]["patient_id"]
    path = write_manifest(tmp_path, rows)
    told = train(path, tmp_path / "run").mistake
    assert told.startswith(f"{path}:10: the patient of row 10 (split 'test') is also in row 5 (split 'train'); put all")
    assert rows[4]["patient_id"] not in told.replace(str(path), "")


def test_an_unknown_split(phantoms: Path, tmp_path: Path):
    told = train(phantoms, tmp_path / "run", "--train-split", "trian").mistake
    assert told.startswith(f"{phantoms / 'manifest.parquet'}: no split 'trian'; the manifest has: test (6 rows), train")
    assert told.endswith("ask for one of these, or for no split")


def test_a_split_of_a_manifest_without_splits(run: Path, good: Path):
    told = medmoe("eval", run, "--data", good).mistake
    assert told.startswith(f"{good}: no split 'test'; the manifest has: none; fill in a column 'split'")
    assert "--split all" in told


def test_two_manifests_of_which_one_is_missing(good: Path, tmp_path: Path):
    told = train(f"{good}::{tmp_path / 'no.csv'}", tmp_path / "run").mistake
    assert told.startswith(f"{tmp_path / 'no.csv'}: no such manifest")
    assert train(f"{good}::", tmp_path / "run").mistake.startswith("an empty part in ")


# Reports


def test_no_report_at_all(tmp_path: Path):
    rows = [{**row, "text": "", "label": ""} for row in image_rows(tmp_path)]
    path = write_manifest(tmp_path, rows)
    told = train(path, tmp_path / "run").mistake
    assert told == f"--train-data {path}: no training sample has a report or label; add a text column"


def test_no_modality_at_all(tmp_path: Path):
    path = write_manifest(tmp_path, [{**row, "modality": ""} for row in image_rows(tmp_path)])
    told = train(path, tmp_path / "run").mistake
    assert told == f"--train-data {path}: no training sample has a modality; add a modality column"


def test_an_empty_report_makes_an_image_without_a_report(tmp_path: Path):
    rows = image_rows(tmp_path)
    for row in rows[:6]:
        row.update(text="  ", label="")
    path = write_manifest(tmp_path, rows)
    assert train(path, tmp_path / "run").code == 0
    said = medmoe("embed", tmp_path / "run", "--data", path, "--out", tmp_path / "e.parquet", "--workers", 0)
    assert said.code == 0
    from pyarrow.parquet import read_table

    texts = read_table(tmp_path / "e.parquet")["text_embed"].to_pylist()
    assert [text is None for text in texts] == [True] * 6 + [False] * 6


# Single bad samples


def damage(folder: Path, kind: str) -> tuple[Path, str]:
    """Write a manifest whose row 4 is bad, and give what is told of it."""
    if kind == "truncated":
        path = changed(folder, 4)
        truncate(folder / "image-4.jpg")
        return path, "image image-4.jpg: the image is truncated or damaged"
    if kind == "NaN":
        return changed(folder, 4, image=nan_tiff(folder)), "image nan.tiff: the image has NaN or infinite pixels"
    box = json.dumps([{"label": "mass", "xyxy": [2, 2, 9, 9]}])
    return changed(folder, 4, image="lost.jpg", boxes=box), "image lost.jpg: no such image file"


@pytest.mark.parametrize("kind", ["truncated", "NaN"])
def test_a_bad_image_stops_training_and_is_named(tmp_path: Path, kind: str):
    path, what = damage(tmp_path, kind)
    said = train(path, tmp_path / "run")
    told = said.err.strip()
    assert said.code == 2
    assert told.startswith(f"error: {path}:4: {what}")
    assert "; " in told.partition(what)[2]  # a remedy
    assert "\n" not in told


@pytest.mark.parametrize("kind", ["truncated", "NaN", "missing"])
def test_a_bad_image_is_quarantined_when_asked_and_training_goes_on(tmp_path: Path, kind: str):
    path, what = damage(tmp_path, kind)
    run = tmp_path / "run"
    said = train(path, run, "--on-bad-sample", "skip")
    assert said.code == 0, said
    (line,) = (run / "quarantine.jsonl").read_text(encoding="utf-8").splitlines()
    row = json.loads(line)
    assert row["key"] in ("manifest.csv:4", f"{path}:4")
    assert row["reason"].startswith(f"{path}:4: {what}")
    history = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert history[-1]["step"] == 6
    assert history[-1]["skipped"] >= 1
    assert f"bad samples skipped: 1, listed in {run / 'quarantine.jsonl'}\n" in said.out
    assert (run / "model" / "model.safetensors").is_file()


def test_a_bad_image_of_the_validation_set_is_quarantined_too(good: Path, tmp_path: Path):
    path, what = damage(tmp_path, "missing")
    run = tmp_path / "run"
    assert train(good, run, "--on-bad-sample", "skip", "--val-data", path).code == 0
    (line,) = (run / "quarantine.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["reason"].startswith(f"{path}:4: {what}")
    history = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["images"] for row in history if row["kind"] == "val"] == [11, 11]


def test_a_run_that_a_bad_image_stopped_starts_afresh_once_it_is_mended(tmp_path: Path):
    path, _ = damage(tmp_path, "truncated")
    run = tmp_path / "run"
    assert train(path, run).code == 2
    changed(tmp_path, 4)
    assert "--resume latest" in train(path, run).mistake
    assert train(path, run, "--resume", "latest").code == 0
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 4, 6]


def test_nothing_but_bad_images(tmp_path: Path):
    rows = image_rows(tmp_path, 3)
    for row in rows:
        truncate(tmp_path / row["image"])
    path = write_manifest(tmp_path, rows)
    said = train(path, tmp_path / "run", "--on-bad-sample", "skip")
    assert said.code == 2
    assert "no good sample found: 3 of 3 tried are bad, such as: image image-" in said.err


def test_a_bad_image_stops_evaluation_or_is_left_out_and_counted(run: Path, tmp_path: Path):
    path, what = damage(tmp_path, "truncated")
    words = ("eval", run / "model", "--data", path, "--split", "all", "--workers", 0, "--resamples", 5)
    assert medmoe(*words).mistake.startswith(f"{path}:4: {what}")
    said = medmoe(*words, "--on-bad-sample", "skip", "--tasks", "routing", "--json", tmp_path / "results.json")
    assert "bad samples skipped: 1 of 12" in said.out
    about = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["about"]
    assert (about["images"], about["skipped"]) == (11, 1)


def test_a_bad_image_stops_embedding_or_is_left_out_and_counted(run: Path, tmp_path: Path):
    path, what = damage(tmp_path, "NaN")
    words = ("embed", run, "--data", path, "--out", tmp_path / "e.parquet", "--workers", 0)
    assert medmoe(*words).mistake.startswith(f"{path}:4: {what}")
    assert not (tmp_path / "e.parquet").exists()
    said = medmoe(*words, "--on-bad-sample", "skip")
    assert said.out == f"11 images → {tmp_path / 'e.parquet'}, 1 bad ones skipped\n"


# Configuration and options


def test_an_unknown_setting(good: Path, tmp_path: Path):
    told = train(good, tmp_path / "run", "--set", "train.stpes=9").mistake
    assert told.startswith("--set: unknown key 'train.stpes' (did you mean 'train.steps'?); allowed: ")
    assert told.endswith("see `medmoe config`")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("train.steps=many", "--set: train.steps = 'many': input should be a valid integer"),
        ("train.lr=-1", "--set: train.lr = -1: input should be greater than 0"),
        ("train.precision=fp64", "--set: train.precision = 'fp64': input should be 'fp32' or 'bf16'"),
        ("data.batch_size=1", "--set: data.batch_size = 1: input should be greater than or equal to 2"),
        ("model.experts=3", "--set: model.experts = 3: input should be a valid dictionary"),
        ("train.steps", "--set: got 'train.steps', allowed: key=value"),
    ],
)
def test_a_setting_of_a_wrong_type_or_value(setting: str, told: str):
    assert medmoe("config", "tiny", "--set", setting).mistake.startswith(told)


def test_a_run_folder_that_exists(run: Path, good: Path, tmp_path: Path):
    told = train(good, run).mistake
    assert told == (f"{run}: the run folder exists and isn't empty; go on with --resume latest, or give another --out")
    file = tmp_path / "file"
    file.write_text("", encoding="utf-8")
    assert train(good, file).mistake == f"{file}: is a file, not a folder; give another --out"


def test_resume_from_something_else_than_the_latest(good: Path, tmp_path: Path):
    assert train(good, tmp_path / "run", "--resume", "5").mistake == "--resume: got '5', allowed: latest"


def test_an_unknown_recipe():
    assert medmoe("config", "tinny").mistake.startswith("unknown recipe 'tinny' (did you mean 'tiny'?); allowed: ")


def test_an_unknown_task_or_none(run: Path, good: Path):
    told = medmoe("eval", run, "--data", good, "--tasks", "routing,grounded").mistake
    assert told.startswith("--tasks: unknown task 'grounded' (did you mean 'grounding'?); allowed: few_shot, ")
    assert medmoe("eval", run, "--data", good, "--tasks", ",").mistake.startswith("--tasks: unknown task ''; allowed: ")


def test_an_unknown_model():
    told = medmoe("models", "--describe", "medmoe-tini").mistake
    assert told.startswith("unknown model 'medmoe-tini' (did you mean 'medmoe-tiny'?); allowed: medmoe-swin-t, ")


def test_a_device_that_is_not_there(run: Path, good: Path, tmp_path: Path):
    told = train(good, tmp_path / "run", "--device", "cuda:99").mistake
    assert told.startswith("--device: device 'cuda:99' can't be used (")
    assert told.endswith("; try cpu")
    assert not (tmp_path / "run").exists()
    told = medmoe("eval", run, "--data", good, "--device", "gpu").mistake
    assert told == "--device: unknown device 'gpu' (did you mean 'cpu'?); allowed: cpu, cuda, mps"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--resamples", 0], "--resamples: got 0, allowed: 1 or more"),
        (["--seed", -1], "--seed: got -1, allowed: 0 or more"),
        (["--root", "x"], "medmoe eval: --root would do nothing with --data; leave it out"),
    ],
)
def test_options_of_an_evaluation_that_make_no_sense(run: Path, good: Path, options: list[object], said: str):
    assert medmoe("eval", run, "--data", good, *options).mistake == said


def test_options_that_a_benchmark_does_not_read(run: Path, tmp_path: Path):
    words = ("--tasks", "routing", "--items", "--split", "all", "--on-bad-sample", "skip")
    told = medmoe("eval", run, "--benchmark", "paper-table1", "--root", tmp_path, *words).mistake
    assert told == (
        "medmoe eval: --split, --tasks, --items, --on-bad-sample would do nothing with --benchmark; leave it out"
    )


def test_jobs_and_seeds_of_an_ablation_that_make_no_sense(tmp_path: Path):
    for option, said in (("--jobs", "got -1, allowed: 0 or more"), ("--seeds", "got -1, allowed: 1 or more")):
        assert medmoe("ablate", "routing", "--out", tmp_path, option, -1).mistake == f"{option}: {said}"


@pytest.mark.parametrize("command", ["eval", "embed"])
def test_settings_of_the_loader_that_are_not_allowed(run: Path, good: Path, tmp_path: Path, command: str):
    words = [command, run, "--data", good, "--split", "all"]
    words += ["--out", tmp_path / "e.parquet"] if command == "embed" else []
    assert medmoe(*words, "--on-bad-sample", "keep").mistake == (
        "on_bad_sample = 'keep': input should be 'raise' or 'skip'"
    )
    assert medmoe(*words, "--batch-size", 1).mistake.startswith("batch_size = 1: input should be greater than")


def test_results_that_can_not_be_written(tmp_path: Path):
    said = medmoe("models", "--json", tmp_path)
    assert said.code == 2
    assert said.err.startswith(f"error: --json: {tmp_path} can't be written (Is a directory); give a file")


def test_embeddings_to_a_folder(run: Path, good: Path, tmp_path: Path):
    told = medmoe("embed", run, "--data", good, "--out", tmp_path).mistake
    assert told == f"{tmp_path}: is a folder; give the name of a Parquet file"


def test_phantoms_into_a_folder_that_is_not_empty(good: Path):
    told = medmoe("data", "phantom", "--out", good.parent, "--patients", 12).mistake
    assert told.startswith(f"{good.parent}: ")


# A process of its own


def test_the_process_exits_with_2_and_says_one_line(tmp_path: Path):
    words = [sys.executable, "-m", "medmoe", "train", "tiny", "--train-data", "no.csv", "--out", "run"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=tmp_path, env={**os.environ})
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: no.csv: no such manifest; check the path, or make one with: medmoe data scan FOLDER\n"
    assert list(tmp_path.iterdir()) == []
