"""Shows a training as it runs: a bar on a terminal, plain lines in a file or pipe. Notices stand above the bar."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from oleaster.training.reports import EvalReport, Event, Notice, Sink, StepReport


@contextmanager
def shown_progress(console: Console) -> Iterator[Sink]:
    """A sink that shows events on `console` until the block ends.

    rich prints notices above the bar and puts the terminal right again, whatever ends the block.
    """
    if not console.is_terminal:
        yield _Lines(console)
        return
    columns = (BarColumn(bar_width=24), MofNCompleteColumn(), TextColumn("{task.fields[figures]}", markup=False))
    with Progress(*columns, console=console) as progress:
        yield _Bar(progress)


def labelled_lines(console: Console, name: str) -> Sink:
    """A sink that shows events as lines that begin with a name: for one of several trainings at once."""
    return _Lines(console, f"{name}: ")


class Pace:
    """Seconds per optimiser step, smoothed over reports so that one slow report does not upset the forecast."""

    def __init__(self) -> None:
        self._step: int | None = None
        self._rate: float | None = None

    def seconds_left(self, report: StepReport) -> float | None:
        """Forecast from `report` to the last step, without validations; None when nothing is known yet.

        The first report only sets the start: its step holds one-time work, and after a resume it does not say how many
        steps its seconds are for.
        """
        if self._step is not None and report.step > self._step:
            now = report.seconds / (report.step - self._step)
            self._rate = now if self._rate is None else 0.7 * self._rate + 0.3 * now
        self._step = report.step
        return None if self._rate is None else self._rate * (report.total_steps - report.step)


class _Bar:
    """Sink for a terminal."""

    def __init__(self, progress: Progress) -> None:
        self._progress, self._pace = progress, Pace()
        self._training, self._validation = "preparing", ""
        self._task = progress.add_task("training", total=None, figures=self._training)

    def __call__(self, event: Event) -> None:
        if isinstance(event, StepReport):
            self._training = step_figures(event, self._pace)
        elif isinstance(event, EvalReport):
            self._validation = f"val {event.eval_loss:.4f}  "
            self._progress.console.print(eval_line(event), markup=False, highlight=False)
        else:
            self._progress.console.print(notice_line(event), style="yellow", markup=False, highlight=False)
            return
        figures = self._validation + self._training
        self._progress.update(self._task, completed=event.step, total=event.total_steps, figures=figures)


class _Lines:
    """Sink for a file or pipe: one line per event."""

    def __init__(self, console: Console, label: str = "") -> None:
        self._console, self._pace, self._label = console, Pace(), label

    def __call__(self, event: Event) -> None:
        if isinstance(event, StepReport):
            line = f"step {event.step}/{event.total_steps}  {step_figures(event, self._pace)}"
        elif isinstance(event, EvalReport):
            line = eval_line(event)
        else:
            line = notice_line(event)
        self._console.print(self._label + line, markup=False, highlight=False, soft_wrap=True)


def step_figures(report: StepReport, pace: Pace) -> str:
    """Loss (nats per learned token), speed, time left, memory (MiB)."""
    seconds = max(report.seconds, 1e-9)
    left = pace.seconds_left(report)
    parts = [
        f"loss {report.loss:.4f}",
        f"lr {report.learning_rate:.2e}",
        f"{report.input_tokens / seconds:,.0f} tok/s",
        f"{report.rows / seconds:,.1f} rows/s",
        f"left {'?' if left is None else timedelta(seconds=round(left))}",
        f"{report.memory_mb:,.0f} MB",
    ]
    if report.gpu_memory_mb is not None:
        parts.append(f"GPU {report.gpu_memory_mb:,.0f} MB")
    return "  ".join(parts)


def eval_line(report: EvalReport) -> str:
    """Validation loss beside the training loss."""
    best = "  best so far" if report.best else ""
    return (
        f"step {report.step}/{report.total_steps}  validation loss {report.eval_loss:.4f}"
        f"  (training {report.train_loss:.4f}, {report.seconds:.1f} s){best}"
    )


def notice_line(notice: Notice) -> str:
    """The notice with its step, once training has begun."""
    return f"step {notice.step}: {notice.text}" if notice.step else notice.text
