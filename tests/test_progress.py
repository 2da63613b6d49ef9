from __future__ import annotations

import io

import pytest
from rich.console import Console

from medmoe.config import RunConfig, TrainConfig
from medmoe.progress import Progress


def train_row(step: int) -> dict[str, object]:
    return {
        "kind": "train",
        "step": step,
        "loss": 2.0,
        "terms": {"global": 1.25, "a_term_with_quite_a_long_name": 0.5, "another_term_with_a_long_name": 0.25},
        "images_per_second": 123.4,
    }


def val_row(step: int, accuracy: float | None = 0.5) -> dict[str, object]:
    return {"kind": "val", "step": step, "loss": 3.0, "terms": {"global": 1.5}, "image_router_accuracy": accuracy}


def shown(rows: list[dict[str, object]], *, steps: int, terminal: bool = False) -> str:
    file = io.StringIO()
    config = RunConfig(recipe="tiny", train=TrainConfig(steps=steps))
    with Progress(config, Console(file=file, force_terminal=terminal, width=200 if terminal else 60)) as progress:
        for row in rows:
            progress(row)
    return file.getvalue()


def test_without_a_terminal_each_line_is_whole():
    lines = shown([train_row(1), val_row(1)], steps=100).splitlines()
    assert lines[0].startswith("step 1/100 loss 2.000 global 1.250 a_term_with_quite_a_long_name 0.500 another_term")
    assert lines[0].endswith("123 images/s")
    assert lines[1] == "step 1 validation loss 3.000 global 1.500 image router 0.500"
    assert len(lines) == 2


def test_without_a_terminal_a_long_run_says_about_ten_lines():
    lines = shown([train_row(step) for step in range(1, 201)], steps=200).splitlines()
    steps = [int(line.split()[1].split("/")[0]) for line in lines]
    assert steps[0] == 1
    assert steps[-1] == 200
    assert 10 <= len(steps) <= 12


def test_a_short_run_says_every_row():
    assert len(shown([train_row(step) for step in (1, 2, 3)], steps=3).splitlines()) == 3


def test_a_validation_without_modalities_says_nothing_of_the_router():
    assert shown([val_row(1, None)], steps=9) == "step 1 validation loss 3.000 global 1.500\n"


def test_a_terminal_has_a_bar_with_the_newest_figures():
    text = shown([train_row(5), val_row(5)], steps=10, terminal=True)
    assert "5/10" in text
    assert "loss 2.000" in text
    assert "step 5 validation loss 3.000" in text
    assert "step 5/10" not in text


def test_the_bar_stops_when_training_fails():
    file = io.StringIO()
    progress = Progress(RunConfig(recipe="tiny"), Console(file=file, force_terminal=True))
    with pytest.raises(RuntimeError, match="stop"), progress:
        raise RuntimeError("stop")
    assert not progress.bar.live.is_started
