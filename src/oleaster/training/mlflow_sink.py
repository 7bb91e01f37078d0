"""A run's events in MLflow. Where MLflow keeps them is MLflow's own setting (MLFLOW_TRACKING_URI)."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path

from oleaster.core.errors import MissingExtraError, StorageError
from oleaster.core.files import atomic_write_text
from oleaster.core.run import Run
from oleaster.training.reports import Event, Notice, scalars

EXPERIMENT = "oleaster"
"""Unless MLFLOW_EXPERIMENT_NAME names another."""
_LONGEST_PARAMETER = 500
"""Characters that every tracking server takes."""


class MlflowSink:
    """One MLflow run per run: metrics by step, settings as parameters, notices as tags.

    Args:
        folder: where the data base is to lie (`mlflow.db`); default: where MLflow says.
        settings: logged once, as parameters.
        resumed_step: the step training goes on from; the same MLflow run then goes on.

    Raises: MissingExtraError without the package; StorageError when the tracking server does not answer.
    """

    def __init__(
        self, run: Run, folder: Path | None, settings: Mapping[str, object], resumed_step: int | None = None
    ) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        logging.getLogger("alembic").setLevel(logging.WARNING)
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
        try:
            from mlflow.exceptions import MlflowException  # pyright: ignore[reportMissingImports]  (an extra)
            from mlflow.tracking import MlflowClient  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise MissingExtraError(
                "the package mlflow is not installed",
                where="report_to: mlflow",
                remedy='pip install "oleaster[mlflow]"',
            ) from error
        self._failure: type[Exception] = MlflowException
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        uri = f"sqlite:///{folder.resolve() / 'mlflow.db'}" if folder else None
        note = run.folder / ".mlflow"
        try:
            self._client = MlflowClient(tracking_uri=uri)
            if resumed_step is not None and note.is_file():
                self._run = note.read_text("utf-8")
                self._client.update_run(self._run, status="RUNNING")
                return
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
            found = self._client.get_experiment_by_name(name)
            experiment = found.experiment_id if found else self._client.create_experiment(name)
            self._run = self._client.create_run(experiment, run_name=run.folder.resolve().name).info.run_id
            for key, value in settings.items():
                self._client.log_param(self._run, key, str(value)[:_LONGEST_PARAMETER])
        except MlflowException as error:
            raise StorageError(f"MLflow: {error}") from error
        atomic_write_text(note, self._run)

    def __call__(self, event: Event) -> None:
        from mlflow.entities import Metric, RunTag  # pyright: ignore[reportMissingImports]

        now = int(time.time() * 1000)
        if isinstance(event, Notice):
            tags = [RunTag(f"{event.kind}.{event.step}", event.text)]
            self._client.log_batch(self._run, tags=tags)
            return
        found = {name: value for name, value in scalars(event).items() if math.isfinite(value)}
        metrics = [Metric(name.replace("/", "."), value, now, event.step) for name, value in found.items()]
        self._client.log_batch(self._run, metrics=metrics)

    def close(self) -> None:
        self._client.set_terminated(self._run)
