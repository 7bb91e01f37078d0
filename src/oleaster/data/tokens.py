"""From rendered text to token ids.

The prompt is tokenised alone, exactly as at inference. Prompt and answer are then tokenised together; where that begins
with the prompt's own tokens (nearly always) it is used as it is. Where the tokenizer would merge the end of the prompt
with the beginning of the answer, the answer is tokenised by itself and put behind the prompt, as TRL and OLMo do. So
training ids always begin with the very ids that the model is given when it is asked.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from oleaster.data.render import Rendered

CHUNK = 1000
"""Texts tokenised in one call: enough to keep the tokenizer's threads busy, few enough to keep its objects small."""

Offsets = list[tuple[int, int]]


@dataclass(frozen=True)
class Tokens:
    """A sequence of ids; `targets` are the positions that are learned, `prompt_length` is where the answer begins."""

    ids: list[int]
    targets: list[int]
    prompt_length: int


def tokenise(sequences: Sequence[Rendered], tokenizer: Any, train_on: str) -> Iterator[Tokens]:
    """Token ids and target positions of each sequence, in order."""
    prefix = bos_ids(tokenizer)
    for begin in range(0, len(sequences), CHUNK):
        chunk = sequences[begin : begin + CHUNK]
        prompts = _encode(chunk, [s.prompt for s in chunk], tokenizer, offsets=any(s.earlier for s in chunk))
        wholes = _encode(chunk, [s.prompt + s.answer for s in chunk], tokenizer)
        for sequence, (prompt, offsets), (whole, _) in zip(chunk, prompts, wholes, strict=True):
            length = len(prompt)
            ids = whole if whole[:length] == prompt else prompt + _continuation(sequence, tokenizer)
            targets = [i for a, b in sequence.earlier for i in _inside(offsets, a, b)]
            targets += range(length, len(ids))
            front = [] if sequence.template_made or ids[: len(prefix)] == prefix else prefix
            ids, targets, length = front + ids, [i + len(front) for i in targets], length + len(front)
            if train_on == "all":
                targets = list(range(len(ids)))
            yield Tokens(ids, [i for i in targets if i > 0], length)


def prompt_ids(sequence: Rendered, tokenizer: Any) -> list[int]:
    """Ids of the prompt alone, the same as `tokenise` puts in front."""
    ((ids, _),) = _encode([sequence], [sequence.prompt], tokenizer)
    prefix = bos_ids(tokenizer)
    return ids if sequence.template_made or ids[: len(prefix)] == prefix else prefix + ids


def prompt_offsets(sequence: Rendered, tokenizer: Any) -> tuple[list[int], Offsets]:
    """`prompt_ids` of plain text, and the characters [begin, end) of `sequence.prompt` that each id stands for."""
    ((ids, offsets),) = _encode([sequence], [sequence.prompt], tokenizer, offsets=True)
    prefix = bos_ids(tokenizer)
    front = [] if ids[: len(prefix)] == prefix else prefix
    return front + ids, [(0, 0)] * len(front) + offsets


def bos_ids(tokenizer: Any) -> list[int]:
    """Ids that the tokenizer by itself puts in front of a text: the bos token of Llama or Gemma, nothing for Qwen."""
    bare = _call(tokenizer, ["a"])["input_ids"][0]
    full = _call(tokenizer, ["a"], add_special_tokens=True)["input_ids"][0]
    begin = next(i for i in range(len(full)) if full[i : i + len(bare)] == bare)
    return full[:begin]


def _call(tokenizer: Any, texts: list[str], **options: Any) -> Any:
    return tokenizer(
        texts, **{"add_special_tokens": False, "return_attention_mask": False, "verbose": False, **options}
    )


def _encode(
    sequences: Sequence[Rendered], texts: list[str], tokenizer: Any, offsets: bool = False
) -> list[tuple[list[int], Offsets]]:
    """(ids, characters of each token). Texts with marks go segment by segment, the others in one batch."""
    found = _call(tokenizer, texts, return_offsets_mapping=True) if offsets else _call(tokenizer, texts)
    spans: list[Offsets] = found["offset_mapping"] if offsets else [[] for _ in texts]
    rows = list(zip(found["input_ids"], spans, strict=True))
    for i, sequence in enumerate(sequences):
        if sequence.marks:
            rows[i] = _encode_marked(texts[i], sequence.marks, tokenizer)
    return rows


def _encode_marked(text: str, marks: Mapping[str, str], tokenizer: Any) -> tuple[list[int], Offsets]:
    """Ids of a text with marks; the control tokens that the marks stand for are tokenised as plain characters.

    As the tokenizers library does, the text is divided at its control tokens and each segment tokenised by itself. Here
    the division is made first, then the marks are undone, so that what a row said is never divided at.
    """
    control = {token.content: (id_, token) for id_, token in tokenizer.added_tokens_decoder.items() if token.special}
    pattern = "|".join(
        f"{_blanks(token.lstrip)}({re.escape(content)}){_blanks(token.rstrip)}"
        for content, (_, token) in sorted(control.items(), key=lambda item: -len(item[0]))
    )
    ids: list[int] = []
    offsets: Offsets = []
    begin = 0
    for match in [*re.finditer(pattern, text), None]:
        end = match.start() if match else len(text)
        if begin < end:
            _append_segment(text[begin:end], begin, marks, tokenizer, ids, offsets)
        if match:
            ids.append(control[match[match.lastindex or 0]][0])
            offsets.append(match.span())
            begin = match.end()
    return ids, offsets


def _blanks(stripped: bool) -> str:
    """Some control tokens (Phi-3's) take the blanks beside them along."""
    return r"\s*" if stripped else ""


def _append_segment(
    segment: str, begin: int, marks: Mapping[str, str], tokenizer: Any, ids: list[int], offsets: Offsets
) -> None:
    """Tokenise a segment without control tokens; `begin` is where it stands in the whole text."""
    plain = [marks.get(char, char) for char in segment]
    origin = [begin + i for i, piece in enumerate(plain) for _ in piece]
    front = "\n" if ids and not _segments_start_anew(tokenizer) else ""
    found = _call(tokenizer, [front, front + "".join(plain)], return_offsets_mapping=True, split_special_tokens=True)
    skip = len(found["input_ids"][0])
    ids += found["input_ids"][1][skip:]
    offsets += [
        (origin[a - len(front)], origin[b - len(front) - 1] + 1) if b > a else (begin, begin)
        for a, b in found["offset_mapping"][1][skip:]
    ]


def _segments_start_anew(tokenizer: Any) -> bool:
    """Is text behind a control token read like the beginning of a text? Matters where blanks are put in front."""
    alone, behind = _call(tokenizer, ["a", f"{tokenizer.eos_token}a"])["input_ids"]
    return behind[1:] == alone


def _continuation(sequence: Rendered, tokenizer: Any) -> list[int]:
    """Ids of the answer as text that goes on: SentencePiece tokenizers put a blank before what begins a text, so it is
    read behind a newline, whose ids are then taken off."""
    newline, behind = (_encode([sequence], [text], tokenizer)[0][0] for text in ("\n", "\n" + sequence.answer))
    if behind[: len(newline)] == newline:
        return behind[len(newline) :]
    return _encode([sequence], [sequence.answer], tokenizer)[0][0]


def _inside(offsets: Offsets, begin: int, end: int) -> list[int]:
    """Tokens that lie wholly within the characters [begin, end)."""
    return [i for i, (a, b) in enumerate(offsets) if begin <= a < b <= end]
