"""A whole recipe: step after step, each only when what it is made from has changed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import oleaster.pipeline.steps  # noqa: F401  its passes enter the registry
from oleaster.config.load import lay_over, load_config, recipe_text
from oleaster.config.rules import TO_FINETUNE, Rule, check
from oleaster.config.schema import Config
from oleaster.core.artifact import Artifact
from oleaster.core.errors import ConfigError
from oleaster.core.files import staged_folder
from oleaster.core.line import Line, StepNote, run_of
from oleaster.core.run import Run
from oleaster.pipeline.facts import contents_of, difference, facts_of
from oleaster.pipeline.passes import CheckedStep, Work, check_step, steps_fit, steps_of

TO_RUN: tuple[Rule, ...] = (*TO_FINETUNE, steps_fit)
"""What must hold before the first step of a recipe begins."""
Tell = Callable[[Any], None]


@dataclass(frozen=True)
class StepBegins:
    """A step is done, or (`reused`) what it made before is taken."""

    name: str
    number: int
    total: int
    reused: bool
    why: str
    """Why it is done although it was done before; empty the first time."""


@dataclass(frozen=True)
class StepEnds:
    """A step is complete."""

    name: str
    seconds: float
    model: str
    """The model that goes on from here."""


def run(config: Config, on_event: Tell = lambda _: None) -> Line:
    """Do the steps of `config.passes` in `config.output_path`; what did not change since is taken as it is.

    The same call goes on where a killed one ended. A step's work with other settings is put aside, not overwritten.

    Args:
        on_event: called with `StepBegins` and `StepEnds`, and with all that the steps tell in between: events of the
            training and of the export, lists of reports, sentences.

    Raises:
        UserError: before the first step, as far as it can be seen without a model.
        RunError, FidelityError: a step stopped; what the steps before it made is kept.
    """
    if config.output_path is None:
        raise ConfigError("not given: the folder of the work", where="output_path", remedy="--output_path runs/first")
    check(config, TO_RUN)
    checked, record = _checked(config), []
    with Line.claim(config.output_path, recipe_text(config, "oleaster run recipe.yaml")) as line:
        models = _Models.before(config, line)
        for number, step in enumerate(checked, start=1):
            facts = models.facts(step)
            note, why = _found(line, step, facts)
            reused = note is not None and note.done
            on_event(StepBegins(step.name, number, len(checked), reused, why))
            if note is None or not reused:
                note = _do(step, facts, models, on_event)
            model = _place(line, note)
            models.advance(step.name, model, note.contents)
            record.append({"name": step.name, "type": step.type, "reused": reused, "seconds": note.seconds})
            record[-1] |= {"folder": str(line.step(step.name)), "model": model}
            line.write_record(record)
            on_event(StepEnds(step.name, note.seconds, model))
    return line


def foresee(config: Config) -> list[tuple[str, str]]:
    """(step, what `run` would do with it); nothing is done. Raises: UserError as `run`."""
    check(config, TO_RUN)
    line = Line(config.output_path or Path())
    models, unknown = _Models.before(config, line), set()
    said = []
    for step in _checked(config):
        if unknown & models.sources(step).keys():
            said.append((step.name, "would be done, as a step before it would"))
        else:
            facts = models.facts(step)
            note, why = _kept(line, step, StepNote(facts).key)
            if note is not None and note.done:
                models.advance(step.name, _place(line, note), note.contents)
                said.append((step.name, "is done and would be taken as it is"))
                continue
            said.append((step.name, f"would be done: {why or _why(line, step, facts) or 'for the first time'}"))
        unknown |= {"adapter": {"torch", "given"}, "artifact": {"given"}, "nothing": set()}.get(
            step.traits.makes, {"base", "torch", "given"}
        )
    return said


@dataclass
class _Models:
    """Where the models are after the steps so far."""

    config: Config
    line: Line
    given: str
    base: str
    torch: str
    run: Run | None = None
    made: dict[str, str] = field(default_factory=dict)
    contents: dict[str, str] = field(default_factory=dict)
    """Path -> digits of what lies there."""

    @classmethod
    def before(cls, config: Config, line: Line) -> _Models:
        name = config.model.model_name_or_path
        if not name:
            remedy = "--model_name_or_path HuggingFaceTB/SmolLM2-135M-Instruct, or in the recipe"
            raise ConfigError("not given: the base model", where="model.model_name_or_path", remedy=remedy)
        return cls(config, line, name, name, name)

    def config_for(self, step: CheckedStep) -> Config:
        """The recipe for a step; what follows a training sees the rows' shape as that training decided it."""
        config = self.config
        if self.run is not None and step.traits.takes != "base":
            config = config.model_copy(update={"data": load_config(self.run.recipe).data})
        return lay_over(config, step.leaves)

    def sources(self, step: CheckedStep) -> Mapping[str, str]:
        """What a step starts from: name -> path."""
        if step.traits.takes == "all":
            return {**self.made, "given": self.given}
        return {step.traits.takes: getattr(self, step.traits.takes)}

    def facts(self, step: CheckedStep) -> dict[str, Any]:
        """Everything that decides what a step makes."""
        for path in self.sources(step).values():
            if path not in self.contents:
                self.contents[path] = contents_of(path, self.config)
        sources = {name: self.contents[path] for name, path in self.sources(step).items()}
        return facts_of(step, self.config_for(step), sources)

    def work(self, step: CheckedStep, output: Path, tell: Tell) -> Work:
        """What the pass is given."""
        config = self.config_for(step)
        return Work(config, self.given, self.base, self.torch, output, self.run, dict(self.made), tell)

    def advance(self, name: str, model: str, contents: str) -> None:
        """The model is where the step `name` left it."""
        self.contents[model] = contents
        if model == self.given:
            return
        self.given = self.made[name] = model
        if Artifact.is_artifact(Path(model)):
            return
        self.torch = model
        if (run := run_of(model)) is None:
            self.base = model
            return
        self.run = run
        if not run.adapter.is_dir():
            self.base = str(run.model)


def _checked(config: Config) -> list[CheckedStep]:
    found = [check_step(step)[0] for step in steps_of(config)]
    return [step for step in found if step is not None]  # the rules have seen to it that none is


def _found(line: Line, step: CheckedStep, facts: Mapping[str, Any]) -> tuple[StepNote | None, str]:
    """(note of the folder that is taken or gone on with, else None; why it is done although it was before)"""
    wanted, why = StepNote(facts).key, _why(line, step, facts)
    note, spoilt = _kept(line, step, wanted)
    if note is None and not spoilt and line.bring_back(step.name, wanted):
        note, spoilt = _kept(line, step, wanted)
    if note is None:
        line.make_way(step.name)
        return None, spoilt or why
    return note, "" if note.done else "goes on where it was stopped"


def _kept(line: Line, step: CheckedStep, wanted: str) -> tuple[StepNote | None, str]:
    """(note of the step's folder when it is of use; why it is not although it was made from the same)"""
    note = line.note(step.name)
    if note is None or note.key != wanted:
        return None, ""
    if not note.done:
        return (note, "") if step.traits.in_place else (None, "it was stopped before its end")
    inside = note.model.startswith("./")
    if inside and not Path(_place(line, note)).exists():
        return None, "what it made is gone"
    if inside and contents_of(_place(line, note), Config()) != note.contents:
        return None, "what it made was changed by hand"
    return note, ""


def _why(line: Line, step: CheckedStep, facts: Mapping[str, Any]) -> str:
    note = line.note(step.name)
    return difference(note.facts, facts) if note else ""


def _do(step: CheckedStep, facts: Mapping[str, Any], models: _Models, tell: Tell) -> StepNote:
    line, began = models.line, time.monotonic()
    folder = line.step(step.name)
    if step.traits.in_place:
        line.write_note(step.name, StepNote(facts))
        model = str(step.do(models.work(step, folder, tell), **step.arguments))
    else:
        with staged_folder(folder) as output:
            model = str(step.do(models.work(step, output, tell), **step.arguments))
            if Path(model).is_relative_to(output):
                model = str(folder / Path(model).relative_to(output))
    if model != models.given and not Path(model).exists():
        raise ConfigError(f"the pass returned '{model}', which is not there", where=f"passes.{step.name}")
    place = Path(model).resolve()
    if place.is_relative_to(line.folder.resolve()):  # so that the folder may be moved
        model = f"./{place.relative_to(line.folder.resolve()).as_posix()}"
    note = StepNote(facts, True, model)
    contents = contents_of(_place(line, note), models.config)
    note = StepNote(facts, True, model, contents, round(time.monotonic() - began, 1))
    line.write_note(step.name, note)
    return note


def _place(line: Line, note: StepNote) -> str:
    return str(line.folder / note.model[2:]) if note.model.startswith("./") else note.model
