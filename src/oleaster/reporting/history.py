"""A run's log as the typed events it was written from, once or again and again while the run goes on."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from oleaster.training.reports import EvalReport, Event, Notice, StepReport

_KINDS: dict[str, type[Event]] = {"step": StepReport, "eval": EvalReport, "notice": Notice}


@dataclass
class History:
    """What has happened so far; `read_on` adds what was written since.

    Reading is by bytes from where it ended, so that following a long run costs nothing. A line that is only half
    written is left for the next time.
    """

    log: Path
    steps: list[StepReport] = field(default_factory=list)
    evals: list[EvalReport] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    """Unix seconds of each of `steps`."""
    _offset: int = 0
    _identity: tuple[int, int] = (0, 0)

    @classmethod
    def of(cls, log: Path) -> History:
        """All that the log holds now; an absent log is an empty history."""
        history = cls(log)
        history.read_on()
        return history

    def read_on(self) -> bool:
        """Take in what is new. Returns: was there anything?"""
        try:
            found = self.log.stat()
            identity = (found.st_dev, found.st_ino)
            if identity != self._identity or found.st_size < self._offset:  # a resumed run writes its log anew
                self._forget(identity)
            with self.log.open("rb") as file:
                file.seek(self._offset)
                new, _, _torn = file.read().rpartition(b"\n")
        except FileNotFoundError:
            return False
        self._offset += len(new) + 1 if new else 0
        for line in new.split(b"\n") if new else ():
            self._take_in(line)
        return bool(new)

    @property
    def total_steps(self) -> int:
        return self.steps[-1].total_steps if self.steps else 0

    @property
    def seconds_silent(self) -> float | None:
        """Since the last step that was reported; None before the first."""
        return time.time() - self.times[-1] if self.times else None

    def cpu_seconds(self) -> float:
        """Processor time of the reported steps, all cores together, in seconds."""
        return sum(report.seconds * report.cpu_percent / 100 for report in self.steps if report.seconds > 0)

    def _take_in(self, line: bytes) -> None:
        try:
            found = json.loads(line)
        except ValueError:
            return  # a power cut leaves a tail of zeros; the run itself cuts it off when it goes on
        event = _event(found) if isinstance(found, dict) else None
        if isinstance(event, StepReport):
            self.steps.append(event)
            self.times.append(float(found.get("time") or 0.0))
        elif isinstance(event, EvalReport):
            self.evals.append(event)
        elif event is not None:
            self.notices.append(event)

    def _forget(self, identity: tuple[int, int]) -> None:
        self._offset, self._identity = 0, identity
        for events in (self.steps, self.evals, self.notices, self.times):
            events.clear()


def _event(found: Mapping[str, Any]) -> Event | None:
    """The event of a line; fields of a newer version are passed over, a number that was not finite is nan again."""
    kind = _KINDS.get(str(found.get("event")))
    if kind is None:
        return None
    values = dict(_values(kind, found))
    try:
        return kind(**values)
    except TypeError:
        return None


def _values(kind: type[Event], found: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for known in fields(kind):
        if known.name in found:
            value = found[known.name]
            yield known.name, math.nan if value is None and known.type == "float" else value
