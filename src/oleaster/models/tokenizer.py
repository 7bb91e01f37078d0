"""The tokenizer of a model folder, and the ids that end its answers."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from oleaster.core.errors import ModelError
from oleaster.models.folder import read_json

TEMPLATE_ERRORS = (TemplateError, TypeError, ValueError, KeyError)
"""What rendering can raise: a template is a program of the model's author."""
PLAIN = ("TokenizersBackend", "PreTrainedTokenizerFast")
"""Names of the class that is nothing but its tokenizer.json."""
PROBE = "QZANSWERZQ"
"""Stands for an answer when a template is rendered to see what follows it; no template contains it."""


def load_tokenizer(folder: Path, trust_remote_code: bool = False) -> Any:
    """A transformers.PreTrainedTokenizerBase from a local folder. Raises: ModelError."""
    try:
        if _is_plain(folder):  # AutoTokenizer would come to the same class, but imports for a second first
            from transformers import PreTrainedTokenizerFast

            return PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code, local_files_only=True)
    except (OSError, ValueError, KeyError, ImportError) as error:
        remedy = "fetch tokenizer.json and tokenizer_config.json of this model"
        if "trust_remote_code" in str(error):
            remedy = "add --trust_remote_code true if you trust the code in this folder"
        raise ModelError(f"no usable tokenizer: {error}", where=str(folder), remedy=remedy) from error


def stop_ids(folder: Path, tokenizer: Any) -> tuple[int, ...]:
    """Ids that end an answer, sorted: union of tokenizer, config, generation config and chat template."""
    found = {tokenizer.eos_token_id, end_of_turn_id(tokenizer)}
    for name in ("config.json", "generation_config.json"):
        found.update(_as_ids(read_json(folder / name, optional=True).get("eos_token_id")))
    return tuple(sorted(i for i in found if i is not None))


def end_of_turn_id(tokenizer: Any) -> int | None:
    """The special token that the chat template puts behind an answer; None without a template or such a token."""
    if not tokenizer.chat_template:
        return None
    messages = [{"role": "user", "content": "question"}, {"role": "assistant", "content": PROBE}]
    try:
        rendered = tokenizer.apply_chat_template(messages, tokenize=False)
    except TEMPLATE_ERRORS:  # sanity reports it
        return None
    _, found, behind = rendered.rpartition(PROBE)
    if not found:
        return None
    ids = tokenizer(behind.lstrip(), add_special_tokens=False).input_ids
    return ids[0] if ids and ids[0] in special_ids(tokenizer) else None


def special_ids(tokenizer: Any) -> frozenset[int]:
    """Ids of tokens that stand for no text."""
    added = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    return frozenset(added | set(tokenizer.all_special_ids))


def _is_plain(folder: Path) -> bool:
    """A Llama whose tokenizer is its tokenizer.json; for other families transformers may put in a class of its own."""
    config = read_json(folder / "tokenizer_config.json", optional=True)
    family = read_json(folder / "config.json", optional=True).get("model_type")
    there = (folder / "tokenizer.json").is_file() and "auto_map" not in config
    return there and family == "llama" and config.get("tokenizer_class") in PLAIN


def _as_ids(value: int | Iterable[int] | None) -> set[int]:
    return set() if value is None else {value} if isinstance(value, int) else set(value)
