"""The small files beside the graph: genai_config.json, tokenizer, chat template, prompt contract."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from oleaster.core.errors import ModelError
from oleaster.inference.contract import SAMPLE, PromptContract, tokenizer_hash
from oleaster.models.tokenizer import load_tokenizer, stop_ids

MAX_LENGTH = 2048
"""Default length of prompt and answer; the runtime allocates its cache for it when a generator is made."""

HARD_TEXTS = (
    "",
    " ",
    "\n",
    "\n\n  \t",
    "a",
    " a",
    "Hello, world!",
    "  two  spaces  ",
    "don't won't I'm",
    "e-mail: a.b@c.de",
    "https://example.org/x?y=1&z=2#t",
    "1234567890",
    "3.14 1,000,000 1e-5 0x1F",
    "CamelCase snake_case kebab-case",
    "ALL CAPS TEXT",
    "zażółć gęślą jaźń",
    "Straße Müller naïve façade",
    "Привет мир",
    "你好，世界",
    "こんにちは",
    "안녕하세요",
    "مرحبا بالعالم",
    "😀👍🏽👩‍👩‍👧",
    "e\u0301 vs \u00e9",
    "\u00a0non-breaking\u2009thin",
    "tab\tseparated\tvalues",
    "trailing newline\n",
    "windows\r\nline",
    'def f(x):\n    return x ** 2  # "quoted"',
    '{"key": [1, 2.5, null, true]}',
    "<tag attr='v'>text</tag>",
    "<|im_start|>user\nhi<|im_end|>",
    "<|endoftext|>",
    "</s><s>",
    "[INST] hi [/INST]",
    "$5.99 50% #1 @you *bold*",
    "…—–“”‘’",
    "x" * 40,
    "the quick brown fox jumps over the lazy dog",
    "What is the capital of France?",
)
GOLDEN = 50
"""Golden texts in a contract."""


def make_contract(folder: Path, tokenizer: Any, stops: Sequence[int], prompts: Sequence[str]) -> PromptContract:
    """What the artifact promises about text and ids, from the training side's tokenizer."""
    texts = dict.fromkeys([*prompts[: GOLDEN - len(HARD_TEXTS)], *HARD_TEXTS])
    golden = tuple((text, tuple(tokenizer.encode(text, add_special_tokens=False))) for text in texts)
    rendered = None
    if tokenizer.chat_template:
        rendered = tokenizer.apply_chat_template(SAMPLE, tokenize=False, add_generation_prompt=True)
    return PromptContract(rendered, tuple(stops), tokenizer_hash(folder), golden)


def finish_folder(model_folder: Path, output: Path, prompts: Sequence[str]) -> None:
    """Complete a folder in which a graph and the builder's genai_config.json lie.

    Sets all stop ids, threads, the default length; copies the tokenizer as it was trained with; writes the contract.

    Args:
        model_folder: the merged Hugging Face folder.
        output: the staged artifact.
        prompts: rendered prompts of the task, for the contract's golden texts.

    Raises: ModelError when no token is known to end an answer.
    """
    # Written anew, not copied: transformers may make other pieces of a tokenizer.json than stand in it (Qwen 2).
    tokenizer = load_tokenizer(model_folder)
    tokenizer.save_pretrained(output)
    stops = stop_ids(model_folder, tokenizer)
    if not stops:
        raise ModelError("no token ends an answer", where=str(model_folder), remedy="set eos_token in the tokenizer")
    path = output / "genai_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    model, search = config["model"], config["search"]
    model["eos_token_id"] = stops[0] if len(stops) == 1 else list(stops)
    # The runtime would take half the cores; our own predictor sets the count of the machine it runs on.
    model["decoder"]["session_options"]["intra_op_num_threads"] = os.cpu_count() or 1
    search["max_length"] = min(model["context_length"], MAX_LENGTH)
    search["do_sample"] = False
    path.write_text(json.dumps(config, indent=2), encoding="utf-8")
    make_contract(output, tokenizer, stops, prompts).write(output)
