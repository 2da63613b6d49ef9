"""`medmoe holdout` on phantoms of six sites: figures, a model that can be saved, loaded and asked, and going on."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import medmoe as library
from medmoe.data.nonmedical import PICTURES
from medmoe.errors import ModelError
from medmoe.folder import GATE
from micro import Said, medmoe

SMALL = ("--seeds", 1, "--views", 2, "--pictures", 6, "--resamples", 20)
SETTINGS = ("--set", "model.vision.image_size=64", "--set", "model.router.hidden=32")


def holdout(data: object, out: object, *more: object) -> Said:
    return medmoe("holdout", data, "--out", out, *SMALL, *SETTINGS, *more)


@pytest.fixture(scope="module")
def finished(sites: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the folder of a run; copy it before changing it."""
    out = tmp_path_factory.mktemp("holdout") / "out"
    said = holdout(sites, out, "--json", out.with_name("said.json"))
    assert said.code == 0, said
    return out


def paths(sites: Path) -> list[str]:
    return [str(path) for path in sorted(sites.glob("*.png"))[:12]]


def test_every_source_and_modality_is_judged_and_the_figures_are_written(finished: Path):
    results = json.loads((finished / "results.json").read_text(encoding="utf-8"))
    assert results["folds"] == 8, "five sources of two modalities, and three modalities, one of them a source by itself"
    assert {cell["source"] for cell in results["sources"]["cells"]} == {"north", "south", "both", "east", "west"}
    assert set(results["never_trained"]) == {"modality ct", "modality ultrasound", "modality fundus"}
    assert results["sources"]["figures"]["recall/modalities"]["value"] > 0.9
    assert results["sources"]["figures"]["controls"]["chance"] == pytest.approx(1 / 3)
    assert json.loads(finished.with_name("said.json").read_text(encoding="utf-8")) == results
    assert "## By source left out" in (finished / "table.md").read_text(encoding="utf-8")
    assert {"command", "git_commit", "machine", "versions"} <= set(results)


def test_the_saved_model_routes_files_and_marks_what_it_turns_away(finished: Path, sites: Path):
    predictor = library.Predictor.from_pretrained(finished / "model")
    routed = predictor.route(paths(sites))
    with (sites / "manifest.csv").open(encoding="utf-8") as file:
        truth = {str(sites / row["image"]): row["modality"] for row in csv.DictReader(file)}
    assert [one.accepted for one in routed].count(True) > 9
    assert np.mean([one.modality == truth[path] for one, path in zip(routed, paths(sites), strict=True)]) > 0.9
    noise = PICTURES["white_noise"](80, 80, np.random.default_rng(0))
    (strange,) = predictor.route((noise * 255).astype(np.uint8))
    assert strange.accepted is False


def test_a_model_saved_again_answers_the_same_without_a_pickle(finished: Path, sites: Path, tmp_path: Path):
    first = library.Predictor.from_pretrained(finished / "model")
    first.model.save_pretrained(tmp_path / "again")
    again = library.Predictor.from_pretrained(tmp_path / "again")
    assert first.route(paths(sites)) == again.route(paths(sites))
    kinds = {path.suffix for path in (tmp_path / "again").iterdir()}
    assert kinds <= {".json", ".safetensors", ".md", ".txt"}, kinds


def test_an_answer_does_not_depend_on_the_other_images(finished: Path, sites: Path):
    predictor = library.Predictor.from_pretrained(finished / "model")
    together = predictor.route(paths(sites))
    alone = [predictor.route(path)[0] for path in paths(sites)]
    assert [(one.modality, one.accepted) for one in together] == [(one.modality, one.accepted) for one in alone]


def test_arrays_and_files_are_routed_alike(finished: Path, sites: Path):
    predictor = library.Predictor.from_pretrained(finished / "model")
    array = np.asarray(Image.open(paths(sites)[0]))
    assert predictor.route(array) == predictor.route(paths(sites)[0])


def test_a_model_without_a_gate_marks_nothing(finished: Path, sites: Path, tmp_path: Path):
    shutil.copytree(finished / "model", tmp_path / "model")
    (tmp_path / "model" / GATE).unlink()
    (routed,) = library.Predictor.from_pretrained(tmp_path / "model").route(paths(sites)[0])
    assert routed.accepted is None


def test_a_broken_gate_is_told_when_the_model_is_loaded(finished: Path, tmp_path: Path):
    shutil.copytree(finished / "model", tmp_path / "model")
    (tmp_path / "model" / GATE).write_text("{}", encoding="utf-8")
    with pytest.raises(ModelError, match="isn't a gate"):
        library.Predictor.from_pretrained(tmp_path / "model")


def test_what_is_done_is_not_run_again(finished: Path, sites: Path, tmp_path: Path):
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    gone = sorted((out / "folds").iterdir())[0]
    kept = json.loads(gone.read_text(encoding="utf-8"))
    gone.unlink()
    said = holdout(sites, out)
    assert said.code == 0, said
    assert said.out.count(", seed 0") == 1
    assert "measured view" not in said.out
    assert json.loads(gone.read_text(encoding="utf-8")) == kept


def test_a_folder_begun_with_other_settings_is_refused(finished: Path, sites: Path, tmp_path: Path):
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    assert "begun with other settings" in holdout(sites, out, "--right", 0.9).mistake


def test_without_judging_only_the_model_is_made(sites: Path, finished: Path, tmp_path: Path):
    said = holdout(sites, tmp_path / "out", "--no-judge", "--cache", finished / "bank")
    assert said.code == 0, said
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"model"}
    one, other = (library.Predictor.from_pretrained(path / "model") for path in (finished, tmp_path / "out"))
    assert one.route(paths(sites)) == other.route(paths(sites))


def test_sources_can_be_left_out_in_groups(sites: Path, finished: Path, tmp_path: Path):
    said = holdout(
        sites, tmp_path / "out", "--together", 3, "--no-modalities", "--cache", finished / "bank", "--json", "-"
    )
    results = json.loads(said.out)
    assert results["folds"] == 3
    assert results["never_trained"] == {}


def test_columns_are_mapped(sites: Path, finished: Path, tmp_path: Path):
    shutil.copytree(sites, tmp_path / "sites")
    path = tmp_path / "sites" / "manifest.csv"
    path.write_text(path.read_text(encoding="utf-8").replace("source", "hospital", 1), encoding="utf-8")
    assert "add a source column" in holdout(tmp_path / "sites", tmp_path / "out").mistake
    assert holdout(tmp_path / "sites", tmp_path / "out", "--no-judge", "--column", "source=hospital").code == 0


def test_a_recipe_that_learns_from_the_images_is_refused(sites: Path, tmp_path: Path):
    said = medmoe("holdout", sites, "--out", tmp_path / "out", "--recipe", "tiny", *SMALL)
    assert "'tiny' learns from the images" in said.mistake


def test_the_saved_model_trains_nothing_by_itself(finished: Path):
    model = library.Predictor.from_pretrained(finished / "model").model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        model.eval()
        model.vision(torch.zeros(2, 3, 64, 64))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
