"""A search on the machines of a Ray cluster.

Ray Tune decides where a trial runs, and runs it elsewhere when a machine is lost; which trial, and with which settings,
the study decides as always. So a search may begin on one machine and go on on a cluster, and the other way round. The
folder of the search must be one that all machines see.
"""

from __future__ import annotations

import os
import platform
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oleaster.core.errors import ConfigError, RunError, UserError
from oleaster.pipeline.ray_cluster import LOST_MACHINES, joined

if TYPE_CHECKING:
    from oleaster.pipeline.trials import Deadline
    from oleaster.search.papers import Watch
    from oleaster.search.study import Study


def work_on_cluster(study: Study, deadline: Deadline, watch: Watch) -> None:
    """Train the wanted trials, `workers` at a time, each with its CPU threads.

    Raises: ConfigError when there is no cluster at the address; RunError when Ray gives up.
    """
    strategy, threads = study.config.search_strategy, study.config.training.num_threads or 1
    open_trials = study.wanted - sum(study.findings().count(state) for state in ("complete", "pruned", "failed"))
    if open_trials <= 0:
        return
    with joined(strategy.ray_address, threads * strategy.workers):
        from ray import tune  # pyright: ignore[reportMissingImports]  (an extra)

        tuner = tune.Tuner(
            tune.with_resources(_trainable(tune), {"cpu": threads}),
            param_space={"folder": str(study.folder.resolve()), "here": str(Path.cwd()), "threads": threads},
            tune_config=tune.TuneConfig(
                num_samples=open_trials,
                max_concurrent_trials=strategy.workers,
                reuse_actors=True,  # the next trial finds base and tokens where the one before left them
                time_budget_s=None if deadline.at is None else max(1.0, deadline.at - time.monotonic()),
            ),
            run_config=tune.RunConfig(
                name="ray",
                storage_path=str(study.folder.resolve()),
                failure_config=tune.FailureConfig(max_failures=LOST_MACHINES),
                verbose=0,
            ),
        )
        with _told(study, watch):
            found = tuner.fit()
    if problems := [text for result in found if (text := (result.metrics or {}).get("problem"))]:
        raise ConfigError(problems[0], where="search_engine ray")
    if found.errors and not deadline.is_past:
        raise RunError(f"{len(found.errors)} trials broke off on the cluster\n{found.errors[0]}\n  -> --resume goes on")


def _trainable(tune: Any) -> Any:
    """What Ray runs: one call of `step` takes a trial of the study and trains it."""

    class OneTrial(tune.Trainable):
        def setup(self, config: dict[str, Any]) -> None:
            from oleaster.config.load import load_config, replace
            from oleaster.pipeline.search_plan import open_study, plan_search
            from oleaster.pipeline.shelf import Shelf
            from oleaster.search.folder import RECIPE

            folder, self.problem = Path(config["folder"]), ""
            try:
                if not (folder / RECIPE).is_file() or not Path(config["here"]).is_dir():
                    found = f"the machine {platform.node()} does not see it"
                    remedy = "search in a folder that all machines of the cluster see"
                    raise ConfigError(found, where=str(folder), remedy=remedy)
                os.chdir(config["here"])
                recipe = replace(load_config(folder / RECIPE), num_threads=config["threads"], output_path=str(folder))
                self.study, self.shelf = open_study(folder, recipe, *plan_search(recipe)), Shelf()
            except UserError as error:
                self.problem = str(error)  # raised, it would be tried again on other machines

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            return True  # nothing of the former trial is left but what is to be shared

        def step(self) -> dict[str, Any]:
            from oleaster.pipeline.trials import run_one

            if not self.problem:
                os.chdir(self.config["here"])  # Ray changes it; the recipe's paths are seen from there
                run_one(self.study, self.shelf)
            return {"problem": self.problem, "done": True}

        def save_checkpoint(self, checkpoint_dir: str) -> None:
            """A trial keeps its own, in its run."""

        def load_checkpoint(self, checkpoint: Any) -> None:
            """See `save_checkpoint`."""

    return OneTrial


@contextmanager
def _told(study: Study, watch: Watch) -> Iterator[None]:
    """Tells of the trials that end while the block lasts. It looks into the study, as they end on other machines."""
    from oleaster.pipeline.trials import end_of

    ended = {"complete", "pruned", "failed"}
    known = {trial.number for trial in study.findings().trials if trial.state in ended}
    over = threading.Event()

    def tell() -> None:
        for trial in study.findings().trials:
            if trial.state in ended and trial.number not in known:
                known.add(trial.number)
                watch(end_of(study, trial))

    def look() -> None:
        while not over.wait(1.0):
            tell()

    looker = threading.Thread(target=look, daemon=True)
    looker.start()
    try:
        yield
    finally:
        over.set()
        looker.join()
        tell()
