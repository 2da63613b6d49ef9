from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from medmoe import checkpoint
from medmoe.errors import ModelError
from medmoe.folder import find_folder
from small_runs import built

WEIGHTS = {"a": torch.arange(4.0), "b": torch.tensor(True)}


def write(run: Path, step: int, *, keep: int = 9, average: dict[str, Tensor] | None = None) -> Path:
    assets = built().assets
    assert assets is not None
    taken = checkpoint.snapshot(
        step,
        weights=WEIGHTS,
        optimizer={"a|exp_avg": torch.full((4, 2), float(step)).T},
        average=average,
        assets=assets,
        state={"seed": 5},
    )
    return checkpoint.write(run, taken, keep=keep)


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def test_a_checkpoint_comes_back_as_it_was_saved(tmp_path: Path):
    found = checkpoint.load(write(tmp_path, 7, average={"a": torch.ones(4)}))
    assert (found.step, found.state["seed"]) == (7, 5)
    assert found.weights.keys() == WEIGHTS.keys()
    assert all(torch.equal(found.weights[name], WEIGHTS[name]) for name in WEIGHTS)
    assert torch.equal(found.optimizer["a|exp_avg"], torch.full((2, 4), 7.0))
    assert found.average is not None
    assert torch.equal(found.average["a"], torch.ones(4))


def test_a_checkpoint_without_an_average_gives_none(tmp_path: Path):
    assert checkpoint.load(write(tmp_path, 1)).average is None


def test_a_checkpoint_is_a_model_folder_too(tmp_path: Path):
    folder = write(tmp_path, 1)
    assert find_folder(folder) == folder


def test_a_checkpoint_holds_no_pickle(tmp_path: Path):
    for path in write(tmp_path, 1).iterdir():
        assert path.suffix in (".json", ".safetensors", ".md")


def test_the_newest_are_kept(tmp_path: Path):
    for step in (3, 9, 10, 100):
        write(tmp_path, step, keep=2)
    assert [path.name for path in checkpoint.found(tmp_path)] == ["step-0000010", "step-0000100"]
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2


def test_saving_a_step_again_replaces_it(tmp_path: Path):
    write(tmp_path, 3, average={"a": torch.ones(4)})
    write(tmp_path, 3)
    found = checkpoint.load_latest(tmp_path)
    assert found is not None
    assert found.average is None


def test_a_folder_without_a_state_is_no_checkpoint(tmp_path: Path):
    (tmp_path / "checkpoints" / "step-0000009").mkdir(parents=True)
    assert checkpoint.found(tmp_path) == []
    assert checkpoint.load_latest(tmp_path) is None


def test_the_newest_is_loaded(tmp_path: Path):
    for step in (2, 4):
        write(tmp_path, step)
    found = checkpoint.load_latest(tmp_path)
    assert found is not None
    assert found.step == 4


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "average.safetensors", "state.json"])
def test_a_broken_newest_gives_way_to_the_one_before(tmp_path: Path, name: str):
    for step in (2, 4):
        write(tmp_path, step, average={"a": torch.ones(4)})
    shorten(tmp_path / "checkpoints" / "step-0000004" / name)
    found = checkpoint.load_latest(tmp_path)
    assert found is not None
    assert found.step == 2


def test_when_all_are_broken_the_newests_fault_is_told(tmp_path: Path):
    for step in (2, 4):
        shorten(write(tmp_path, step) / "model.safetensors")
    with pytest.raises(ModelError, match="no checkpoint can be read") as got:
        checkpoint.load_latest(tmp_path)
    assert "step-0000004" in str(got.value)
    assert got.value.where == str(tmp_path)
    assert got.value.remedy


def test_a_state_without_a_step_is_a_broken_checkpoint(tmp_path: Path):
    folder = write(tmp_path, 2)
    (folder / "state.json").write_text("{}")
    with pytest.raises(ModelError, match="no checkpoint can be read"):
        checkpoint.load_latest(tmp_path)
