"""Checkpoints: a model folder plus the optimiser's memory and the step, for exact resume."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from medmoe.errors import ModelError
from medmoe.folder import Assets, fill_folder, read_json, read_weights, write_atomically

OPTIMIZER, AVERAGE, STATE = "optimizer.safetensors", "average.safetensors", "state.json"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a run needs to go on.

    Attributes:
        step: Steps done.
        weights: Of the model.
        optimizer: The optimiser's memory by name.
        average: Averaged weights, or None.
        state: Further plain values.
    """

    step: int
    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    average: dict[str, Tensor] | None
    state: dict[str, Any]


def save(
    run: Path,
    *,
    step: int,
    weights: Mapping[str, Tensor],
    optimizer: Mapping[str, Tensor],
    average: Mapping[str, Tensor] | None,
    assets: Assets,
    state: Mapping[str, Any],
    keep: int,
) -> Path:
    """Write `checkpoints/step-N` atomically and delete all but the `keep` newest."""
    from safetensors.torch import save_file

    def fill(aside: Path) -> None:
        fill_folder(aside, weights, assets)
        save_file({k: v.detach().cpu().contiguous() for k, v in optimizer.items()}, aside / OPTIMIZER)
        if average is not None:
            save_file({k: v.detach().cpu().contiguous() for k, v in average.items()}, aside / AVERAGE)
        (aside / STATE).write_text(json.dumps({"step": step, **state}, indent=2) + "\n", encoding="utf-8")

    folder = write_atomically(run / "checkpoints" / f"step-{step:07d}", fill)
    for old in found(run)[:-keep]:
        shutil.rmtree(old)
    return folder


def found(run: Path) -> list[Path]:
    """List a run's checkpoints, oldest first."""
    return sorted(path for path in (run / "checkpoints").glob("step-*") if (path / STATE).is_file())


def load(folder: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        ModelError: If a file is missing or broken.
    """
    state = read_json(folder / STATE)
    if not isinstance(state.get("step"), int):
        raise ModelError("names no step", where=str(folder / STATE))
    average = folder / AVERAGE
    return Checkpoint(
        step=state["step"],
        weights=read_weights(folder / "model.safetensors"),
        optimizer=read_weights(folder / OPTIMIZER),
        average=read_weights(average) if average.is_file() else None,
        state=state,
    )


def load_latest(run: Path) -> Checkpoint | None:
    """Read the newest checkpoint that can be read, or give None where there is none.

    Raises:
        ModelError: If there are checkpoints but none can be read.
    """
    folders = found(run)
    errors = []
    for folder in reversed(folders):
        try:
            return load(folder)
        except ModelError as error:
            errors.append(str(error))
    if errors:
        raise ModelError(
            f"no checkpoint can be read ({errors[0]})", where=str(run), remedy="start a new run in another folder"
        )
    return None
