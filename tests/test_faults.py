"""Faults: what a crash, a full disk, a lost process or a damaged file costs, and in what words it ends."""

from __future__ import annotations

import errno
import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from medmoe import checkpoint, folder
from medmoe.checkpoint import Saver, Snapshot
from medmoe.data.loader import workers_told
from medmoe.distributed import World, most, same_everywhere, texts_of_all
from medmoe.errors import DataError, ModelError, UserError
from medmoe.guards import Finite
from medmoe.rundir import RunFolder, writing
from medmoe.train import Interrupted
from processes import together
from small_runs import built, phantoms, rows, same_weights, stop_at, train

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
FORKS = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")


@pytest.fixture
def faulting(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """Give the campaign's cases, as the command finds them."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    importlib.import_module("faulting.running")
    yield importlib.import_module("faulting.cases")
    for name in [name for name in sys.modules if name.split(".")[0] == "faulting"]:
        del sys.modules[name]


def taken(step: int, **state: Any) -> Snapshot:
    assets = built().assets
    assert assets is not None
    tensors = {"a": torch.arange(4.0)}
    return checkpoint.snapshot(step, weights=tensors, optimizer=tensors, average=None, assets=assets, state=state)


def there(run: Path) -> list[int]:
    return [int(path.name[5:]) for path in checkpoint.found(run)]


# Checkpoints


@pytest.mark.parametrize("name", ["manifest.json", "state.json", "tokenizer.json"])
def test_a_file_that_is_gone_is_told_and_the_checkpoint_before_is_taken(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
):
    for step in (2, 4):
        newest = checkpoint.write(tmp_path, taken(step), keep=9)
    (newest / name).unlink()
    found = checkpoint.load_latest(tmp_path)
    assert found is not None
    assert found.step == 2
    assert f"step-0000004/{name}" in caplog.text


def test_a_list_of_files_that_was_changed_is_noticed(tmp_path: Path):
    path = checkpoint.write(tmp_path, taken(2), keep=9) / "manifest.json"
    path.write_text(path.read_text().replace('"files"', '"filez"'))
    with pytest.raises(ModelError, match=r"manifest\.json: was changed or damaged"):
        checkpoint.check(path.parent)


def test_a_file_that_cannot_be_read_breaks_the_checkpoint_not_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for step in (2, 4):
        checkpoint.write(tmp_path, taken(step), keep=9)
    plain = folder._facts

    def facts(path: Path) -> dict[str, Any]:
        if path.name == "optimizer.safetensors" and "4" in path.parent.name:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return plain(path)

    monkeypatch.setattr(folder, "_facts", facts)
    found = checkpoint.load_latest(tmp_path)
    assert found is not None
    assert found.step == 2


def test_a_damaged_checkpoint_is_not_used_as_a_model_either(tmp_path: Path):
    for step in (2, 4):
        newest = checkpoint.write(tmp_path, taken(step), keep=9)
    (newest / "model.safetensors").write_bytes((newest / "model.safetensors").read_bytes()[:-1] + b"x")
    assert folder.find_folder(tmp_path).name == "step-0000002"
    with pytest.raises(ModelError, match=r"model\.safetensors: was changed or damaged"):
        folder.find_folder(newest)


def test_after_going_back_a_broken_newer_checkpoint_does_not_push_out_what_is_saved(tmp_path: Path):
    for step in (4, 6):
        newest = checkpoint.write(tmp_path, taken(step), keep=1 + step)
    (newest / "model.safetensors").write_bytes(b"torn")
    checkpoint.write(tmp_path, taken(5), keep=1)
    assert there(tmp_path) == [5]


def test_a_checkpoint_half_deleted_by_a_crash_is_cleared_away(tmp_path: Path):
    rest = checkpoint.write(tmp_path, taken(2), keep=9)
    for name in ("state.json", "manifest.json"):
        (rest / name).unlink()
    checkpoint.write(tmp_path, taken(4), keep=9)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-0000004"]


def test_what_a_crash_left_half_written_is_cleared_away_when_the_run_goes_on(tmp_path: Path):
    rest = tmp_path / "checkpoints" / ".step-0000003.0123abcd.tmp"
    rest.mkdir(parents=True)
    (rest / "model.safetensors").write_bytes(b"half")
    train(tmp_path, "train.steps=1", resume=True)
    assert not rest.exists()


def test_the_best_is_kept_though_another_cannot_say_how_good_it_is(tmp_path: Path):
    for step, loss in ((1, 3.0), (2, 1.0), (3, 2.0)):
        path = checkpoint.write(tmp_path, taken(step, val_loss=loss), keep=9)
    (path / "manifest.json").write_text("torn")
    checkpoint.write(tmp_path, taken(4), keep=1, keep_best=True)
    assert there(tmp_path) == [2, 4]


def test_a_step_that_is_saved_is_not_written_again(tmp_path: Path):
    saver = Saver(tmp_path, keep=2, beside=False)
    saver.save(taken(3))
    inode = (checkpoint.found(tmp_path)[0] / "model.safetensors").stat().st_ino
    saver.save(taken(3))
    assert (checkpoint.found(tmp_path)[0] / "model.safetensors").stat().st_ino == inode


@pytest.mark.parametrize("beside", [True, False])
@pytest.mark.parametrize("saved", [None, 7])
def test_a_full_disk_is_told_with_what_is_still_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beside: bool, saved: int | None
):
    def full(*_: object) -> None:
        raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(checkpoint, "fill_folder", full)
    saver = Saver(tmp_path, keep=2, beside=beside, saved=saved)
    still = "checkpoint of step 7 is whole" if saved else "none is saved yet"
    told = rf"can't be written \(No space left on device\); .*{still}; make room, then go on with --resume latest"
    with pytest.raises(UserError, match=told):  # noqa: PT012 - either says so
        saver.save(taken(8))
        saver.finish()
    assert list((tmp_path / "checkpoints").iterdir()) == []
    monkeypatch.undo()
    saver.save(taken(9))
    saver.finish()
    assert there(tmp_path) == [9]


def test_other_errors_of_what_fills_a_folder_are_left_as_they_are(tmp_path: Path):
    def fill(_: Path) -> None:
        raise ValueError("no such thing")

    with pytest.raises(ValueError, match="no such thing"):
        folder.write_atomically(tmp_path / "model", fill)
    assert list(tmp_path.iterdir()) == []


# The run folder


def test_a_disk_that_is_full_is_told_in_one_line_and_other_errors_are_not_touched(tmp_path: Path):
    told = r"m\.jsonl: can't be written \(No space left on device\); all is well; make room"
    with pytest.raises(UserError, match=told), writing(tmp_path, "all is well"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "m.jsonl")
    with pytest.raises(FileNotFoundError), writing(tmp_path):
        (tmp_path / "nothing").read_text()


@FORKS
def test_a_loader_process_that_outlives_its_run_does_not_hold_its_lock(tmp_path: Path):
    begun, end = os.pipe(), os.pipe()
    with RunFolder(tmp_path).locked():
        child = os.fork()
        if child == 0:  # pragma: no cover - lives on as a loader process does
            os.write(begun[1], b"x")
            os.read(end[0], 1)
            os._exit(0)
        os.read(begun[0], 1)
    try:
        with RunFolder(tmp_path, resume=True).locked():
            pass
    finally:
        os.write(end[1], b"x")
        os.waitpid(child, 0)
        for handle in (*begun, *end):
            os.close(handle)


def test_where_a_run_went_on_is_written_down(tmp_path: Path):
    with pytest.raises(Interrupted):
        train(tmp_path, watch=stop_at(2))
    train(tmp_path, resume=True)
    assert json.loads((tmp_path / "run.json").read_text())["from_step"] == 2


# Being asked to stop


class StopsIn:
    """A validation set in which the run is asked to stop, the first time it is read."""

    def __init__(self) -> None:
        self.source, self.asked = phantoms(seed=4), False

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Any:
        if not self.asked and index == 9:
            self.asked = True
            os.kill(os.getpid(), signal.SIGTERM)
        return self.source[index]

    def facts(self, index: int) -> Any:
        return self.source.facts(index)


@pytest.mark.parametrize("every", [3, 6])
def test_a_validation_is_left_when_the_run_is_asked_to_stop_and_done_when_it_goes_on(tmp_path: Path, every: int):
    setting = f"train.val_every={every}"
    with pytest.raises(Interrupted, match=f"stopped at step {every}, saved") as got:
        train(tmp_path / "a", setting, val=StopsIn())
    assert got.value.code == 128 + signal.SIGTERM
    assert rows(tmp_path / "a", "val") == []
    model = train(tmp_path / "a", setting, val=phantoms(seed=4), resume=True)
    assert same_weights(model, train(tmp_path / "b", setting, val=phantoms(seed=4)))
    assert rows(tmp_path / "a", "val") == rows(tmp_path / "b", "val")


def test_a_run_asked_to_stop_while_it_catches_up_with_a_validation_stops_there(tmp_path: Path):
    setting = "train.val_every=3"
    for _ in range(2):
        with pytest.raises(Interrupted, match="stopped at step 3, saved"):
            train(tmp_path, setting, val=StopsIn(), resume=True)
    train(tmp_path, setting, val=phantoms(seed=4), resume=True)
    assert [row["step"] for row in rows(tmp_path, "val")] == [3, 6]


def test_a_run_stopped_at_a_bad_step_does_not_say_that_it_is_saved(tmp_path: Path):
    wild = ("train.lr=1e30", "train.warmup=0", "train.clip=1e30", "train.save_every=1")
    with pytest.raises(Interrupted, match=r"stopped at step 5, which was bad and isn't saved: the one before is"):
        train(tmp_path, *wild, watch=stop_at(5))
    assert there(tmp_path)[-1] < 5


# Several processes


def test_bad_steps_are_written_down_with_the_samples_of_all_processes(tmp_path: Path):
    together(2, judge, tmp_path / "ranks", tmp_path / "bad.jsonl")
    (row,) = map(json.loads, (tmp_path / "bad.jsonl").read_text().splitlines())
    assert row == {"step": 1, "loss": "1.0", "norm": "1.0", "keys": ["sample 0", "sample 1"]}


def judge(world: World, log: Path) -> None:
    """Judge a step whose loss is no number in the second process only."""
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    guard = Finite(model, optimizer, patience=3, log=log if world.first else None)
    loss = torch.tensor([1.0, float("nan")][world.rank])
    guard.judge(1, loss, torch.tensor(1.0), [f"sample {world.rank}"])
    assert guard.read() == 1


def test_processes_that_would_begin_elsewhere_are_all_told(tmp_path: Path):
    told = "process 1 has a step to begin at other than process 0; here it is"
    assert together(2, compared, tmp_path) == [f"process 0: {told} 0", f"process 1: {told} 4"]


def compared(world: World) -> str:
    same_everywhere({"samples": "abc"})
    assert most(world.rank + 1) == 2
    assert texts_of_all([str(world.rank)]) == ["0", "1"]
    with pytest.raises(UserError, match="give all the same command") as got:
        same_everywhere({"samples": "abc", "a step to begin at": 4 * world.rank})
    return "; ".join(str(got.value).split("; ")[:2])


# Loader processes


def test_a_loader_process_that_is_gone_is_told_wherever_that_is_noticed():
    told = pytest.raises(DataError, match=r"process 3: a loader process is gone, .*Killed.*then --resume latest")
    with told, workers_told(3):
        raise RuntimeError("DataLoader worker (pid 12) is killed by signal: Killed. \nmore")
    with pytest.raises(RuntimeError, match="something else"), workers_told():
        raise RuntimeError("something else")


# The campaign's cases, with processes that are killed, stopped and starved for real


@FORKS
@pytest.mark.parametrize(
    "name",
    [
        "SIGTERM to all processes of a job, the loader's too",
        "one of two processes is killed",
    ],
)
def test_a_fault_ends_as_documented(tmp_path: Path, faulting: ModuleType, name: str):
    place = faulting.Place(tmp_path, "place")
    try:
        assert faulting.CASES[name].act(place)
    finally:
        place.clean()


@pytest.mark.slow
def test_every_fault_ends_as_documented(tmp_path: Path):
    out = tmp_path / "faults.json"
    run = subprocess.run([sys.executable, BENCHMARKS / "faults.py", "--json", out], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout
    found = json.loads(out.read_text())["faults"]
    assert {row["ended"] for row in found} <= {"as documented", "not tried"}


@pytest.mark.slow
def test_a_run_killed_again_and_again_is_the_run_that_nobody_disturbed(tmp_path: Path):
    out = tmp_path / "kills.json"
    words = [sys.executable, BENCHMARKS / "kills.py", "--kills", "4", "--only", "kills", "--json", out]
    subprocess.run(words, check=True, capture_output=True)
    found = json.loads(out.read_text())["kills"]
    assert [found[name] for name in ("same_weights", "same_optimizer", "same_losses")] == [True] * 3
    assert (found["kills"], found["broken_checkpoints"]) == (4, 0)
    assert found["began_where_expected"] == 5


@pytest.mark.slow
def test_a_run_that_torchrun_starts_again_by_itself_is_the_run_that_nobody_disturbed(tmp_path: Path):
    out = tmp_path / "kills.json"
    words = [sys.executable, BENCHMARKS / "kills.py", "--kills", "2", "--only", "elastic", "--json", out]
    subprocess.run(words, check=True, capture_output=True)
    found = json.loads(out.read_text())["elastic"]
    assert (found["kills"], found["exit_codes"], found["while_it_started"]) == (2, [0], 1)
    assert (found["same_weights"], found["same_losses"]) == (True, True)
