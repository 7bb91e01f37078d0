"""From examples to what a head learns: labels of texts, tags of words, pairs of texts.

A head reads the text as it stands, without chat template (unless `use_chat_template: true`), so that any tool which
tokenises a text in the usual way feeds it what it was trained on. Its answer follows the text: the label's id is the
one token behind it, a tag's id stands there for each word. So what a prompt is, what is learned and what is scored are
the same as for generated answers.
"""

from __future__ import annotations

import bisect
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from oleaster.config.schema import DataConfig
from oleaster.core.errors import DataError, UserError, near_names
from oleaster.data.cells import BadRowError
from oleaster.data.encode import EncodedData, fill_template, prompt_style
from oleaster.data.entities import split_words
from oleaster.data.faults import raise_faults
from oleaster.data.labelled import words_and_tags
from oleaster.data.ledger import Part
from oleaster.data.papers import Encoded, Example, Head, Message
from oleaster.data.prepare import Prepared
from oleaster.data.render import Rendered, Voice, render, render_for_head, render_prompt, voice_of
from oleaster.data.tokens import prompt_ids, prompt_offsets


def encode_all_for_head(prepared: Prepared, tokenizer: Any, config: DataConfig, head: Head) -> EncodedData:
    """Tokenise both sides for a head, and close the ledger.

    Args:
        config: as for `encode_all`.

    Raises: DataError for rows that are too long (with `overlong="error"`), empty, or whose label is not the head's.
    """
    plain = config.use_chat_template is None
    config = prompt_style(config, prepared, tokenizer)
    if plain and config.use_chat_template:
        config = config.model_copy(update={"use_chat_template": False})
    train, train_part = encode_for_head(prepared.train, tokenizer, config, head, prepared.ledger.train)
    held, held_part = encode_for_head(prepared.validation, tokenizer, config, head, prepared.ledger.validation)
    ledger = replace(prepared.ledger, train=train_part, validation=held_part)
    ledger.check()
    if not train:
        raise DataError("no row is left to learn", remedy=f"raise --max_length {config.max_length}")
    return EncodedData(train, held, ledger, (), config)


def encode_for_head(
    examples: Sequence[Example], tokenizer: Any, config: DataConfig, head: Head, part: Part | None = None
) -> tuple[list[Encoded], Part]:
    """What `head` reads and learns of each example, and the ledger's part with its tokens."""
    part = part or Part(rows=len(examples), used=len(examples))
    voice = voice_of(tokenizer, config)
    encode = {"sequence": _label, "token": _tags, "embedding": _pair}[head.kind]
    rows, faults, long = [], [], []
    count: Counter[str] = Counter()
    for i, example in enumerate(examples):
        try:
            row, length, learned = encode(example, i, voice, config, head)
        except BadRowError as error:
            faults.append(DataError(str(error), where=example.source))
            continue
        count["read"] += length
        if row is None:
            long.append((example.source, length))
            count["dropped"] += length
            continue
        kept = len(row.prompt_ids) + (len(row.pair.prompt_ids) if row.pair else 0)
        count["learned"] += learned
        count["masked"] += kept - learned
        count["cut"] += length - kept
        count["shortened"] += kept < length
        rows.append(row)
    raise_faults(faults)
    if config.overlong == "error" and long:
        longest = max(length for _, length in long)
        message = f"{len(long)} of {len(examples)} rows are longer than --max_length {config.max_length}"
        remedy = f"add --max_length {longest}, --overlong truncate or --overlong drop"
        raise DataError(message, where=long[0][0], remedy=remedy)
    dropped = {"too long": len(examples) - len(rows)} if len(rows) < len(examples) else {}
    return rows, replace(
        part,
        used=len(rows),
        dropped={**part.dropped, **dropped},
        truncated=count["shortened"],
        sequences=len(rows),
        tokens_read=count["read"],
        tokens_trained=count["learned"],
        tokens_masked=count["masked"],
        tokens_truncated=count["cut"],
        tokens_dropped=count["dropped"],
    )


Found = tuple[Encoded | None, int, int]
"""(the row, or None where it is dropped; its tokens before anything was cut; states that something is learned from)"""


def _label(example: Example, index: int, voice: Voice, config: DataConfig, head: Head) -> Found:
    ids = prompt_ids(_text(example, voice, config), voice.tokenizer)
    label = _number(example.target.strip(), head.labels)
    kept = _fitting(ids, config)
    row = Encoded((*kept, label), (len(kept),), len(kept), index) if kept is not None else None
    return row, len(ids), 1


def _tags(example: Example, index: int, voice: Voice, config: DataConfig, head: Head) -> Found:
    words, tags = words_and_tags(example.row, config.prompt_field or "", config.completion_field or "")
    ids, ends = word_ends(words, voice)
    numbers = [_number(tag, head.labels) for tag in tags]
    kept = _fitting(ids, config)
    if kept is None:
        return None, len(ids), 0
    seen = bisect.bisect_left(ends, len(kept))  # words that are whole after a cut
    targets = range(len(kept), len(kept) + seen)
    row = Encoded((*kept, *numbers[:seen]), tuple(targets), len(kept), index, tuple(ends[:seen]))
    return row if seen else None, len(ids), len(set(ends[:seen]))


def _pair(example: Example, index: int, voice: Voice, config: DataConfig, head: Head) -> Found:
    texts = [text for text, _ in example.text_parts]
    whole = [prompt_ids(render_for_head([text], voice), voice.tokenizer) for text in texts]
    kept = [_fitting(ids, config) for ids in whole]
    length = sum(map(len, whole))
    if not (kept[0] and kept[1]):
        return None, length, 0
    lines = [Encoded(tuple(ids), (), len(ids), index, pooled(len(ids), head)) for ids in kept if ids]
    similarity = None
    if example.target:
        low, high = config.score_range or (0.0, 1.0)
        similarity = min(1.0, max(0.0, (float(example.target) - low) / (high - low)))
    row = replace(lines[0], pair=lines[1], similarity=similarity)
    return row, length, len(lines[0].sources) + len(lines[1].sources)


def pooled(length: int, head: Head) -> tuple[int, ...]:
    """Which of a text's tokens make up its embedding."""
    return tuple(range(length)) if head.pooling == "mean" else (length - 1,)


def word_ends(words: Sequence[str], voice: Voice) -> tuple[list[int], list[int]]:
    """(ids of the words as one text, the last token of each word)."""
    rendered = render_for_head([" ".join(words)], voice)
    lengths = [len(render_for_head([word], voice).prompt) for word in words] if rendered.marks else map(len, words)
    ids, offsets = prompt_offsets(rendered, voice.tokenizer)
    begins = [begin for begin, _ in offsets]
    ends, at = [], 0
    for length in lengths:
        at += length
        ends.append(bisect.bisect_left(begins, at) - 1)  # the last token that begins before the word ends
        at += 1
    return ids, ends


def score_range(examples: Sequence[Example]) -> list[float] | None:
    """Whole numbers around the scores of pairs: 0 and 1 at least."""
    scores = [float(example.target) for example in examples if example.target]
    return [float(min(0, math.floor(min(scores)))), float(max(1, math.ceil(max(scores))))] if scores else None


def _fitting(ids: list[int], config: DataConfig) -> list[int] | None:
    """At most `max_length` ids; None where the row is to be dropped. Raises: BadRowError for an empty text."""
    if not ids:
        raise BadRowError("the text is empty")
    if len(ids) <= config.max_length or config.overlong == "truncate":
        return ids[: config.max_length]
    return None


def _number(label: str, labels: Sequence[str]) -> int:
    try:
        return labels.index(label)
    except ValueError:
        message = (
            f"'{label}' is none of the {len(labels)} labels of the training rows ({near_names(label, labels)[:200]})"
        )
        raise BadRowError(message) from None


# --- what is read ---


def encode_head_prompt(
    prompt: str | Sequence[Message] | Mapping[str, str], tokenizer: Any, config: DataConfig, head: Head
) -> list[int]:
    """Token ids of a user's input, as `encode_for_head` gives the texts of rows to a head. Raises: UserError."""
    voice = voice_of(tokenizer, config)
    if config.data_format == "template":
        return prompt_ids(fill_template(prompt, voice, config), tokenizer)
    if isinstance(prompt, Mapping):
        prompt = "\n".join(prompt.values())
    if isinstance(prompt, str) and head.kind == "token":
        prompt = " ".join(split_words(prompt))
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    if not any(message["content"] for message in messages):
        raise UserError("the text is empty", where="prompt", remedy="give one text")
    return prompt_ids(_said(messages, voice, config), tokenizer)


def _text(example: Example, voice: Voice, config: DataConfig) -> Rendered:
    if example.text_parts:
        return replace(render(example, voice, config)[0], answer="")
    return _said(example.messages[:-1], voice, config)


def _said(messages: Sequence[Message], voice: Voice, config: DataConfig) -> Rendered:
    if voice.chat:
        return render_prompt(messages, (), voice, config)
    front = [config.system_prompt] if config.system_prompt else []
    return render_for_head([*front, *(message["content"] for message in messages)], voice)
