"""Where a run went back from a spike of its loss, and which batches each step gets since then."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medmoe.errors import ModelError
from medmoe.folder import write_text_atomically

FILE = "rewinds.json"


@dataclass(frozen=True, slots=True)
class Rewind:
    """A run's going back once.

    Attributes:
        to: The step of the checkpoint that it went back to.
        batch: The number of the batch that it went on with there: those from that step's own to this one are left out.
        begun: The first step whose loss was too high.
        step: The step at which that was certain.
        loss: Of that step; None, where it wasn't finite.
        median: Of the losses before.
    """

    to: int
    batch: int
    begun: int
    step: int
    loss: float | None
    median: float


def first_batch(rewinds: Sequence[Rewind], step: int, per_step: int) -> int:
    """Give the number of the first batch of the step that follows `step` done ones.

    Args:
        rewinds: In the order in which they happened.
        step: Steps done.
        per_step: Batches of a step.

    >>> once = [Rewind(to=4, batch=9, begun=7, step=8, loss=None, median=1.0)]
    >>> [first_batch(once, step, 1) for step in (3, 4, 5)]
    [3, 9, 10]
    """
    last = next((one for one in reversed(rewinds) if one.to <= step), None)
    return step * per_step if last is None else last.batch + (step - last.to) * per_step


def write(run: Path, rewinds: Iterable[Rewind]) -> None:
    """Write down where a run went back, whole or not at all."""
    write_text_atomically(run / FILE, json.dumps(plain(rewinds), indent=1) + "\n")


def plain(rewinds: Iterable[Rewind]) -> list[dict[str, Any]]:
    """Give rewinds JSON-ready."""
    return [asdict(one) for one in rewinds]


def known(run: Path, saved: Mapping[str, Any] | None) -> tuple[Rewind, ...]:
    """Give where a run went back.

    Args:
        run: Its folder, whose file knows it from the moment on.
        saved: The state of the checkpoint that it goes on from, which knows it without that file; None: it begins.

    Raises:
        ModelError: If the file isn't one of rewinds.
    """
    if saved is None:
        return ()
    path = run / FILE
    try:
        written = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
        found = max(written, saved.get("rewinds", []), key=len)
        return tuple(Rewind(**one) for one in found)
    except (ValueError, TypeError) as error:
        remedy = "delete it: the checkpoints know the rewinds before them"
        raise ModelError("isn't a list of rewinds", where=str(path), remedy=remedy) from error


def forget(run: Path) -> None:
    """Delete what is written of a run that begins anew in its folder, its checkpoints being gone."""
    (run / FILE).unlink(missing_ok=True)


__all__ = ["FILE", "Rewind", "first_batch", "forget", "known", "plain", "write"]
