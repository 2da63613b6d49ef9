from __future__ import annotations

from pathlib import Path

import pytest

from medmoe.data.sources.manifest_write import SUFFIXES, read_all, rows_of, write_manifest
from medmoe.errors import DataError

ROWS = [
    {"image": "a.png", "text": "Größe, 3 cm\nzweite Zeile", "patient_id": "001", "rule": "header"},
    {"image": "b.png", "text": None, "extra": 0.5, "boxes": [{"label": "mass", "xyxy": [0, 0, 1, 1]}]},
]
READ = [
    {"image": "a.png", "text": "Größe, 3 cm\nzweite Zeile", "patient_id": "001", "rule": "header"},
    {"image": "b.png", "extra": "0.5", "boxes": '[{"label": "mass", "xyxy": [0, 0, 1, 1]}]'},
]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_all_columns_come_back_as_text_with_those_we_know_first(tmp_path: Path, suffix: str):
    path = write_manifest(ROWS, tmp_path / "new" / f"manifest{suffix}")
    table = read_all(path.parent)
    assert [{k: v for k, v in row.items() if v is not None} for row in rows_of(table)] == READ
    assert table.column_names == ["image", "text", "patient_id", "boxes", "rule", "extra"]
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_table_passed_on_is_the_same_table(tmp_path: Path, suffix: str):
    table = read_all(write_manifest(ROWS, tmp_path / f"one{suffix}"))
    assert read_all(write_manifest(table, tmp_path / f"other{suffix}")).equals(table)


@pytest.mark.parametrize(
    ("rows", "name", "told"),
    [
        ([], "m.csv", "no row to write"),
        ([{"text": "no image"}], "m.csv", "without an image"),
        ([{"image": "a.png"}, {"image": " "}], "m.parquet", "without an image"),
        ([{"image": "a.png"}], "m.xlsx", r"unknown kind of manifest '.xlsx'; allowed: .csv, .jsonl, .parquet"),
    ],
)
def test_what_is_no_manifest_is_refused_and_nothing_is_left_behind(tmp_path: Path, rows, name: str, told: str):
    with pytest.raises(DataError, match=told):
        write_manifest(rows, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_manifest_that_is_there_stays_when_the_new_one_cant_be_written(tmp_path: Path):
    path = write_manifest(ROWS, tmp_path / "manifest.csv")
    before = path.read_bytes()
    with pytest.raises(DataError):
        write_manifest([], path)
    assert path.read_bytes() == before
