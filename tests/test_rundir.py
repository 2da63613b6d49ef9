from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from medmoe import rundir
from medmoe.config import RunConfig, parse
from medmoe.errors import UserError
from medmoe.rundir import RunFolder
from small_runs import micro


def steps(run: RunFolder) -> list[int]:
    return [row["step"] for row in run.history()]


def run_with(path: Path, *rows: dict[str, Any]) -> RunFolder:
    run = RunFolder(path, resume=True)
    for row in rows:
        run.log(row)
    return run


def test_a_run_folder_is_made_with_its_parents(tmp_path: Path):
    assert RunFolder(tmp_path / "a" / "b").path.is_dir()


def test_a_folder_that_holds_something_is_not_taken_and_the_remedy_is_told(tmp_path: Path):
    (tmp_path / "x").write_text("")
    with pytest.raises(UserError, match="exists and isn't empty") as got:
        RunFolder(tmp_path)
    assert got.value.where == str(tmp_path)
    assert "--resume latest" in (got.value.remedy or "")


def test_an_empty_folder_is_taken_and_resume_takes_any(tmp_path: Path):
    RunFolder(tmp_path)
    (tmp_path / "x").write_text("")
    assert RunFolder(tmp_path, resume=True).path == tmp_path


def test_a_file_in_its_place_is_refused(tmp_path: Path):
    (tmp_path / "x").write_text("")
    with pytest.raises(UserError, match="is a file, not a folder"):
        RunFolder(tmp_path / "x", resume=True)


def test_the_configuration_written_is_the_resolved_one(tmp_path: Path):
    config = micro("train.seed=4")
    RunFolder(tmp_path).begin(config, {})
    assert parse(RunConfig, json.loads((tmp_path / "config.json").read_text())) == config


def test_what_made_the_run_is_written_down(tmp_path: Path):
    RunFolder(tmp_path, about={"command": "medmoe train"}).begin(micro("train.seed=4"), {"vision": "used 3 of 4"})
    facts = json.loads((tmp_path / "run.json").read_text())
    assert (facts["command"], facts["seed"]) == ("medmoe train", 4)
    assert facts["initialised_from"] == {"vision": "used 3 of 4"}
    assert {"python", "medmoe", "torch"} <= facts["versions"].keys()
    assert facts["machine"].keys() == {"system", "processor", "cores"}


def test_a_run_that_goes_on_remembers_what_it_started_from(tmp_path: Path):
    RunFolder(tmp_path).begin(micro(), {"vision": "used 3 of 4"})
    RunFolder(tmp_path, resume=True).begin(micro(), None)
    assert json.loads((tmp_path / "run.json").read_text())["initialised_from"] == {"vision": "used 3 of 4"}


def test_a_run_that_goes_on_without_a_record_starts_one(tmp_path: Path):
    RunFolder(tmp_path).begin(micro(), None)
    assert json.loads((tmp_path / "run.json").read_text())["initialised_from"] == {}


def test_the_metrics_are_read_as_they_were_logged(tmp_path: Path):
    run = RunFolder(tmp_path)
    assert run.history() == []
    rows = [run.log({"step": step, "loss": 0.5}) for step in (1, 2)]
    assert run.history() == rows


def test_a_line_cut_short_by_a_crash_is_left_out(tmp_path: Path):
    run = run_with(tmp_path, {"step": 1}, {"step": 2})
    run.metrics.write_text(run.metrics.read_text()[:-5])
    assert steps(run) == [1]


def test_rewinding_drops_the_steps_that_will_be_done_again(tmp_path: Path):
    run = run_with(tmp_path, *({"step": step} for step in (1, 2, 2, 3)))
    run.rewind(2)
    assert steps(run) == [1, 2, 2]
    run.log({"step": 3})
    assert steps(run) == [1, 2, 2, 3]


def test_rewinding_mends_a_torn_line_so_that_the_next_one_is_whole(tmp_path: Path):
    run = run_with(tmp_path, {"step": 1}, {"step": 2})
    run.metrics.write_text(run.metrics.read_text()[:-5])
    run.rewind(5)
    run.log({"step": 2})
    assert steps(run) == [1, 2]


def test_rewinding_a_run_without_metrics_leaves_none(tmp_path: Path):
    run = RunFolder(tmp_path)
    run.rewind(0)
    assert run.history() == []


def test_a_package_that_is_not_installed_is_left_out_of_the_versions(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rundir, "PACKAGES", ("torch", "no-such-package-anywhere"))
    assert rundir.versions().keys() == {"python", "medmoe", "torch"}


def test_the_commit_is_the_codes_or_unknown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    commit = rundir.git_commit()
    assert commit is None or len(commit) == 40
    monkeypatch.setenv("PATH", str(tmp_path))
    assert rundir.git_commit() is None


def test_code_outside_a_checkout_has_no_commit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(rundir, "__file__", str(tmp_path / "rundir.py"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert rundir.git_commit() is None


def test_the_command_is_as_it_was_typed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "argv", ["/usr/bin/medmoe", "train", "tiny"])
    assert rundir.command_line() == "medmoe train tiny"


def test_where_a_result_is_written_can_be_left_out_of_the_command(monkeypatch: pytest.MonkeyPatch):
    for told in (["--json", "a.json"], ["--json=a.json"]):
        monkeypatch.setattr(sys, "argv", ["medmoe", "eval", "run", *told, "--split", "test"])
        assert rundir.command_line(without=["--json"]) == "medmoe eval run --split test"
