"""From files to token ids: overlong rows, the ledger's sums, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizer_kinds import THINKING, byte_level

from oleaster.config.schema import DataConfig
from oleaster.core.errors import ConfigError, DataError, ModelError
from oleaster.data.encode import encode_all, encode_prompt
from oleaster.data.ledger import Ledger, Part
from oleaster.data.prepare import prepare, read_test_rows

THOUGHTS = byte_level(THINKING)


def pairs(count: int, answer: str = "a{}") -> list[dict[str, Any]]:
    return [{"input": f"question {i}", "output": answer.format(i)} for i in range(count)]


@given(
    lengths=st.lists(st.tuples(st.integers(1, 60), st.integers(1, 30), st.integers(1, 3)), min_size=1, max_size=30),
    policy=st.sampled_from(["truncate", "drop"]),
    max_length=st.integers(8, 60),
    thoughts=st.booleans(),
    train_on=st.sampled_from(["answer", "all"]),
    max_samples=st.none() | st.integers(1, 30),
    fraction=st.sampled_from([0.0, 0.1, 0.4]),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
def test_the_sums_balance(
    write, chatml, lengths, policy, max_length, thoughts, train_on, max_samples, fraction
) -> None:
    rows = [
        {"messages": [{"role": r, "content": "x " * n} for r, n in (("user", q), ("assistant", a))] * turns}
        for q, a, turns in lengths
    ]
    config = DataConfig(
        data_name=write("rows.jsonl", rows),
        max_length=max_length,
        overlong=policy,
        train_on=train_on,
        max_samples=max_samples,
        validation_fraction=fraction,
    )
    prepared = prepare(config, 1)
    tokenizer = THOUGHTS if thoughts else chatml
    try:
        encoded = encode_all(prepared, tokenizer, config)
    except DataError as error:
        if "no token is left to learn" not in str(error):
            raise
        return
    encoded.ledger.check()
    for part, rows_of_part in ((encoded.ledger.train, encoded.train), (encoded.ledger.validation, encoded.validation)):
        assert part.tokens_trained == sum(len(row.targets) for row in rows_of_part)
        assert part.tokens_trained + part.tokens_masked == sum(len(row.input_ids) for row in rows_of_part)
        assert all(len(row.input_ids) <= max_length and row.targets for row in rows_of_part)
        assert part.sequences == len(rows_of_part)
    assert encoded.ledger.read == len(rows)
    assert Ledger.from_json(json.loads(json.dumps(encoded.ledger.to_json()))) == encoded.ledger


def test_a_wrong_sum_is_noticed() -> None:
    with pytest.raises(AssertionError, match="read 3"):
        Ledger(read=3, sliced_away=1, train=Part(rows=1, used=1), validation=Part()).check()
    with pytest.raises(AssertionError, match="tokens"):
        Ledger(1, 0, Part(rows=1, used=1, tokens_read=2, tokens_trained=1), Part()).check()


def test_overlong_rows_are_refused_by_name(write, chatml) -> None:
    rows = pairs(3)
    rows[1]["input"] = "x " * 300
    prepared = prepare(DataConfig(data_name=write("rows.jsonl", rows), max_length=64), 1)
    with pytest.raises(DataError, match=r"1 of 3 rows(.|\n)*rows\.jsonl:2: \d+ tokens(.|\n)*--overlong truncate"):
        encode_all(prepared, chatml)


def test_shortening_keeps_answer_stop_and_what_stands_next_to_it(write, chatml) -> None:
    rows = [{"q": "early " * 60 + "late", "a": "answer here"}]
    text = "Read this: {q}\nNow say: {a}"
    config = DataConfig(data_name=write("r.jsonl", rows), text_template=text, max_length=48, overlong="truncate")
    encoded = encode_all(prepare(config, 1), chatml)
    said = chatml.decode(encoded.train[0].input_ids)
    assert said.startswith("Read this: early early")
    assert said.endswith("late\nNow say: answer here<|im_end|>")
    assert len(encoded.train[0].input_ids) in range(40, 49)
    assert (encoded.ledger.train.truncated, encoded.ledger.train.answers_cut) == (1, 0)


def test_a_long_chat_loses_its_oldest_exchanges_first(write, chatml) -> None:
    turns = [{"role": ("user", "assistant")[i % 2], "content": f"turn {i} " + "x" * 20} for i in range(8)]
    row = {"messages": [{"role": "system", "content": "rule"}, *turns]}
    config = DataConfig(data_name=write("r.jsonl", [row]), max_length=150, overlong="truncate")
    encoded = encode_all(prepare(config, 1), chatml)
    said = chatml.decode(encoded.train[0].input_ids)
    assert said.startswith("<|im_start|>system\nrule<|im_end|>\n<|im_start|>user\nturn ")
    assert "turn 0" not in said
    assert said.endswith(turns[-1]["content"] + "<|im_end|>")


def test_an_answer_too_long_by_itself_is_cut_without_a_stop(write, chatml) -> None:
    config = DataConfig(data_name=write("r.jsonl", pairs(1, "long " * 200)), max_length=40, overlong="truncate")
    encoded = encode_all(prepare(config, 1), chatml)
    assert len(encoded.train[0].input_ids) == 40
    assert encoded.train[0].input_ids[-1] != chatml.eos_token_id
    assert encoded.ledger.train.answers_cut == 1
    assert any("do not learn to stop" in note for note in encoded.notes)


def test_a_run_without_target_tokens_is_refused(write, chatml) -> None:
    config = DataConfig(data_name=write("r.jsonl", pairs(3)), max_length=5, overlong="drop")
    with pytest.raises(DataError, match="no token is left to learn: 3 rows too long"):
        encode_all(prepare(config, 1), chatml)


def test_tokenizers_that_cannot_be_trained_with(write) -> None:
    tokenizer = byte_level()
    tokenizer.eos_token = None
    with pytest.raises(ModelError, match="no eos token"):
        encode_all(prepare(DataConfig(data_name=write("r.jsonl", pairs(3))), 1), tokenizer)


def test_what_the_run_saves_is_enough_to_ask_as_training_did(write, chatml) -> None:
    rows = [{"text": f"question {i}", "intent": "ab"[i % 2]} for i in range(40)]
    asked = DataConfig(
        data_name=write("r.jsonl", rows), prompt_field="text", completion_field="intent", system_prompt="s"
    )
    encoded = encode_all(prepare(asked, 1), chatml, asked)
    saved = DataConfig(**json.loads(encoded.config.model_dump_json()))
    assert (saved.data_format, saved.use_chat_template) == ("completion", True)
    prepared = prepare(asked, 1)
    for row in encoded.validation:
        question = prepared.validation[row.example].messages[0]["content"]
        assert tuple(encode_prompt(question, chatml, saved)) == row.prompt_ids
    assert read_test_rows(saved, write("t.jsonl", rows[:5]))[4].target == "a"


def test_a_foreign_template_header_is_noted(write, chatml) -> None:
    text = "<|start_header_id|>user<|end_header_id|>\n{input}<|im_end|>\n{output}"
    encoded = encode_all(prepare(DataConfig(data_name=write("r.jsonl", pairs(3)), text_template=text), 1), chatml)
    (note,) = encoded.notes
    assert "<|start_header_id|>, <|end_header_id|>" in note
    assert "im_end" not in note


# --- prepare ---


def test_slices_of_one_file(write) -> None:
    path = write("r.jsonl", pairs(100))
    prepared = prepare(DataConfig(data_name=path, train_split="train[:80]", eval_split="train[90:]"), 1)
    assert (len(prepared.train), len(prepared.validation), prepared.ledger.sliced_away) == (80, 10, 10)
    with pytest.raises(ConfigError, match=r"share 10 rows \(70 to 79\)"):
        prepare(DataConfig(data_name=path, train_split="train[:80]", eval_split="train[70:]"), 1)


def test_a_folder_brings_its_validation_rows(write, tmp_path) -> None:
    write("train.jsonl", pairs(30))
    write("valid.jsonl", pairs(35)[28:])
    write("test.jsonl", pairs(4))
    prepared = prepare(DataConfig(data_name=str(tmp_path)), 1)
    assert (len(prepared.train), len(prepared.validation)) == (30, 7)
    assert any("2 validation rows also stand in the training rows" in note for note in prepared.notes)
    assert len(read_test_rows(prepared.config, str(tmp_path))) == 4
    assert len(read_test_rows(prepared.config, str(tmp_path), "train[:3]")) == 3


def test_own_files_for_validation(write) -> None:
    config = DataConfig(data_files=[write("a.jsonl", pairs(30))], eval_data_files=[write("b.jsonl", pairs(9))])
    prepared = prepare(config.model_copy(update={"eval_split": "validation[:5]"}), 1)
    assert (len(prepared.train), len(prepared.validation), prepared.ledger.sliced_away) == (30, 5, 4)


def test_max_samples_are_training_rows_beside_a_fair_share_of_validation(write) -> None:
    prepared = prepare(DataConfig(data_name=write("r.jsonl", pairs(500)), max_samples=90), 1)
    assert (len(prepared.train), len(prepared.validation), prepared.ledger.sliced_away) == (90, 10, 400)


def test_few_rows_are_not_divided(write) -> None:
    prepared = prepare(DataConfig(data_name=write("r.jsonl", pairs(19))), 1)
    assert (len(prepared.train), prepared.validation) == (19, ())
    assert "no validation rows" in prepared.notes[0]


def test_faults_of_all_files_come_together(write) -> None:
    config = DataConfig(
        data_files=[write("a.jsonl", "{broken\n"), write("b.jsonl", "")], eval_data_files=[write("c.jsonl", "[1]")]
    )
    with pytest.raises(DataError) as caught:
        prepare(config, 1)
    assert all(name in str(caught.value) for name in ("a.jsonl:1", "b.jsonl", "c.jsonl:1"))


def test_label_column_is_kept_and_must_exist(write) -> None:
    rows = [{**row, "kind": i % 2} for i, row in enumerate(pairs(40))]
    path = write("r.jsonl", rows)
    prepared = prepare(DataConfig(data_name=path, label_field="kind"), 1)
    assert [example.label for example in prepared.validation].count("0") == 2
    with pytest.raises(DataError, match="'kint': did you mean 'kind'"):
        prepare(DataConfig(data_name=path, label_field="kint"), 1)
