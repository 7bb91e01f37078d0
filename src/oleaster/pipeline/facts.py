"""What a step is made from, as data: when all of it is the same, the step need not be done again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from oleaster.config.flags import config_flags
from oleaster.config.load import leaf_values
from oleaster.config.schema import Config
from oleaster.core.artifact import Artifact
from oleaster.core.hashing import SHOWN, hash_code, hash_folder, known_hash
from oleaster.core.run import Run, flat
from oleaster.pipeline.passes import NOT_OF_A_STEP, CheckedStep

_NO_MATTER = {*NOT_OF_A_STEP, "num_threads", "logging_steps", "logging_dir", "save_steps", "save_total_limit"}
"""Settings that change nothing of what a step makes."""
_NOT_THE_MODEL = (
    *("checkpoints", "logs", ".mlflow", "log.jsonl", "ledger.json", "README.md", "DONE"),
    *("predictions", "diagnosis", "report.html"),
)
"""What a run's folder holds beside the model that goes on."""
_MOST_NAMED = 3
"""Changes that are worth a line."""


def facts_of(step: CheckedStep, config: Config, sources: Mapping[str, str]) -> dict[str, Any]:
    """Everything that decides what a step makes.

    Args:
        config: the recipe with the step's settings laid over it.
        sources: models it starts from: name -> digits of their contents.
    """
    from pydantic_core import to_jsonable_python

    reads, values = step.traits.reads, leaf_values(config)
    matter = [name for name, flag in config_flags().items() if flag.section in reads and name not in _NO_MATTER]
    return {
        "pass": step.type,
        "settings": to_jsonable_python(dict(step.arguments), fallback=str),
        "recipe": {name: values[name] for name in matter if name in values},
        "rows": dict(_row_files(config)) if "data" in reads else {},
        "plug-in": {str(path): known_hash(path)[:SHOWN] for path in config.plugins},
        "model": dict(sources),
        "code of oleaster": hash_code(),
    }


def contents_of(path: str, config: Config) -> str:
    """Digits of what a run, an artifact or a model is made of; a hub model is fetched for it.

    Raises: ModelError when there is nothing like it.
    """
    from oleaster.models.source import resolve

    if Run.is_run(Path(path)) or Artifact.is_artifact(Path(path)):
        return hash_folder(Path(path), _NOT_THE_MODEL)
    return resolve(config.model.model_copy(update={"model_name_or_path": path})).revision


def difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """In words, in what two steps' facts differ."""
    old, new = flat(before), flat(now)
    changed = [name for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)]
    more = f"; and {len(changed) - _MOST_NAMED} more" if len(changed) > _MOST_NAMED else ""
    return "; ".join(_change(name, old.get(name), new.get(name)) for name in changed[:_MOST_NAMED]) + more


def _change(name: str, old: object, new: object) -> str:
    kind, _, rest = name.partition(".")
    if kind in ("recipe", "settings"):
        return f"{rest} was {old}, is {new}"
    what = "has changed" if old is not None and new is not None else "is another one"
    return f"{kind} {rest} {what}" if rest else f"the {kind} {what}"


def _row_files(config: Config) -> Iterator[tuple[str, str]]:
    """(file, digits of its contents) for the rows that a recipe names; a hub data set is known by its name only."""
    from oleaster.data.sources import open_source

    data = config.data
    for name, files in ((data.data_name, data.data_files), (None, data.eval_data_files)):
        if not name and not files:
            continue
        source = open_source(name, files)
        if source.hub:
            yield source.name, ""
        for path in (path for paths in source.files.values() for path in paths):
            yield str(path), known_hash(path)[:SHOWN]
