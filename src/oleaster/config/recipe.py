"""A recipe is a YAML file with the sections of `Config`; every problem is named by file and line.

Values stay text until the type of their field reads them. So `1e-4`, which YAML 1.1 takes for text, is a number where
a number is wanted, `no` is a word where a word is wanted, and a flag means the same as the line in a recipe.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import yaml

from oleaster.config import olive
from oleaster.config.flags import ALIASES, Flag, config_flags, sections
from oleaster.config.reading import NULL_TAG, Recipe, compose, deeper, line, pairs, plain
from oleaster.core.errors import ConfigError, near_names


def read_recipe(path: Path) -> Recipe:
    """Read a YAML (or JSON) recipe, in our own words or in Olive's (`config.olive`), or in both.

    Raises: ConfigError when the file cannot be read or is no YAML mapping.
    """
    root = compose(path)
    recipe = Recipe()
    if root is None:
        return recipe
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError("a recipe is a mapping of sections", where=line(path, root), remedy=_sections_text())
    top = {flag.key: flag for flag in config_flags().values() if not flag.section}
    foreign: list[tuple[yaml.Node, yaml.Node]] = []
    unknown: list[tuple[str, yaml.Node]] = []
    entries = list(pairs(path, root, recipe))
    for key, key_node, value in entries:
        if olive.speaks(key, value, [name for name, _, _ in entries]):
            foreign.append((key_node, value))
        elif key in sections():
            _read_section(path, key, value, recipe)
        elif key in top:
            _enter(path, recipe, top[key], value, line(path, key_node))
        else:
            unknown.append((key, key_node))
    also = olive.WORDS if foreign else ()
    recipe.problems += [_unknown_key(key, "", line(path, node), also) for key, node in unknown]
    if foreign:
        olive.translate(path, foreign, recipe)
    return recipe


def _read_section(path: Path, section: str, node: yaml.Node, recipe: Recipe) -> None:
    if isinstance(node, yaml.ScalarNode) and node.tag == NULL_TAG:
        return
    if not isinstance(node, yaml.MappingNode):
        remedy = f"write {section}: and under it, indented, lines of the form key: value"
        recipe.problems.append(ConfigError(f"{section} is a section", where=line(path, node), remedy=remedy))
        return
    known = {flag.key: flag for flag in config_flags().values() if flag.section == section}
    for key, key_node, value in pairs(path, node, recipe):
        if key in known:
            _enter(path, recipe, known[key], value, line(path, key_node))
        else:
            recipe.problems.append(_unknown_key(key, section, line(path, key_node)))


def _enter(path: Path, recipe: Recipe, flag: Flag, node: yaml.Node, where: str) -> None:
    recipe.values[flag.name] = plain(node)
    recipe.where[flag.name] = f"{where}: {flag.place}"
    recipe.where |= {name: f"{path}:{number}: {name}" for name, number in deeper(flag.place, node)}


def _unknown_key(key: str, section: str, where: str, also: Iterable[str] = ()) -> ConfigError:
    """Say what was meant: another section, the name that is used here, or a near name."""
    name = ALIASES.get(key, key)
    flag = config_flags().get(name)
    if flag is not None:
        place = f"in section {flag.section}" if flag.section else "at the top level, not in a section"
        form = f"{flag.section}:\n       {flag.key}: ..." if flag.section else f"{flag.key}: ..."
        called = "" if key == flag.key else f"is called '{flag.key}' here and "
        return ConfigError(f"'{key}' {called}stands {place}", where=where, remedy=form)
    place = f"section {section} has no setting '{key}'" if section else f"there is no section or setting '{key}'"
    return ConfigError(place, where=where, remedy=near_names(key, [*_names_for(section), *also]))


def _names_for(section: str) -> list[str]:
    """Names worth proposing for a wrong key."""
    inside = [flag.key for flag in config_flags().values() if flag.section == section]
    return inside if section else [*inside, *sections()]


def _sections_text() -> str:
    return "sections: " + ", ".join(sections())


def write_recipe(values: Mapping[str, object], defaults: frozenset[str], heading: str) -> str:
    """The text of a recipe that reads back as `values` (by flag name).

    Leaves named in `defaults` are marked as such. None is left out: it is the default everywhere.
    """
    lines = [f"# {line}" for line in heading.splitlines()]
    section = ""
    for flag in config_flags().values():
        if flag.name not in values or values[flag.name] is None:
            continue
        if flag.section != section:
            section = flag.section
            lines += ["", f"{section}:"]
        indent = "  " if section else ""
        first, *more = [f"{indent}{line}" for line in _entry(flag.key, values[flag.name])]
        lines += [f"{first:<48}  # default" if flag.name in defaults else first, *more]
    return "\n".join(lines) + "\n"


def _entry(key: str, value: object) -> list[str]:
    """`key: value`; a list that holds mappings has a line for each entry."""
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        return [f"{key}:", *(f"  - {scalar(item).removeprefix('{').removesuffix('}')}" for item in value)]
    return [f"{key}: {scalar(value)}"]


def scalar(value: object) -> str:
    """One value on one line; text with line breaks or spaces at an end in double quotes."""
    odd = any(word != word.strip() or not word.isprintable() for word in _texts(value))
    style = '"' if odd else None
    text = yaml.safe_dump(
        value, default_flow_style=True, default_style=style, width=2**31, allow_unicode=True, sort_keys=False
    )
    return text.removesuffix("...\n").strip("\n")


def _texts(value: object) -> Iterator[str]:
    """Every text inside of a value."""
    if isinstance(value, str):
        yield value
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for part in inner:
        yield from _texts(part)
