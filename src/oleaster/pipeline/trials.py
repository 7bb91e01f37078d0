"""One trial: trained, watched, pruned or measured."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from oleaster.config.schema import Config
from oleaster.core.errors import FidelityError, NonFiniteError, UserError
from oleaster.core.files import remove_folder
from oleaster.core.run import Run
from oleaster.pipeline.measures import measure, seconds_of
from oleaster.search.papers import Trial, TrialEnds, TrialValidated, Watch
from oleaster.search.points import recipe_of_point

if TYPE_CHECKING:
    from oleaster.pipeline.shelf import Shelf
    from oleaster.search.study import Study, Taken
    from oleaster.training.driving import Answer, Demand
    from oleaster.training.reports import Sink


class Pruned(Exception):  # noqa: N818  no error, like StopIteration
    """The trial that is being trained is poor."""


class OutOfTime(Exception):  # noqa: N818  likewise
    """The budget is used up."""


@dataclass(frozen=True)
class Deadline:
    """When a search stops; None = never."""

    at: float | None
    """`time.monotonic()`"""

    @classmethod
    def after(cls, minutes: float | None) -> Deadline:
        return cls(None if minutes is None else time.monotonic() + 60 * minutes)

    @property
    def is_past(self) -> bool:
        return self.at is not None and time.monotonic() > self.at


def trial_training(
    study: Study, taken: Taken, shelf: Shelf, deadline: Deadline, watch: Watch
) -> Generator[Demand, Answer, Trial]:
    """Train a trial, measure it, and tell the study. A trial that was broken off goes on from its last checkpoint.

    Asks for the gradients of its steps (see `training.driving`), so that several can be trained in one pass.

    Raises:
        OutOfTime, KeyboardInterrupt: the trial is unfinished and given up; its checkpoints are kept.
        RunError: the disk is full, or so; the trial is given up likewise.
    """
    from oleaster.pipeline.tuning import tuning

    if taken.twin is not None:
        twin = study.trial(taken.twin)
        return study.tell(taken, twin.values, 0.0, f"has the settings of trial {twin.number}")
    try:
        config = recipe_of_point(study.config, taken.point, taken.folder)
        run = yield from tuning(config, [_watching(study, taken, config, deadline, watch)], shelf)
        values = measure(run, config, study.dimensions, study.objectives, shelf)
    except Pruned as reason:
        _forget_checkpoints(Run(taken.folder))
        return study.tell_pruned(taken, seconds_of(Run(taken.folder)), str(reason))
    except (UserError, NonFiniteError, FidelityError) as error:
        # Settings that do not go together, or a rate so high that nothing is left: not an end of the search.
        return study.tell_failed(taken, str(error))
    except BaseException:
        taken.let_go()
        raise
    _forget_checkpoints(run)
    return study.tell(taken, values, values["train_seconds"])


def _watching(study: Study, taken: Taken, config: Config, deadline: Deadline, watch: Watch) -> Sink:
    """Reports validations to the study, and stops what is poor or out of time."""
    from oleaster.training.reports import EvalReport

    def sink(event: Any) -> None:
        if isinstance(event, EvalReport):
            validation = _validations(config, event)
            watch(TrialValidated(taken.number, validation, event.eval_loss, event.step / event.total_steps))
            if study.report(taken, validation, event.eval_loss) and event.step < event.total_steps:
                raise Pruned(f"loss {event.eval_loss:.4f} at validation {validation}, others did better")
        if deadline.is_past:
            raise OutOfTime

    return sink


def _validations(config: Config, event: Any) -> int:
    """Which validation of its training this is, from 1."""
    if config.watch.eval_steps:
        return -(-event.step // config.watch.eval_steps)
    return max(1, round(2 * event.epoch))


def _forget_checkpoints(run: Run) -> None:
    if run.checkpoints.is_dir():
        remove_folder(run.checkpoints)


def work(study: Study, shelf: Shelf, deadline: Deadline, watch: Watch) -> None:
    """Take trials and train them, some together, until no more are wanted, or the time is over."""
    from oleaster.search.papers import SearchNote
    from oleaster.training.driving import drive_together, finish

    together = study.config.search_strategy.trials_together
    seats = [_seat(study, shelf, deadline, watch) for _ in range(together)]
    with suppress(OutOfTime):
        if together == 1:
            finish(seats[0])
        else:
            drive_together(seats)
    if deadline.is_past:
        watch(SearchNote("the budget is used up; --resume goes on from here"))


def _seat(study: Study, shelf: Shelf, deadline: Deadline, watch: Watch) -> Generator[Demand, Answer, None]:
    """One trial after the other."""
    from oleaster.search.papers import TrialBegins

    while not deadline.is_past and (taken := study.take()) is not None:
        watch(TrialBegins(taken.number, taken.point, taken.continued))
        trial = yield from trial_training(study, taken, shelf, deadline, watch)
        watch(end_of(study, trial))


def run_one(study: Study, shelf: Shelf) -> None:
    """Take a trial, if one is wanted, and train it alone."""
    from oleaster.training.driving import finish

    if (taken := study.take()) is not None:
        finish(trial_training(study, taken, shelf, Deadline(None), lambda event: None))


def end_of(study: Study, trial: Trial) -> TrialEnds:
    """What is told of a trial that has ended."""
    aims = {o.name: trial.values[o.name] for o in study.objectives if o.name in trial.values}
    return TrialEnds(trial, aims, trial.number in {best.number for best in study.best()})
