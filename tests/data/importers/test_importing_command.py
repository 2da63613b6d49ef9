"""`medmoe data import`: what it prints, writes and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from importer_layouts import LAYOUTS
from medmoe.data.importers import IMPORTERS
from medmoe.data.sources.manifest import ManifestSource
from micro import medmoe


def test_the_list_names_every_data_set_with_its_options(tmp_path: Path):
    said = medmoe("data", "import", "--list", "--json", tmp_path / "list.json")
    assert said.code == 0
    assert [row["name"] for row in json.loads((tmp_path / "list.json").read_text())] == list(IMPORTERS)


def test_the_list_is_printed():
    said = medmoe("data", "import", "--list")
    assert said.code == 0
    for name, row in IMPORTERS.items():
        assert f"{name}: {row.title}" in said.out
        assert all(f"--option {option}=" in said.out for option in row.options)


def test_a_data_set_becomes_a_manifest_and_a_summary(tmp_path: Path):
    LAYOUTS["nih-cxr14"](tmp_path / "nih")
    (tmp_path / "nih" / "images_002" / "images" / "00000001_001.png").unlink()
    out = tmp_path / "m.parquet"
    said = medmoe("data", "import", "nih-cxr14", tmp_path / "nih", "--out", out, "--json", "-")
    assert said.code == 0
    summary = json.loads(said.out)
    assert (summary["rows"], summary["missing"], summary["splits"]) == (2, 1, {"test": 1, "train": 1})
    assert Path(summary["quarantine"]).exists()
    assert len(ManifestSource(out, split="train")) == 1


def test_options_and_splits_are_passed_on(tmp_path: Path):
    LAYOUTS["chexpert"](tmp_path / "chexpert")
    words = ("data", "import", "chexpert", tmp_path / "chexpert", "--out", tmp_path / "m.csv")
    assert medmoe(*words, "--option", "uncertain=possible", "--split", "train", "--absolute").code == 0
    assert "possible edema" in (tmp_path / "m.csv").read_text()
    assert "valid" not in (tmp_path / "m.csv").read_text()


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("data", "import"), "NAME, FOLDER and --out are needed"),
        (("data", "import", "mimic", "x", "--out", "m.csv"), "unknown data set 'mimic'"),
        (("data", "import", "nih-cxr14", "x", "--out", "m.csv"), "no such folder"),
        (("data", "import", "nih-cxr14", "x", "--out", "m.txt"), "unknown kind of manifest '.txt'"),
        (("data", "import", "nih-cxr14", "x", "--out", "m.csv", "--option", "a"), "got 'a', allowed: name=value"),
    ],
)
def test_mistakes_are_told_in_one_line(
    words: tuple[str, ...], what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    assert what in medmoe(*words).mistake


def test_a_missing_image_with_strict_ends_with_2_and_its_row(tmp_path: Path):
    LAYOUTS["nih-cxr14"](tmp_path / "nih")
    (tmp_path / "nih" / "images_002" / "images" / "00000001_001.png").unlink()
    said = medmoe("data", "import", "nih-cxr14", tmp_path / "nih", "--out", tmp_path / "m.csv", "--strict")
    assert "Data_Entry_2017.csv:2: the image file" in said.mistake
    assert not (tmp_path / "m.csv").exists()
