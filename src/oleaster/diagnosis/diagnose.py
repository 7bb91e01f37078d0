"""Why is it not better? Facts first, then trials, the likeliest cause first, and a recipe for each."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from oleaster.config.load import load_config, recipe_text
from oleaster.config.load import replace as with_settings
from oleaster.core.errors import ConfigError
from oleaster.core.files import atomic_write_json, atomic_write_json_lines, atomic_write_text
from oleaster.core.line import open_run
from oleaster.core.run import Run
from oleaster.diagnosis.experiments import capacity, label_noise, optimisation, signal
from oleaster.diagnosis.facts import IN_LOG_AND_ANSWERS, IN_THE_ROWS
from oleaster.diagnosis.laboratory import Laboratory
from oleaster.diagnosis.subject import Subject, examine
from oleaster.pipeline.loading import use_threads
from oleaster.pipeline.shelf import Shelf
from oleaster.reporting.causes import DIAGNOSIS, Diagnosis, Finding, Trial

STEPS = 40
"""Of a trial: enough to see in which direction the loss goes."""
_BROKEN = 0.2
"""Share of the rows from which on a fault in them makes trials pointless."""


def diagnose(
    folder: Path,
    *,
    steps: int = STEPS,
    trials: bool = True,
    on_trial: Callable[[Trial], None] = lambda trial: None,
) -> Diagnosis:
    """Look for what keeps a run from being better; the recipes are written into `RUN/diagnosis`.

    Args:
        steps: most optimiser steps of one trial; a run that is shorter is tried at its own length.
        trials: train at all; without, only what rows and answers show is found.

    Raises: ConfigError when `folder` is no run; DataError, ModelError when its rows or base are no longer there.
    """
    run = open_run(folder)
    config = with_settings(load_config(run.recipe), resume=False)
    use_threads(config)
    shelf = Shelf()
    ready = shelf.ready(config)
    if ready.head is not None:
        message = "this run trains a head on the model; a diagnosis asks for answers in text"
        raise ConfigError(message, where=str(folder), remedy="oleaster evaluate and oleaster report tell of it")
    subject = examine(run, ready)
    findings = [finding for fact in IN_THE_ROWS for finding in fact(subject)]
    notes = [] if run.is_done else [_unfinished(run)]
    lab = Laboratory(ready, shelf, steps, on_trial)
    if trials and any(finding.severity >= _BROKEN for finding in findings):
        notes.append("no trials were made: the rows have to be put right first, then diagnose the new run")
    elif trials:
        findings += _tried(subject, lab, notes)
    findings += [finding for fact in IN_LOG_AND_ANSWERS for finding in fact(subject)]
    ordered = sorted(findings, key=lambda finding: finding.rank)
    written = [_with_recipe(run, subject, finding, i) for i, finding in enumerate(ordered, 1)]
    diagnosis = Diagnosis(tuple(written), tuple(lab.trials), tuple(notes))
    atomic_write_json(run.folder / DIAGNOSIS, diagnosis.to_json())
    return diagnosis


def _tried(subject: Subject, lab: Laboratory, notes: list[str]) -> list[Finding]:
    """Findings of the experiments, each with the best settings found before it."""
    if lab.is_scaled_down:
        notes.append(
            f"trials have {lab.steps} steps, the run {lab.whole_steps}: whether the run was too short is not "
            "looked for; --steps makes them longer"
        )
    reached = min((report.eval_loss for report in subject.history.evals), default=math.inf)
    findings, best = optimisation(lab, reached)
    if tight := list(capacity(lab, best)):
        notes.append("the answers were not put to the test: a method that cannot learn eight rows says nothing of them")
        return findings + tight
    blind, shuffled = signal(lab, best)
    if (
        blind and findings
    ):  # so early, all that is learned is what answers look like, whichever prompt they stand behind
        notes.append("real answers are no better than shuffled ones so far: mend the cause above, then diagnose again")
        return findings
    if blind:
        return findings + blind
    return findings + list(label_noise(subject, lab, best, shuffled))


def _unfinished(run: Run) -> str:
    state = "is under way" if run.is_under_way else "was broken off"
    return f"the run {state}: what it would answer was not looked at"


def _with_recipe(run: Run, subject: Subject, finding: Finding, number: int) -> Finding:
    """Write the changed recipe, and its rows where they are to be others."""
    if not finding.changes and finding.rows is None:
        return finding
    folder = run.folder / "diagnosis"
    name = f"{number}-{finding.cause}"
    changed = dict(finding.changes)
    if finding.rows is not None:
        changed |= _row_settings(subject, finding.rows, folder / name)
    target = run.folder.with_name(f"{run.folder.name}-{finding.cause}")
    recipe = with_settings(subject.config, **changed, output_path=str(target), passes=["finetune", "evaluate"])
    what = ", ".join(f"{setting} {value}" for setting, value in changed.items() if value is not None)
    path = folder / f"{name}.yaml"
    text = recipe_text(recipe, again=f"oleaster run {path}")
    atomic_write_text(path, f"# {run.folder}, changed by oleaster diagnose: {what}.\n{text}")
    return replace(finding, recipe=path)


def _row_settings(subject: Subject, rows: Sequence[object], stem: Path) -> dict[str, object]:
    """Write the rows; the validation rows stay what they were, so that the new run can be compared."""
    atomic_write_json_lines(stem.with_suffix(".train.jsonl"), rows)
    held = [example.row for example in subject.ready.prepared.validation]
    found: dict[str, object] = {
        "data_name": None,
        "data_files": str(stem.with_suffix(".train.jsonl")),
        "train_split": "train",
        "eval_split": None,
        "eval_data_files": None,
    }
    if held:
        atomic_write_json_lines(stem.with_suffix(".validation.jsonl"), held)
        found["eval_data_files"] = str(stem.with_suffix(".validation.jsonl"))
    return found
