"""MLflow: a database beside the run folder unless MLFLOW_TRACKING_URI names a server."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from typing import Any, ClassVar

from medmoe.errors import MissingDependencyError
from medmoe.trackers.base import TrackedRun

DATABASE, EXPERIMENT = "mlflow.db", "medmoe"
_MOST_PARAMETERS, _LONGEST = 100, 500  # of one request; of a parameter's value, in every version
# a server that doesn't answer holds a run up once, and not for minutes
_PATIENCE = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}


class MLflow:
    """Logs to `mlflow.db` in the folder that the run folder is in, or where MLFLOW_TRACKING_URI says.

    Raises:
        MissingDependencyError: If the package mlflow isn't installed.
    """

    replaces: ClassVar[bool] = False

    def __init__(self) -> None:
        for name, value in _PATIENCE.items():
            os.environ.setdefault(name, value)
        try:
            import mlflow
            from mlflow.entities import Metric, Param, RunTag
        except ImportError:
            raise MissingDependencyError(
                "tracking with mlflow needs its package", remedy="pip install mlflow, or leave it out of --track"
            ) from None
        self._client_of: Any = mlflow.MlflowClient
        self._metric, self._parameter, self._tag = Metric, Param, RunTag
        self._client: Any = None
        self._run = ""

    def start(self, run: TrackedRun) -> str:
        """Begin a run with its settings as parameters, or set the known one running again."""
        for name in ("alembic", "mlflow.store.db.utils"):  # they would tell of each table they make
            logging.getLogger(name).setLevel(logging.WARNING)
        place = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{run.folder.resolve().parent / DATABASE}"
        self._client = self._client_of(tracking_uri=place)
        experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
        found = self._client.get_experiment_by_name(experiment)
        number = found.experiment_id if found else self._client.create_experiment(experiment)
        if run.known and any(one.info.run_id == run.known for one in self._client.search_runs([number])):
            self._run = run.known
            self._client.update_run(self._run, status="RUNNING")
            return self._run
        made = self._client.create_run(number, run_name=run.folder.resolve().name)
        self._run = made.info.run_id
        settings = [self._parameter(key, str(value)[:_LONGEST]) for key, value in run.config.items()]
        for first in range(0, len(settings), _MOST_PARAMETERS):
            self._client.log_batch(self._run, params=settings[first : first + _MOST_PARAMETERS])
        self._client.log_batch(self._run, tags=[self._tag(key, str(value)) for key, value in run.facts.items()])
        return self._run

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Log numbers of a step in one request."""
        now = int(time.time() * 1000)
        self._client.log_batch(
            self._run, metrics=[self._metric(key, value, now, step) for key, value in values.items()]
        )

    def finish(self, *, finished: bool) -> None:
        """End the run, which may go on later."""
        self._client.set_terminated(self._run, "FINISHED" if finished else "KILLED")
