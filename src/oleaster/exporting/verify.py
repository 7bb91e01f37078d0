"""The ladder once more, on an artifact that exists: after a copy, on another machine, on other rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from oleaster.config.schema import ExportConfig
from oleaster.core.artifact import Artifact
from oleaster.core.errors import ConfigError, ModelError
from oleaster.data.papers import Encoded, Example
from oleaster.exporting.ladder import Figures, Ladder, Limits, Rung
from oleaster.exporting.layouts import layout_of
from oleaster.exporting.rungs import Questions, torch_rung
from oleaster.inference.contract import PromptContract
from oleaster.models.tokenizer import load_tokenizer


@dataclass(frozen=True)
class Tuned:
    """The model an artifact was made from."""

    folder: Path
    """Full-precision model in the hub's layout."""
    adapter: Path | None = None
    """PEFT adapter, where it was not merged into `folder`."""


def verify(
    artifact: Artifact,
    tuned: Tuned | None,
    examples: Sequence[Example],
    encoded: Sequence[Encoded],
    options: ExportConfig,
    adapter: str | None = None,
    *,
    system_prompt: str | None = None,
    max_new_tokens: int = 64,
    on_progress: Callable[[Figures], None] = lambda _: None,
) -> list[Figures]:
    """Ask the tuned model, the artifact's graph and the artifact as a deployment loads it; compare.

    Args:
        tuned: the first rung. None: the graph itself is the first rung, so only tokenizer, template and stop ids of
            the runtime are checked, and the answers against the rows' own.
        examples: what the rows of `encoded` point to.
        encoded: rows; the first `options.verify_rows` climb.
        adapter: the one that answers, in an artifact that carries several.
        on_progress: told of each rung's figures.

    Returns: one entry a rung.

    Raises: FidelityError when a rung lost more than `options` allows; ModelError when the folder is no export of ours.
    """
    folder = artifact.folder
    layout = layout_of(artifact.kind)
    if layout is None:
        raise ConfigError(f"there is no ladder for artifacts of kind {artifact.kind}", where=str(folder))
    contract = PromptContract.read(folder)
    if contract is None:
        raise ModelError("it carries no prompt contract", where=str(folder), remedy="export it with oleaster auto-opt")
    rows = encoded[: options.verify_rows]
    references = [examples[row.example].target for row in rows]
    ladder = Ladder(rows, references, Limits(options.max_drop, options.max_kl), max_new_tokens)
    rungs: list[Rung | None] = [] if tuned is None else [torch_rung(tuned.folder, tuned.adapter)]
    rungs.append(layout.quantised_rung(folder, artifact.precision, contract.stop_ids, adapter))
    questions = Questions(rows, examples, load_tokenizer(folder), system_prompt)
    rungs.append(layout.runtime_rung(folder, questions, adapter))
    return ladder.climb(filter(None, rungs), on_progress)
