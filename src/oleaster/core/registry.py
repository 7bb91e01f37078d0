"""Named tables of plain functions: the one way in which anything is plugged in."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

from oleaster.core.errors import ConfigError, near_names

T = TypeVar("T")


class Registry(Generic[T]):
    """A table `name -> entry`. A duplicate name is refused; an unknown one is answered with the near ones.

    Args:
        kind: what the entries are, in the singular ("metric"); used in messages.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}
        self._places: dict[str, str] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that enters the decorated object under `name`."""

        def enter(entry: T) -> T:
            caller = traceback.extract_stack(limit=2)[0]
            place = f"{caller.filename}:{caller.lineno}"
            if name in self._entries:
                message = f"the {self.kind} '{name}' is registered twice, first at {self._places[name]}"
                raise ConfigError(message, where=place, remedy="choose another name")
            self._entries[name], self._places[name] = entry, place
            return entry

        return enter

    def get(self, name: str) -> T:
        """The entry called `name`. Raises: ConfigError with the near names when there is none."""
        if name not in self._entries:
            raise ConfigError(f"there is no {self.kind} '{name}'", remedy=near_names(name, self._entries))
        return self._entries[name]

    @contextmanager
    def restored(self) -> Iterator[None]:
        """What is registered inside the block is gone after it."""
        before = self._entries.copy(), self._places.copy()
        try:
            yield
        finally:
            self._entries, self._places = before

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))
