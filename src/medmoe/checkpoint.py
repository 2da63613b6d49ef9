"""Checkpoints: a model folder plus the optimiser's memory and the step, for exact resume; whole, or not there.

A checkpoint is written aside, flushed to the disk and renamed; the last file written lists all others with their
SHA-256, and its own, so that one that was damaged later is told from a good one, and the newest good one is used.
"""

from __future__ import annotations

import json
import logging
import shutil
import threading
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from medmoe.distributed import copied
from medmoe.errors import ModelError, UserError
from medmoe.folder import (
    MANIFEST,
    Assets,
    check_files,
    fill_folder,
    list_files,
    read_json,
    read_weights,
    write_atomically,
)
from medmoe.pieces import INDEX, Crew, Pieces

OPTIMIZER, AVERAGE, STATE = "optimizer.safetensors", "average.safetensors", "state.json"

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a run needs to go on.

    Attributes:
        step: Steps done.
        weights: Of the model.
        optimizer: The optimiser's memory by name.
        average: Averaged weights, or None.
        state: Further plain values.
        folder: Where it lies.
    """

    step: int
    weights: dict[str, Tensor]
    optimizer: Mapping[str, Tensor]
    average: Mapping[str, Tensor] | None
    state: dict[str, Any]
    folder: Path


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A run's state at a step, on the CPU and its own: training may go on while it is written.

    Attributes:
        step: Steps done.
        weights: Of the model; where it is in parts, whole in the first process alone.
        optimizer: The optimiser's memory by name.
        average: Averaged weights, or None.
        assets: What a model folder holds beside the weights.
        state: Further plain values; `val_loss` says how good it is.
    """

    step: int
    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    average: dict[str, Tensor] | None
    assets: Assets
    state: dict[str, Any]


def snapshot(
    step: int,
    *,
    weights: Mapping[str, Tensor],
    optimizer: Mapping[str, Tensor],
    average: Mapping[str, Tensor] | None,
    assets: Assets,
    state: Mapping[str, Any],
    crew: Crew | None = None,
) -> Snapshot:
    """Copy a run's state to the CPU; of what is in parts, each process of a crew its own, and the weights together."""

    def own(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: value.detach().to("cpu", copy=True).contiguous() for name, value in tensors.items()}

    copy = own if crew is None else crew.copy
    averaged = None if average is None else copy(average)
    return Snapshot(step, copied(weights), copy(optimizer), averaged, assets, dict(state))


@dataclass(frozen=True, slots=True)
class Spare:
    """The checkpoint that a run would go back to: the newest of a step up to one, if there is one of the usual steps.

    One that was saved out of turn, as when a run is asked to stop, is taken only where there is no other: else a run
    that was stopped for a while would go back to another step than one that wasn't.

    Attributes:
        upto: That step.
        every: Steps between checkpoints.
    """

    upto: int
    every: int

    def order(self, folders: list[Path]) -> list[Path]:
        """Give the checkpoints that may be gone back to, the best first."""
        steps = {folder: int(folder.name.removeprefix("step-")) for folder in folders}
        old = [folder for folder in folders if steps[folder] <= self.upto]
        return sorted(old, key=lambda folder: (steps[folder] % self.every == 0, steps[folder]), reverse=True)


def write(
    run: Path,
    taken: Snapshot,
    *,
    keep: int,
    keep_best: bool = False,
    spare: Spare | None = None,
    crew: Crew | None = None,
) -> Path:
    """Write `checkpoints/step-N`, and delete all but the `keep` newest and, if asked, the one of least `val_loss`.

    Args:
        run: The run folder.
        taken: What is written.
        keep: Checkpoints kept.
        keep_best: Whether the one of least `val_loss` is kept too.
        spare: The older one that is kept to go back to, if any.
        crew: The processes that write what they hold, if the model is in parts; this one leads them.
    """

    def fill(aside: Path) -> None:
        if crew is None:
            _save_memory(aside, taken)
        else:
            crew.save(aside, _named(taken))
        fill_folder(aside, taken.weights, taken.assets)
        _write_json(aside / STATE, {"step": taken.step, "listed_in": MANIFEST, **taken.state})
        list_files(aside, {"step": taken.step, "val_loss": taken.state.get("val_loss")})

    folder = write_atomically(at(run, taken.step), fill)
    prune(run, upto=folder, keep=keep, keep_best=keep_best, spare=spare)
    return folder


def _save_memory(folder: Path, taken: Snapshot) -> None:
    """Write what a model folder lacks to go on."""
    from safetensors.torch import save_file

    save_file(taken.optimizer, folder / OPTIMIZER)
    if taken.average is not None:
        save_file(taken.average, folder / AVERAGE)


def _named(taken: Snapshot) -> dict[str, Tensor]:
    """Name the same as one whole."""
    groups = {"optimizer": taken.optimizer, "average": taken.average or {}}
    return {f"{group}/{name}": value for group, tensors in groups.items() for name, value in tensors.items()}


def prune(run: Path, *, upto: Path, keep: int, keep_best: bool, spare: Spare | None = None) -> None:
    """Delete all checkpoints but the `keep` newest and, if asked, the best; and what a crash left half done.

    Args:
        run: The run folder.
        upto: The checkpoint just written. What is newer was found broken: the run has come back to before it.
        keep: Checkpoints kept.
        keep_best: Whether the one of least `val_loss` is kept too.
        spare: The one that is kept to go back to, if any.
    """
    folders = [folder for folder in found(run) if folder.name <= upto.name]
    kept = set(folders[-keep:])
    if keep_best:
        losses = {folder: _val_loss(folder) for folder in folders}
        judged = {folder: loss for folder, loss in losses.items() if loss is not None}
        if judged:
            kept.add(min(judged, key=lambda folder: judged[folder]))
    if spare is not None:
        kept.update(spare.order(folders)[:1])
    for folder in (run / "checkpoints").glob("step-*"):
        if folder not in kept:
            _discard(folder)
    clear(run)


def drop_after(run: Path, step: int) -> None:
    """Delete the checkpoints after a step, the newest first: a crash in between leaves a run that was a bit shorter."""
    for folder in reversed(found(run)):
        if folder.name > _name(step):
            _discard(folder)
    clear(run)


def newest_whole(run: Path, spare: Spare) -> int | None:
    """Give the step of the checkpoint that a run would go back to, if one is whole; those that aren't are logged."""
    for folder in spare.order(found(run)):
        try:
            check(folder)
            return int(folder.name.removeprefix("step-"))
        except ModelError as error:
            _LOG.warning("%s; looking for a checkpoint before it", error)
    return None


def clear(run: Path) -> None:
    """Delete what a crash left half written or half deleted, which else fills the disk where crashes come in a row."""
    for rest in (run / "checkpoints").glob(".step-*.tmp"):
        shutil.rmtree(rest, ignore_errors=True)


class Saver:
    """Writes a run's checkpoints, beside the training where that is wanted: a step waits for a copy in memory only.

    Args:
        run: The run folder.
        keep: Checkpoints kept.
        keep_best: Whether the one of least `val_loss` is kept too.
        beside: Whether a thread writes while training goes on.
        saved: The step of the checkpoint that the run goes on from, if it does.
        crew: The processes of a run whose model is in parts: each has a saver, and does with it what the others do.

    Attributes:
        saved: The last step that is on the disk.
    """

    def __init__(
        self,
        run: Path,
        *,
        keep: int,
        keep_best: bool = False,
        beside: bool = True,
        saved: int | None = None,
        crew: Crew | None = None,
    ) -> None:
        self.run, self.keep, self.keep_best, self.beside, self.crew = run, keep, keep_best, beside, crew
        self._thread: threading.Thread | None = None
        self._failed: BaseException | None = None
        self.saved = saved

    def save(self, taken: Snapshot, spare: Spare | None = None) -> None:
        """Write a snapshot, after the one before it is written, unless that is of the same step.

        Args:
            taken: The snapshot.
            spare: The older one that is kept to go back to, if any.

        Raises:
            UserError: If the one before it, or this one, couldn't be written.
        """
        self.finish()
        if self.saved == taken.step:  # to write it again would risk what is on the disk for nothing
            return None
        if not self.beside:
            self._write(taken, spare)
            return self.finish()
        self._thread = threading.Thread(target=self._write, args=(taken, spare), name="checkpoint", daemon=False)
        self._thread.start()
        return None

    def finish(self) -> None:
        """Wait until all that was asked for is written.

        Raises:
            UserError: If it couldn't be.
        """
        self.wait()
        self.check()

    def wait(self) -> None:
        """Wait until nothing is being written any more; what went wrong is told by `check`."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def check(self) -> None:
        """Tell now of what went wrong while writing, in all processes of a crew what went wrong in any.

        Raises:
            UserError: If something did; what was saved before is still there.
        """
        if self.crew is not None and self.crew.any(self._failed is not None):
            self.wait()
        failed, self._failed = self._failed, None
        if failed is None:
            return
        before = f"the checkpoint of step {self.saved} is whole" if self.saved is not None else "none is saved yet"
        if isinstance(failed, OSError):
            what = f"the checkpoint can't be written ({failed.strerror or failed}); {before}"
            raise UserError(what, where=str(self.run), remedy="make room, then go on with --resume latest") from failed
        raise failed

    def _write(self, taken: Snapshot, spare: Spare | None) -> None:
        try:
            lead = partial(
                write, self.run, taken, keep=self.keep, keep_best=self.keep_best, spare=spare, crew=self.crew
            )
            if self.crew is None:
                lead()
            else:
                self.crew.write(lead, _named(taken))
            self.saved = taken.step
        except BaseException as error:
            self._failed = error


def at(run: Path, step: int) -> Path:
    """Give the folder of the checkpoint of a step."""
    return run / "checkpoints" / _name(step)


def found(run: Path) -> list[Path]:
    """List a run's checkpoints, oldest first, whole or not."""
    folders = (run / "checkpoints").glob("step-*")
    return sorted(path for path in folders if (path / STATE).is_file() or _listed(path))


def check(folder: Path) -> None:
    """Make sure that a checkpoint is what was written.

    Raises:
        ModelError: If a file is missing, of another size or content; one of an earlier release lists none.
    """
    if _listed(folder) or "listed_in" in read_json(folder / STATE):
        check_files(folder)


def load(folder: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        ModelError: If a file is missing or broken.
    """
    state = read_json(folder / STATE)
    if not isinstance(state.get("step"), int):
        raise ModelError("names no step", where=str(folder / STATE))
    optimizer: Mapping[str, Tensor]
    average: Mapping[str, Tensor] | None
    if (folder / INDEX).is_file():
        optimizer, average = Pieces(folder, "optimizer"), Pieces(folder, "average") or None
    else:
        optimizer = read_weights(folder / OPTIMIZER)
        average = read_weights(folder / AVERAGE) if (folder / AVERAGE).is_file() else None
    weights = read_weights(folder / "model.safetensors")
    return Checkpoint(state["step"], weights, optimizer, average, state, folder)


def load_latest(run: Path) -> Checkpoint | None:
    """Read the newest checkpoint that is whole, or give None where there is none; those that aren't are logged.

    Raises:
        ModelError: If there are checkpoints but none is whole.
    """
    errors = []
    for folder in reversed(found(run)):
        try:
            check(folder)
            return load(folder)
        except ModelError as error:
            errors.append(str(error))
            _LOG.warning("%s; going back to the checkpoint before it", error)
    if errors:
        raise ModelError(
            f"no checkpoint can be read ({errors[0]})", where=str(run), remedy="start a new run in another folder"
        )
    return None


def _name(step: int) -> str:
    return f"step-{step:07d}"


def _discard(folder: Path) -> None:
    """Rename a checkpoint first: one that is half deleted must not be taken for one."""
    folder.rename(folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.tmp"))


def _listed(folder: Path) -> bool:
    return (folder / MANIFEST).is_file()


def _val_loss(folder: Path) -> float | None:
    """Give how good a checkpoint is, where that is known."""
    try:
        loss = read_json(folder / MANIFEST).get("val_loss")
    except ModelError:
        return None
    return loss if isinstance(loss, int | float) else None


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


__all__ = [
    "Checkpoint",
    "Saver",
    "Snapshot",
    "Spare",
    "at",
    "check",
    "clear",
    "drop_after",
    "found",
    "load",
    "load_latest",
    "newest_whole",
    "snapshot",
    "write",
]
