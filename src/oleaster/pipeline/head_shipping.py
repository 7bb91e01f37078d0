"""A run with a head goes in, an artifact that was seen to answer like it comes out."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oleaster.config.load import recipe_text
from oleaster.config.schema import Config
from oleaster.core.artifact import Artifact
from oleaster.core.errors import ConfigError
from oleaster.pipeline.rows import names_rows, rows_to_ask

if TYPE_CHECKING:
    from oleaster.data.papers import Encoded, Head
    from oleaster.exporting.export import Origin
    from oleaster.exporting.ladder import Figures


def ship_head(
    folders: tuple[Path, Path | None],
    output: Path,
    head: Head,
    config: Config,
    recipe: Config | None,
    tokenizer: Any,
    origin: Origin,
    carried: Config,
    on_progress: Callable[[Any], None],
) -> Artifact:
    """The export of `shipping.auto_opt` for a model with a head.

    Args:
        folders: of the model, and of the adapter that is merged in.
        recipe: that of the training, where it is known.
        carried: the recipe that goes with the artifact.
    """
    from oleaster.exporting.head_export import export_head

    rows: list[Encoded] = []
    if recipe is None and not names_rows(config.data):
        on_progress("no rows are named (-d rows.jsonl): only general texts are compared, no answers")
    else:
        rows = _held_rows(config, recipe, tokenizer, head, on_progress)
    text = recipe_text(carried)
    return export_head(*folders, output, head, rows, config.export, origin=origin, recipe=text, on_progress=on_progress)


def verify_head(
    artifact: Artifact,
    tuned: tuple[Path, Path | None] | None,
    head: Head,
    config: Config,
    recipe: Config | None,
    on_progress: Callable[[Any], None],
) -> list[Figures]:
    """What `shipping.verify` does for a model with a head. Raises: ConfigError without the run it was exported from."""
    from oleaster.exporting.head_export import verify_head as climb
    from oleaster.models.tokenizer import load_tokenizer

    if tuned is None:
        message = "the run it was exported from is not at hand, and a head can only be held against that"
        raise ConfigError(message, where=str(artifact.folder), remedy="--run FOLDER")
    rows = _held_rows(config, recipe, load_tokenizer(artifact.folder), head, on_progress)
    return climb(artifact, tuned, head, rows, config.export, on_progress)


def _held_rows(
    config: Config, recipe: Config | None, tokenizer: Any, head: Head, on_progress: Callable[[Any], None]
) -> list[Encoded]:
    from oleaster.data.encode_heads import encode_for_head

    asked, trained = rows_to_ask(config, recipe)
    if not asked:
        on_progress("the run held no rows out: its training rows climb the ladder")
    rows, _ = encode_for_head(asked or trained, tokenizer, config.data, head)
    return random.Random(0).sample(rows, len(rows))
