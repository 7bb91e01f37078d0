"""A log is read while it is written."""

from __future__ import annotations

import json
import math
from pathlib import Path

from oleaster.config.schema import WatchConfig
from oleaster.core.run import Run
from oleaster.reporting.history import History
from oleaster.training.reports import EvalReport, Notice, StepReport
from oleaster.training.sinks import build_sinks


def step(number: int, loss: float = 1.0) -> StepReport:
    return StepReport(number, 10, 0.1, loss, 1e-3, 2.0, 30, 90, 4, 2.0, 500.0, 600.0, 150.0)


VALIDATION = EvalReport(2, 10, 0.5, 0.7, 0.8, 40, 1.0, True)


def test_what_the_loop_wrote_comes_back_equal(tmp_path: Path) -> None:
    (sink,) = build_sinks(WatchConfig(), Run(tmp_path))
    events = [step(1), VALIDATION, Notice(2, "overfitting", "look")]
    for event in events:
        sink(event)
    sink.close()
    history = History.of(tmp_path / "log.jsonl")
    assert [*history.steps, *history.evals, *history.notices] == events
    assert history.total_steps == 10
    assert history.cpu_seconds() == 3.0


def test_reading_goes_on_where_it_ended_and_waits_for_whole_lines(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    history = History.of(log)
    assert not history.read_on()
    lines = [json.dumps({"event": "step", "time": float(n), **vars(step(n))}) + "\n" for n in (1, 2)]
    log.write_text(lines[0] + lines[1][:20])
    assert history.read_on()
    assert [s.step for s in history.steps] == [1]
    with log.open("a") as file:
        file.write(lines[1][20:])
    assert history.read_on()
    assert [s.step for s in history.steps] == [1, 2]
    assert not history.read_on()


def test_a_resumed_run_writes_its_log_anew_and_is_read_anew(tmp_path: Path) -> None:
    for _ in range(2):
        (sink,) = build_sinks(WatchConfig(), Run(tmp_path))
        for number in (1, 2, 3):
            sink(step(number))
        sink.close()
    history = History.of(tmp_path / "log.jsonl")
    (sink,) = build_sinks(WatchConfig(), Run(tmp_path), resumed_step=2)
    sink(step(3, loss=0.5))
    sink.close()
    assert history.read_on()
    assert [(s.step, s.loss) for s in history.steps] == [(1, 1.0), (2, 1.0), (3, 0.5)]


def test_a_loss_that_was_no_number_is_none_again_and_unknown_lines_are_passed_over(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    broken = {"event": "step", "time": 1.0, **vars(step(1)), "loss": None, "of_a_newer_version": 1}
    log.write_text(json.dumps(broken) + '\n{"event": "news"}\n\x00\x00\n')
    history = History.of(log)
    assert math.isnan(history.steps[0].loss)
    assert history.steps[0].gpu_memory_mb is None
    assert len(history.steps) == 1


def test_a_run_that_tells_nothing_any_more_is_silent_while_a_process_holds_it_and_else_broken_off(
    tmp_path: Path,
) -> None:
    import time

    from oleaster.reporting.live import Watched

    lines = [{"event": "step", "time": time.time() - age, **vars(step(1))} for age in (4000, 3990, 3980)]
    with Run.claim(tmp_path, "seed: 1\n") as run:
        for count, state in ((0, "waiting"), (1, "silent for 1:"), (3, "silent for 1:0")):
            run.log.write_text("".join(json.dumps(line) + "\n" for line in lines[:count]))
            assert Watched.open(tmp_path).now().state.startswith(state)
        fresh = {"event": "step", "time": time.time(), **vars(step(1))}
        run.log.write_text(json.dumps(fresh) + "\n")
        assert Watched.open(tmp_path).now().state == "training"
    assert Watched.open(tmp_path).now().state == "broken off"
    run.finish({})
    assert Watched.open(tmp_path).now().state == "done"
