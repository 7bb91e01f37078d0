"""Making a sequence fit. The answer stays whole; what goes is what the model can miss best.

In this order: the oldest exchanges of a chat (the system message stays); the beginning of the longest text of the
prompt (a document, a question), so that instructions written into the template and the end of the text, next to the
answer, stay; and only when the answer alone is too long, its end. An answer that was cut has no stop token: learning
to stop in mid-sentence would be worse than not learning to stop from this row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from oleaster.config.schema import DataConfig
from oleaster.data.papers import Example
from oleaster.data.render import Rendered, Voice, render
from oleaster.data.tokens import Tokens, tokenise

ATTEMPTS = 8
"""Texts are cut by counted tokens, but a template may trim, so the length is measured again."""

LONGEST_WORD = 30
"""Characters: where a blank is nearer than this, the cut moves there."""


def shorten(
    example: Example, sequence: Rendered, tokens: Tokens, voice: Voice, config: DataConfig
) -> tuple[Tokens | None, bool]:
    """(tokens of at most `max_length`, is the answer whole?); None when nothing learned would be left."""
    current = _ending_with(example, sequence, voice, config)
    while len(tokens.ids) > config.max_length and (fewer := _without_oldest_exchange(current)):
        current, tokens = fewer, _measure(fewer, voice, config)
    for _ in range(ATTEMPTS):
        excess = len(tokens.ids) - config.max_length
        if excess <= 0:
            return tokens, True
        shorter = _without_beginning(current, excess, voice)
        if shorter is None:
            break
        current, tokens = shorter, _measure(shorter, voice, config)
    if len(tokens.ids) <= config.max_length:
        return tokens, True
    kept = [i for i in tokens.targets if i < config.max_length]
    return (replace(tokens, ids=tokens.ids[: config.max_length], targets=kept), False) if kept else (None, False)


def _measure(example: Example, voice: Voice, config: DataConfig) -> Tokens:
    (tokens,) = tokenise(render(example, voice, config, every_turn=False), voice.tokenizer, config.train_on)
    return tokens


def _ending_with(example: Example, sequence: Rendered, voice: Voice, config: DataConfig) -> Example:
    """The example whose last turn `sequence` is (a rewriting template makes several sequences of one example)."""
    for end in range(len(example.messages), 0, -1):
        cut = replace(example, messages=example.messages[:end])
        if example.messages[end - 1]["role"] == "assistant":
            last = render(cut, voice, config, every_turn=False)[0]
            if (last.prompt, last.answer) == (sequence.prompt, sequence.answer):
                return cut
    return example


def _without_oldest_exchange(example: Example) -> Example | None:
    """Drop the first user message and all up to the next one; None when only one exchange is left."""
    users = [i for i, message in enumerate(example.messages) if message["role"] == "user"]
    if len(users) < 2:
        return None
    return replace(example, messages=example.messages[: users[0]] + example.messages[users[1] :])


def _without_beginning(example: Example, excess: int, voice: Voice) -> Example | None:
    """Take `excess` tokens off the beginning of the longest prompt text; None when no text is left to cut."""
    if example.text_parts:
        parts = list(example.text_parts)
        values = [i for i in range(1, len(parts), 2) if not parts[i][1] and parts[i][0]]
        if not values:
            return None
        longest = max(values, key=lambda i: len(parts[i][0]))
        parts[longest] = (_cut(parts[longest][0], excess, voice), False)
        return replace(example, text_parts=tuple(parts))
    messages = list(example.messages)
    asked = [i for i, m in enumerate(messages[:-1]) if m["role"] not in ("assistant", "system") and m["content"]]
    if not asked:
        return None
    longest = max(asked, key=lambda i: len(messages[i]["content"]))
    messages[longest] = {**messages[longest], "content": _cut(messages[longest]["content"], excess, voice)}
    return replace(example, messages=tuple(messages))


def _cut(text: str, excess: int, voice: Voice) -> str:
    offsets: Sequence[tuple[int, int]] = voice.tokenizer(
        text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
    )["offset_mapping"]
    if excess >= len(offsets):
        return ""
    rest = text[offsets[excess][0] :]
    broken_word, blank, behind = rest.partition(" ")
    return behind if blank and len(broken_word) < LONGEST_WORD else rest
