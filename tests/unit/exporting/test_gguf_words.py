"""Tokenizers for llama.cpp: which it knows, what it is told of them, and which it would read otherwise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from oleaster.core.errors import ModelError
from oleaster.exporting.gguf_words import ENGLISH, REST, read_words
from oleaster.models.tiny import make_tiny
from sentence_pieces import SIZE, SPACE, pieces


def split_into(regex: str) -> dict[str, Any]:
    split = {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}
    spelling = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    return {"type": "Sequence", "pretokenizers": [split, spelling]}


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return make_tiny("llama", tmp_path / "tiny")


def write_tokenizer(folder: Path, pre_tokenizer: dict[str, Any], **model: Any) -> Path:
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text("utf-8"))
    tokenizer["pre_tokenizer"] = pre_tokenizer
    tokenizer["model"]["vocab"]["Ġa"] = 260
    tokenizer["model"] |= {"merges": [["Ġ", "a"]], **model}
    path.write_text(json.dumps(tokenizer), "utf-8")
    return folder


BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
DIGITS = {"type": "Digits", "individual_digits": True}


@pytest.mark.parametrize(
    ("pre_tokenizer", "model", "name"),
    [
        (BYTES, {}, "gpt-2"),
        ({"type": "Sequence", "pretokenizers": [DIGITS, BYTES]}, {}, "smollm"),
        (split_into(ENGLISH + r"\p{N}{1,3}" + REST), {"ignore_merges": True}, "llama-bpe"),
        (split_into(ENGLISH + r"\p{N}" + REST), {}, "qwen2"),
    ],
)
def test_the_way_words_are_split_has_a_name(
    tiny: Path, pre_tokenizer: dict[str, Any], model: dict[str, Any], name: str
) -> None:
    words = read_words(write_tokenizer(tiny, pre_tokenizer, **model))
    assert words.split == name
    assert words.merges == ["Ġ a"]
    assert len(words.tokens) == 260
    assert set(words.special) == {0, 1, 2, 3}
    assert (words.stop, words.begins) == (2, None)


@pytest.mark.parametrize(
    ("pre_tokenizer", "model", "said"),
    [
        (split_into(r"\w+"), {}, "splits words in a way not known"),
        (split_into(ENGLISH + r"\p{N}{1,3}" + REST), {}, "splits words in a way not known"),  # llama.cpp skips merges
        (BYTES, {"byte_fallback": True}, "treats spaces in a way not known"),
        (BYTES, {"merges": []}, "neither byte-level BPE nor SentencePiece"),
    ],
)
def test_a_tokenizer_that_llama_cpp_would_read_otherwise_is_refused(
    tiny: Path, pre_tokenizer: dict[str, Any], model: dict[str, Any], said: str
) -> None:
    with pytest.raises(ModelError, match=said):
        read_words(write_tokenizer(tiny, pre_tokenizer, **model))


def put(tokenizer: Any, folder: Path) -> Path:
    config = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": SIZE}), "utf-8")
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("spaces", "prefixed"), [("prepend", True), ("never", False), ("first", False)])
def test_sentence_pieces_are_told_by_scores(tiny: Path, spaces: Any, prefixed: bool) -> None:
    words = read_words(put(pieces(spaces), tiny))
    assert (words.split, words.merges, words.prefixed) == ("default", [], prefixed)
    assert len(words.scores) == len(words.tokens) == SIZE
    score = dict(zip(words.tokens, words.scores, strict=False))
    assert 0 >= score[SPACE + "t"] > score[SPACE + "th"]  # what is merged earlier


def test_merges_that_llama_cpp_would_make_by_itself_are_refused(tiny: Path) -> None:
    path = put(pieces("never"), tiny) / "tokenizer.json"
    tokenizer = json.loads(path.read_text("utf-8"))
    del tokenizer["model"]["merges"][3]
    path.write_text(json.dumps(tokenizer), "utf-8")
    with pytest.raises(ModelError, match=r"llama\.cpp would merge to"):
        read_words(tiny)


@pytest.mark.parametrize("spaces", ["always", "first"])  # `always`: but not where there is a space already
def test_what_llama_cpp_cannot_be_told_of_spaces_is_refused(spaces: Any, tiny: Path) -> None:
    tokenizer = pieces(spaces)
    tokenizer.chat_template = "{{ messages[0]['content'] }}"  # no special token in front of the first word
    with pytest.raises(ModelError, match="treats spaces in a way not known"):
        read_words(put(tokenizer, tiny))


def test_a_token_that_swallows_spaces_is_refused(tiny: Path) -> None:  # those of Phi-3
    path = put(pieces("never"), tiny) / "tokenizer.json"
    tokenizer = json.loads(path.read_text("utf-8"))
    tokenizer["added_tokens"][1]["rstrip"] = True
    path.write_text(json.dumps(tokenizer), "utf-8")
    with pytest.raises(ModelError, match="swallows the spaces"):
        read_words(tiny)
