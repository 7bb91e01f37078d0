"""A head in a run's life: which one answers, training it beside the method, the files that other tools read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oleaster.core.errors import ModelError
from oleaster.pipeline.loading import recipe_of

if TYPE_CHECKING:
    from oleaster.data.papers import Head
    from oleaster.models.folder import ModelFolder


def head_behind(path: Path | str, adapter: str | None = None) -> Head | None:
    """The head of a run, its model or an artifact, by the recipe; of another folder, by its config.json."""
    from oleaster import tasks
    from oleaster.config.load import load_config

    recipe = recipe_of(path, adapter)
    if recipe is not None:
        return tasks.head(load_config(recipe))
    config = Path(path) / "config.json"
    return _head_in(json.loads(config.read_text("utf-8"))) if config.is_file() else None


def _head_in(config: Mapping[str, Any]) -> Head | None:
    """The head that transformers finds in a config.json."""
    from oleaster.data.papers import Head

    architecture = (config.get("architectures") or [""])[0]
    names = config.get("id2label") or {}
    labels = tuple(names[number] for number in sorted(names, key=int))
    if labels and architecture.endswith("ForSequenceClassification"):
        return Head("sequence", labels)
    return Head("token", labels) if labels and architecture.endswith("ForTokenClassification") else None


def check_base(base: ModelFolder, head: Head | None) -> None:
    """Raises: ModelError when the base cannot carry the head, or has one where a language model is wanted."""
    from oleaster.models.heads import hub_class

    config = base.config()
    if head is not None:
        hub_class(config, head)
    elif _head_in(config) is not None:
        message = f"is a {config['architectures'][0]}: it has labels in the place of a vocabulary"
        raise ModelError(message, where=base.source, remedy="name the language model, or --task with the same --head")


def train_head(model: Any, head: Head | None) -> None:
    """Have the head's own weights trained, whatever the method froze."""
    if head is not None and head.kind != "embedding":
        from oleaster.models.heads import head_of

        head_of(model).requires_grad_(True)


def write_head_files(folder: Path, adapter: Path, base: ModelFolder, tokenizer: Any, head: Head | None) -> None:
    """Say in config.json of `folder` and adapter_config.json of `adapter`, where these are, what the model is now."""
    if head is None:
        return
    from oleaster.core.files import atomic_write_json
    from oleaster.models.folder import read_json
    from oleaster.models.heads import TASK_TYPES, head_config

    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    config = read_json(folder / "config.json")
    atomic_write_json(folder / "config.json", {**config, **head_config(base.config(), head, pad)})
    described = adapter / "adapter_config.json"
    if described.is_file():
        atomic_write_json(described, {**read_json(described), "task_type": TASK_TYPES[head.kind]})
