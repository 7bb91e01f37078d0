"""The model card of a run: what was made, from what, how well it does, and where it ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from oleaster.core.run import flat
from oleaster.models.folder import ModelFolder

FENCE = "---\n"
LIMITS = (
    "It does the task it was trained on; on other tasks it may do worse than its base.",
    "The scores hold for rows like those it was measured on. Measure again where your inputs differ.",
    "Errors and biases of the base model and of the training rows are still in it.",
)


def model_card(
    base: ModelFolder,
    *,
    name: str,
    method: str,
    datasets: Sequence[str],
    settings: Mapping[str, Any],
    ledger: Mapping[str, Any],
    scores: Sequence[Mapping[str, Any]],
    prompt: str = "",
    answer: str = "",
    limits: Sequence[str] = LIMITS,
) -> str:
    """The card as Markdown with the hub's front matter.

    Args:
        name: title of the card, such as the task's name.
        method: `lora`, `full`, ...
        datasets: names or files of the training rows.
        settings: hyperparameters; those that are None are left out.
        ledger: what became of rows and tokens, nested tables allowed.
        scores: one row per measurement, all with the same keys (`split`, `metric`, `base`, `tuned`, ...).
        prompt: one rendered prompt, as the model must be asked.
        answer: what the model said to it.
    """
    licence, hub_id = base_licence(base), _hub_id(base)
    whole = method == "full"
    front = {
        "base_model": hub_id,
        "base_model_relation": ("finetune" if whole else "adapter") if hub_id else None,
        "library_name": "transformers" if whole else "peft",
        "license": licence,
        "datasets": [each for each in datasets if "/" in each and "." not in each.rpartition("/")[2]] or None,
        "pipeline_tag": "text-generation",
        "tags": ["oleaster", method],
    }
    parts = [
        FENCE + yaml.safe_dump({k: v for k, v in front.items() if v}, sort_keys=False, allow_unicode=True) + FENCE,
        f"# {name}",
        f"`{base.source}` (revision `{base.revision}`), fine-tuned with {method} by Oleaster on "
        + (", ".join(f"`{each}`" for each in datasets) or "unnamed rows")
        + ".",
        "" if licence else "The licence of the base is not stated in its folder; it holds for this model as well.",
        _section("Scores", _table(scores) if scores else "Not measured yet: `oleaster evaluate` does it."),
        _section("How to ask it", _example(prompt, answer) if prompt else ""),
        _section("Rows and tokens", _table([{"": key, "count": value} for key, value in flat(ledger).items()])),
        _section(
            "Hyperparameters",
            _table([{"setting": key, "value": value} for key, value in flat(settings).items() if value is not None]),
        ),
        _section("Limits", "\n".join(f"- {limit}" for limit in limits)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def base_licence(base: ModelFolder) -> str | None:
    """The licence that the base's own card states in its front matter; None where it says nothing."""
    path = base.folder / "README.md"
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    if not text.startswith(FENCE) or FENCE not in text[len(FENCE) :]:
        return None
    try:
        front = yaml.safe_load(text[len(FENCE) :].partition(FENCE)[0])
    except yaml.YAMLError:
        return None
    licence = front.get("license") if isinstance(front, dict) else None
    return str(licence) if licence else None


def _hub_id(base: ModelFolder) -> str | None:
    """The base's id on the hub; a folder or file of this machine means nothing to another reader."""
    return base.source if base.folder.name == base.revision else None  # the hub's cache names a snapshot by its commit


def _section(title: str, body: str) -> str:
    return f"## {title}\n\n{body}" if body else ""


def _example(prompt: str, answer: str) -> str:
    fence = "`" * 4  # a prompt may hold three
    shown = f"{fence}text\n{prompt.rstrip()}\n{fence}"
    return f"{shown}\n\nIts answer:\n\n{fence}text\n{answer.rstrip()}\n{fence}" if answer else shown


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return ""
    heads = list(rows[0])
    lines = [heads, ["---"] * len(heads), *([_cell(row.get(head, "")) for head in heads] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if type(value) is int else str(value)
    return text.replace("|", "\\|").replace("\n", "\\n")
