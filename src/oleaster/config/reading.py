"""YAML nodes -> values with their lines: what the reader of recipes and that of Olive's configs have in common."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from oleaster.core.errors import ConfigError, near_names

NULL_TAG = "tag:yaml.org,2002:null"


@dataclass
class Recipe:
    """The leaves a file gives, by flag name."""

    values: dict[str, object] = field(default_factory=dict)
    where: dict[str, str] = field(default_factory=dict)
    """Flag name -> `file:line: section.key`; of what lies deeper, `passes.prune.sparsity` -> its line as well."""
    problems: list[ConfigError] = field(default_factory=list)
    """Keys that are unknown, misplaced or given twice, and what Olive knows and Oleaster does not."""
    notes: list[str] = field(default_factory=list)
    """How words of Olive were understood, where that is not plain."""

    def lay_over(self, other: Recipe) -> None:
        """What `other` gives goes before what this one gives."""
        self.values |= other.values
        self.where |= other.where
        self.problems += other.problems
        self.notes += other.notes


def compose(path: Path) -> yaml.Node | None:
    """The nodes of a YAML or JSON file; None when it is empty. Raises: ConfigError when it cannot be read."""
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
        remedy = "look at the brackets, quotes and indentation there and in the line before"
        raise ConfigError(f"not valid YAML: {error.problem or error.context}", where=where, remedy=remedy) from None
    except yaml.YAMLError as error:
        raise ConfigError(f"not valid YAML: {error}", where=str(path)) from None


def line(path: Path, node: yaml.Node) -> str:
    """`file:line` where a node begins."""
    return f"{path}:{node.start_mark.line + 1}"


def pairs(path: Path, node: yaml.MappingNode, recipe: Recipe) -> Iterator[tuple[str, yaml.Node, yaml.Node]]:
    """(key, its node, node of its value); a key that stands there twice becomes a problem."""
    first: dict[str, int] = {}
    for key_node, value in node.value:
        key = str(key_node.value)
        if key in first:
            message = f"'{key}' is given twice, first in line {first[key]}"
            recipe.problems.append(ConfigError(message, where=line(path, key_node), remedy="keep one of the two"))
            continue
        first[key] = key_node.start_mark.line + 1
        yield key, key_node, value


def plain(node: yaml.Node) -> object:
    """Text, None, lists and dicts of them."""
    if isinstance(node, yaml.SequenceNode):
        return [plain(item) for item in node.value]
    if isinstance(node, yaml.MappingNode):
        return {str(key.value): plain(value) for key, value in node.value}
    return None if node.tag == NULL_TAG else node.value


def deeper(place: str, node: yaml.Node) -> Iterator[tuple[str, int]]:
    """(place, line) of every key and word inside of a value; a list does not count as a level."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = f"{place}.{key.value}"
            yield inner, key.start_mark.line + 1
            yield from deeper(inner, value)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            if isinstance(item, yaml.ScalarNode):
                yield f"{place}.{item.value}", item.start_mark.line + 1
            yield from deeper(place, item)
