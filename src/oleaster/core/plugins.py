"""Foreign entries for the registries: Python files named in a recipe, and installed packages.

A plug-in registers plain functions with the same decorators as the built-in ones
(`from oleaster.evaluation.metrics import metrics` ... `@metrics.register("my_metric")`); importing it is all there is.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import traceback
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType

from oleaster.core.errors import ConfigError, UserError, collect

GROUP = "oleaster"
"""Entry point group that an installed package names its plug-in modules in."""


def load_plugins(paths: Sequence[Path]) -> None:
    """Import the installed plug-ins, then the files in `paths`; a file loaded before is not loaded again.

    Raises: ConfigError that names `file:line` for all plug-ins that cannot be imported, or that register a name twice.
    """
    problems: list[UserError] = []
    for point in entry_points(group=GROUP):
        if problem := _load_entry_point(point):
            problems.append(problem)
    for path in paths:
        try:
            load_file(path)
        except ConfigError as problem:
            problems.append(problem)
    collect(problems)


def _load_entry_point(point: EntryPoint) -> ConfigError | None:
    try:
        point.load()
    except Exception as error:  # foreign code may raise anything
        package = point.dist.name if point.dist else point.module
        return ConfigError(
            f"plug-in '{point.name}' of the package {package} cannot be imported: {_said(error)}",
            where=place_in(error, None),
            remedy=f"correct it, or pip uninstall {package}",
        )
    return None


def load_file(path: Path) -> ModuleType:
    """The module in a Python file, imported once however often it is named. Raises: ConfigError as `load_plugins`."""
    path = path.expanduser().resolve()
    if not path.is_file() or path.suffix != ".py":
        found = "is not a Python file" if path.exists() else "there is no such file"
        raise ConfigError(f"plug-in: {found}", where=str(path), remedy="name a .py file in plugins:")
    name = f"oleaster_plugin_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None  # a .py file always has one
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before it runs, as dataclasses and pickle look their module up there
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # foreign code may raise anything
        del sys.modules[name]
        raise ConfigError(f"the plug-in cannot be imported: {_said(error)}", where=place_in(error, path)) from error
    return module


def _said(error: Exception) -> str:
    if isinstance(error, UserError):
        return error.message + (f" ({error.remedy})" if error.remedy else "")
    return f"{type(error).__name__}: {error.msg if isinstance(error, SyntaxError) else error}"


def place_in(error: Exception, path: Path | None) -> str | None:
    """`file:line` in the plug-in where `error` came from; without `path`, of the innermost frame."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    inside = [f for f in frames if path is None or f.filename == str(path)]
    return f"{inside[-1].filename}:{inside[-1].lineno}" if inside else path and str(path)
