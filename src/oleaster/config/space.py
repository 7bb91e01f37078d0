"""From `search_space` as written to `Dimension`s: what is wrong with it, seen before anything is loaded."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from oleaster.config.flags import ALIASES, config_flags
from oleaster.config.schema import Config
from oleaster.config.search import DIMENSION_KEYS, Dimension
from oleaster.core.errors import near_names

_TYPES = {"float": "float", "int": "int", "choice": "choice", "categorical": "choice"}
_FORM = "{type: float, low: 1e-5, high: 1e-3, log: true}, {type: int, low: 8, high: 64} or [a, b]"
_SWITCH = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
NOT_SEARCHED = {
    **dict.fromkeys(("output_path", "task_name", "log_level", "plugins", "resume"), "does not change what is trained"),
    **dict.fromkeys(("logging_steps", "logging_dir", "report_to", "save_total_limit"), "only says what is kept"),
    **dict.fromkeys(
        ("eval_data_files", "eval_split", "validation_fraction", "label_field", "eval_max_samples"),
        "decides which rows the trials are compared on; they must be the same for all",
    ),
}
"""Settings that make no sense in a space -> why."""


class Finding(NamedTuple):
    """Something wrong in a space."""

    place: str
    """`search_space.lora_r.low`"""
    message: str
    remedy: str | None = None


def dimensions(config: Config) -> list[Dimension]:
    """What is searched, each setting behind those that its `when` names."""
    return _ordered([found for found in _read_all(config) if isinstance(found, Dimension)])


def findings(config: Config) -> Iterator[Finding]:
    """All that is wrong with the space, and between it and the strategy."""
    read = list(_read_all(config))
    yield from (found for found in read if isinstance(found, Finding))
    sound = [found for found in read if isinstance(found, Dimension)]
    yield from _circles(sound)
    if len(sound) == len(config.search_space):
        yield from _fits_the_strategy(sound, config)


def _read_all(config: Config) -> Iterator[Dimension | Finding]:
    first: dict[str, str] = {}
    for written, entry in config.search_space.items():
        name, place = ALIASES.get(written, written), f"search_space.{written}"
        if problem := _wrong_name(name, place, config):
            yield problem
        elif name in first:
            yield Finding(place, f"'{first[name]}' and '{written}' are the same setting", "keep one of the two")
        elif not isinstance(entry, Mapping):
            yield Finding(place, f"'{entry}' is no range of values", f"write {_FORM}")
        else:
            yield from _read(name, place, entry)
        first.setdefault(name, written)


def _wrong_name(name: str, place: str, config: Config) -> Finding | None:
    flag = config_flags().get(name)
    if flag is None:
        return Finding(place, "there is no such setting", near_names(name, [*config_flags(), *ALIASES]))
    if name == "seed" and not (config.data.eval_data_files or config.data.eval_split):
        return Finding(place, "the seed decides which rows are held out", "name the validation rows: eval_data_files")
    if flag.section == "search_strategy" or name == "search_space":
        return Finding(place, "is a setting of the search itself", "leave it out")
    return Finding(place, NOT_SEARCHED[name], "leave it out") if name in NOT_SEARCHED else None


def _read(name: str, place: str, entry: Mapping[str, Any]) -> Iterator[Dimension | Finding]:
    """The dimension, or all that is wrong with it."""
    problems = [
        Finding(f"{place}.{key}", "there is no such key", near_names(key, DIMENSION_KEYS))
        for key in entry
        if key not in DIMENSION_KEYS
    ]
    kind = _TYPES.get(str(entry.get("type")))
    if kind is None:
        given = entry.get("type")
        found = f"'{given}' is none of float, int, choice" if given else "the type is missing"
        yield from [*problems, Finding(f"{place}.type" if given else place, found, f"write {_FORM}")]
        return
    when = entry.get("when", {})
    if not isinstance(when, Mapping):
        problems.append(Finding(f"{place}.when", "is no mapping", "when: {lr_scheduler_type: cosine}"))
        when = {}
    conditions = []
    for other, values in when.items():
        known = str(ALIASES.get(other, other))
        if known not in config_flags():
            remedy = near_names(known, [*config_flags(), *ALIASES])
            problems.append(Finding(f"{place}.when.{other}", "there is no such setting", remedy))
        conditions.append((known, tuple(values) if isinstance(values, list) else (str(values),)))
    numbers: dict[str, Any] = {}
    wanted = ("values",) if kind == "choice" else ("low", "high", "log", "step")
    for key in ("low", "high", "log", "step", "values"):
        if key in entry and key not in wanted:
            problems.append(Finding(f"{place}.{key}", f"a {kind} has no {key}", f"it has {', '.join(wanted)}"))
    if kind == "choice":
        problems += _values(place, entry, numbers)
    else:
        problems += _range(place, kind, entry, numbers)
    if problems:
        yield from problems
        return
    yield Dimension(name, kind, when=tuple(conditions), **numbers)  # type: ignore[arg-type]


def _values(place: str, entry: Mapping[str, Any], into: dict[str, Any]) -> Iterator[Finding]:
    values = entry.get("values")
    if not isinstance(values, list) or not values:
        yield Finding(f"{place}.values", "a choice needs the values it is from", "values: [8, 16, 32]")
        return
    if len(set(values)) < len(values):
        yield Finding(f"{place}.values", "a value is given twice", "keep one of the two")
    into["values"] = tuple(values)


def _range(place: str, kind: str, entry: Mapping[str, Any], into: dict[str, Any]) -> Iterator[Finding]:
    """Numbers of a float or an int go into `into`; what is wrong with them comes out."""
    for key in ("low", "high", "step"):
        if key not in entry:
            if key != "step":
                yield Finding(f"{place}.{key}", f"a {kind} needs low and high", f"write {_FORM}")
            continue
        number = _number(entry[key], kind)
        if number is None:
            wanted = "whole number" if kind == "int" else "number"
            yield Finding(f"{place}.{key}", f"'{entry[key]}' is no {wanted}")
        else:
            into[key] = number
    log = _SWITCH.get(str(entry.get("log", "false")).lower())
    if log is None:
        yield Finding(f"{place}.log", f"'{entry['log']}' is neither true nor false")
    into["log"] = log
    low, high, step = (into.get(key) for key in ("low", "high", "step"))
    if low is not None and high is not None and low >= high:
        yield Finding(f"{place}.low", f"{low:g} is not below high ({high:g})", "low is the smaller end")
    if log and low is not None and low <= 0:
        yield Finding(f"{place}.low", f"{low:g} has no logarithm", "a low above 0, or log: false")
    if step is not None and (step <= 0 or log):
        remedy = "leave log out" if log else "a step above 0"
        yield Finding(f"{place}.step", "log and step exclude each other" if log else f"{step:g} is no step", remedy)


def _number(text: object, kind: str) -> float | None:
    try:
        number = float(str(text))
    except ValueError:
        return None
    return number if math.isfinite(number) and (kind == "float" or number == int(number)) else None


def _circles(sound: Sequence[Dimension]) -> Iterator[Finding]:
    ordered = {dimension.name for dimension in _ordered(sound)}
    for dimension in sound:
        if dimension.name not in ordered:
            others = ", ".join(name for name, _ in dimension.when)
            yield Finding(f"search_space.{dimension.name}.when", f"waits for itself ({others})", "break the circle")


def _ordered(sound: Sequence[Dimension]) -> list[Dimension]:
    """Each behind those it waits for; those in a circle are left out."""
    names, ordered = {dimension.name for dimension in sound}, []
    waiting = list(sound)
    while waiting:
        known = {dimension.name for dimension in ordered}
        ready = [d for d in waiting if all(name in known or name not in names for name, _ in d.when)]
        if not ready:
            break
        ordered += ready
        waiting = [dimension for dimension in waiting if dimension not in ready]
    return ordered


def _fits_the_strategy(sound: Sequence[Dimension], config: Config) -> Iterator[Finding]:
    strategy = config.search_strategy
    kind = strategy.type
    for dimension in sound:
        place = f"search_space.{dimension.name}"
        if kind == "grid" and dimension.type == "float" and dimension.step is None:
            yield Finding(place, "a grid has no place for every float", "give a step, or a choice of values")
        if kind == "cma" and dimension.type == "choice":
            yield Finding(place, "CMA-ES moves through numbers, and this is a choice", "search_strategy tpe or gp")
        if kind in ("cma", "gp") and dimension.when:
            yield Finding(f"{place}.when", f"{kind} knows no conditions", "search_strategy tpe, random or grid")
    if kind == "cma" and len(sound) == 1:
        yield Finding("search_strategy", "CMA-ES needs two settings at least", "search_strategy tpe or gp")
    if len(strategy.objectives) > 1 and strategy.pruning != "none":
        yield Finding("pruning", "a trial is pruned by one objective, and there are several", "leave pruning out")
    if len(strategy.objectives) > 1 and kind == "cma":
        yield Finding("search_strategy", "CMA-ES follows one objective", "search_strategy tpe, gp or random")
    if len(set(strategy.objectives)) < len(strategy.objectives) or not strategy.objectives:
        yield Finding("objectives", "each objective is named once, and there is one at least", "objectives: eval_loss")
