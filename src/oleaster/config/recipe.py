"""A recipe is a YAML file with the sections of `Config`; every problem is named by file and line.

Values stay text until the type of their field reads them. So `1e-4`, which YAML 1.1 takes for text, is a number where
a number is wanted, `no` is a word where a word is wanted, and a flag means the same as the line in a recipe.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from oleaster.config.flags import ALIASES, Flag, config_flags, sections
from oleaster.core.errors import ConfigError, near_names

_NULL_TAG = "tag:yaml.org,2002:null"


@dataclass
class Recipe:
    """The leaves a file gives, by flag name."""

    values: dict[str, object] = field(default_factory=dict)
    where: dict[str, str] = field(default_factory=dict)
    """Flag name -> `file:line: section.key`; of what lies deeper, `passes.prune.sparsity` -> its line as well."""
    problems: list[ConfigError] = field(default_factory=list)
    """Keys that are unknown, misplaced or given twice."""

    def lay_over(self, other: Recipe) -> None:
        """What `other` gives goes before what this one gives."""
        self.values |= other.values
        self.where |= other.where
        self.problems += other.problems


def read_recipe(path: Path) -> Recipe:
    """Read a YAML (or JSON) recipe. Raises: ConfigError when the file cannot be read or is no YAML mapping."""
    root = _compose(path)
    recipe = Recipe()
    if root is None:
        return recipe
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError("a recipe is a mapping of sections", where=_line(path, root), remedy=_sections_text())
    top = {flag.key: flag for flag in config_flags().values() if not flag.section}
    for key, key_node, value in _pairs(path, root, recipe):
        if key in sections():
            _read_section(path, key, value, recipe)
        elif key in top:
            _enter(path, recipe, top[key], value, _line(path, key_node))
        else:
            recipe.problems.append(_unknown_key(key, "", _line(path, key_node)))
    return recipe


def _read_section(path: Path, section: str, node: yaml.Node, recipe: Recipe) -> None:
    if isinstance(node, yaml.ScalarNode) and node.tag == _NULL_TAG:
        return
    if not isinstance(node, yaml.MappingNode):
        remedy = f"write {section}: and under it, indented, lines of the form key: value"
        recipe.problems.append(ConfigError(f"{section} is a section", where=_line(path, node), remedy=remedy))
        return
    known = {flag.key: flag for flag in config_flags().values() if flag.section == section}
    for key, key_node, value in _pairs(path, node, recipe):
        if key in known:
            _enter(path, recipe, known[key], value, _line(path, key_node))
        else:
            recipe.problems.append(_unknown_key(key, section, _line(path, key_node)))


def _enter(path: Path, recipe: Recipe, flag: Flag, node: yaml.Node, where: str) -> None:
    recipe.values[flag.name] = _plain(node)
    recipe.where[flag.name] = f"{where}: {flag.place}"
    recipe.where |= {name: f"{path}:{line}: {name}" for name, line in _deeper(flag.place, node)}


def _deeper(place: str, node: yaml.Node) -> Iterator[tuple[str, int]]:
    """(place, line) of every key and word inside of a value; a list does not count as a level."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = f"{place}.{key.value}"
            yield inner, key.start_mark.line + 1
            yield from _deeper(inner, value)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            if isinstance(item, yaml.ScalarNode):
                yield f"{place}.{item.value}", item.start_mark.line + 1
            yield from _deeper(place, item)


def _pairs(path: Path, node: yaml.MappingNode, recipe: Recipe) -> Iterator[tuple[str, yaml.Node, yaml.Node]]:
    """The entries of a mapping; a key that stands there twice becomes a problem."""
    first: dict[str, int] = {}
    for key_node, value in node.value:
        key = str(key_node.value)
        if key in first:
            message = f"'{key}' is given twice, first in line {first[key]}"
            recipe.problems.append(ConfigError(message, where=_line(path, key_node), remedy="keep one of the two"))
            continue
        first[key] = key_node.start_mark.line + 1
        yield key, key_node, value


def _plain(node: yaml.Node) -> object:
    """Text, None, lists and dicts of them."""
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item) for item in node.value]
    if isinstance(node, yaml.MappingNode):
        return {str(key.value): _plain(value) for key, value in node.value}
    return None if node.tag == _NULL_TAG else node.value


def _unknown_key(key: str, section: str, where: str) -> ConfigError:
    """Say what was meant: another section, the name that is used here, or a near name."""
    name = ALIASES.get(key, key)
    flag = config_flags().get(name)
    if flag is not None:
        place = f"in section {flag.section}" if flag.section else "at the top level, not in a section"
        form = f"{flag.section}:\n       {flag.key}: ..." if flag.section else f"{flag.key}: ..."
        called = "" if key == flag.key else f"is called '{flag.key}' here and "
        return ConfigError(f"'{key}' {called}stands {place}", where=where, remedy=form)
    place = f"section {section} has no setting '{key}'" if section else f"there is no section or setting '{key}'"
    return ConfigError(place, where=where, remedy=near_names(key, _names_for(section)))


def _names_for(section: str) -> list[str]:
    """Names worth proposing for a wrong key."""
    inside = [flag.key for flag in config_flags().values() if flag.section == section]
    return inside if section else [*inside, *sections()]


def _sections_text() -> str:
    return "sections: " + ", ".join(sections())


def _line(path: Path, node: yaml.Node) -> str:
    return f"{path}:{node.start_mark.line + 1}"


def _compose(path: Path) -> yaml.Node | None:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        found = sorted(p.name for p in path.parent.glob("*.y*ml")) if path.parent.is_dir() else []
        remedy = near_names(path.name, found) if found else f"no recipe lies in {path.parent}"
        raise ConfigError("there is no such recipe", where=str(path), remedy=remedy) from None
    except (IsADirectoryError, PermissionError) as error:
        raise ConfigError(f"this is no readable file ({error.strerror})", where=str(path)) from None
    except UnicodeDecodeError as error:
        message = f"byte {error.start} is no UTF-8"
        raise ConfigError(message, where=str(path), remedy="save the file as UTF-8") from None
    try:
        return yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise ConfigError(f"not valid YAML: {error.problem or error.context}", where=where) from None
    except yaml.YAMLError as error:
        raise ConfigError(f"not valid YAML: {error}", where=str(path)) from None


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
        return [f"{key}:", *(f"  - {_scalar(item).removeprefix('{').removesuffix('}')}" for item in value)]
    return [f"{key}: {_scalar(value)}"]


def _scalar(value: object) -> str:
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
