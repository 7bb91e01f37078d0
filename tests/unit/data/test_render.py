"""What is learned of a row: the answers with their stop token, exactly; and the prompt is that of inference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizer_kinds import (
    CHATML,
    DOUBLE_END,
    NO_STOP,
    NO_SYSTEM,
    NOT_A_PREFIX,
    THINKING,
    TOOLS,
    byte_level,
    metaspace,
)
from transformers import AutoTokenizer

from oleaster.config.schema import DataConfig
from oleaster.core.errors import DataError, ModelError, UserError
from oleaster.data.encode import encode, encode_prompt
from oleaster.data.papers import Encoded, Example, Message
from oleaster.data.template import parse_template

KINDS = {
    "byte level": byte_level(CHATML),
    "byte level, bos": byte_level(None, bos=True),
    "two ends": byte_level(DOUBLE_END),
    "thoughts": byte_level(THINKING),
    "no stop token": byte_level(NO_STOP),
    "sentencepiece": metaspace(),
    "sentencepiece, chat": metaspace(CHATML),
}
words = st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), min_size=1, max_size=12).filter(
    lambda text: text.strip() and "<|" not in text
)


def conversation(*contents: str) -> Example:
    """user, assistant, user, assistant, ..."""
    messages: list[Message] = [
        {"role": ("user", "assistant")[i % 2], "content": content} for i, content in enumerate(contents)
    ]
    return Example("f:1", messages=tuple(messages), target=contents[-1])


def template_example(text: str, **values: str) -> Example:
    return Example("f:1", text_parts=parse_template(text).parts(values), target=list(values.values())[-1])


def learned(row: Encoded, tokenizer: Any) -> list[str]:
    """The learned text, one string for each unbroken run of target tokens."""
    runs: list[list[int]] = []
    for previous, i in zip((-1, *row.targets), row.targets, strict=False):
        if not runs or i != previous + 1:
            runs.append([])
        runs[-1].append(row.input_ids[i])
    return [tokenizer.decode(run) for run in runs]


def one(example: Example, tokenizer: Any, **settings: Any) -> Encoded:
    rows, _ = encode([example], tokenizer, DataConfig(**settings))
    assert len(rows) == 1
    return rows[0]


@pytest.mark.parametrize("kind", KINDS)
@given(question=words, answer=words)
@settings(max_examples=25, deadline=None)
def test_the_answer_and_the_stop_are_learned_and_the_prompt_is_that_of_inference(
    kind: str, question: str, answer: str
) -> None:
    tokenizer = KINDS[kind]
    row = one(conversation(question, answer), tokenizer)
    said = learned(row, tokenizer)
    assert len(said) == 1
    assert said[0].replace("<think>\n\n</think>\n\n", "").strip() in (
        f"{answer}<|im_end|>".strip(),
        f"{answer}<|end|>".strip(),
        f"{answer.rstrip()}<|im_end|>".strip(),
    )
    assert row.targets == tuple(range(row.prompt_length, len(row.input_ids)))
    assert row.prompt_ids == tuple(encode_prompt(question, tokenizer, DataConfig()))


@pytest.mark.parametrize("kind", KINDS)
@given(question=words, answer=words)
@settings(max_examples=25, deadline=None)
def test_template_rows_keep_the_prompt_of_inference(kind: str, question: str, answer: str) -> None:
    tokenizer, text = KINDS[kind], "User: {input}\nAssistant: {output}"
    row = one(template_example(text, input=question, output=answer), tokenizer, text_template=text)
    config = DataConfig(text_template=text, data_format="template")
    assert row.prompt_ids == tuple(encode_prompt(question, tokenizer, config))
    assert row.prompt_ids == tuple(encode_prompt({"input": question}, tokenizer, config))
    assert "".join(learned(row, tokenizer)).strip() == f"{answer}<|im_end|>".strip()
    assert tokenizer.decode(row.prompt_ids).endswith("Assistant:")


def test_every_turn_of_a_chat_is_learned_and_nothing_else() -> None:
    tokenizer = KINDS["byte level"]
    row = one(conversation("q1", "a1", "q2", "a2", "q3", "a3"), tokenizer)
    assert learned(row, tokenizer) == ["a1<|im_end|>", "a2<|im_end|>", "a3<|im_end|>"]
    messages = conversation("q1", "a1", "q2", "a2", "q3").messages
    assert row.prompt_ids == tuple(encode_prompt(messages, tokenizer, DataConfig()))
    whole = tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, return_dict=False)
    assert list(row.prompt_ids) == whole, "the same ids as transformers' own"


def test_a_template_that_rewrites_earlier_turns_makes_a_sequence_of_each() -> None:
    tokenizer = KINDS["thoughts"]
    example = conversation("q1", "a1", "q2", "a2")
    rows, part = encode([example], tokenizer, DataConfig())
    assert [learned(row, tokenizer) for row in rows] == [
        [f"<think>\n\n</think>\n\n{a}<|im_end|>"] for a in ("a1", "a2")
    ]
    assert (part.used, part.sequences, [row.example for row in rows]) == (1, 2, [0, 0])
    (last,), _ = encode([example], tokenizer, DataConfig(), every_turn=False)
    assert last == rows[1]


def test_a_template_without_stop_token_gets_the_eos() -> None:
    tokenizer = KINDS["no stop token"]
    rows, _ = encode([conversation("q1", "a1", "q2", "a2")], tokenizer, DataConfig())
    assert [learned(row, tokenizer) for row in rows] == [[" a1<|im_end|>"], [" a2<|im_end|>"]]


def test_a_template_that_cannot_be_continued_is_named() -> None:
    with pytest.raises(ModelError, match="cannot be found"):
        encode([conversation("q", "a")], byte_level(NOT_A_PREFIX), DataConfig())


def test_rows_that_the_template_refuses_are_named_together() -> None:
    tokenizer = byte_level(NO_SYSTEM)
    with pytest.raises(DataError, match=r"2 problems(.|\n)*f:1: .*System role not supported(.|\n)*1 more like it"):
        encode([conversation("q", "a")] * 2, tokenizer, DataConfig(system_prompt="be brief"))


def test_the_system_prompt_stands_before_rows_that_have_none() -> None:
    tokenizer = KINDS["byte level"]
    own = Example("f:2", messages=({"role": "system", "content": "own"}, *conversation("q", "a").messages))
    rows, _ = encode([conversation("q", "a"), own], tokenizer, DataConfig(system_prompt="be brief"))
    assert [("be brief" in text, "own" in text) for text in (tokenizer.decode(r.input_ids) for r in rows)] == [
        (True, False),
        (False, True),
    ]


def test_plain_text_without_chat_template() -> None:
    tokenizer = KINDS["byte level, bos"]
    row = one(conversation("q1", "a1", "q2", "a2"), tokenizer)
    assert tokenizer.decode(row.input_ids) == "<bos>q1\na1<|im_end|>\nq2\na2<|im_end|>"
    assert learned(row, tokenizer) == ["a1<|im_end|>", "a2<|im_end|>"]
    with pytest.raises(ModelError, match="no chat template"):
        one(conversation("q", "a"), tokenizer, use_chat_template=True)


def test_the_chat_template_can_be_left_out(chatml: Any) -> None:
    row = one(conversation("q", "a"), chatml, use_chat_template=False)
    assert chatml.decode(row.input_ids) == "q\na<|im_end|>"


@pytest.mark.parametrize("kind", ["byte level", "sentencepiece, chat", "byte level, bos"])
def test_control_tokens_inside_a_row_stay_text(kind: str) -> None:
    tokenizer = KINDS[kind]
    stop = tokenizer.eos_token_id
    (row,), part = encode([conversation("say <|im_end|> and <|im_start|>", "no <|im_end|>!")], tokenizer, DataConfig())
    assert part.escaped == 1
    assert [row.input_ids[i] for i in row.targets].count(stop) == 1
    assert row.input_ids[-1] == stop
    assert "no <|im_end|>!<|im_end|>" in learned(row, tokenizer)[0]
    asked = encode_prompt("say <|im_end|> and <|im_start|>", tokenizer, DataConfig())
    assert tuple(asked) == row.prompt_ids
    clean = one(conversation("say", "no"), tokenizer)
    assert row.input_ids.count(stop) == clean.input_ids.count(stop)


def test_control_tokens_of_a_template_are_control_those_of_its_columns_are_text(chatml: Any) -> None:
    text = "<|im_start|>{q}<|im_end|>\n{a}<|im_end|>\n"
    row = one(template_example(text, q="<|im_end|>", a="b"), chatml, text_template=text)
    assert row.input_ids.count(chatml.eos_token_id) == 2, "one of the literal, one at the end, which is not doubled"
    assert learned(row, chatml) == ["b<|im_end|>"]


def test_tools_through_a_template_that_knows_them_and_as_text_through_others() -> None:
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    example = Example(
        "f:1",
        messages=(
            {"role": "user", "content": "1+1"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": "2"},
            {"role": "assistant", "content": "two"},
        ),
        tools=({"type": "function", "function": {"name": "add"}},),
    )
    knowing = byte_level(TOOLS)
    said = learned(one(example, knowing), knowing)
    assert '<tool_call>{"name": "add"' in said[0]
    for tokenizer in (KINDS["byte level"], KINDS["byte level, bos"]):
        row = one(example, tokenizer)
        assert learned(row, tokenizer) == [
            '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call><|im_end|>',
            "two<|im_end|>",
        ]
        assert "<tool_response>\n2\n</tool_response>" in tokenizer.decode(row.input_ids)
        assert row.prompt_ids == tuple(encode_prompt(example.messages[:-1], tokenizer, DataConfig(), example.tools))


def test_whole_text_on_request(chatml: Any) -> None:
    row = one(conversation("q", "a"), chatml, train_on="all")
    assert row.targets == tuple(range(1, len(row.input_ids)))
    text = one(Example("f:1", text_parts=(("some text", True),), target="some text"), chatml)
    assert learned(text, chatml)[0].endswith("<|im_end|>")
    assert text.prompt_length == 0


def test_prompts_that_do_not_fit_the_shape() -> None:
    tokenizer = KINDS["byte level"]
    two = DataConfig(text_template="{a} {b}\n{c}", data_format="template")
    with pytest.raises(UserError, match="missing: b"):
        encode_prompt({"a": "x"}, tokenizer, two)
    with pytest.raises(UserError, match="needs a, b"):
        encode_prompt("x", tokenizer, two)
    with pytest.raises(UserError, match="knows no conversation"):
        encode_prompt(conversation("q", "a", "b").messages, tokenizer, DataConfig(data_format="text"))
    with pytest.raises(UserError, match="no messages"):
        encode_prompt([], tokenizer, DataConfig())


@pytest.mark.skipif(not Path("/tmp/smollm2/tokenizer.json").is_file(), reason="SmolLM2's files are not in /tmp/smollm2")
def test_smollm2_reads_the_ids_that_transformers_writes() -> None:
    tokenizer = AutoTokenizer.from_pretrained("/tmp/smollm2")
    example = conversation("What is the capital of Poland?", "Warsaw.", "Zażółć?", "gęślą jaźń")
    row = one(example, tokenizer)
    assert learned(row, tokenizer) == ["Warsaw.<|im_end|>", "gęślą jaźń<|im_end|>"]
    whole = tokenizer.apply_chat_template(list(example.messages), return_dict=False)
    assert [*row.input_ids, *tokenizer("\n").input_ids] == whole
