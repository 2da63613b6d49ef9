"""Weights & Biases: offline in the run folder unless WANDB_MODE=online asks for more."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from typing import Any, ClassVar

from medmoe.errors import MissingDependencyError
from medmoe.trackers.base import TrackedRun

PROJECT = "medmoe"


class WeightsAndBiases:
    """Logs to `RUN/wandb`, to be sent by `wandb sync` when the user wants it; the environment's WANDB_* are followed.

    What the package would send by itself is switched off: the console, the command, code, git remote and host.

    Raises:
        MissingDependencyError: If the package wandb isn't installed.
    """

    replaces: ClassVar[bool] = False

    def __init__(self) -> None:
        try:
            import wandb
        except ImportError:
            raise MissingDependencyError(
                "tracking with wandb needs its package", remedy="pip install wandb, or leave it out of --track"
            ) from None
        self._wandb: Any = wandb
        self._run: Any = None

    def start(self, run: TrackedRun) -> str:
        """Begin, or go on under the same id."""
        name = run.known or uuid.uuid4().hex[:12]
        quiet = {"console": "off", "disable_git": True, "disable_code": True, "save_code": False, "silent": True}
        quiet |= {"x_disable_meta": True, "x_disable_stats": True, "x_disable_machine_info": True, "host": ""}
        quiet |= {"disable_job_creation": True, "x_save_requirements": False, "init_timeout": 30.0}
        known = self._wandb.Settings.model_fields  # the x_ settings may go in another version
        self._run = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=name,
            name=run.folder.resolve().name,
            dir=str(run.folder),
            mode=os.environ.get("WANDB_MODE", "offline"),
            resume="allow",
            config={**run.config, **{f"run.{key}": value for key, value in run.facts.items()}},
            settings=self._wandb.Settings(**{key: value for key, value in quiet.items() if key in known}),
        )
        return name

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Log numbers of a step."""
        self._run.log(dict(values), step=step)

    def finish(self, *, finished: bool) -> None:
        """End the run, which may go on later."""
        self._run.finish(exit_code=0 if finished else 1)
