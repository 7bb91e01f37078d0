"""Files and tokenizers for the tests of this room."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizer_kinds import byte_level
from transformers import PreTrainedTokenizerFast


@pytest.fixture(scope="session")
def chatml() -> PreTrainedTokenizerFast:
    return byte_level()


@pytest.fixture(scope="session")
def plain() -> PreTrainedTokenizerFast:
    """No chat template."""
    return byte_level(None)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    """Write text, bytes or rows (as JSON lines) to a file; returns its path."""

    def to_file(name: str, content: Any) -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not isinstance(content, (str, bytes)):
            content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in content)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)

    return to_file
