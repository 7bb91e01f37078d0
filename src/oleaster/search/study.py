"""Which trials there are, who works on which, what came out. Several processes may hold the same study.

A trial is RUNNING in the study from the moment it is begun, and its worker holds a lock that the system frees when the
process ends, however it ends. So a trial that is RUNNING with a free lock was broken off, and whoever comes next goes
on with it from its last checkpoint.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock, Timeout
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from oleaster.config.schema import Config
from oleaster.config.search import Dimension, SearchStrategyConfig, text_of
from oleaster.search.folder import lock_of, trial_folder, trials_folder
from oleaster.search.papers import Findings, Objective, State, Trial
from oleaster.search.points import Point, draw, grid, own_point
from oleaster.search.storage import open_storage

DEFAULT_TRIALS = 20
FEWEST_TO_TELL = 8
"""Complete trials; of fewer nothing can be said about what mattered."""
MOST_STUCK = 3
"""So often may a process die in a trial without a step forward; then the trial is at fault, not the user."""
_STATES: dict[TrialState, State] = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}
_ASHA_KEEPS = 3
"""One of so many goes on at each rung."""


@dataclass
class Taken:
    """A trial that this process works on until it tells what came of it, or lets go."""

    number: int
    point: Point
    folder: Path
    continued: bool
    twin: int | None
    """A complete trial with the very same settings."""
    optuna_trial: Any
    lock: FileLock

    def let_go(self) -> None:
        """Give it up unfinished: the next one who looks for work goes on with it."""
        self.lock.release()


class Study:
    """The trials of one search.

    Args:
        folder: of the search, claimed.
        config: the recipe of the search.
        dimensions: what is searched, in order.
        objectives: the first one is that which prunes, and whose best trial is kept.
    """

    def __init__(
        self, folder: Path, config: Config, dimensions: Sequence[Dimension], objectives: Sequence[Objective]
    ) -> None:
        self.folder, self.config = folder, config
        self.dimensions, self.objectives = tuple(dimensions), tuple(objectives)
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        (trials_folder(folder) / ".locks").mkdir(parents=True, exist_ok=True)
        self.lock = lock_of(folder)
        strategy = config.search_strategy
        self._points = list(grid(dimensions, config)) if strategy.type == "grid" else []
        self.wanted = strategy.num_trials or len(self._points) or DEFAULT_TRIALS
        with self.lock:
            self._study = optuna.create_study(
                storage=open_storage(strategy.storage, folder),
                study_name="oleaster",
                directions=["maximize" if o.maximize else "minimize" for o in objectives],
                pruner=make_pruner(strategy, self.startup_trials),
                load_if_exists=True,
            )
            self._enqueue()

    @property
    def startup_trials(self) -> int:
        """Trials before the sampler learns."""
        return self.config.search_strategy.num_startup_trials or min(10, max(4, self.wanted // 4))

    def take(self) -> Taken | None:
        """The next trial for this process: one that was broken off, else a new one; None when no more are wanted."""
        with self.lock:
            trials = self._study.get_trials(deepcopy=False)
            for frozen in trials:
                if frozen.state == TrialState.RUNNING and (taken := self._take(frozen.number, frozen._trial_id)):
                    if self._is_stuck(taken):
                        self._tell_failure(taken, f"the process died {MOST_STUCK} times at the same step of it")
                        continue
                    return taken
            if sum(frozen.state != TrialState.WAITING for frozen in trials) >= self.wanted:
                return None
            # The choice depends on what is known and on the number alone: a resumed search chooses as one left alone.
            self._study.sampler = self._sampler(len(trials))
            new = self._study.ask()
            return self._take(new.number, new._trial_id, new)

    def _take(self, number: int, trial_id: int, new: Any = None) -> Taken | None:
        lock = FileLock(trials_folder(self.folder) / ".locks" / f"{number:04d}", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            return None  # its worker is alive
        if new is None:
            self._study.sampler = self._sampler(number)
        trial = new or optuna.trial.Trial(self._study, trial_id)
        with _quiet():
            point = draw(self.dimensions, self.config, trial)
        return Taken(number, point, trial_folder(self.folder, number), new is None, self._twin(trial), trial, lock)

    def _twin(self, trial: Any) -> int | None:
        same = (
            frozen.number
            for frozen in self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
            if frozen.params == trial.params
        )
        return next(same, None)

    def _is_stuck(self, taken: Taken) -> bool:
        steps = sorted(path.name for path in (taken.folder / "checkpoints").glob("step-*"))
        now = [steps[-1] if steps else ""]
        before = taken.optuna_trial.user_attrs.get("begun_at", [])
        begun_at = before + now if before[-1:] == now else now
        taken.optuna_trial.set_user_attr("begun_at", begun_at)
        return len(begun_at) > MOST_STUCK

    def report(self, taken: Taken, validation: int, loss: float) -> bool:
        """Take in a validation of a trial under way. Returns: should it be pruned?"""
        course = dict(self.trial(taken.number).course)
        if validation not in course:
            taken.optuna_trial.set_user_attr("course", list({**course, validation: loss}.items()))
            if len(self.objectives) == 1:
                # A loss is good when it is low; Optuna compares in the direction of the objective.
                taken.optuna_trial.report(-loss if self.objectives[0].maximize else loss, validation)
        return self.config.search_strategy.pruning != "none" and taken.optuna_trial.should_prune()

    def tell(self, taken: Taken, values: Mapping[str, float], seconds: float, why: str = "") -> Trial:
        """A trial is complete with all that was measured."""
        with self.lock:
            if taken.twin is not None:
                taken.optuna_trial.set_user_attr("twin", taken.twin)
            for name, value in (("measured", dict(values)), ("seconds", seconds), ("why", why)):
                taken.optuna_trial.set_user_attr(name, value)
            self._study.tell(taken.optuna_trial, [values[o.name] for o in self.objectives])
        return self._end(taken)

    def tell_pruned(self, taken: Taken, seconds: float, why: str) -> Trial:
        """A trial was stopped early."""
        with self.lock:
            for name, value in (("seconds", seconds), ("why", why)):
                taken.optuna_trial.set_user_attr(name, value)
            self._study.tell(taken.optuna_trial, state=TrialState.PRUNED)
        return self._end(taken)

    def tell_failed(self, taken: Taken, why: str) -> Trial:
        """A trial cannot be trained."""
        with self.lock:
            return self._tell_failure(taken, why)

    def _tell_failure(self, taken: Taken, why: str) -> Trial:
        taken.optuna_trial.set_user_attr("why", why)
        self._study.tell(taken.optuna_trial, state=TrialState.FAIL)
        return self._end(taken)

    def _end(self, taken: Taken) -> Trial:
        taken.lock.release()
        return self.trial(taken.number)

    def trial(self, number: int) -> Trial:
        """One trial as it stands."""
        return self._paper(self._study.get_trials(deepcopy=False)[number])

    def best(self) -> tuple[Trial, ...]:
        """Of one objective the best trial; of several those that no other beats in all, by the first objective."""
        complete = [f for f in self._study.get_trials(deepcopy=False) if f.state == TrialState.COMPLETE]
        papers = [self._paper(frozen) for frozen in complete if "twin" not in frozen.user_attrs]
        ordered = sorted(
            papers, key=lambda t: [(-1.0 if o.maximize else 1.0) * t.values[o.name] for o in self.objectives]
        )
        if len(self.objectives) == 1:
            return tuple(ordered[:1])
        return tuple(a for a in ordered if not any(self._beats(b, a) for b in ordered))

    def _beats(self, a: Trial, b: Trial) -> bool:
        """Is `a` as good in all objectives, and better in one?"""
        pairs = [(o, a.values[o.name], b.values[o.name]) for o in self.objectives]
        return any(o.better(x, y) for o, x, y in pairs) and not any(o.better(y, x) for o, x, y in pairs)

    def findings(self) -> Findings:
        """The search as it stands."""
        trials = [self._paper(f) for f in self._study.get_trials(deepcopy=False) if f.state != TrialState.WAITING]
        return Findings(self.folder, self.objectives, tuple(trials), self.best(), self._importance(), self.wanted)

    def _importance(self) -> dict[str, float]:
        """PED-ANOVA (Watanabe et al. 2023) on the first objective: which settings tell good trials from the rest."""
        complete = self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        names = {name for frozen in complete for name in frozen.params}
        if len(complete) < FEWEST_TO_TELL or len(names) < 2:
            return {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                found = optuna.importance.get_param_importances(
                    self._study,
                    evaluator=optuna.importance.PedAnovaImportanceEvaluator(),
                    target=None if len(self.objectives) == 1 else lambda trial: trial.values[0],
                )
            except (ValueError, RuntimeError):  # all trials are equal
                return {}
        return {name: float(share) for name, share in found.items() if math.isfinite(share)}

    def _paper(self, frozen: FrozenTrial) -> Trial:
        attributes = frozen.user_attrs
        return Trial(
            number=frozen.number,
            state=_STATES[frozen.state],
            settings={d.name: text_of(frozen.params[d.name]) for d in self.dimensions if d.name in frozen.params},
            folder=trial_folder(self.folder, frozen.number),
            values=attributes.get("measured", {}),
            course=tuple((k, loss) for k, loss in attributes.get("course", ())),
            seconds=attributes.get("seconds", 0.0),
            why=attributes.get("why", ""),
        )

    def _enqueue(self) -> None:
        """Put the points of a grid, or the recipe's own, in front; those that were put there before a kill stay."""
        points: list[Any] = self._points[: self.wanted]
        if not points and self.config.search_strategy.start_with_recipe:
            point = own_point(self.dimensions, self.config)
            points = [] if point is None else [point]
        trials = self._study.get_trials(deepcopy=False)
        known = sum("fixed_params" in frozen.system_attrs for frozen in trials)
        if self._points or not trials:
            for point in points[known:]:
                self._study.enqueue_trial(point)

    def _sampler(self, number: int) -> BaseSampler:
        return make_sampler(
            self.config.search_strategy,
            self.startup_trials,
            seed=(self.config.seed * 100_003 + number) % 2**32,
            conditional=any(dimension.when for dimension in self.dimensions),
        )


def make_sampler(strategy: SearchStrategyConfig, startup: int, seed: int, conditional: bool) -> BaseSampler:
    """How the settings of the next trial are chosen."""
    with _quiet():
        if strategy.type == "tpe":
            # Trials that others are at count as bad, so that two workers do not try the same place.
            return optuna.samplers.TPESampler(
                n_startup_trials=startup, multivariate=True, group=conditional, constant_liar=True, seed=seed
            )
        if strategy.type == "gp":
            return optuna.samplers.GPSampler(n_startup_trials=startup, seed=seed)
        if strategy.type == "cma":
            return optuna.samplers.CmaEsSampler(n_startup_trials=startup, seed=seed)
        return optuna.samplers.RandomSampler(seed=seed)


def make_pruner(strategy: SearchStrategyConfig, startup: int) -> optuna.pruners.BasePruner:
    """When a trial is stopped early; its steps are validations, so trials with other batch sizes compare."""
    if strategy.pruning == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=startup, n_warmup_steps=strategy.pruning_warmup)
    if strategy.pruning == "asha":
        first = max(1, strategy.pruning_warmup)
        return optuna.pruners.SuccessiveHalvingPruner(min_resource=first, reduction_factor=_ASHA_KEEPS)
    return optuna.pruners.NopPruner()


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield
