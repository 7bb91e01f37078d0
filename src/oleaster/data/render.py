"""From an example to the text a model reads, with the learned characters marked.

A chat is rendered by the model's own template. What is learned of it is found by rendering twice: once up to the
answer, with the generation prompt, exactly as at inference; once with the answer. The first text must be the beginning
of the second, and the rest, up to and with the stop token, is learned. So the prompt in training *is* the prompt at
inference, whatever the template does, and no template needs `{% generation %}` marks.

Without a chat template messages are plain text: every message and a newline; every answer ends in the tokenizer's eos.
A prompt with its answer is then "PROMPT\\nANSWER<eos>".
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from oleaster.config.schema import DataConfig
from oleaster.core.errors import DataError, ModelError
from oleaster.data.papers import Example, Message
from oleaster.data.tools import write_out_tools


@dataclass(frozen=True)
class Rendered:
    """One training sequence as text."""

    prompt: str
    answer: str
    """The last learned text, stop token included; nothing stands behind it."""
    earlier: tuple[tuple[int, int], ...] = ()
    """(begin, end) characters of `prompt` that are earlier answers, stop token included."""
    marks: Mapping[str, str] = field(default_factory=dict)
    """Private-use character -> the control token's text that a row contained in its place."""
    template_made: bool = False
    """The chat template wrote the whole text, bos token included where the model has one."""


@dataclass(frozen=True)
class Voice:
    """What rendering needs of a tokenizer."""

    tokenizer: Any
    chat: bool
    """Messages go through the chat template."""
    eos: str
    specials: tuple[str, ...]
    """Control tokens, longest first."""

    @property
    def knows_tools(self) -> bool:
        return self.chat and "tools" in str(self.tokenizer.chat_template)

    @property
    def name(self) -> str:
        return getattr(self.tokenizer, "name_or_path", "") or type(self.tokenizer).__name__


def voice_of(tokenizer: Any, config: DataConfig) -> Voice:
    """Check that the tokenizer can do what the settings ask for.

    Raises: ModelError when it has no eos token, or no chat template although one is asked for, or is a slow one.
    """
    name = getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__
    if tokenizer.eos_token is None:
        raise ModelError("the tokenizer has no eos token: the model could not learn to stop", where=name)
    if not tokenizer.is_fast:
        raise ModelError("the tokenizer has no tokenizer.json", where=name, remedy="save it as a fast tokenizer first")
    has_template = bool(tokenizer.chat_template)
    if config.use_chat_template and not has_template:
        raise ModelError(
            "the model has no chat template, but --use_chat_template asks for it",
            where=name,
            remedy="choose an instruct model, or leave --use_chat_template out",
        )
    specials = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    specials |= set(tokenizer.all_special_tokens)
    chat = has_template if config.use_chat_template is None else config.use_chat_template
    return Voice(tokenizer, chat, tokenizer.eos_token, tuple(sorted(specials, key=lambda s: (-len(s), s))))


def render(example: Example, voice: Voice, config: DataConfig, every_turn: bool = True) -> list[Rendered]:
    """The training sequences of one example: one, except for a chat whose template rewrites earlier turns.

    Such a template (one that removes old thoughts, say) shows an answer differently once the chat goes on, so no single
    text holds every turn as the model meets it; then each turn becomes a sequence of its own, or with
    `every_turn=False` the last turn alone is learned.
    Raises: DataError when the template refuses the conversation; ModelError when it has no place for the answer.
    """
    if example.text_parts:
        return [_render_parts(example, voice)]
    messages, tools, marks = _conversation(example.messages, example.tools, voice, config)
    if not voice.chat:
        return [replace(_render_plain(messages, voice), marks=marks)]
    example = replace(example, tools=tools)
    turns = [
        _turn(messages[: i + 1], example, voice) for i, message in enumerate(messages) if message["role"] == "assistant"
    ]
    prompt, answer = turns[-1]
    if all(prompt.startswith(before + said) for before, said in turns[:-1]):
        spans = tuple((len(before), len(before) + len(said)) for before, said in turns[:-1])
        return [Rendered(prompt, answer, spans, marks, template_made=True)]
    chosen = turns if every_turn else turns[-1:]
    return [Rendered(before, said, (), marks, template_made=True) for before, said in chosen]


def render_prompt(messages: Sequence[Message], tools: Sequence[Any], voice: Voice, config: DataConfig) -> Rendered:
    """Messages up to the answer that is wanted, rendered as in training; the answer is empty."""
    marked, tools, marks = _conversation(messages, tools, voice, config)
    if voice.chat:
        text = _apply(marked, tools, voice, "the prompt", generation=True)
        return Rendered(text, "", (), marks, template_made=True)
    plain = _render_plain([*marked, {"role": "assistant", "content": ""}], voice)
    return Rendered(plain.prompt, "", plain.earlier, marks)


def render_for_head(texts: Sequence[str], voice: Voice) -> Rendered:
    """Texts as they stand, with nothing of a template around them: what plain transformers is given as well."""
    marked, marks = _mark(list(texts), voice)
    return Rendered("\n".join(marked), "", marks=marks)


def _conversation(
    messages: Sequence[Message], tools: Sequence[Any], voice: Voice, config: DataConfig
) -> tuple[list[Message], tuple[Any, ...], dict[str, str]]:
    """Messages and tools as the template gets them: system prompt in front, control tokens marked, tools written out
    where the template does not know them."""
    said = _with_system(messages, config.system_prompt)
    if not voice.knows_tools and (tools or any(m["role"] == "tool" or "tool_calls" in m for m in said)):
        said, tools = write_out_tools(said, tools), ()
    (marked, marked_tools), marks = _mark((said, list(tools)), voice)
    return marked, tuple(marked_tools), marks


# --- templates and plain text ---


def _render_parts(example: Example, voice: Voice) -> Rendered:
    """Parts of a text template (an odd one is a value of the row), or one plain text that is learned whole."""
    parts = list(example.text_parts)
    marks: dict[str, str] = {}
    if len(parts) > 1:
        values, marks = _mark([text for text, _ in parts[1::2]], voice)
        parts[1::2] = [(text, learn) for text, (_, learn) in zip(values, parts[1::2], strict=True)]
    prompt, space = split_space("".join(text for text, learn in parts if not learn))
    answer = space + "".join(text for text, learn in parts if learn)
    if answer.rstrip().endswith(voice.eos):
        answer = answer.rstrip()
    else:
        answer += voice.eos
    return Rendered(prompt, answer, marks=marks)


def split_space(prompt: str) -> tuple[str, str]:
    """Take the spaces off the end of a prompt: they belong to the first word of the answer.

    "Answer: " + "yes" is written by every common tokenizer as "Answer", ":", " yes". A prompt ending in a lone space
    token is one that no model has seen, and cutting inside " yes" gives an answer it would never write by itself.
    (lm-evaluation-harness does the same.)
    """
    bare = prompt.rstrip(" ")
    return bare, prompt[len(bare) :]


def _render_plain(messages: Sequence[Message], voice: Voice) -> Rendered:
    text, earlier = "", []
    for message in messages[:-1]:
        begin = len(text)
        text += message["content"]
        if message["role"] == "assistant":
            text += voice.eos
            earlier.append((begin, len(text)))
        text += "\n"
    return Rendered(text, messages[-1]["content"] + voice.eos, tuple(earlier))


# --- chat templates ---


def _with_system(messages: Sequence[Message], system_prompt: str | None) -> list[Message]:
    if system_prompt is None or (messages and messages[0]["role"] in ("system", "developer")):
        return list(messages)
    return [{"role": "system", "content": system_prompt}, *messages]


def _apply(messages: Sequence[Message], tools: Sequence[Any], voice: Voice, where: str, generation: bool) -> str:
    import jinja2

    try:
        return voice.tokenizer.apply_chat_template(
            list(messages), tools=list(tools) or None, add_generation_prompt=generation, tokenize=False
        )
    except (jinja2.TemplateError, TypeError) as error:  # TypeError: a template that joins text and None
        reason = f"the chat template of {voice.name} refuses the conversation: {error}"
        raise DataError(reason, where=where, remedy="bring the messages into the order and form it expects") from error


def _turn(messages: Sequence[Message], example: Example, voice: Voice) -> tuple[str, str]:
    """(prompt, answer) of the last message, which is the assistant's."""
    prompt = _apply(messages[:-1], example.tools, voice, example.source, generation=True)
    whole = _apply(messages, example.tools, voice, example.source, generation=False)
    if not whole.startswith(prompt):
        raise ModelError(
            "the chat template writes another text before an answer than it asks the model to continue, so the answer "
            "cannot be found in it",
            where=voice.name,
            remedy="use another chat template (chat_template.jinja in the model's folder), or use_chat_template: false",
        )
    answer = whole[len(prompt) :]
    _check_tools(messages[-1], prompt, answer, example, voice)
    stop = _end_of_turn(answer, voice.specials)
    return prompt, answer[:stop] if stop else answer.rstrip() + voice.eos


def _end_of_turn(answer: str, specials: Sequence[str]) -> int | None:
    """Where the stop token ends: the first of the control tokens that close the text, blanks aside.

    Phi-3 closes with "<|end|>\\n<|endoftext|>": the answer stops at the first. None: nothing but text closes it.
    """
    stop, end = None, len(answer)
    while True:
        end = len(answer[:end].rstrip())
        last = next((token for token in specials if answer.endswith(token, 0, end)), None)
        if last is None:
            return stop
        stop, end = end, end - len(last)


def _check_tools(message: Message, prompt: str, answer: str, example: Example, voice: Voice) -> None:
    """A template that knows nothing of tools drops them without a word; the model would learn empty answers."""
    unseen = [call["function"]["name"] for call in message.get("tool_calls", ())]
    unseen = [name for name in unseen if name not in answer]
    offered = [tool.get("function", tool).get("name", "") for tool in example.tools]
    unseen += [name for name in offered if name not in prompt]
    if unseen:
        raise ModelError(
            f"the chat template has no place for tools ('{unseen[0]}' of {example.source} does not appear in its text)",
            where=voice.name,
            remedy="use another chat template, or write tools and calls into the messages' text",
        )


# --- control tokens inside rows ---

_MARKS = range(0x100000, 0x10FFFE)
"""Private-use characters (plane 16): no font, no language, hardly any data uses them."""


def _mark(value: Any, voice: Voice) -> tuple[Any, dict[str, str]]:
    """Replace control tokens in the texts of `value` by private-use characters, so that no template and no tokenizer
    takes them for control. Returns the marked value and what each mark stands for."""
    texts = "\0".join(_texts(value))
    found = [token for token in voice.specials if token in texts]
    if not found:
        return value, {}
    free = (chr(code) for code in _MARKS if chr(code) not in texts)
    marks = {token: next(free) for token in found}
    pattern = re.compile("|".join(re.escape(token) for token in found))
    marked = _map_texts(value, lambda text: pattern.sub(lambda match: marks[match[0]], text))
    return marked, {mark: token for token, mark in marks.items()}


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        value = value.values()
    elif not isinstance(value, (list, tuple)):
        return []
    return [text for item in value for text in _texts(item)]


def _map_texts(value: Any, change: Any) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {key: _map_texts(item, change) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_map_texts(item, change) for item in value]
    return value
