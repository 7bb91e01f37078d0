"""Recipe and overrides -> `Config`, all problems in one error; and the way back."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from oleaster.config.flags import ALIASES, Flag, config_flags, sections
from oleaster.config.places import found_from
from oleaster.config.recipe import Recipe, read_recipe, write_recipe
from oleaster.config.rules import ALWAYS, Rule, broken_rules
from oleaster.config.schema import Config
from oleaster.core.errors import ConfigError, UserError, collect, near_names
from oleaster.core.files import atomic_write_text

RECIPE_NAME = "oleaster.yaml"
"""The resolved recipe inside a run's folder."""
_LORA = "lora"
"""The method where none is named."""


@dataclass(frozen=True)
class ReadConfig:
    """A recipe as far as it can be read."""

    config: Config
    """What is wrong is left at its default."""
    problems: list[tuple[str, UserError]]
    """(flag name or "", what is wrong with it), in the order of the recipe."""
    where: Mapping[str, str]
    """Flag name -> its file and line, or the flag that was typed."""

    @property
    def errors(self) -> list[UserError]:
        """What is wrong, without the names."""
        return [error for _, error in self.problems]

    def located(self, error: UserError) -> UserError:
        """The same error with file and line instead of the setting's name, where they are known."""
        name = (error.where or "").removeprefix("--")
        if name not in self.where:
            return error
        return type(error)(error.message, where=self.where[name], remedy=error.remedy)


def load_config(
    recipe: Path | Sequence[Path] | None = None,
    overrides: Mapping[str, object] = {},
    *,
    rules: Sequence[Rule] = ALWAYS,
) -> Config:
    """Read a recipe and lay `overrides` over it.

    Args:
        recipe: a YAML file with the sections of `Config`; of several the later ones are laid over the earlier.
        overrides: flag name (or alias) -> value, as text (`"1e-4"`, `"a,b"`) or typed; None sets the default back.
        rules: what must hold between settings; see `config.rules`.

    Raises:
        ConfigError: all unknown keys, wrong values and broken rules together, each with its file and line or flag.
    """
    read = read_config(recipe, overrides, rules=rules)
    collect(read.errors)
    return read.config


def read_config(
    recipe: Path | Sequence[Path] | None = None,
    overrides: Mapping[str, object] = {},
    *,
    rules: Sequence[Rule] = ALWAYS,
) -> ReadConfig:
    """As `load_config`, but what is wrong is returned beside what is good."""
    read = Recipe()
    for path in [recipe] if isinstance(recipe, Path) else recipe or ():
        over = read_recipe(path)
        over.values = found_from(path, over.values)
        _make_way(read, over.values)
        read.lay_over(over)
    problems: list[tuple[str, UserError]] = [("", problem) for problem in read.problems]
    _make_way(read, overrides)
    for name, value in overrides.items():
        word = name.replace("-", "_")
        flag = config_flags().get(ALIASES.get(word, word))
        if flag is None:
            problems.append(("", unknown_setting(word, f"--{name}")))
            continue
        if value is None:
            read.values.pop(flag.name, None)
            continue
        read.values[flag.name] = str(value) if isinstance(value, Path) else value
        read.where[flag.name] = f"--{name}"
    config, wrong = _build(read.values, read.where)
    problems += wrong.items()
    # A rule about a setting that is wrong already would only confuse: the rules saw its default.
    # One that misses something altogether (no name) may miss what a word that was not understood is for.
    silent = {*wrong, *([""] if read.problems else [])}
    problems += [(name, problem) for name, problem in broken_rules(config, rules, read.where) if name not in silent]
    return ReadConfig(config, sorted(problems, key=_by_line), read.where)


def _by_line(problem: tuple[str, UserError]) -> tuple[str, int]:
    """Where it is in the recipe; what is in none comes last."""
    found = re.match(r"(.+?):(\d+)(?:$|:)", problem[1].where or "")
    return (found[1], int(found[2])) if found else ("\uffff", 0)


def replace(config: Config, **leaves: object) -> Config:
    """The same recipe with some leaves changed: `replace(config, learning_rate=1e-4, output_path="runs/b")`.

    Raises: ConfigError for unknown names and wrong values.
    """
    return load_config(None, {**_beside(leaf_values(config), leaves), **leaves})


def lay_over(config: Config, leaves: Mapping[str, object]) -> Config:
    """The same recipe with some leaves changed, each as text or typed. Raises: ConfigError for wrong values."""
    if not leaves:
        return config
    changed, wrong = _build({**_beside(leaf_values(config), leaves), **leaves}, {})
    collect(list(wrong.values()))
    return changed


def wrong_leaves(leaves: Mapping[str, object]) -> Mapping[str, ConfigError]:
    """Flag name -> why its value is refused, for those of `leaves` that are, whatever the method is."""
    of_methods = [flag.only[0] for name, flag in config_flags().items() if name in leaves and flag.only]
    return _build({"method": of_methods[0] if of_methods else _LORA, **leaves}, {})[1]


def recipe_text(config: Config, again: str = f"oleaster finetune --config {RECIPE_NAME}") -> str:
    """The resolved recipe as YAML, settings that are at their default marked; reads back equal to `config`."""
    from importlib.metadata import version  # 15 ms that no other caller of this module needs

    values, defaults = leaf_values(config), leaf_values(_build({"method": config.method.type}, {})[0])
    same = frozenset(name for name in values if values[name] == defaults[name])
    heading = f"Written by oleaster {version('oleaster')}. Runs again with: {again}"
    return write_recipe(values, same, heading)


def save_config(config: Config, path: Path, again: str = f"oleaster finetune --config {RECIPE_NAME}") -> None:
    """Write the resolved recipe; `load_config(path)` equals `config`. `again`: the command its first line names."""
    atomic_write_text(path, recipe_text(config, again))


def leaf_values(config: Config) -> dict[str, object]:
    """Flag name -> value as plain data (paths are text); settings of other methods are not there."""
    tree = config.model_dump(mode="json")
    places = {flag.name: (tree[flag.section] if flag.section else tree, flag.key) for flag in config_flags().values()}
    return {name: branch[key] for name, (branch, key) in places.items() if key in branch}


def unknown_setting(name: str, where: str) -> ConfigError:
    """The error for a name that is no leaf of `Config`."""
    known = [*config_flags(), *ALIASES]
    return ConfigError("there is no such setting", where=where, remedy=near_names(name, known))


def _beside(values: Mapping[str, object], leaves: Mapping[str, object]) -> dict[str, object]:
    """Those of `values` that may stay when `leaves` are laid over them: another method has other settings, and other
    defaults (learning rate, rank), which a resolved recipe holds as values."""
    before = values.get("method", _LORA)
    method = leaves.get("method") or before
    flags = config_flags()
    kept = {name: value for name, value in values.items() if not flags[name].only or method in flags[name].only}
    if method == before:
        return kept
    read, wrong = _build(values, {})
    usual, now = (leaf_values(_build({"method": each}, {})[0]) for each in (before, method))
    chosen = {name for name, value in leaf_values(read).items() if value != usual[name]}
    return {name: kept[name] for name in kept if name in {*chosen, *wrong} or usual.get(name) == now.get(name)}


def _make_way(read: Recipe, leaves: Mapping[str, object]) -> None:
    """Where `leaves` name a method, what only the recipe's method has goes with it."""
    if leaves.get("method"):
        read.values = _beside(read.values, leaves)


def _build(values: Mapping[str, object], where: Mapping[str, str]) -> tuple[Config, dict[str, ConfigError]]:
    """The tree of `values`, those that their field refuses left at the default, and why they were refused."""
    try:
        return Config.model_validate(_tree(values)), {}
    except ValidationError as error:
        wrong: dict[str, ConfigError] = {}
        for detail in error.errors(include_url=False):
            flag = _flag_at(detail["loc"])
            place = where.get(flag.name, flag.name)
            if detail["type"] == "extra_forbidden":
                wrong.setdefault(flag.name, _of_another_method(flag, str(values.get("method", _LORA)), place))
            else:
                wrong.setdefault(flag.name, _wrong_value(flag, values[flag.name], detail, place))
    good = {name: value for name, value in values.items() if name not in wrong}
    return Config.model_validate(_tree(good)), wrong


def _tree(values: Mapping[str, object]) -> dict[str, object]:
    """The nested form of leaves, with what the chosen method sets in other sections where nothing else is said."""
    method = str(values.get("method", _LORA))
    flags = config_flags()
    implied = {name: flag.defaults[method] for name, flag in flags.items() if not flag.only and method in flag.defaults}
    tree: dict[str, object] = {}
    for name, value in {**implied, **values}.items():
        flag = flags[name]
        branch = tree.setdefault(flag.section, {}) if flag.section else tree
        branch[flag.key] = value  # type: ignore[index]
    return tree


def _flag_at(loc: tuple[int | str, ...]) -> Flag:
    """The leaf an error of pydantic is about; `loc` may go on inside of it (list index, union member)."""
    if len(sections().get(str(loc[0]), ())) > 1:  # the type that was chosen stands between section and leaf
        loc = (loc[0], *(loc[2:] or ("type",)))
    return next(
        flag
        for flag in config_flags().values()
        if loc[: 2 if flag.section else 1] == ((flag.section, flag.key) if flag.section else (flag.key,))
    )


def _of_another_method(flag: Flag, method: str, where: str) -> ConfigError:
    message = f"a setting of the method {' or '.join(flag.only)}; the method here is {method}"
    return ConfigError(message, where=where, remedy=f"leave it out, or choose its method: --method {flag.only[0]}")


def _wrong_value(flag: Flag, value: object, detail: Mapping[str, object], where: str) -> ConfigError:
    """One sentence from pydantic's finding, in the words of the recipe."""
    kind, shown = detail["type"], f"'{value}'"
    if kind in ("literal_error", "union_tag_invalid"):
        found = str(detail["input"] if kind == "literal_error" else value)
        message = f"'{found}' is none of {', '.join(flag.choices)}"
        return ConfigError(message, where=where, remedy=_choice(flag, found))
    wanted = {
        "bool_parsing": "neither true nor false",
        "bool_type": "neither true nor false",
        "int_parsing": "no whole number",
        "int_from_float": "no whole number",
        "float_parsing": "no number",
        "finite_number": "no finite number",
        "string_type": "no text",
        "list_type": "no list (a,b)",
    }.get(str(kind))
    if value is None:
        return ConfigError("a value is missing", where=where, remedy=f"write {flag.default} (the default) or another")
    if wanted:
        return ConfigError(f"{shown} is {wanted}", where=where, remedy=_meaning(flag))
    if kind == "value_error":  # a validator of our own, which says all of it
        return ConfigError(str(detail["msg"]).removeprefix("Value error, "), where=where, remedy=_meaning(flag))
    message = str(detail["msg"]).replace("Input should", "must", 1)
    return ConfigError(f"{shown} {message}", where=where, remedy=_meaning(flag))


def _meaning(flag: Flag) -> str:
    """What a setting is for, where it was given something that it cannot be."""
    default = "" if flag.default in (None, []) else f" Default: {str(flag.default).lower()}."
    return f"what {flag.name} means: {flag.help}{default}"


def _choice(flag: Flag, found: str) -> str | None:
    advice = near_names(found, flag.choices)
    return advice if advice.startswith("did you mean") else None
