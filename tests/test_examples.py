"""Each example runs from the command line, on a small run and phantoms."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from micro import SMALL

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
SETTINGS = [word for word in SMALL if word != "--set"]


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Give a function that runs an example with arguments and returns what it printed."""

    def run_example(name: str, *words: object) -> str:
        spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, words)])
        module.main()
        return capsys.readouterr().out

    return run_example


@pytest.fixture(scope="module")
def rows(phantoms: Path) -> list[dict]:
    return pq.read_table(phantoms / "manifest.parquet").to_pylist()


def size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def test_every_example_has_a_test():
    tested = {name.removeprefix("test_").removesuffix("_runs") for name in globals() if name.endswith("_runs")}
    assert {path.stem for path in EXAMPLES.glob("*.py")} == tested


def test_zero_shot_runs(example, run, phantoms, rows):
    images = [phantoms / row["image"] for row in rows[:2]]
    lines = example("zero_shot", run, *images, "--labels", "nodule", "cyst", "--modality", "xray").splitlines()
    assert len(lines) == 2
    assert all("xray; " in line and "nodule 0." in line and "cyst 0." in line for line in lines)


def test_heatmap_runs(example, run, phantoms, rows, tmp_path):
    row = next(row for row in rows if row["label"] != "no_finding")
    phrase = row["text"].split()[0]
    said = example("heatmap", run, phantoms / row["image"], phrase, tmp_path / "heat.png", "--report", row["text"])
    assert said.startswith("hottest region: row ")
    assert size(tmp_path / "heat.png") == size(phantoms / row["image"])


def test_a_heatmap_of_an_oblong_image_keeps_its_shape(example, run, tmp_path):
    Image.new("L", (40, 20), 90).save(tmp_path / "wide.png")
    example("heatmap", run, tmp_path / "wide.png", "nodule", tmp_path / "heat.png")
    assert size(tmp_path / "heat.png") == (40, 20)


def test_retrieval_runs(example, run, phantoms):
    query = "A mass in the abdomen."
    lines = example("retrieval", run, phantoms, query, "--modality", "ct", "--top", 3).splitlines()
    assert len(lines) == 3
    assert all(" ct: " in line for line in lines)
    scores = [float(line.split()[0]) for line in lines]
    assert scores == sorted(scores, reverse=True)


def test_own_data_runs(example, phantoms, rows, tmp_path):
    for row in rows:
        folder = tmp_path / "scans" / row["modality"] / row["patient_id"]
        folder.mkdir(parents=True, exist_ok=True)
        Image.open(phantoms / row["image"]).save(folder / Path(row["image"]).name)
        (folder / Path(row["image"]).with_suffix(".txt").name).write_text(row["text"], encoding="utf-8")
    said = example("own_data", tmp_path / "scans", tmp_path / "run", "--set", *SETTINGS)
    assert "image_router_accuracy: " in said
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()
