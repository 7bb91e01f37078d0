"""Where the loop's events are written: JSON lines always, TensorBoard and MLflow on request."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from oleaster.config.schema import WatchConfig
from oleaster.core.errors import MissingExtraError
from oleaster.core.files import atomic_write_text, storage_errors
from oleaster.core.run import Run
from oleaster.training.reports import EvalReport, Event, Notice, StepReport, scalars

_NAMES = {StepReport: "step", EvalReport: "eval", Notice: "notice"}


class JsonLinesSink:
    """Appends one JSON object per event: `event` (step, eval or notice), `time` (Unix seconds), the report's fields.

    Every line reaches the system at once, so a kill loses none. Numbers that JSON does not know (NaN, infinity) are
    written as null.

    Args:
        path: the log.
        resumed_step: the step training goes on from: later lines, which will be written again, and a torn last line
            are cut off. None: the log begins empty.

    Raises: StorageError when the disk is full.
    """

    def __init__(self, path: Path, resumed_step: int | None = None) -> None:
        self._path = path
        kept = [] if resumed_step is None else _lines_up_to(path, resumed_step)
        atomic_write_text(path, "".join(kept))
        self._file = path.open("a", encoding="utf-8")

    def __call__(self, event: Event) -> None:
        line = {"event": _NAMES[type(event)], "time": round(time.time(), 3), **_finite(asdict(event))}
        with storage_errors(self._path):
            self._file.write(json.dumps(line, ensure_ascii=False) + "\n")
            self._file.flush()

    def close(self) -> None:
        self._file.close()


class TensorBoardSink:
    """Scalars for TensorBoard: `train/loss`, `eval/loss`, `lr`, `grad_norm`, `tokens_per_second`, memory, CPU.

    Args:
        folder: where the event file goes.
        resumed_step: the step training goes on from; what TensorBoard was told of later steps is taken back. None: the
            training begins.

    Raises: MissingExtraError without the package tensorboard.
    """

    def __init__(self, folder: Path, resumed_step: int | None = None) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingExtraError(
                "the package tensorboard is not installed",
                where="report_to: tensorboard",
                remedy='pip install "oleaster[tensorboard]"',
            ) from error
        self._writer = SummaryWriter(str(folder), purge_step=0 if resumed_step is None else resumed_step + 1)

    def __call__(self, event: Event) -> None:
        for tag, value in scalars(event).items():
            self._writer.add_scalar(tag, value, event.step)
        if isinstance(event, Notice):
            self._writer.add_text(event.kind, event.text, event.step)
        self._writer.flush()  # else up to two minutes of curves are lost with a kill, and a resume does not redo them

    def close(self) -> None:
        self._writer.close()


class ClosingSink(Protocol):
    """A sink that holds something open."""

    def __call__(self, event: Event) -> None: ...

    def close(self) -> None: ...


def build_sinks(
    watch: WatchConfig, run: Run, resumed_step: int | None = None, settings: Mapping[str, object] = {}
) -> list[ClosingSink]:
    """The sinks that the config asks for. Close them at the end.

    Args:
        settings: those that a tracking server is told.

    Raises: MissingExtraError, before anything is written.
    """
    sinks: list[ClosingSink] = []
    if "tensorboard" in watch.report_to:
        # A folder given is one for many runs: each gets its own below it, and its own curve.
        given = watch.logging_dir and watch.logging_dir / run.folder.resolve().name
        sinks.append(TensorBoardSink(given or run.folder / "logs", resumed_step))
    if "mlflow" in watch.report_to:
        from oleaster.training.mlflow_sink import MlflowSink

        sinks.append(MlflowSink(run, watch.logging_dir, settings, resumed_step))
    sinks.append(JsonLinesSink(run.log, resumed_step))
    return sinks


def _lines_up_to(path: Path, step: int) -> list[str]:
    if not path.exists():
        return []
    *lines, _torn = path.read_text("utf-8", errors="replace").split("\n")  # not splitlines: texts may hold U+2028
    kept = []
    for line in lines:
        try:
            event = json.loads(line)
        except json.JSONDecodeError:
            break  # a power cut can leave a tail of zeros
        if event["step"] <= step:
            kept.append(line + "\n")
    return kept


def _finite(fields: dict[str, Any]) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in fields.items()}
