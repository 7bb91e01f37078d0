"""Everything that is known of a run, read from its folder: what the report tells. Nothing is measured again."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from oleaster.config.load import RECIPE_NAME, leaf_values, load_config
from oleaster.config.schema import Config
from oleaster.core.artifact import Artifact
from oleaster.core.line import Line, open_run, run_of
from oleaster.core.run import Run
from oleaster.data.ledger import Ledger
from oleaster.evaluation.compare import compare
from oleaster.evaluation.intervals import Difference
from oleaster.evaluation.report import REPORT, Report, load_report
from oleaster.reporting.causes import Diagnosis, read_diagnosis
from oleaster.reporting.history import History

_ORDER = ("base", "tuned")
"""Evaluations in the order of the line; others (an artifact's) follow."""
MAIN = ("accuracy", "entity_f1", "exact_match", "chrf", "rouge_l", "token_accuracy", "loss")
"""Metrics that can stand in a headline, the most telling one first."""


@dataclass(frozen=True)
class Story:
    """What is known. Everything may be missing: a run that is under way has no summary, a base no run."""

    path: Path
    recipe: Path | None
    run: Run | None
    artifacts: tuple[Artifact, ...]
    reports: tuple[Report, ...]

    @property
    def title(self) -> str:
        """The task's name, else the folder's."""
        return (self.config and self.config.task_name) or self.path.resolve().name

    @cached_property
    def config(self) -> Config | None:
        return load_config(self.recipe, rules=()) if self.recipe else None

    @cached_property
    def history(self) -> History:
        return History.of(self.run.log) if self.run else History(Path())

    @cached_property
    def diagnosis(self) -> Diagnosis | None:
        """Why it is not better, where that was asked."""
        return read_diagnosis(self.run.folder) if self.run else None

    @cached_property
    def ledger(self) -> Ledger | None:
        if self.run is None or not self.run.ledger.is_file():
            return None
        return Ledger.from_json(json.loads(self.run.ledger.read_text("utf-8")))

    @cached_property
    def summary(self) -> dict[str, Any]:
        """What the run wrote when it ended; empty before."""
        return self.run.summary if self.run is not None and self.run.is_done else {}

    @property
    def base_report(self) -> Report | None:
        return next((report for report in self.reports if report.model == "base"), None)

    @property
    def best_report(self) -> Report | None:
        """Of the tuned model, else of what there is."""
        found = [report for report in self.reports if report.model != "base"]
        return next(iter([*found, *self.reports]), None)

    @cached_property
    def differences(self) -> dict[str, Difference]:
        """Tuned against base, metric by metric; empty where they were not asked the same rows."""
        base, tuned = self.base_report, self.best_report
        if base is None or tuned is None or base is tuned or not _same_rows(base, tuned):
            return {}
        return compare(base, tuned)

    @property
    def main_metric(self) -> str | None:
        """The metric of the headline: what a person who asks the model would call right."""
        report = self.best_report
        if report is None:
            return None
        shown = [name for name in MAIN if name in report.metrics]
        # Nothing is ever equal to the letter where the answers are long: the next metric says more.
        return next((name for name in shown if report.metrics[name].value > 0), shown[0] if shown else None)

    def changed_settings(self) -> list[tuple[str, str]]:
        """(name, value) of the settings that are not at their default."""
        if self.config is None:
            return []
        values, defaults = leaf_values(self.config), leaf_values(Config())
        return [(name, _written(value)) for name, value in values.items() if value != defaults[name]]


def read_story(
    path: Path, run: Path | None = None, artifacts: Sequence[Path] = (), evaluations: Sequence[Path] = ()
) -> Story:
    """What is known of a run, an artifact or the folder of a whole recipe.

    Args:
        run: that an artifact was exported from; default: the folder its recipe names, when that is the same run.
        artifacts: exports that belong to a run; those of a recipe's folder are found.
        evaluations: folders that `oleaster evaluate --output` wrote; a run's own are found.

    Raises: ConfigError when `path` is none of these; ModelError, DataError for damaged files.
    """
    exported = [Artifact.open(Path(folder)) for folder in artifacts]
    places = list(evaluations)
    recipe: Path | None = None
    if Line.is_line(path):
        steps = [Path(step["folder"]) for step in Line(path).read_record()]
        steps = [step if step.exists() else path / step.name for step in steps]
        training = run_of(path)
        run = run or (training.folder if training else None)
        exported += [Artifact.open(step) for step in steps if Artifact.is_artifact(step)]
        places += steps
    elif Artifact.is_artifact(path):
        artifact = Artifact.open(path)
        exported.insert(0, artifact)
        carried = path / RECIPE_NAME
        recipe = carried if carried.is_file() else None
        run = run or _run_of(artifact, recipe)
    else:
        run = open_run(path).folder
    opened = Run.open(run) if run else None
    if opened is not None:
        places.append(opened.predictions)
    reports = tuple(_reports(places))
    return Story(path, opened.recipe if opened else recipe, opened, tuple(exported), reports)


def _reports(places: Sequence[Path]) -> Iterator[Report]:
    found: dict[Path, Report] = {}
    for place in places:
        for file in sorted([*place.glob(f"*/{REPORT}"), *place.glob(REPORT)]):
            found.setdefault(file.parent.resolve(), load_report(file.parent))
    rank = {name: number for number, name in enumerate(_ORDER)}
    yield from sorted(found.values(), key=lambda report: rank.get(report.model, len(rank)))


def _run_of(artifact: Artifact, recipe: Path | None) -> Path | None:
    guess = load_config(recipe, rules=()).output_path if recipe else None
    if guess is None or not Run.is_run(guess) or Run(guess).id != artifact.run_id:
        return None
    return guess


def _written(value: Any) -> str:
    """As a flag takes it."""
    if isinstance(value, (list, tuple)):
        return ",".join(map(_written, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _same_rows(first: Report, second: Report) -> bool:
    return [(r.source, r.reference) for r in first.rows] == [(r.source, r.reference) for r in second.rows]
