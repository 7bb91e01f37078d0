"""What a training shows as it runs."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from oleaster.cli.progress import Pace, shown_progress
from oleaster.training.reports import EvalReport, Event, Notice, StepReport


def report(step: int, seconds: float = 5.0, total: int = 100) -> StepReport:
    return StepReport(
        step=step,
        total_steps=total,
        epoch=step / 50,
        loss=1.23456,
        learning_rate=3e-4,
        grad_norm=1.0,
        target_tokens=100,
        input_tokens=5000,
        rows=160,
        seconds=seconds,
        memory_mb=812.4,
        peak_memory_mb=900.0,
        cpu_percent=180.0,
    )


EVENTS: list[Event] = [
    Notice(0, "generic_path", "This model takes the generic path [exact, slower]."),
    report(1),
    report(11),
    EvalReport(11, 100, 0.2, 0.9, 1.1, 300, 2.0, True),
    Notice(20, "overfitting", "Validation loss rises while training loss falls."),
]


def shown(terminal: bool) -> str:
    output = io.StringIO()
    with shown_progress(Console(file=output, force_terminal=terminal, width=200)) as sink:
        for event in EVENTS:
            sink(event)
    return output.getvalue()


def test_a_pipe_gets_one_plain_line_per_event() -> None:
    lines = shown(terminal=False).splitlines()
    assert lines[0] == "This model takes the generic path [exact, slower]."
    assert lines[2] == ("step 11/100  loss 1.2346  lr 3.00e-04  1,000 tok/s  32.0 rows/s  left 0:00:44  812 MB")
    assert lines[3] == "step 11/100  validation loss 0.9000  (training 1.1000, 2.0 s)  best so far"
    assert lines[4] == "step 20: Validation loss rises while training loss falls."
    assert len(lines) == len(EVENTS)


def test_a_terminal_gets_a_bar_and_the_notices() -> None:
    text = shown(terminal=True)
    for part in ("11/100", "loss 1.2346", "val 0.9000", "Validation loss rises", "[exact, slower]"):
        assert part in text


def test_the_forecast_waits_for_a_second_report() -> None:
    pace = Pace()
    assert pace.seconds_left(report(510)) is None
    assert pace.seconds_left(report(520, total=600)) == pytest.approx(0.5 * 80)


def test_the_forecast_follows_slowly() -> None:
    pace = Pace()
    pace.seconds_left(report(1))
    assert pace.seconds_left(report(11, seconds=10)) == pytest.approx(89)
    assert pace.seconds_left(report(21, seconds=20)) == pytest.approx((0.7 + 0.3 * 2) * 79)
    assert pace.seconds_left(report(100, seconds=20)) == 0
