"""Many trainings, and the best of them: a recipe with a `search_space`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from oleaster.config.schema import Config
from oleaster.core.errors import ConfigError, RunError

if TYPE_CHECKING:
    from oleaster.pipeline.shelf import Shelf
    from oleaster.pipeline.trials import Deadline
    from oleaster.search.papers import Findings, Watch


def run_search(config: Config, watch: Watch = lambda event: None) -> Findings:
    """Train trials of `config.search_space` in `config.output_path`, keep the best one in `best/`, write the report.

    One base model and one set of tokens serve all trials of a process. After a kill `resume` goes on: no trial is lost,
    none is done twice, and one that was under way goes on from its last checkpoint. Several processes, on machines that
    share the folder, may work on one search in this way.

    Args:
        watch: called with every `SearchEvent`, also those of the worker processes, never by two threads at once.

    Raises:
        UserError: something in recipe, space, rows or model is wrong; nothing has been trained.
        RunError: no trial was complete, or a trial could not go on (the disk is full).
    """
    from oleaster.pipeline.search_plan import open_study, plan_search, shelf_of, threads_of
    from oleaster.pipeline.search_workers import Workers
    from oleaster.pipeline.trials import Deadline, work
    from oleaster.search.folder import claim, keep_best
    from oleaster.search.points import check_points

    dimensions, objectives = plan_search(config)
    folder = config.output_path
    if folder is None:
        raise ConfigError(
            "not given: the folder of the search", where="output_path", remedy="--output_path runs/search"
        )
    strategy, shelf = config.search_strategy, shelf_of(config)
    deadline = Deadline.after(strategy.budget_minutes)
    if not shelf.ready(config).data.validation:
        remedy = "leave validation_fraction at 0.1, or name eval_data_files"
        raise ConfigError("trials are compared on held-out rows, and there are none", where="search", remedy=remedy)
    check_points(config, dimensions, _fits_the_base(shelf))
    claim(folder, config)
    study = open_study(folder, config, dimensions, objectives)
    try:
        if strategy.engine == "ray":
            from oleaster.pipeline.search_ray import work_on_cluster

            work_on_cluster(study, deadline, watch)
        else:
            with Workers(folder, strategy.workers - 1, threads_of(config), deadline, watch) as workers:
                work(study, shelf, deadline, workers.watch)
            if not deadline.is_past:
                work(study, shelf, deadline, watch)  # what a worker that died has left
    finally:
        # Also when stopped: what is known so far is on paper.
        findings = study.findings()
        if findings.best:
            keep_best(folder, findings.best[0].number, config.training.num_threads)
        write_report(findings)
    if not findings.best:
        raise RunError(_nothing(findings, deadline))
    return findings


def _fits_the_base(shelf: Shelf) -> Callable[[Config], object]:
    """Sees whether the modules that a recipe names are in its base; reads names and shapes, no weights."""

    def fits(recipe: Config) -> object:
        from oleaster.methods import get_method
        from oleaster.models.sanity import read_shapes

        return get_method(recipe.method).trained_numbers(read_shapes(shelf.ready(recipe).base.folder)[0])

    return fits


def read_search(folder: Path) -> Findings:
    """The search in `folder` as it stands, whether it is under way or done."""
    from oleaster.config.load import load_config
    from oleaster.pipeline.search_plan import open_study, read_plan
    from oleaster.search.folder import RECIPE

    config = load_config(folder / RECIPE, rules=())
    return open_study(folder, config, *read_plan(config)).findings()


def write_report(findings: Findings) -> Path:
    """`report.html` in the folder of the search."""
    from oleaster.core.files import atomic_write_text
    from oleaster.reporting.search_page import render_search
    from oleaster.search.folder import REPORT

    path = findings.folder / REPORT
    atomic_write_text(path, render_search(findings))
    return path


def _nothing(findings: Findings, deadline: Deadline) -> str:
    """Why there is no best trial."""
    failed = [f"- trial {trial.number}: {trial.why}" for trial in findings.trials if trial.state == "failed"]
    if deadline.is_past or not failed:
        return "no trial is complete yet\n  -> --resume goes on; a larger budget_minutes gives it time"
    more = [f"and {len(failed) - 5} more"] if len(failed) > 5 else []
    return "\n".join(["no trial could be completed", *failed[:5], *more])
