"""Runs as they go: figures of now, curves side by side, and a page on this machine that shows both."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock
from typing import Any

from oleaster.core.line import open_run
from oleaster.core.run import Run
from oleaster.reporting.charts import Curve, Mark, line_chart, number
from oleaster.reporting.history import History
from oleaster.reporting.page import NO_WARNINGS, Chart, template
from oleaster.training.reports import Notice, StepReport

_STYLES = ("first", "second", "third", "fourth")
_SILENT = 20.0
"""Times the usual pause between two lines of the log, after which a run is called silent; at least a minute."""
_FIRST_PAUSE = 30.0
"""Seconds that are taken for the usual pause before there was one."""
_OWN_HOSTS = ("127.0.0.1", "localhost", "[::1]")
HOST = "127.0.0.1"


@dataclass(frozen=True)
class Now:
    """How a run stands."""

    state: str
    """`waiting`, `training`, `silent for 0:03:10`, `broken off` or `done`."""
    figures: tuple[tuple[str, str], ...]
    """(what, how much)"""
    alerts: tuple[Notice, ...]
    share: float
    """Of the steps that are done, 0 to 1."""


@dataclass
class Watched:
    """A run and what its log has told so far."""

    name: str
    run: Run
    history: History

    @classmethod
    def open(cls, folder: Path) -> Watched:
        """Raises: ConfigError when there is no run in `folder` to be shown."""
        run = open_run(folder)
        named = run.folder if run.folder == folder.parent else folder  # RUN/model stands for RUN
        return cls(named.name or str(named), run, History.of(run.log))

    @property
    def is_done(self) -> bool:
        return self.run.is_done

    def now(self) -> Now:
        """The figures of the last report."""
        history = self.history
        alerts = tuple(notice for notice in history.notices if notice.kind not in NO_WARNINGS)
        if not history.steps:
            return Now(self._state(), (), alerts, 0.0)
        last = history.steps[-1]
        share = 1.0 if self.is_done else last.step / max(1, last.total_steps)
        return Now(self._state(), tuple(self._figures(last)), alerts, share)

    def _state(self) -> str:
        if self.is_done:
            return "done"
        if not self.run.is_under_way:
            return "broken off"
        if not self.history.steps:
            return "waiting"
        silent, times = self.history.seconds_silent or 0.0, self.history.times
        pause = (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else _FIRST_PAUSE
        return f"silent for {_clock(silent)}" if silent > max(60.0, _SILENT * pause) else "training"

    def _figures(self, last: StepReport) -> list[tuple[str, str]]:
        evals = self.history.evals
        seconds = max(last.seconds, 1e-9)
        found = [
            ("step", f"{last.step:,} of {last.total_steps:,}, epoch {last.epoch:.2f}"),
            ("training loss", number(last.loss)),
        ]
        if evals:
            best = min(evals, key=lambda e: e.eval_loss if math.isfinite(e.eval_loss) else math.inf)
            found.append(("validation loss", f"{number(evals[-1].eval_loss)}, best {number(best.eval_loss)}"))
        found += [
            ("learning rate", number(last.learning_rate)),
            ("gradient norm", number(last.grad_norm)),
            ("speed", f"{last.input_tokens / seconds:,.0f} tokens/s, {last.rows / seconds:,.1f} rows/s"),
            ("memory", f"{last.memory_mb:,.0f} MB, most {last.peak_memory_mb:,.0f} MB"),
            ("processor", f"{last.cpu_percent / 100:.1f} cores"),
        ]
        if last.gpu_memory_mb is not None:
            found.append(("GPU memory", f"{last.gpu_memory_mb:,.0f} MB"))
        if self.run.is_under_way and (left := self._seconds_left(last)) is not None:
            found.append(("time left", _clock(left)))
        return found

    def _seconds_left(self, last: StepReport) -> float | None:
        """From the pace since the first report, whose step holds one-time work."""
        first = self.history.steps[0]
        if last.step <= first.step:
            return None
        pace = (self.history.times[-1] - self.history.times[0]) / (last.step - first.step)
        return pace * (last.total_steps - last.step)


Figure = Callable[[StepReport], float]
CURVES: Mapping[str, tuple[str, Figure, bool]] = {
    "Training loss": ("nats per token", lambda s: s.loss, False),
    "Learning rate": ("", lambda s: s.learning_rate, True),
    "Gradient norm": ("before clipping", lambda s: s.grad_norm, False),
    "Speed": ("tokens per second", lambda s: s.input_tokens / s.seconds if s.seconds > 0 else math.nan, True),
    "Memory": ("MB resident", lambda s: s.memory_mb, True),
    "Processor": ("busy cores", lambda s: s.cpu_percent / 100, True),
}
"""Heading -> (unit, what of a report is drawn, is it an amount)."""


def charts_of(watched: Sequence[Watched]) -> list[Chart]:
    """A chart per figure, a curve per run."""
    marks = [
        Mark(notice.step, f"{one.name}: {notice.text}")
        for one in watched
        for notice in one.history.notices
        if notice.kind not in NO_WARNINGS
    ]
    legend = tuple((_style(i), one.name) for i, one in enumerate(watched)) if len(watched) > 1 else ()
    found = []
    for title, (unit, figure, amount) in CURVES.items():
        curves = [
            Curve(one.name, tuple((s.step, figure(s)) for s in one.history.steps), _style(i))
            for i, one in enumerate(watched)
        ]
        found.append(Chart(title, line_chart(title, unit, curves, marks, from_zero=amount), legend))
    held = [
        Curve(one.name, tuple((e.step, e.eval_loss) for e in one.history.evals), _style(i))
        for i, one in enumerate(watched)
    ]
    found.insert(1, Chart("Validation loss", line_chart("Validation loss", "nats per token", held, marks), legend))
    return [chart for chart in found if chart.svg]


def fragment(watched: Sequence[Watched]) -> str:
    """What of the page changes."""
    for one in watched:
        one.history.read_on()
    return template("live.html.jinja").render(
        runs=[(_style(i), one.name, one.now()) for i, one in enumerate(watched)], charts=charts_of(watched), whole=False
    )


def page(watched: Sequence[Watched]) -> str:
    """The page, with its figures of now."""
    names = ", ".join(one.name for one in watched)
    return template("live.html.jinja").render(names=names, content=fragment(watched), whole=True)


def make_server(watched: Sequence[Watched], port: int) -> ThreadingHTTPServer:
    """A server on this machine only; `serve_forever` runs it. Port 0: a free one.

    Raises: OSError when the port is taken.
    """
    reading = Lock()  # each request has a thread of its own, and they read on in the same logs

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            host = (self.headers.get("Host") or "").rpartition(":")[0] or self.headers.get("Host")
            if host not in _OWN_HOSTS:  # a foreign page that lets its name point here must not read along
                self.send_error(403)
            elif self.path == "/":
                with reading:
                    text = page(watched)
                self._answer(text, "text/html")
            elif self.path == "/now":
                with reading:
                    now = {"html": fragment(watched), "done": all(one.is_done for one in watched)}
                self._answer(json.dumps(now), "application/json")
            else:
                self.send_error(404)

        def _answer(self, text: str, kind: str) -> None:
            content = text.encode()
            self.send_response(200)
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            """A line per request would hide what the user looks at."""

    return ThreadingHTTPServer((HOST, port), Handler)


def _style(number_of_run: int) -> str:
    return _STYLES[number_of_run % len(_STYLES)]


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
