"""What MLflow is told, asked back through its own client."""

from __future__ import annotations

from pathlib import Path

import pytest

from oleaster.config.schema import WatchConfig
from oleaster.core.run import Run
from oleaster.training.reports import EvalReport, Notice, StepReport
from oleaster.training.sinks import build_sinks

pytest.importorskip("mlflow")


def step(number: int) -> StepReport:
    return StepReport(number, 10, 0.1, 1.0 / number, 1e-3, 2.0, 30, 90, 4, 2.0, 500.0, 600.0, 150.0)


def test_one_run_of_mlflow_lives_through_a_resume(tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    watch = WatchConfig(report_to=["mlflow"], logging_dir=tmp_path / "tracking")
    run = Run(tmp_path / "first")
    run.folder.mkdir()
    for resumed, numbers in ((None, (1, 2)), (2, (3,))):
        sinks = build_sinks(watch, run, resumed, {"learning_rate": 1e-3})
        for sink in sinks:
            for number in numbers:
                sink(step(number))
            sink(EvalReport(numbers[-1], 10, 0.5, 0.7, 0.8, 40, 1.0, True))
            sink(Notice(numbers[-1], "plateau", "look"))
            sink.close()
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'tracking' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("oleaster")
    assert experiment is not None
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.run_name == "first"
    assert found.info.status == "FINISHED"
    assert found.data.params == {"learning_rate": "0.001"}
    assert found.data.tags["plateau.3"] == "look"
    history = client.get_metric_history(found.info.run_id, "train.loss")
    assert sorted((m.step, m.value) for m in history) == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert found.data.metrics["eval.loss"] == 0.7
