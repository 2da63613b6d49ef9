"""A model folder that can't be used is told in one line: which file, what is wrong, remedy."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from micro import image_rows, medmoe, train, truncate, write_manifest


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a manifest of twelve good rows without splits."""
    folder = tmp_path_factory.mktemp("good")
    return write_manifest(folder, image_rows(folder))


def test_a_folder_that_is_no_model(good: Path, tmp_path: Path):
    told = medmoe("eval", tmp_path, "--data", good).mistake
    assert told == f"{tmp_path}: no model here; give a run folder or one with config.json and model.safetensors"
    assert "no such folder" in medmoe("eval", tmp_path / "no", "--data", good).mistake


@pytest.fixture
def model(run: Path, tmp_path: Path) -> Path:
    """Give a model folder to break."""
    return Path(shutil.copytree(run / "model", tmp_path / "model"))


def loaded(model: Path) -> str:
    return medmoe("embed", model, "--data", "phantom:patients=6", "--out", model / "e.parquet").mistake


def test_weights_that_are_cut_off(model: Path):
    truncate(model / "model.safetensors")
    told = loaded(model)
    assert told.startswith(f"{model / 'model.safetensors'}: can't be read (")
    assert told.endswith("save or copy it again")


def rewrite(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **values}), encoding="utf-8")


def test_weights_of_another_configuration(model: Path):
    rewrite(model / "config.json", embed_dim=24)
    told = loaded(model)
    assert told.startswith(f"{model / 'model.safetensors'}: weights don't fit the configuration (size mismatch for ")
    rewrite(model / "config.json", embed_dim=16, experts={"shared": 2, "width": 8, "grid": 4})
    assert "weights don't fit the configuration (Missing key(s) in state_dict: " in loaded(model)


def test_a_configuration_with_an_unknown_key(model: Path):
    rewrite(model / "config.json", embed_din=24)
    assert loaded(model).startswith(f"{model / 'config.json'}: unknown key 'embed_din' (did you mean 'embed_dim'?)")


def test_a_configuration_that_is_cut_off(model: Path):
    (model / "config.json").write_text('{"embed_dim": ', encoding="utf-8")
    assert loaded(model).startswith(f"{model / 'config.json'}: isn't JSON: ")


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"sharpen": 2}, "preprocess: unknown entry 'sharpen'; allowed: steps, version"),
        ({"version": 9}, "preprocess.version: 9 isn't allowed; 1 to 2 are in this release of medmoe; use the release"),
        ({"steps": ["sharpen"]}, "preprocess.steps: isn't a list of steps; restore the file"),
        ({"steps": [{"step": "resize", "longest_side": "big"}]}, "preprocess: a value is of the wrong type ("),
    ],
)
def test_preprocessing_that_this_release_does_not_know(model: Path, values: dict[str, object], told: str):
    rewrite(model / "preprocess.json", **values)
    assert loaded(model).startswith(f"{model / 'preprocess.json'}: {told}")


def test_a_model_without_its_tokenizer(model: Path):
    (model / "tokenizer.json").unlink()
    told = loaded(model)
    assert "tokenizer.json" in told
    assert str(model) in told


def test_initial_weights_that_are_not_there(good: Path, tmp_path: Path):
    missing = tmp_path / "no"
    assert train(good, tmp_path / "a", "--init", missing).mistake.startswith(f"{missing}: no such folder")
    assert train(good, tmp_path / "b", "--init", f"text={missing}").mistake.startswith(f"{missing}")
    assert train(good, tmp_path / "c", "--init", f"vision={missing}").mistake.startswith(f"{missing}: no such file")


def test_an_unknown_part_to_start_from(good: Path, tmp_path: Path):
    told = train(good, tmp_path / "run", "--init", f"visoin={good}").mistake
    assert told.startswith("--init: unknown part 'visoin' (did you mean 'vision'?); allowed: model, text, vision")
