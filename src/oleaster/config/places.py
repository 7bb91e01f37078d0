"""A run's own recipe finds its files from everywhere: its relative paths count from where the run was begun.

The recipe keeps the paths as they were typed, so a project may be moved or given away as a whole. The run's folder and
the recipe's `output_path` say together where that was: `/home/me/shop/runs/first` with `runs/first` was begun in
`/home/me/shop`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePath

NAMES_FILES = (
    "model_name_or_path",
    "teacher_model",
    "data_name",
    "data_files",
    "eval_data_files",
    "json_schema",
    "plugins",
)
"""Settings that name files, or else something of the hub."""


def found_from(recipe: Path, values: Mapping[str, object]) -> dict[str, object]:
    """`values` of a recipe, relative paths that lead nowhere from here replaced by where the run was begun.

    Args:
        recipe: the file that `values` (by flag name) were read from; any but a run's own leaves them as they are.
    """
    begun = begun_in(recipe, values.get("output_path"))
    if begun is None:
        return dict(values)
    return {name: _found(begun, value) if name in NAMES_FILES else value for name, value in values.items()}


def begun_in(recipe: Path, output_path: object) -> Path | None:
    """The folder a run was begun in; None when its recipe does not lie where its `output_path` ends.

    An absolute one, or one with `..` in it, says nothing about the folders above.
    """
    if not output_path or (named := PurePath(str(output_path))).is_absolute() or ".." in named.parts:
        return None
    folder = recipe.resolve().parent
    depth = len(named.parts)
    return folder.parents[depth - 1] if depth and folder.parts[-depth:] == named.parts else None


def _found(begun: Path, value: object) -> object:
    if isinstance(value, list):
        return [_found(begun, each) for each in value]
    if not isinstance(value, str) or _leads_somewhere(Path(), value) or not _leads_somewhere(begun, value):
        return value
    return str(begun / value)


def _leads_somewhere(folder: Path, value: str) -> bool:
    """Is there such a file, or one that the pattern matches?"""
    path = folder / Path(value).expanduser()
    if path.exists() or Path(value).is_absolute() or not any(c in value for c in "*?["):
        return path.exists()
    return any(folder.glob(value))
