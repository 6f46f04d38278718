"""MLflow: a run in the store that MLFLOW_TRACKING_URI names, by default one in the working directory."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TypeVar

from pipeline.training.trackers.base import Outcome, Point, TrackedRun, client

# By this tag a resumed run finds the run that it began.
ID_TAG = "twinstep.id"
_STATUS = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
# What MLflow takes at once, and the longest value of a parameter.
_MOST_METRICS, _MOST_PARAMS, _LONGEST_PARAM = 1000, 100, 500
Item = TypeVar("Item")


class MLflow:
    """A run of MLflow, in the experiment that MLFLOW_EXPERIMENT_NAME names, or else one of the recipe's name.

    A resumed run continues it; steps that the store has are not logged again.
    """

    def __init__(self, run: TrackedRun):
        self._entities = client("mlflow.entities")
        self._client = client("mlflow").MlflowClient()
        for library in ("mlflow.store", "alembic"):  # they tell that they make tables
            logging.getLogger(library).setLevel(logging.ERROR)
        experiment = self._experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME") or run.group)
        found = self._client.search_runs([experiment], f"tags.`{ID_TAG}` = '{run.id}'")
        if found:
            self._run_id = found[0].info.run_id
            self._client.update_run(self._run_id, status="RUNNING")
            return
        made = self._client.create_run(experiment, tags={ID_TAG: run.id}, run_name=run.name)
        self._run_id = made.info.run_id
        param = self._entities.Param
        params = [param(_name(key), str(value)[:_LONGEST_PARAM]) for key, value in run.hyperparameters.items()]
        for batch in _batches(params, _MOST_PARAMS):
            self._client.log_batch(self._run_id, params=batch)

    def _experiment(self, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        return self._client.create_experiment(name) if found is None else found.experiment_id

    def last_step(self, name: str) -> int:
        """The last step of a metric in the store."""
        return max((metric.step for metric in self._client.get_metric_history(self._run_id, _name(name))), default=0)

    def log(self, points: Sequence[Point]) -> None:
        """Write the values into the store, many at once."""
        now, metric = int(time.time() * 1000), self._entities.Metric
        values = [
            metric(_name(name), value, now, point.step) for point in points for name, value in point.named().items()
        ]
        for batch in _batches(values, _MOST_METRICS):
            self._client.log_batch(self._run_id, metrics=batch)

    def add_files(self, files: Sequence[Path]) -> None:
        """Add files as artifacts."""
        for file in files:
            self._client.log_artifact(self._run_id, str(file))

    def close(self, outcome: Outcome) -> None:
        """Set how the run ended."""
        self._client.set_terminated(self._run_id, status=_STATUS[outcome])


def _name(name: str) -> str:
    """The name with the characters that MLflow allows."""
    return re.sub(r"[^\w\-./ ]", "_", name, flags=re.ASCII)


def _batches(items: Sequence[Item], size: int) -> Iterator[list[Item]]:
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch
