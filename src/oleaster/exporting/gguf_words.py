"""A tokenizer as llama.cpp reads it from a .gguf file: byte-level BPE, or SentencePiece's with bytes to fall back on.

A tokenizer written in a wrong way is no error there: text just becomes other tokens. So what is not known to come out
the same is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oleaster.core.errors import ModelError
from oleaster.models.tokenizer import end_of_turn_id, load_tokenizer, special_ids

GPT2_SPLIT = {"type": "ByteLevel", "use_regex": True}
DIGITS = {"type": "Digits", "individual_digits": True}
ENGLISH = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPLITS: dict[str, list[dict[str, Any]]] = {
    "gpt-2": [GPT2_SPLIT],
    "smollm": [DIGITS, GPT2_SPLIT],
    "llama-bpe": [{"type": "Split", "pattern": {"Regex": ENGLISH + r"\p{N}{1,3}" + REST}}],
    "qwen2": [{"type": "Split", "pattern": {"Regex": ENGLISH + r"\p{N}" + REST}}],
}
"""llama.cpp's name for a way to split text into words -> how tokenizer.json writes it."""
SPACE = "\u2581"
"""What SentencePiece writes for a space."""
REMEDY = "--output_format hf, and llama.cpp's own convert_hf_to_gguf.py"


@dataclass(frozen=True)
class Words:
    """What a file says of its tokenizer."""

    split: str
    """A key of `SPLITS`; `default` with `scores`."""
    tokens: list[str]
    special: list[int]
    """Ids of tokens that stand for no text."""
    added: list[int]
    """Ids of other tokens that are matched before splitting."""
    merges: list[str]
    template: str | None
    stop: int
    begins: int | None
    """Id that the tokenizer puts in front of every text; None when it does not."""
    scores: tuple[float, ...] = ()
    """SentencePiece: of two neighbours those are merged first that make the token of the higher score."""
    prefixed: bool = False
    """SentencePiece: a space is put in front of every piece of text between special tokens."""


def read_words(folder: Path) -> Words:
    """The folder's tokenizer. Raises: ModelError when llama.cpp would split text otherwise, as far as is known."""
    tokenizer = load_tokenizer(folder)
    raw = json.loads(tokenizer.backend_tokenizer.to_str())
    model = raw["model"]
    if model["type"] != "BPE" or not model["merges"]:
        found = "the tokenizer is neither byte-level BPE nor SentencePiece's"
        raise ModelError(found, where=str(folder), remedy=REMEDY)
    added = {token["id"]: token for token in raw["added_tokens"]}
    if swallowing := [token["content"] for token in added.values() if token["lstrip"] or token["rstrip"]]:
        found = f"its token {swallowing[0]} swallows the spaces beside it"
        raise ModelError(found, where=str(folder), remedy=REMEDY)
    names = {index: token for token, index in model["vocab"].items()} | {i: t["content"] for i, t in added.items()}
    size = json.loads((folder / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    merges = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in model["merges"]]
    stop = end_of_turn_id(tokenizer)
    first = tokenizer.encode("a")[0]
    pieces = model.get("byte_fallback", False)
    scores = _scores(names, added, merges, folder) if pieces else ()
    return Words(
        split="default" if pieces else _split(raw, folder),
        tokens=[names.get(i, f"[PAD{i}]") for i in range(size)],
        special=[i for i in range(size) if i not in names or added.get(i, {}).get("special")],
        added=[i for i, token in added.items() if not token["special"]],
        merges=[] if pieces else [" ".join(merge) for merge in merges],
        template=tokenizer.chat_template,
        stop=tokenizer.eos_token_id if stop is None else stop,
        begins=first if first == tokenizer.bos_token_id else None,
        scores=(*scores, *[0.0] * (size - len(scores))) if pieces else (),
        prefixed=pieces and _is_prefixed(raw, tokenizer, folder),
    )


def spell(writer: Any, words: Words) -> None:
    """Put the tokenizer into a file that is being written (`gguf.GGUFWriter`)."""
    import gguf

    kinds = [gguf.TokenType.NORMAL] * len(words.tokens)
    for index in words.added:
        kinds[index] = gguf.TokenType.USER_DEFINED
    for index in words.special:
        kinds[index] = gguf.TokenType.CONTROL
    if words.scores:
        for index, token in enumerate(words.tokens):
            if _is_byte(token):
                kinds[index] = gguf.TokenType.BYTE
        writer.add_token_scores(words.scores)
        writer.add_add_space_prefix(words.prefixed)
    else:
        writer.add_token_merges(words.merges)
    writer.add_tokenizer_model("llama" if words.scores else "gpt2")
    writer.add_tokenizer_pre(words.split)
    writer.add_token_list(words.tokens)
    writer.add_token_types(kinds)
    writer.add_eos_token_id(words.stop)
    writer.add_add_bos_token(words.begins is not None)
    if words.begins is not None:
        writer.add_bos_token_id(words.begins)
    if words.template is not None:
        writer.add_chat_template(words.template)


def _split(raw: Mapping[str, Any], folder: Path) -> str:
    """Key of `SPLITS` for tokenizer.json's pre_tokenizer. Raises: ModelError when it is none of them."""
    pre_tokenizer = raw.get("pre_tokenizer") or {}
    steps = pre_tokenizer.get("pretokenizers", [pre_tokenizer])
    # Behind a Split, ByteLevel only spells bytes.
    if len(steps) == 2 and steps[0].get("type") == "Split" and not steps[1].get("use_regex", True):
        steps = steps[:1]
    for name, known in SPLITS.items():
        same = len(known) == len(steps) and all(k.items() <= s.items() for k, s in zip(known, steps, strict=True))
        if same and (name == "llama-bpe") == bool(raw["model"].get("ignore_merges")):
            return name
    raise ModelError("the tokenizer splits words in a way not known here", where=str(folder), remedy=REMEDY)


def _scores(
    names: Mapping[int, str], added: Mapping[int, Any], merges: Sequence[tuple[str, ...]], folder: Path
) -> list[float]:
    """By id, minus the place of the first merge that makes the token.

    llama.cpp knows scores of tokens, not merges: it joins any two neighbours that make a token, the best token first.
    That is the same where each token's merges stand together and none is left out.

    Raises: ModelError where it is not.
    """
    place: dict[str, int] = {}
    last = ""
    for rank, (left, right) in enumerate(merges):
        made = left + right
        if made != last and made in place:
            raise ModelError("its merges stand in no order of tokens", where=str(folder), remedy=REMEDY)
        place.setdefault(made, rank)
        last = made
    known, pairs = set(names.values()), set(merges)
    for index, token in names.items():
        if index in added or _is_byte(token):
            continue
        splits = ((token[:i], token[i:]) for i in range(1, len(token)))
        if any(left in known and right in known and (left, right) not in pairs for left, right in splits):
            found = f"llama.cpp would merge to {token!r} where this tokenizer does not"
            raise ModelError(found, where=str(folder), remedy=REMEDY)
    lowest = -float(len(merges))
    return [-float(place[names[i]]) if names.get(i) in place else lowest for i in range(max(names) + 1)]


def _is_prefixed(raw: Mapping[str, Any], tokenizer: Any, folder: Path) -> bool:
    """Is a space put in front of every piece of text? Raises: ModelError for what llama.cpp cannot be told.

    A space in front of the whole text only cannot be said. It need not, where every prompt begins with a special token.
    """
    normalizer = raw.get("normalizer") or {}
    steps = normalizer.get("normalizers", [normalizer] if normalizer else [])
    before, spaces = {"type": "Prepend", "prepend": SPACE}, {"type": "Replace", "content": SPACE}
    pre_tokenizer = raw.get("pre_tokenizer") or {}
    scheme = pre_tokenizer.get("prepend_scheme") if pre_tokenizer.get("type") == "Metaspace" else None
    written = [{key: step.get(key) for key in ("type", "prepend", "content") if key in step} for step in steps]
    if written in ([before, spaces], [spaces]) and scheme is None:
        return written[0] == before
    never = scheme == "never" or (scheme == "first" and _opens_specially(tokenizer))
    if never and not steps and not pre_tokenizer.get("split", True):
        return False
    raise ModelError("the tokenizer treats spaces in a way not known here", where=str(folder), remedy=REMEDY)


def _opens_specially(tokenizer: Any) -> bool:
    """Does every prompt of the chat template begin with a special token?"""
    if not tokenizer.chat_template:
        return False
    asked = [{"role": "user", "content": "hello"}]
    text = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    return tokenizer.encode(text, add_special_tokens=False)[0] in special_ids(tokenizer)


def _is_byte(token: str) -> bool:
    return len(token) == 6 and token.startswith("<0x") and token.endswith(">")
