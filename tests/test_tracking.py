"""Rows reach trackers whole, once and without anything private, and no tracker stops a run.

A tracker is stood in for at its boundary, the protocol, by one that writes down what it was told; the real packages
are used where they are installed.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from medmoe.errors import ConfigError, MissingDependencyError
from medmoe.rundir import RunFolder
from medmoe.trackers import TRACKERS, TrackedRun, trackers
from medmoe.trackers.base import facts_to_show, numbers, settings_to_show
from medmoe.tracking import NOTES, Tracking
from micro import medmoe
from small_runs import Crash, phantoms, rows, stop_at, train

SECRET = "miller"
TRACK = 'train.track=["recorder"]'


class Recorder:
    """Writes down what it is told; what `broken` names fails."""

    replaces: ClassVar[bool] = False
    told: ClassVar[list[tuple[Any, ...]]] = []
    broken: ClassVar[set[str]] = set()

    def start(self, run: TrackedRun) -> str:
        self._fail("start")
        self.told.append(("start", run))
        return run.known or "first"

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._fail("log")
        self.told.append(("log", step, dict(values)))

    def finish(self, *, finished: bool) -> None:
        self._fail("finish")
        self.told.append(("finish", finished))

    def _fail(self, method: str) -> None:
        if method in self.broken:
            raise OSError(28, "No space left on device")


class Replacing(Recorder):
    replaces: ClassVar[bool] = True


@pytest.fixture(autouse=True)
def recorder(monkeypatch: pytest.MonkeyPatch) -> type[Recorder]:
    monkeypatch.setitem(TRACKERS, "recorder", Recorder)
    monkeypatch.setitem(TRACKERS, "replacing", Replacing)
    monkeypatch.setattr(Recorder, "told", [])
    monkeypatch.setattr(Recorder, "broken", set())
    return Recorder


def steps(prefix: str = "train") -> list[int]:
    return [told[1] for told in Recorder.told if told[0] == "log" and f"{prefix}/loss" in told[2]]


def test_a_tracker_sees_every_row_from_start_to_finish(tmp_path: Path):
    train(tmp_path / "run", TRACK, val=phantoms(6))
    kinds = [told[0] for told in Recorder.told]
    assert (kinds[0], kinds[-1], Recorder.told[-1]) == ("start", "finish", ("finish", True))
    assert steps() == [1, 2, 3, 4, 5, 6]
    assert steps("val") == [3, 6]
    logged = [values for kind, *rest in Recorder.told if kind == "log" for values in rest[1:] if "train/loss" in values]
    assert [values["train/loss"] for values in logged] == [row["loss"] for row in rows(tmp_path / "run")]
    assert {"train/load/xray", "train/terms/global", "train/grad_norms/vision"} <= set(logged[0])


def test_a_run_that_goes_on_goes_on_there_and_doubles_no_step(tmp_path: Path):
    with pytest.raises(Crash):
        train(tmp_path / "run", TRACK, watch=stop_at(5, Crash))
    assert Recorder.told[-1] == ("finish", False)
    train(tmp_path / "run", TRACK, resume=True)
    assert steps() == [1, 2, 3, 4, 5, 6]
    starts = [told[1] for told in Recorder.told if told[0] == "start"]
    assert [run.known for run in starts] == [None, "first"]


def test_a_tracker_that_takes_steps_again_is_told_from_which_on(tmp_path: Path):
    track = 'train.track=["replacing"]'
    with pytest.raises(Crash):
        train(tmp_path / "run", track, watch=stop_at(5, Crash))
    train(tmp_path / "run", track, resume=True)
    assert steps() == [1, 2, 3, 4, 5, 4, 5, 6]
    assert [told[1].since for told in Recorder.told if told[0] == "start"] == [1, 4]


@pytest.mark.parametrize(("name", "shown"), [("replacing", [1, 2, 3, 4, 3, 4, 5]), ("recorder", [1, 2, 3, 4, 5])])
def test_a_tracker_that_takes_steps_again_does_so_where_a_run_went_back(tmp_path: Path, name: str, shown: list[int]):
    run = RunFolder(tmp_path / "run")
    for file in ("config.json", "run.json"):
        (run.path / file).write_text("{}")
    tracking = Tracking((name,), run, then=lambda row: None)
    for step in (1, 2, 3, 4):
        tracking({"kind": "train", "step": step, "loss": 1.0})
    tracking({"kind": "rewind", "step": 2, "at": 4, "loss": 9.0})
    for step in (3, 4, 5):
        tracking({"kind": "train", "step": step, "loss": 1.0})
    assert steps() == shown
    assert [told[1].since for told in Recorder.told if told[0] == "start"] == [1, 3][: 1 + (name == "replacing")]
    assert steps("rewind") == [2]


def test_a_tracker_new_to_a_run_gets_all_of_it(tmp_path: Path):
    with pytest.raises(Crash):
        train(tmp_path / "run", watch=stop_at(5, Crash))
    train(tmp_path / "run", TRACK, resume=True)
    assert steps() == [1, 2, 3, 4, 5, 6]


def test_a_tracker_that_lost_the_run_gets_all_of_it_again(tmp_path: Path):
    train(tmp_path / "run", TRACK)
    notes = json.loads((tmp_path / "run" / NOTES).read_text())
    assert notes["recorder"] == {"sent": {"train": 6}, "run": "first"}
    notes["recorder"]["run"] = None
    (tmp_path / "run" / NOTES).write_text(json.dumps(notes))
    Recorder.told.clear()
    train(tmp_path / "run", TRACK, resume=True)
    assert steps() == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("notes", ["", "[]", '{"recorder": 3}', "{"])
def test_broken_notes_begin_anew(tmp_path: Path, notes: str):
    train(tmp_path / "run")
    (tmp_path / "run" / NOTES).write_text(notes)
    train(tmp_path / "run", TRACK, resume=True)
    assert steps() == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("method", ["start", "log", "finish"])
def test_a_tracker_that_fails_warns_once_and_the_run_goes_on(
    tmp_path: Path, method: str, caplog: pytest.LogCaptureFixture
):
    Recorder.broken.add(method)
    with caplog.at_level(logging.WARNING):
        train(tmp_path / "run", TRACK)
    assert [row["step"] for row in rows(tmp_path / "run")] == [1, 2, 3, 4, 5, 6]
    told = [record.getMessage() for record in caplog.records if "tracker" in record.getMessage()]
    assert told == ["tracker recorder failed and is off until the run is resumed: [Errno 28] No space left on device"]


def test_after_a_failure_the_next_start_sends_what_is_missing(tmp_path: Path):
    Recorder.broken.add("log")
    with pytest.raises(Crash):
        train(tmp_path / "run", TRACK, watch=stop_at(5, Crash))
    assert steps() == []
    Recorder.broken.clear()
    train(tmp_path / "run", TRACK, resume=True)
    assert steps() == [1, 2, 3, 4, 5, 6]


def test_one_tracker_that_fails_leaves_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    class Failing(Recorder):
        def log(self, step: int, values: Mapping[str, float]) -> None:
            raise RuntimeError("gone")

    monkeypatch.setitem(TRACKERS, "failing", Failing)
    train(tmp_path / "run", 'train.track=["failing", "recorder"]')
    assert steps() == [1, 2, 3, 4, 5, 6]


def test_tracking_changes_no_number_of_a_run(tmp_path: Path):
    train(tmp_path / "plain")
    train(tmp_path / "tracked", TRACK)
    plain, tracked = ([row["loss"] for row in rows(tmp_path / name)] for name in ("plain", "tracked"))
    assert plain == tracked


def test_nothing_private_reaches_a_tracker(tmp_path: Path):
    about = {"command": f"medmoe train --train-data /data/{SECRET}", "train_data": f"/data/{SECRET}"}
    folder = tmp_path / "run"
    settings = [f"data.columns.text={SECRET}", f"train.text_cache=/data/{SECRET}"]
    train(folder, TRACK, *settings)
    facts = json.loads((folder / "run.json").read_text()) | about
    (folder / "run.json").write_text(json.dumps(facts))
    Recorder.told.clear()
    run = RunFolder(folder, resume=True)
    run.log({"kind": "train", "step": 7, "loss": 1.0, "keys": [SECRET], "note": SECRET, "terms": {}})
    Tracking(["recorder"], run, since=6, then=lambda row: None).finish(finished=True)
    assert SECRET not in repr(
        [told if told[0] != "start" else (told[1].config, told[1].facts) for told in Recorder.told]
    )
    assert [told for told in Recorder.told if told[0] == "log"] == [("log", 7, {"train/loss": 1.0})]


def test_only_finite_numbers_are_sent():
    row = {
        "kind": "val",
        "step": 1,
        "loss": float("nan"),
        "ok": True,
        "none": None,
        "terms": {"a": float("inf"), "b": 1},
    }
    assert numbers(row) == {"val/terms/b": 1.0}


def test_of_settings_and_facts_no_path_is_shown():
    config = {
        "model": {"text": {"hf": {"_name_or_path": "C:\\models\\bert", "layers": 2}}},
        "train": {"betas": [0.9, 0.98]},
    }
    assert settings_to_show(config) == {"model.text.hf.layers": 2, "train.betas": "[0.9, 0.98]"}
    assert facts_to_show({"command": "x", "seed": 1, "machine": {"cores": 2}}) == {"seed": 1, "machine.cores": 2}


def test_an_unknown_tracker_is_named_before_anything_is_written(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"unknown tracker 'tensorbord' \(did you mean 'tensorboard'\?\)"):
        trackers(["tensorbord"])
    said = medmoe("train", "tiny", "--train-data", tmp_path, "--out", tmp_path / "run", "--track", "tensorbord")
    assert "unknown tracker 'tensorbord'" in said.mistake
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow"])
def test_without_its_package_a_tracker_says_what_to_install(name: str, monkeypatch: pytest.MonkeyPatch):
    import sys

    for module in (name, "torch.utils.tensorboard"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingDependencyError, match=rf"tracking with {name} needs its package; pip install {name}"):
        trackers([name])


def interrupted_run(folder: Path, name: str) -> None:
    """Train with a tracker, fall over between two checkpoints, and go on."""
    track = f'train.track=["{name}"]'
    with pytest.raises(Crash):
        train(folder, track, val=phantoms(6), watch=stop_at(5, Crash))
    train(folder, track, val=phantoms(6), resume=True)


def test_tensorboard_shows_a_resumed_run_as_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    pytest.importorskip("tensorboard", reason="tensorboard isn't installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    interrupted_run(tmp_path / "run", "tensorboard")
    assert [record for record in caplog.records if "tracker" in record.getMessage()] == []
    seen = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    seen.Reload()
    shown = [(event.step, event.value) for event in seen.Scalars("train/loss")]
    kept = [(row["step"], pytest.approx(row["loss"], rel=1e-6)) for row in rows(tmp_path / "run")]
    assert shown == kept
    assert [event.step for event in seen.Scalars("val/loss")] == [3, 6]


@pytest.mark.filterwarnings("ignore")
def test_mlflow_shows_a_resumed_run_as_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("mlflow", reason="mlflow isn't installed")
    pytest.importorskip("sqlalchemy", reason="mlflow is installed without its database")
    from mlflow import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    interrupted_run(tmp_path / "run", "mlflow")
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("medmoe").experiment_id])
    assert (run.info.status, run.info.run_name) == ("FINISHED", "run")
    shown = [(one.step, one.value) for one in client.get_metric_history(run.info.run_id, "train/loss")]
    assert shown == [(row["step"], row["loss"]) for row in rows(tmp_path / "run")]
    assert run.data.params["train.steps"] == "6"


@pytest.mark.filterwarnings("ignore")
def test_wandb_keeps_a_run_offline_under_one_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("wandb", reason="wandb isn't installed")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    interrupted_run(tmp_path / "run", "wandb")
    name = json.loads((tmp_path / "run" / NOTES).read_text())["wandb"]["run"]
    files = sorted((tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb"))
    assert {file.name for file in files} == {f"run-{name}.wandb"}
    written = b"".join(file.read_bytes() for file in files)
    assert b"train/loss" in written
    import getpass
    import socket

    for private in (str(tmp_path), socket.gethostname(), "test_wandb_keeps", getpass.getuser() + "@"):
        assert private.encode() not in written, private
