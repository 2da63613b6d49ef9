"""TensorBoard: event files in the run folder, for `tensorboard --logdir`."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from typing import Any, ClassVar

from medmoe.errors import MissingDependencyError
from medmoe.trackers.base import TrackedRun

FOLDER = "tensorboard"


class TensorBoard:
    """Writes event files to `RUN/tensorboard`; nothing leaves the machine.

    Raises:
        MissingDependencyError: If the package tensorboard isn't installed.
    """

    replaces: ClassVar[bool] = True

    def __init__(self) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise MissingDependencyError(
                "tracking with tensorboard needs its package",
                remedy="pip install tensorboard, or leave it out of --track",
            ) from None
        self._open: Any = SummaryWriter
        self._writer: Any = None

    def start(self, run: TrackedRun) -> str:
        """Open a new event file, which tells readers to forget what older ones hold of later steps."""
        folder = run.folder / FOLDER
        there = folder.is_dir()
        self._writer = self._open(str(folder), purge_step=run.since if there else None)
        if not there:
            self._writer.add_text("config", _as_text(run.config))
            self._writer.add_text("facts", _as_text(run.facts))
        return run.known if there and run.known else uuid.uuid4().hex

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Write numbers of a step, to be seen at once."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def finish(self, *, finished: bool) -> None:
        """Close the file."""
        self._writer.close()


def _as_text(values: Mapping[str, Any]) -> str:
    """Indent JSON as Markdown shows code."""
    return "\n".join(f"    {line}" for line in json.dumps(values, indent=2).splitlines())
