"""What every test runs under: one thread of torch, so that sums come out the same and workers don't fight."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from micro import medmoe, train

torch.set_num_threads(1)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a GPU where there is none."""
    if item.get_closest_marker("gpu") is not None and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a manifest folder of 36 patients with the splits train and test."""
    folder = tmp_path_factory.mktemp("phantoms") / "data"
    assert medmoe("data", "phantom", "--out", folder, "--patients", 36, "--size", 32, "--seed", 3).code == 0
    return folder


@pytest.fixture(scope="session")
def run(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a run folder; copy it before changing it."""
    folder = tmp_path_factory.mktemp("runs") / "small"
    said = train(phantoms, folder, "--val-data", phantoms, "--val-split", "test")
    assert said.code == 0, said
    return folder
