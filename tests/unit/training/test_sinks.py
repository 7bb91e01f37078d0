import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from oleaster.config.schema import WatchConfig
from oleaster.core.run import Run
from oleaster.training.reports import EvalReport, Notice, StepReport
from oleaster.training.sinks import JsonLinesSink, TensorBoardSink, build_sinks


def report(step: int, loss: float = 1.0) -> StepReport:
    return StepReport(step, 100, step / 100, loss, 3e-4, 1.0, 10, 20, 2, 2.0, 100.0, 120.0, 150.0)


def validation(step: int) -> EvalReport:
    return EvalReport(step, 100, step / 100, 0.5, 0.4, 50, 1.0, best=True)


def test_each_event_is_one_line_of_its_kind(tmp_path: Path) -> None:
    run = Run(tmp_path)
    sink = JsonLinesSink(run.log)
    for event in (report(1), validation(1), Notice(1, "overfitting", "Überanpassung")):
        sink(event)
        assert run.read_log()[-1]["step"] == 1  # at once, not when the file is closed
    step, eval_, notice = run.read_log()
    assert (step["event"], step["loss"], step["target_tokens"]) == ("step", 1.0, 10)
    assert (eval_["event"], eval_["eval_loss"], eval_["best"]) == ("eval", 0.5, True)
    assert (notice["event"], notice["kind"], notice["text"]) == ("notice", "overfitting", "Überanpassung")
    assert step["time"] > 1.6e9
    sink.close()


@pytest.mark.parametrize("torn", ["", '{"event": "step", "step": 4', "\0\0\0\n\0"])
def test_a_resumed_log_has_each_step_once_and_no_torn_line(torn: str, tmp_path: Path) -> None:
    run = Run(tmp_path)
    sink = JsonLinesSink(run.log)
    for step in (10, 20, 30):
        sink(report(step))
    sink(Notice(20, "generic_path", "two\u2028lines\x85 of text"))
    sink.close()
    with run.log.open("a") as file:
        file.write(torn)
    sink = JsonLinesSink(run.log, resumed_step=20)
    sink(report(30, loss=0.25))
    sink.close()
    assert [(e["step"], e.get("loss")) for e in run.read_log()] == [(10, 1.0), (20, 1.0), (20, None), (30, 0.25)]


def test_a_new_log_begins_empty_and_a_resume_without_a_log_works(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.log.write_text('{"step": 1}\n')
    JsonLinesSink(run.log).close()
    assert run.read_log() == []
    run.log.unlink()
    JsonLinesSink(run.log, resumed_step=5).close()
    assert run.read_log() == []


def test_numbers_json_does_not_know_are_null(tmp_path: Path) -> None:
    sink = JsonLinesSink(tmp_path / "log.jsonl")
    sink(report(1, loss=float("nan")))
    sink.close()
    line = json.loads((tmp_path / "log.jsonl").read_text(), parse_constant=lambda c: pytest.fail(c))
    assert line["loss"] is None


def test_tensorboard_shows_each_step_once_after_a_kill_and_a_resume(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    code = (
        "import os, signal, sys, pathlib; from test_sinks import *\n"
        "sink = TensorBoardSink(pathlib.Path(sys.argv[1]))\n"
        "for step in (10, 20, 30): sink(report(step))\n"
        "sink(validation(20)); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path], cwd=Path(__file__).parent, check=False)
    time.sleep(1.0)  # TensorBoard orders event files by the second in their name
    sink = TensorBoardSink(tmp_path, resumed_step=20)
    sink(report(30, loss=0.25))
    sink(Notice(30, "overfitting", "since step 20"))
    sink.close()
    shown = EventAccumulator(str(tmp_path))
    shown.Reload()
    assert [(e.step, e.value) for e in shown.Scalars("train/loss")] == [(10, 1.0), (20, 1.0), (30, 0.25)]
    assert [(e.step, e.value) for e in shown.Scalars("eval/loss")] == [(20, 0.5)]
    names = {"train/loss", "lr", "grad_norm", "tokens_per_second", "memory_mb", "peak_memory_mb", "cpu_percent"}
    assert names <= set(shown.Tags()["scalars"])
    assert [e.value for e in shown.Scalars("tokens_per_second")] == [10.0] * 3


def test_the_config_says_which_sinks_there_are(tmp_path: Path) -> None:
    (only,) = build_sinks(WatchConfig(), Run(tmp_path))
    only.close()
    assert isinstance(only, JsonLinesSink)
    sinks = build_sinks(WatchConfig(report_to=["tensorboard"], logging_dir=tmp_path / "tb"), Run(tmp_path / "out"))
    for sink in sinks:
        sink.close()
    assert {type(s) for s in sinks} == {JsonLinesSink, TensorBoardSink}
    assert list((tmp_path / "tb" / "out").glob("events*"))
