"""Running importers: splits, options, paths, quarantine and streaming."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pytest

from importer_layouts import LAYOUTS, table
from medmoe.data.importers import IMPORTERS, importer
from medmoe.data.importers.common import read_csv
from medmoe.data.importers.run import import_set
from medmoe.data.sources.manifest import ManifestSource
from medmoe.data.sources.manifest_write import read_all
from medmoe.errors import ConfigError, DataError


@pytest.fixture
def chexpert(tmp_path: Path) -> Path:
    LAYOUTS["chexpert"](tmp_path / "data" / "chexpert")
    return tmp_path / "data" / "chexpert"


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_every_kind_of_manifest_holds_the_same(chexpert: Path, tmp_path: Path, suffix: str):
    outcome = import_set(IMPORTERS["chexpert"], chexpert, tmp_path / "m" / f"out{suffix}")
    same = import_set(IMPORTERS["chexpert"], chexpert, tmp_path / "m" / "same.parquet")
    assert read_all(outcome.manifest).to_pylist() == read_all(same.manifest).to_pylist()


def test_paths_are_relative_to_the_manifest_or_absolute(chexpert: Path, tmp_path: Path):
    near = import_set(IMPORTERS["chexpert"], chexpert, tmp_path / "out" / "m.parquet").manifest
    assert read_all(near)["image"][0].as_py() == "../data/chexpert/train/patient00001/study1/view1_frontal.jpg"
    full = import_set(IMPORTERS["chexpert"], chexpert, tmp_path / "out" / "full.parquet", absolute=True).manifest
    assert Path(read_all(full)["image"][0].as_py()).is_absolute()
    assert len(ManifestSource(full)) == len(ManifestSource(near)) == 4


def test_only_the_splits_asked_for(chexpert: Path, tmp_path: Path):
    outcome = import_set(IMPORTERS["chexpert"], chexpert, tmp_path / "m.parquet", splits=["val"])
    assert (outcome.rows, outcome.splits) == (1, {"val": 1})
    with pytest.raises(DataError, match=r"no image of split test; there are: train \(3 images\), val \(1 images\)"):
        import_set(IMPORTERS["chexpert"], chexpert, tmp_path / "m.parquet", splits=["test"])


def test_options_are_checked(chexpert: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match=r"unknown option 'uncertian' \(did you mean 'uncertain'\?\)"):
        import_set(IMPORTERS["chexpert"], chexpert, tmp_path / "m.parquet", options={"uncertian": "positive"})
    with pytest.raises(ConfigError, match="unknown value 'maybe'; allowed: leave-out, positive, possible"):
        import_set(IMPORTERS["chexpert"], chexpert, tmp_path / "m.parquet", options={"uncertain": "maybe"})
    with pytest.raises(ConfigError, match="busi has no options"):
        import_set(IMPORTERS["busi"], chexpert, tmp_path / "m.parquet", options={"uncertain": "maybe"})
    with pytest.raises(ConfigError, match=r"unknown data set 'chexprt' \(did you mean 'chexpert'\?\)"):
        importer("chexprt")


def test_where_all_images_are_missing_the_first_is_named(chexpert: Path, tmp_path: Path):
    for path in chexpert.rglob("*.jpg"):
        path.unlink()
    with pytest.raises(
        DataError, match=r"train.csv:1: none of the 4 listed images exists; the first is .*view1_frontal"
    ):
        import_set(IMPORTERS["chexpert"], chexpert, tmp_path / "m.parquet")


def test_a_quarantine_of_an_earlier_run_does_not_stay(chexpert: Path, tmp_path: Path):
    gone = chexpert / "valid" / "patient64541" / "study1" / "view1_frontal.jpg"
    held = gone.read_bytes()
    gone.unlink()
    outcome = import_set(IMPORTERS["chexpert"], chexpert, tmp_path / "m.parquet")
    assert json.loads(outcome.quarantine.read_text()) == {
        "where": f"{chexpert}/valid.csv:1",
        "image": str(gone),
        "reason": "the image file does not exist",
    }
    gone.write_bytes(held)
    assert import_set(IMPORTERS["chexpert"], chexpert, tmp_path / "m.parquet").quarantine is None
    assert not (tmp_path / "m.quarantine.jsonl").exists()


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"Path,No Finding\n\xff\xfe,1\n", "can't be read as a CSV file in UTF-8"),
        (b"Path,No Finding\na,1\nb,1,2\n", r":2: 3 values where there are 2 columns"),
        (b"", "no column 'Path'; the file has: none"),
    ],
)
def test_damaged_tables_are_refused_with_their_place(tmp_path: Path, content: bytes, what: str):
    (tmp_path / "train.csv").write_bytes(content)
    with pytest.raises(DataError, match=what):
        list(read_csv(tmp_path / "train.csv", "Path", "No Finding"))


def test_a_packed_table_that_is_cut_off_is_refused(tmp_path: Path):
    path = table(tmp_path / "a.csv.gz", ("a", "b"), [(at, at * 7919) for at in range(5000)])
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(DataError, match=r"a\.csv\.gz: can't be read as a CSV file"):
        list(read_csv(path))


def test_a_table_is_not_held_in_memory(tmp_path: Path):
    path = table(tmp_path / "a.csv", ("a", "b"), [(at, "x" * 200) for at in range(20000)])
    tracemalloc.start()
    count = sum(1 for _ in read_csv(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 20000
    assert peak < path.stat().st_size / 8


def test_quoted_line_breaks_and_commas_stay_in_their_cell(tmp_path: Path):
    path = table(tmp_path / "a.csv", ("text", "b"), [("two\nlines, one cell", "x"), ("next", "y")])
    assert [(where.rsplit(":")[-1], row["text"]) for where, row in read_csv(path)] == [
        ("1", "two\nlines, one cell"),
        ("2", "next"),
    ]
