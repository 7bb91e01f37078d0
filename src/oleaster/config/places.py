"""A recipe that lies in a run or an artifact finds its files from everywhere.

A run's recipe keeps the paths as they were typed, so a project may be moved or given away as a whole: relative ones
count from where the run was begun. The run's folder and the recipe's `output_path` say together where that was:
`/home/me/shop/runs/first` with `runs/first` was begun in `/home/me/shop`. An artifact may lie anywhere, so relative
paths in the recipe that it carries count from the folder that the recipe is in.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path, PurePath

from oleaster.core.artifact import Artifact

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
    """`values` of a recipe, relative paths that lead somewhere from where they count replaced by that place.

    Args:
        recipe: the file that `values` (by flag name) were read from; any but a run's or an artifact's leaves them as
            they are.
    """
    folder = recipe.resolve().parent
    carried = any(Artifact.is_artifact(near) for near in (folder, folder.parent))  # one an adapter: adapters/NAME.yaml
    begun = folder if carried else begun_in(recipe, values.get("output_path"))
    if begun is None or begun == Path.cwd():
        return dict(values)

    def found(text: str) -> str:
        return os.path.normpath(begun / text) if _leads_somewhere(begun, text) else text

    return _changed(values, found, (*NAMES_FILES, "output_path") if carried else NAMES_FILES)


def seen_from(folder: Path, values: Mapping[str, object]) -> dict[str, object]:
    """`values` for a recipe that is to lie in `folder`: relative paths that lead somewhere from here, from there."""
    there = folder.resolve()

    def seen(text: str) -> str:
        if Path(text).is_absolute() or not _leads_somewhere(Path(), text):
            return text
        return Path(os.path.relpath(Path(text).absolute(), there)).as_posix()

    return _changed(values, seen, (*NAMES_FILES, "output_path"))


def begun_in(recipe: Path, output_path: object) -> Path | None:
    """The folder a run was begun in; None when its recipe does not lie where its `output_path` ends.

    An absolute one, or one with `..` in it, says nothing about the folders above.
    """
    if not output_path or (named := PurePath(str(output_path))).is_absolute() or ".." in named.parts:
        return None
    folder = recipe.resolve().parent
    depth = len(named.parts)
    return folder.parents[depth - 1] if depth and folder.parts[-depth:] == named.parts else None


def _changed(values: Mapping[str, object], change: Callable[[str], str], names: tuple[str, ...]) -> dict[str, object]:
    """`values` with those of `names`, or what stands in their lists, changed where they are text."""

    def changed(value: object) -> object:
        if isinstance(value, list):
            return [changed(each) for each in value]
        return change(value) if isinstance(value, str) else value

    return {name: changed(value) if name in names else value for name, value in values.items()}


def _leads_somewhere(folder: Path, value: str) -> bool:
    """Is there such a file, or one that the pattern matches?"""
    path = folder / Path(value).expanduser()
    if path.exists() or Path(value).is_absolute() or not any(c in value for c in "*?["):
        return path.exists()
    return any(folder.glob(value))
