"""The folder of a search.

search.yaml     its recipe
study.journal   what Optuna knows (or study.db); other tools for Optuna read it
trials/0003/    a trial's run, as `finetune` makes it
best/           the best trial's run with its recipe
report.html     the search on one page
"""

from __future__ import annotations

from pathlib import Path

from filelock import FileLock

from oleaster.config.load import leaf_values, load_config, recipe_text, replace
from oleaster.config.schema import Config
from oleaster.core.errors import ConfigError
from oleaster.core.files import atomic_write_text, link_or_copy, staged_folder
from oleaster.core.run import Run

RECIPE, BEST, REPORT = "search.yaml", "best", "report.html"
STORES = {"journal": "study.journal", "sqlite": "study.db"}
"""Kind of storage -> its file."""
FREE = frozenset(
    (
        *("num_trials", "budget_minutes", "search_workers", "search_engine", "ray_address", "trials_together"),
        *("num_threads", "log_level", "output_path", "resume", "passes"),
    )
)
"""Settings that may be others when a search goes on."""


def lock_of(folder: Path) -> FileLock:
    """The lock under which a process looks for its next trial, or changes the folder."""
    return FileLock(folder / ".search.lock")


def trials_folder(folder: Path) -> Path:
    """Where the runs of all trials are."""
    return folder / "trials"


def trial_folder(folder: Path, number: int) -> Path:
    """The run of one trial."""
    return trials_folder(folder) / f"{number:04d}"


def is_search(folder: Path) -> bool:
    """Does `folder` hold a search?"""
    return (folder / RECIPE).is_file()


def claim(folder: Path, config: Config) -> None:
    """Begin a search in `folder`, or (`resume`) join the one that is there; its processes may be at work meanwhile.

    Raises: ConfigError when there is a search and `resume` is not given, when what is searched has changed since, or
        when the folder holds something else.
    """
    if folder.exists() and not is_search(folder):
        names = (
            sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")) if folder.is_dir() else []
        )
        if names or not folder.is_dir():
            found = f"the folder holds files that are not of a search: {', '.join(names[:3])}" if names else "is a file"
            remedy = f"choose another --output_path, for instance {folder / 'search1'}"
            raise ConfigError(found, where=str(folder), remedy=remedy)
    folder.mkdir(parents=True, exist_ok=True)
    with lock_of(folder):
        resume = config.training.resume
        # Who joins may come before the first trial: what the search knows so far is another process's.
        begun = any(trials_folder(folder).glob("[0-9]*")) or (resume and is_search(folder))
        if begun and not resume:
            remedy = "--resume goes on with it; or choose another --output_path, or delete the folder"
            raise ConfigError("the folder holds a search", where=str(folder), remedy=remedy)
        if begun:
            _refuse_changes(folder, config)
        else:
            for name in STORES.values():
                (folder / name).unlink(missing_ok=True)
        atomic_write_text(folder / RECIPE, recipe_text(replace(config, resume=False)))


def _refuse_changes(folder: Path, config: Config) -> None:
    before, now = leaf_values(load_config(folder / RECIPE)), leaf_values(config)
    changed = [name for name in now if name not in FREE and before.get(name) != now[name]]
    if changed:
        lines = "\n".join(f"- {name}: {before.get(name)!r} then, {now[name]!r} now" for name in changed)
        raise ConfigError(
            f"the settings have changed since the search began\n{lines}",
            where=str(folder),
            remedy="give the old settings to go on, or choose another --output_path for a new search",
        )


def keep_best(folder: Path, number: int, num_threads: int | None) -> Run:
    """Give the run of the best trial a folder of its own, `best/`, with a recipe that trains it again.

    Args:
        num_threads: as the recipe of the search has it; the trial had its share of the machine.
    """
    run, target = Run(trial_folder(folder, number)), folder / BEST
    recipe = replace(load_config(run.recipe), output_path=str(target), num_threads=num_threads)
    with lock_of(folder), staged_folder(target, replace=True) as staged:
        for path in sorted(run.folder.rglob("*")):
            inner = path.relative_to(run.folder)
            if path.is_file() and path != run.recipe and inner.parts[0] not in ("checkpoints", ".lock"):
                (staged / inner).parent.mkdir(parents=True, exist_ok=True)
                link_or_copy(path, staged / inner)
        atomic_write_text(Run(staged).recipe, recipe_text(recipe))
    return Run(target)
