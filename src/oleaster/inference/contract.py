"""The prompt contract: what a model was asked with when it was exported, checked wherever it is loaded.

A model answers as it was trained only when text becomes the same ids, the chat template renders the same string and
the same ids end an answer. A runtime that brings its own tokenizer can break each of these without an error.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from oleaster.core.errors import ModelError, collect

FILE = "prompt_contract.json"
TOKENIZER_FILE = "tokenizer.json"
SAMPLE = [{"role": "user", "content": "How do I reset my PIN?"}]
"""The conversation whose rendering is kept."""


class Tokenizer(Protocol):
    """The part of a runtime's tokenizer that the contract needs."""

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, special tokens in it recognised, none added."""
        ...

    def render(self, messages: list[dict[str, str]]) -> str:
        """The chat template applied to `messages`, with the opening of the answer."""
        ...


@dataclass(frozen=True)
class PromptContract:
    """What has to stay equal between training and every later use."""

    rendered: str | None
    """`SAMPLE` through the chat template; None when the model has none."""
    stop_ids: tuple[int, ...]
    tokenizer_sha256: str
    """Of tokenizer.json."""
    golden: tuple[tuple[str, tuple[int, ...]], ...]
    """(text, ids) pairs: prompts of the task and known hard strings."""

    def write(self, folder: Path) -> None:
        """Write into an artifact's folder (still staged)."""
        text = json.dumps(asdict(self), ensure_ascii=False, indent=1)
        (folder / FILE).write_text(text, encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> PromptContract | None:
        """The folder's contract; None when it carries none (a foreign export)."""
        path = folder / FILE
        if not path.is_file():
            return None
        raw = json.loads(path.read_text(encoding="utf-8"))
        golden = tuple((text, tuple(ids)) for text, ids in raw["golden"])
        return cls(raw["rendered"], tuple(raw["stop_ids"]), raw["tokenizer_sha256"], golden)

    def check(self, folder: Path, tokenizer: Tokenizer, stop_ids: tuple[int, ...]) -> None:
        """Raises: ModelError that lists everything that differs from the day of the export."""
        problems: list[ModelError] = []
        remedy = "export the model again, or restore the folder's files"

        def differs(message: str) -> None:
            problems.append(ModelError(message, where=str(folder), remedy=remedy))

        if self.tokenizer_sha256 != tokenizer_hash(folder):
            differs(f"{TOKENIZER_FILE} is not the file the model was exported with")
        if missing := sorted(set(self.stop_ids) - set(stop_ids)):
            differs(f"the stop ids {missing} are missing from genai_config.json: answers would not end")
        if self.rendered is not None and (now := tokenizer.render(SAMPLE)) != self.rendered:
            differs(f"the chat template renders {now!r}, the model was exported with {self.rendered!r}")
        broken = [text for text, ids in self.golden if tuple(tokenizer.encode(text)) != ids]
        if broken:
            differs(f"{len(broken)} of {len(self.golden)} golden texts become other ids, first: {broken[0]!r}")
        collect(problems)


def tokenizer_hash(folder: Path) -> str:
    """SHA-256 of the folder's tokenizer.json; of nothing when it has none."""
    path = folder / TOKENIZER_FILE
    return hashlib.sha256(path.read_bytes() if path.is_file() else b"").hexdigest()
