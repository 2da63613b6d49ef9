from __future__ import annotations

from pathlib import Path

import pytest
from evaluations import evaluation, write, write_run

from medmoe.errors import ConfigError, DataError
from medmoe.report.runs import read_runs, titles


def test_a_run_folder_is_read_with_its_log_and_configuration(tmp_path: Path):
    (run,) = read_runs([write_run(tmp_path / "demo", evaluation())])
    assert run.name == "demo"
    assert run.tasks["routing"]["image_router_accuracy"]["value"] == 0.9
    assert [row["step"] for row in run.history] == [1, 1, 2, 2]  # the line that was cut short is left out
    assert run.config["recipe"] == "tiny"
    assert run.made["command"] == "medmoe train tiny"
    assert run.preprocess == "abc"


def test_an_evaluation_file_is_read_alone(tmp_path: Path):
    (run,) = read_runs([write(tmp_path / "other.json", evaluation())])
    assert (run.name, run.history, run.config, run.preprocess) == ("other", (), {}, None)


def test_a_summary_stands_in_for_the_evaluation_of_a_run(tmp_path: Path):
    write(tmp_path / "run" / "summary.json", evaluation())
    assert read_runs([tmp_path / "run"])[0].about["images"] == 40


def test_names_that_clash_get_their_folder(tmp_path: Path):
    paths = [write(tmp_path / folder / "test.json", evaluation()) for folder in ("a", "b")]
    runs = read_runs(paths)
    assert [run.name for run in runs] == ["a/test", "b/test"]
    assert titles(runs) == ["A · a/test", "B · b/test"]
    assert titles(runs[:1]) == ["a/test"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "isn't JSON"),
        ("[]", "isn't an evaluation"),
        ('{"tasks": []}', "isn't an evaluation"),
        ('{"tasks": {"routing": 3}}', "'routing' aren't a mapping"),
        ('{"tasks": {"routing": {"accuracy": 0.5}}}', "'accuracy' has no value"),
        ('{"tasks": {}, "about": []}', "`about` isn't a mapping"),
    ],
)
def test_what_is_no_evaluation_is_told_with_its_place(tmp_path: Path, content: str, said: str):
    path = tmp_path / "x.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=said) as error:
        read_runs([path])
    assert str(path) in str(error.value)


def test_a_run_that_was_never_evaluated_says_how_to(tmp_path: Path):
    with pytest.raises(DataError, match="medmoe eval"):
        read_runs([tmp_path])


def test_runs_must_be_there_and_given_once(tmp_path: Path):
    path = write(tmp_path / "a.json", evaluation())
    with pytest.raises(DataError, match="isn't there"):
        read_runs([tmp_path / "nowhere"])
    with pytest.raises(ConfigError, match="given twice"):
        read_runs([path, tmp_path / "." / "a.json"])
    with pytest.raises(ConfigError, match="no run"):
        read_runs([])
