"""Passes: what a step of a recipe can be. A registered function; its signature is the schema of its settings.

    from oleaster.pipeline.passes import Work, passes

    @passes.register("prune")
    def prune(work: Work, *, sparsity: float = 0.3) -> Path:
        ...
        return work.output

It is given the model as the step before left it, and returns where the model is now: its own folder, or `work.given`
when it only looked. What it writes into `work.output` appears there when it has returned, or not at all.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, create_model

from oleaster.config.flags import ALIASES, config_flags, sections
from oleaster.config.load import wrong_leaves
from oleaster.config.rules import Problem
from oleaster.config.schema import Config
from oleaster.config.steps import Step
from oleaster.core.errors import UserError, near_names
from oleaster.core.line import KEPT_NAMES
from oleaster.core.plugins import load_plugins
from oleaster.core.registry import Registry
from oleaster.core.run import Run

Pass = Callable[..., "Path | str"]
passes: Registry[Pass] = Registry("pass")

NOT_OF_A_STEP = ("output_path", "log_level", "plugins", "passes", "resume")
"""Settings of the whole recipe."""


@dataclass(frozen=True)
class Work:
    """What a pass is given."""

    config: Config
    """The recipe, with the step's settings laid over it; after a training, its rows' shape is decided."""
    given: str
    """The model as the step before left it: a run, a model folder, an artifact or a hub id."""
    base: str
    """The newest model that is whole: the base, or what a step has made of it, without any adapter."""
    torch: str
    """The newest model that torch runs: `given`, but for an artifact, which is made from it."""
    output: Path
    """The step's folder."""
    run: Run | None = None
    """The newest training; its recipe knows which rows were held out."""
    made: Mapping[str, str] = field(default_factory=dict)
    """Step -> the model it made, for all steps so far that made one."""
    tell: Callable[[Any], None] = lambda _: None
    """Show the user a sentence, or an event of training, export or evaluation."""


@dataclass(frozen=True)
class Traits:
    """What the line has to know of a pass; for a foreign one it supposes the most."""

    reads: tuple[str, ...] = ("", *sections())
    """Sections of the recipe ("" = top level) that change what it makes and may stand in its settings."""
    takes: Literal["base", "torch", "given", "all"] = "all"
    """Models it starts from; when they change it is done anew."""
    makes: Literal["adapter", "model", "artifact", "nothing"] = "model"
    in_place: bool = False
    """It writes into its folder itself, as one that goes on after a kill must."""


def traits(**given: Any) -> Callable[[Pass], Pass]:
    """Decorator that says what `Traits` a pass has."""

    def enter(function: Pass) -> Pass:
        function.traits = Traits(**given)  # type: ignore[attr-defined]
        return function

    return enter


def traits_of(function: Pass) -> Traits:
    """Its own, or those that suppose the most."""
    return getattr(function, "traits", Traits())


@dataclass(frozen=True)
class CheckedStep:
    """A step whose settings were checked."""

    name: str
    type: str
    do: Pass
    arguments: Mapping[str, Any]
    """Keyword arguments of the pass, typed by its signature."""
    leaves: Mapping[str, object]
    """Settings of the recipe that the step changes, by flag name, as written."""

    @property
    def traits(self) -> Traits:
        return traits_of(self.do)


def check_step(step: Step) -> tuple[CheckedStep | None, list[Problem]]:
    """A step with its settings typed, or what is wrong with them; a problem is named `passes.STEP.SETTING`."""
    place = f"passes.{step.name}"
    if step.type not in passes:
        named = f"{place}.type" if step.type != step.name else place
        return None, [Problem(named, f"there is no pass '{step.type}'", _no_pass(step.type))]
    do = passes.get(step.type)
    schema = _schema(do)
    allowed = {name for name, flag in config_flags().items() if flag.section in traits_of(do).reads}
    allowed -= set(NOT_OF_A_STEP)
    own = {key: value for key, value in step.settings.items() if key in schema.model_fields}
    others = {key: ALIASES.get(key, key) for key in step.settings if key not in own}
    leaves = {name: step.settings[key] for key, name in others.items() if name in allowed}
    problems = [
        Problem(f"{place}.{key}", f"the pass '{step.type}' has no setting '{key}'", _advice(key, schema, allowed))
        for key, name in others.items()
        if name not in allowed
    ]
    for name, error in wrong_leaves(leaves).items():
        written = next(key for key, meant in others.items() if meant == name)
        problems.append(Problem(f"{place}.{written}", error.message, error.remedy))
    arguments: dict[str, Any] = {}
    try:
        checked = schema.model_validate(own)
        arguments = {name: getattr(checked, name) for name in schema.model_fields}
    except ValidationError as error:
        problems += [_wrong(detail, step, do) for detail in error.errors(include_url=False)]
    return (None if problems else CheckedStep(step.name, step.type, do, arguments, leaves)), problems


def steps_of(config: Config) -> list[Step]:
    """The steps of a recipe; where it has a search_space and no step of its own for it, the training is a search."""
    if not config.search_space or any(step.type == "search" for step in config.passes):
        return list(config.passes)
    return [step.model_copy(update={"type": "search"}) if step.type == "finetune" else step for step in config.passes]


def steps_fit(config: Config) -> Iterator[Problem]:
    """A rule: every step is known, and its settings are what its pass takes."""
    if all(plugin.is_file() for plugin in config.plugins):  # another rule names those that are not
        try:
            load_plugins(config.plugins)
        except UserError as error:
            yield Problem("plugins", str(error), "correct it, or leave it out")
            return
    for step in steps_of(config):
        if step.name in KEPT_NAMES:
            yield Problem(f"passes.{step.name}", f"no step can be called '{step.name}'", f"my-{step.name}")
        yield from check_step(step)[1]


def _schema(function: Pass) -> type[BaseModel]:
    """A model of the keyword arguments of a pass; what has no annotation may be anything."""
    hints = typing.get_type_hints(function, include_extras=True)
    fields: dict[str, Any] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is parameter.KEYWORD_ONLY:
            default = ... if parameter.default is parameter.empty else parameter.default
            fields[name] = (_readable(hints.get(name, Any)), default)
    return create_model("Settings", __config__=ConfigDict(extra="forbid"), **fields)


def _readable(annotation: Any) -> Any:
    """An annotation for which `a,b` is a list where a list is wanted."""
    kinds = {typing.get_origin(part) or part for part in (annotation, *typing.get_args(annotation))}
    if list not in kinds:
        return annotation
    return typing.Annotated[annotation, BeforeValidator(lambda v: v.split(",") if isinstance(v, str) else v)]


def _no_pass(name: str) -> str:
    advice = near_names(name, passes)
    return advice if advice.startswith("did you mean") else f"{advice}; a file in plugins: may register others"


def _advice(key: str, schema: type[BaseModel], allowed: Iterable[str]) -> str:
    advice = near_names(key, [*schema.model_fields, *allowed])
    if advice.startswith("did you mean"):
        return advice
    return f"its settings: {', '.join([*schema.model_fields, *sorted(allowed)]) or 'none'}"


def _wrong(detail: Any, step: Step, do: Pass) -> Problem:
    """One sentence from pydantic's finding."""
    setting = str(detail["loc"][0])
    remedy = _takes(do)
    if detail["type"] == "missing":
        return Problem(f"passes.{step.name}", f"the pass '{step.type}' needs the setting '{setting}'", remedy)
    message = str(detail["msg"]).replace("Input should", "must", 1)
    return Problem(f"passes.{step.name}.{setting}", f"'{step.settings[setting]}' {message}", remedy)


def _takes(function: Pass) -> str:
    """`takes sparsity (0.2), modules (needed)`"""
    schema = _schema(function)
    fields = schema.model_fields.items()
    return "takes " + ", ".join(f"{name} ({'needed' if f.is_required() else f.default})" for name, f in fields)
