"""A mapping of an Olive config that is read key by key; what nobody has taken at the end is an error."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from oleaster.config.flags import config_flags
from oleaster.config.reading import NULL_TAG, Recipe, line, pairs, plain
from oleaster.core.errors import ConfigError, near_names


@dataclass(frozen=True)
class Same:
    """An Olive key that means a setting of ours."""

    flag: str


@dataclass(frozen=True)
class Given:
    """An Olive key that asks for what is so here anyway: these values are accepted, another one is an error."""

    values: tuple[str, ...]
    remedy: str


Words = Mapping[str, Same | Given]
"""Olive's key -> what becomes of it."""


@dataclass(frozen=True)
class Found:
    """One value of a block."""

    where: str
    """`file:line: place.key`"""
    node: yaml.Node

    @property
    def value(self) -> object:
        """Text, None, lists and dicts of them."""
        return plain(self.node)

    @property
    def text(self) -> str:
        """The value as text, empty for null."""
        return "" if self.value is None else str(self.value)


class Block:
    """A mapping of the config, with its place in it."""

    def __init__(self, recipe: Recipe, path: Path, place: str, node: yaml.Node) -> None:
        self.recipe, self.path, self.place, self.node = recipe, path, place, node
        self.where = f"{line(path, node)}: {place}"
        self._left: dict[str, Found] = {}
        if isinstance(node, yaml.MappingNode):
            for key, key_node, value in pairs(path, node, recipe):
                self._left[key] = Found(f"{line(path, key_node)}: {place}.{key}".replace(": .", ": "), value)
        elif not (isinstance(node, yaml.ScalarNode) and node.tag == NULL_TAG):
            self.problem(self.where, f"{place or 'the config'} is no mapping", "write key: value lines under it")

    def __contains__(self, key: str) -> bool:
        return key in self._left

    def left(self) -> list[str]:
        """The keys that nobody has taken yet, in order."""
        return list(self._left)

    def take(self, *names: str) -> Found | None:
        """The value under one of `names`, which mean the same; null counts as absent."""
        found = [self._left.pop(name) for name in names if name in self._left]
        if len(found) > 1:
            self.problem(found[1].where, f"{' and '.join(names)} mean the same", "keep one of them")
        return found[0] if found and found[0].value is not None else None

    def is_list(self, key: str) -> bool:
        """Are there several values under `key`?"""
        return key in self._left and isinstance(self._left[key].node, yaml.SequenceNode)

    def block(self, name: str) -> Block:
        """The mapping under `name`; an empty one when there is none."""
        found = self.take(name)
        node = found.node if found else yaml.MappingNode("", [], self.node.start_mark, self.node.end_mark)
        return Block(self.recipe, self.path, f"{self.place}.{name}".removeprefix("."), node)

    def flat(self, name: str) -> Block:
        """This block with the keys of the mapping under `name` beside its own: Olive takes both forms."""
        if name in self._left and isinstance(self._left[name].node, yaml.MappingNode):
            inner = self.block(name)
            for key, found in inner._left.items():
                if key in self._left:
                    self.problem(found.where, f"'{key}' stands inside and outside of '{name}'", "keep one of the two")
                self._left.setdefault(key, found)
        else:
            self.take(name)
        return self

    def enter(self, flag: str, found: Found | None, value: object = None) -> None:
        """Set a setting of ours; `value` when it is not simply what was found."""
        if found is None:
            return
        value = found.value if value is None else value
        if flag in self.recipe.values and self.recipe.values[flag] != value:
            other = self.recipe.where.get(flag, flag)
            self.problem(found.where, f"'{value}' contradicts '{self.recipe.values[flag]}' ({other})", "keep one")
            return
        self.recipe.values[flag] = value
        self.recipe.where[flag] = found.where

    def words(self, words: Words) -> None:
        """Take every key that the table knows."""
        for key in self.left():
            meaning = words.get(key)
            if meaning is None:
                continue
            found = self.take(key)
            if found is None:
                continue
            if isinstance(meaning, Same):
                self.enter(meaning.flag, found)
            elif found.text.lower() not in meaning.values:
                self.problem(found.where, f"'{found.text}' cannot be had here", meaning.remedy)

    def leaves(self, sections: Iterable[str], also: Iterable[str] = ()) -> None:
        """Take every key that is called as a setting of ours in these sections (or in `also`)."""
        wanted = set(sections)
        names = {name for name, flag in config_flags().items() if flag.section in wanted} | set(also)
        self.words({name: Same(name) for name in names})

    def note(self, text: str) -> None:
        """Say how a word was understood."""
        self.recipe.notes.append(text)

    def problem(self, where: str, message: str, remedy: str | None = None) -> None:
        """Something that is wrong or that cannot be translated."""
        self.recipe.problems.append(ConfigError(message, where=where, remedy=remedy))

    def close(self, known: Iterable[str] = (), remedies: Mapping[str, str] = {}) -> None:
        """What is left cannot be translated: an error each, with a remedy of its own or near names."""
        for key, found in self._left.items():
            advice = remedies.get(key) or near_names(key, known)
            if not remedies.get(key) and not advice.startswith("did you mean"):
                advice = "leave it out, or say it with a setting of docs/config.md"
            self.problem(found.where, f"'{key}' has no counterpart here", advice)
        self._left.clear()
