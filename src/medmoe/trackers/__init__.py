"""Trackers: other programs that show a run's metrics; `metrics.jsonl` stays the truth."""

from __future__ import annotations

from collections.abc import Iterable

from medmoe.errors import ConfigError, unknown
from medmoe.trackers.base import TrackedRun, Tracker
from medmoe.trackers.mlflow import MLflow
from medmoe.trackers.tensorboard import TensorBoard
from medmoe.trackers.wandb import WeightsAndBiases

TRACKERS: dict[str, type[Tracker]] = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases, "mlflow": MLflow}


def trackers(names: Iterable[str]) -> dict[str, Tracker]:
    """Make trackers by name, each once; nothing is sent or written yet.

    Raises:
        ConfigError: If a name is unknown.
        MissingDependencyError: If one's package isn't installed.
    """
    wanted = list(dict.fromkeys(names))
    for name in wanted:
        if name not in TRACKERS:
            raise ConfigError(unknown("tracker", name, TRACKERS), where="train.track")
    return {name: TRACKERS[name]() for name in wanted}


__all__ = ["TRACKERS", "TrackedRun", "Tracker", "trackers"]
