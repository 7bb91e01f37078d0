"""Recipe and overrides -> `Config`, all problems in one error; and the way back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError

from oleaster.config.flags import ALIASES, Flag, config_flags
from oleaster.config.recipe import Recipe, read_recipe, write_recipe
from oleaster.config.rules import ALWAYS, Rule, broken_rules
from oleaster.config.schema import Config
from oleaster.core.errors import ConfigError, UserError, collect, near_names
from oleaster.core.files import atomic_write_text

RECIPE_NAME = "oleaster.yaml"
"""The resolved recipe inside a run's folder."""


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
    read = Recipe()
    for path in [recipe] if isinstance(recipe, Path) else recipe or ():
        read.lay_over(read_recipe(path))
    problems: list[UserError] = list(read.problems)
    for name, value in overrides.items():
        word = name.replace("-", "_")
        flag = config_flags().get(ALIASES.get(word, word))
        if flag is None:
            problems.append(unknown_setting(word, f"--{name}"))
            continue
        if value is None:
            read.values.pop(flag.name, None)
            continue
        read.values[flag.name] = str(value) if isinstance(value, Path) else value
        read.where[flag.name] = f"--{name}"
    config, wrong = _build(read.values, read.where)
    problems += wrong.values()
    # A rule about a setting that is wrong already would only confuse: the rules saw its default.
    problems += [problem for name, problem in broken_rules(config, rules, read.where) if name not in wrong]
    collect(problems)
    return config


def replace(config: Config, **leaves: object) -> Config:
    """The same recipe with some leaves changed: `replace(config, learning_rate=1e-4, output_path="runs/b")`.

    Raises: ConfigError for unknown names and wrong values.
    """
    return load_config(None, {**leaf_values(config), **leaves})


def lay_over(config: Config, leaves: Mapping[str, object]) -> Config:
    """The same recipe with some leaves changed, each as text or typed. Raises: ConfigError for wrong values."""
    if not leaves:
        return config
    changed, wrong = _build({**leaf_values(config), **leaves}, {})
    collect(list(wrong.values()))
    return changed


def wrong_leaves(leaves: Mapping[str, object]) -> Mapping[str, ConfigError]:
    """Flag name -> why its value is refused, for those of `leaves` that are."""
    return _build(leaves, {})[1]


def recipe_text(config: Config) -> str:
    """The resolved recipe as YAML, settings that are at their default marked; reads back equal to `config`."""
    from importlib.metadata import version  # 15 ms that no other caller of this module needs

    values, defaults = leaf_values(config), leaf_values(Config())
    same = frozenset(name for name in values if values[name] == defaults[name])
    heading = f"Written by oleaster {version('oleaster')}. Runs again with: oleaster finetune --config {RECIPE_NAME}"
    return write_recipe(values, same, heading)


def save_config(config: Config, path: Path) -> None:
    """Write the resolved recipe; `load_config(path)` equals `config`."""
    atomic_write_text(path, recipe_text(config))


def leaf_values(config: Config) -> dict[str, object]:
    """Flag name -> value as plain data (paths are text)."""
    tree = config.model_dump(mode="json")
    return {
        flag.name: tree[flag.section][flag.key] if flag.section else tree[flag.key] for flag in config_flags().values()
    }


def unknown_setting(name: str, where: str) -> ConfigError:
    """The error for a name that is no leaf of `Config`."""
    known = [*config_flags(), *ALIASES]
    return ConfigError("there is no such setting", where=where, remedy=near_names(name, known))


def _build(values: Mapping[str, object], where: Mapping[str, str]) -> tuple[Config, dict[str, ConfigError]]:
    """The tree of `values`, those that their field refuses left at the default, and why they were refused."""
    try:
        return Config.model_validate(_tree(values)), {}
    except ValidationError as error:
        wrong: dict[str, ConfigError] = {}
        for detail in error.errors(include_url=False):
            flag = _flag_at(detail["loc"])
            wrong.setdefault(flag.name, _wrong_value(flag, values[flag.name], detail, where.get(flag.name, flag.name)))
    good = {name: value for name, value in values.items() if name not in wrong}
    return Config.model_validate(_tree(good)), wrong


def _tree(values: Mapping[str, object]) -> dict[str, object]:
    tree: dict[str, object] = {}
    for name, value in values.items():
        flag = config_flags()[name]
        branch = tree.setdefault(flag.section, {}) if flag.section else tree
        branch[flag.key] = value  # type: ignore[index]
    return tree


def _flag_at(loc: tuple[int | str, ...]) -> Flag:
    """The leaf an error of pydantic is about; `loc` may go on inside of it (list index, union member)."""
    return next(
        flag
        for flag in config_flags().values()
        if loc[: 2 if flag.section else 1] == ((flag.section, flag.key) if flag.section else (flag.key,))
    )


def _wrong_value(flag: Flag, value: object, detail: Mapping[str, object], where: str) -> ConfigError:
    """One sentence from pydantic's finding, in the words of the recipe."""
    kind, shown = detail["type"], f"'{value}'"
    if kind == "literal_error":
        found = f"'{detail['input']}'"
        return ConfigError(f"{found} is none of {', '.join(flag.choices)}", where=where, remedy=_choice(flag, detail))
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
        return ConfigError(f"{shown} is {wanted}", where=where, remedy=flag.help)
    if kind == "value_error":  # a validator of our own, which says all of it
        return ConfigError(str(detail["msg"]).removeprefix("Value error, "), where=where, remedy=flag.help)
    message = str(detail["msg"]).replace("Input should", "must", 1)
    return ConfigError(f"{shown} {message}", where=where, remedy=flag.help)


def _choice(flag: Flag, detail: Mapping[str, object]) -> str | None:
    advice = near_names(str(detail["input"]), flag.choices)
    return advice if advice.startswith("did you mean") else None
