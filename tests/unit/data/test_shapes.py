"""What is learned of a row: by the columns where they say it, by the settings else, never by a guess."""

from __future__ import annotations

from typing import Any

import pytest

from oleaster.config.schema import DataConfig
from oleaster.core.errors import ConfigError, DataError
from oleaster.data.papers import Example
from oleaster.data.readers import Rows
from oleaster.data.shapes import build_examples, settle_shape


def rows_of(*rows: dict[str, Any]) -> Rows:
    return Rows(list(rows), [f"f.jsonl:{i}" for i in range(1, len(rows) + 1)])


def shaped(*rows: dict[str, Any], **settings: Any) -> tuple[DataConfig, list[Example], list[DataError]]:
    found = rows_of(*rows)
    config = settle_shape(DataConfig(**settings), found)
    return config, *build_examples(found, config)


@pytest.mark.parametrize(
    ("row", "shape", "said"),
    [
        ({"input": "q", "output": "a"}, "completion", ["q", "a"]),
        ({"prompt": "q", "completion": "a", "id": 3}, "completion", ["q", "a"]),
        ({"text": "q", "label": "a", "idx": 3}, "completion", ["q", "a"]),
        ({"question": "q", "answer": "a", "final_answer": "b"}, "completion", ["q", "a"]),
        ({"instruction": "q", "response": "a"}, "completion", ["q", "a"]),
        ({"instruction": "q", "input": "", "output": "a"}, "alpaca", ["q", "a"]),
        ({"instruction": "q", "input": "x", "output": "a"}, "alpaca", ["q\n\nx", "a"]),
        ({"instruction": "q", "context": "x", "response": "a", "category": "c"}, "alpaca", ["q\n\nx", "a"]),
        (
            {"instruction": "q", "input": "", "output": "a", "system": "s", "history": [["h", "i"]]},
            "alpaca",
            ["s", "h", "i", "q", "a"],
        ),
        ({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}, "sharegpt", ["q", "a"]),
        (
            {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
            "messages",
            ["q", "a"],
        ),
    ],
)
def test_known_columns(row: dict[str, Any], shape: str, said: list[str]) -> None:
    config, examples, faults = shaped(row)
    assert (config.data_format, faults) == (shape, [])
    assert [message["content"] for message in examples[0].messages] == said
    assert examples[0].target == "a"
    assert examples[0].source == "f.jsonl:1"


@pytest.mark.parametrize(
    "row",
    [
        {"text": "t", "intent": "i"},
        {"text": "t", "label": 1, "label_text": "i"},
        {"text": "t", "input": "q", "output": "a"},
        {"prompt": "q", "input": "p", "output": "a"},
        {"tokens": "t", "marks": "u"},
        {"messages": [], "prompt": "q", "completion": "a"},
    ],
)
def test_what_the_columns_do_not_say_is_asked_with_the_choices(row: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="--prompt_field"):
        shaped(row)


def test_what_to_write_instead_names_the_file_and_its_columns() -> None:
    with pytest.raises(DataError) as raised:
        shaped({"id": 1, "my phrase": "p", "tone": "t"})
    assert raised.value.where == "f.jsonl"
    assert "--prompt_field 'my phrase' --completion_field tone" in str(raised.value)
    assert "oleaster init f.jsonl" in str(raised.value)


def test_text_alone_is_learned_whole() -> None:
    config, examples, _ = shaped({"text": "abc", "id": 1})
    assert config.text_field == "text"
    assert examples[0].text_parts == (("abc", True),)


def test_numbers_become_text_other_types_are_refused() -> None:
    rows = [{"input": 1.5, "output": True}, {"input": "q", "output": 3}, {"input": "q", "output": None}]
    rows += [{"input": ["q"], "output": "a"}, {"input": "q", "output": "  "}, {"input": "q"}]
    _, examples, faults = shaped(*rows)
    assert [(e.messages[0]["content"], e.target) for e in examples] == [("1.5", "true"), ("q", "3")]
    assert [fault.where for fault in faults] == [f"f.jsonl:{i}" for i in (3, 4, 5, 6)]
    assert [word in str(fault) for word, fault in zip(("null", "list", "empty", "lacks output"), faults, strict=True)]


def test_a_column_that_no_row_has_is_one_fault_with_near_names() -> None:
    _, _, faults = shaped({"phrase": "p", "tone": "t"}, {"phrase": "p", "tone": "t"}, text_template="{phrase}\n{tine}")
    assert len(faults) == 1
    assert "'tine': did you mean 'tone'?" in str(faults[0])


@pytest.mark.parametrize(
    "settings",
    [
        {"text_template": "{a}{b}", "text_field": "a"},
        {"text_template": "{a}{b}", "prompt_field": "a"},
        {"text_template": "{a}{b}", "data_format": "alpaca"},
        {"data_format": "template"},
        {"text_template": "{a}{b}", "system_prompt": "be brief"},
        {"text_field": "a", "use_chat_template": True},
    ],
)
def test_settings_that_contradict_each_other(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        shaped({"a": "x", "b": "y"}, **settings)


def chat(*turns: dict[str, Any], **columns: Any) -> tuple[list[Example], list[DataError]]:
    _, examples, faults = shaped({"messages": list(turns), **columns})
    return examples, faults


def test_tool_calls_are_brought_into_the_form_that_templates_expect() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    examples, faults = chat(
        {"role": "user", "content": "1+1"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "2", "tool_call_id": "c1"},
        {"role": "assistant", "content": [{"type": "text", "text": "2"}]},
        {"role": "user", "content": "thanks"},
        tools='[{"type": "function", "function": {"name": "add"}}]',
    )
    assert not faults
    messages = examples[0].messages
    assert messages[1]["content"] == ""
    assert messages[1]["tool_calls"][0]["function"]["arguments"] == {"a": 1}
    assert messages[-1] == {"role": "assistant", "content": "2"}, "nothing is learned behind the last answer"
    assert examples[0].tools[0]["function"]["name"] == "add"


@pytest.mark.parametrize(
    ("turn", "reason"),
    [
        ({"role": "robot", "content": "a"}, "spoken by 'robot'"),
        ({"role": "assistant", "content": None}, "empty answer"),
        ({"role": "user", "content": None}, "no content"),
        ({"role": "user", "content": "q"}, "no assistant message"),
        ({"role": "user", "content": [{"type": "image_url"}]}, "only text"),
        ("hello", "not an object"),
        ({"role": "assistant", "content": "", "tool_calls": [{"function": {}}]}, "without a function name"),
        (
            {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]},
            "not JSON",
        ),
    ],
)
def test_a_bad_message_is_named(turn: Any, reason: str) -> None:
    _, faults = chat(turn)
    assert reason in str(faults[0])
