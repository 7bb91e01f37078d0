"""Each check finds the row with its defect, by file and line, and is silent about good rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from quality_rows import found, good_rows, lines_of

from oleaster.config.schema import DataConfig
from oleaster.core.errors import ConfigError, DataError
from oleaster.models.tiny import byte_tokenizer
from oleaster.quality.checks.table import checks
from oleaster.quality.findings import DataReport, Finding
from oleaster.quality.lenient import decode
from oleaster.quality.material import gather
from oleaster.quality.report import report

Row = dict[str, Any]
LOREM = "The river rises in the hills, crosses the old town and reaches the sea behind the harbour."

GOOD = good_rows()[7]["prompt"]


def ask(prompt: str, completion: str) -> Row:
    return {"prompt": prompt, "completion": completion}


def test_good_rows_have_no_findings(look: Callable[..., DataReport]) -> None:
    seen = look(train=good_rows())
    assert seen.findings == ()
    assert [(part.name, part.rows, part.unusable) for part in seen.parts] == [("train", 60, 0)]
    assert dict(seen.parts[0].labels) == {"delivery": 20, "refund": 20, "damage": 20}
    assert list(seen.parts[0].languages) == ["en"]


PLANTED: list[tuple[str, Row | str]] = [
    ("duplicates", ask(GOOD, "refund")),
    ("near_duplicates", ask(GOOD.title().replace("Money", "Monney") + "!", "refund")),
    ("conflicts", ask(GOOD.capitalize() + ".", "damage")),
    ("near_conflicts", ask(GOOD + "s", "damage")),
    ("label_spellings", ask("who pays me for the broken piano stool", "Refund ")),
    ("rare_labels", ask("who pays me for the broken piano stool", "bill")),
    ("empty_prompts", ask(" ", "refund")),
    ("unusable", ask("who pays me for the broken piano stool", "")),
    ("unusable", {"prompt": "who pays me for the broken piano stool"}),
    ("columns", ask("who pays me for the broken piano stool", "refund") | {"note": "x"}),
    ("unreadable", '{"prompt": "who'),
    ("mojibake", ask("who pays me for the cafÃ© table with Ã©toiles", "refund")),
    ("mojibake", ask("who pays me for the caf\ufffd table", "refund")),
    ("invisible", ask("who pays me for\u200b the broken piano stool", "refund")),
    ("control_tokens", ask("who pays me <|im_end|> for the broken piano stool", "refund")),
    ("markup", ask("who pays me for the broken<br/> piano stool &amp; bench", "refund")),
    ("personal_data", ask("write to jan.kowalski@firma.example about the piano stool", "refund")),
    ("personal_data", ask("call me on +48 601 234 567 about the piano stool", "refund")),
    ("personal_data", ask("i paid with 4111 1111 1111 1111 for the piano stool", "refund")),
    ("personal_data", ask("my account is PL61 1090 1014 0000 0712 1981 2874 at the bank", "refund")),
    ("personal_data", ask("mein PESEL 44051401359 steht auf der rechnung for the stool", "refund")),
    ("foreign_prompts", ask("gdzie jest moja paczka, miała przyjść już w zeszłym tygodniu", "delivery")),
    ("template", ask("who pays me for the broken piano stool ", "refund")),
]


@pytest.mark.parametrize(("kind", "row"), PLANTED, ids=lambda value: value if isinstance(value, str) else "")
def test_a_planted_row_is_named(kind: str, row: Row | str, write: Callable[..., Path]) -> None:
    path = write("train.jsonl", good_rows())
    line = row if isinstance(row, str) else json.dumps(row, ensure_ascii=False)
    path.write_text(path.read_text(encoding="utf-8") + line + "\n", encoding="utf-8")
    assert "train:61" in lines_of(report(gather([str(path)], DataConfig())), kind)


def test_numbers_that_only_look_personal_are_not(look: Callable[..., DataReport]) -> None:
    texts = [
        "my order 4111 1111 1111 1112 of the 2024-11-05 has not come",
        "400-120-200=80 pieces of the kettle are missing in box 12345678901",
        "version 10.4.2 of the printer software does not start since 12.05.2024",
        "the code 123-45 and the number 1,000,000.50 stand on the bill",
    ]
    seen = look(train=[*good_rows(), *(ask(text, "damage") for text in texts)])
    assert found(seen, "personal_data") is None


def test_what_is_found_personal_is_not_passed_on(look: Callable[..., DataReport]) -> None:
    seen = look(train=[*good_rows(), ask("write to jan.kowalski@firma.example about it", "refund")])
    assert "kowalski" not in json.dumps([f for f in seen.to_json()["findings"] if f["kind"] == "personal_data"])


def test_a_file_in_another_encoding_is_read_and_named(tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    rows = [*good_rows(), ask("krzesło przyszło połamane, proszę o zwrot pieniędzy", "refund")]
    text = "prompt;completion\n" + "".join(f'"{r["prompt"]}";{r["completion"]}\n' for r in rows)
    path.write_bytes(text.encode("cp1250"))
    material = gather([str(path)], DataConfig())
    assert material.items[-1].prompt == rows[-1]["prompt"]
    assert lines_of(report(material), "not_utf8") == ["train:62"]


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("cp1250", "krzesło przyszło połamane, proszę o zwrot"),
        ("iso8859_2", "proszę śledzić paczkę, bo ją zgubiliście"),
        ("cp1252", "où est la pièce qui a été cassée à Noël, s'il vous plaît"),
        ("cp1252", "das Gerät für die Küche ist größer als gewünscht"),
        ("cp1251", "где моя посылка, она должна была прийти вчера"),
        ("utf-8", "wszystko w porządku"),
    ],
)
def test_bytes_are_read_in_their_encoding(encoding: str, text: str) -> None:
    decoded = decode(f"all is well\n{text}\n".encode(encoding))
    assert decoded.text == f"all is well\n{text}\n"
    assert decoded.bad_lines == (() if encoding == "utf-8" else (2,))


def test_leaks_and_unlike_parts(look: Callable[..., DataReport]) -> None:
    rows = good_rows()
    held = [ask("Where is the invoice for my new bookshelf?", "delivery")] * 1 + [
        ask(rows[0]["prompt"].upper() + "!", "delivery"),
        ask(rows[4]["prompt"] + " now", "refund"),
        ask("the lid does not close any more since monday", "hinge"),
    ]
    seen = look(train=rows, validation=held)
    assert lines_of(seen, "leakage") == ["validation:2"]
    assert lines_of(seen, "near_leakage") == ["validation:3"]
    assert lines_of(seen, "unseen_labels") == ["validation:4"]
    assert found(seen, "validation_size") is not None
    skewed = look(train=rows, test=[ask(f"{i} {row['prompt']}", "refund") for i, row in enumerate(rows)])
    assert "labels" in getattr(found(skewed, "unlike_parts"), "message", "")


def test_one_answer_to_everything_is_an_error(look: Callable[..., DataReport]) -> None:
    seen = look(train=[ask(row["prompt"], "refund") for row in good_rows()])
    assert "'refund'" in getattr(found(seen, "one_answer"), "message", "")
    assert found(look(train=good_rows()), "one_answer") is None


def test_augmented_rows_outside_training_are_an_error(look: Callable[..., DataReport]) -> None:
    made = ask("who payss me for the piano stool", "refund") | {"augmented_by": "typos", "augmented_from": "ab"}
    seen = look(train=good_rows(), validation=[made, ask("is the piano stool on its way", "delivery")])
    assert lines_of(seen, "augmented_held_out") == ["validation:1"]


def test_answers_that_break_off(look: Callable[..., DataReport]) -> None:
    rows = [ask(f"tell me about river number {i} and its towns", f"{i}. {LOREM}") for i in range(40)]
    rows.append(ask("and the other river in the south", LOREM[:-30] + "harb"))
    rows.append(ask("and the third river in the south", "It is a very long and quiet river that flows to the,"))
    rows.append(ask("and the last river in the south", "It is a very long river that reaches the sea"))
    seen = look(train=rows)
    assert lines_of(seen, "truncated") == ["train:41", "train:42"]
    assert lines_of(seen, "open_ends") == ["train:43"]


def test_several_answers_to_a_prompt_are_no_conflict_where_answers_are_free(look: Callable[..., DataReport]) -> None:
    rows = [ask(f"tell me about river number {i // 2}", f"{i}. {LOREM}") for i in range(40)]
    seen = look(train=rows)
    assert found(seen, "conflicts") is None
    assert len(lines_of(seen, "several_answers")) == 40


def test_chats_out_of_order_and_a_missing_system_message(look: Callable[..., DataReport]) -> None:
    def chat(*turns: tuple[str, str]) -> Row:
        return {"messages": [{"role": role, "content": content} for role, content in turns]}

    rows = [
        chat(("system", "You are kind."), ("user", f"tell me about the {i}th river"), ("assistant", f"{i}: {LOREM}"))
        for i in range(40)
    ]
    rows.append(chat(("user", "and the sea?"), ("assistant", "The sea is deep and blue and it is full of fish.")))
    rows.append(
        chat(("system", "You are kind."), ("user", "hm"), ("user", "what about lakes"), ("assistant", "They are flat."))
    )
    seen = look(train=rows)
    assert "train:41" in lines_of(seen, "template")
    assert lines_of(seen, "roles") == ["train:42"]


def test_lengths_are_tokens_of_the_model(write: Callable[..., Path]) -> None:
    rows = [*good_rows(), ask("x" * 300, "refund")]
    config = DataConfig(max_length=200)
    seen = report(gather([str(write("train.jsonl", rows))], config, byte_tokenizer(), "tiny"))
    assert (seen.unit, seen.model) == ("tokens", "tiny")
    assert lines_of(seen, "overlong") == ["train:61"]
    chatml = len(
        byte_tokenizer().apply_chat_template([{"role": "user", "content": "x" * 300}], tokenize=True)["input_ids"]
    )
    assert seen.parts[0].prompt.longest == chatml + len("<|im_start|>assistant\n") - len("<|im_start|>") + 1


def test_the_models_own_control_tokens_are_looked_for(write: Callable[..., Path]) -> None:
    rows = [*good_rows(), ask("what is [INST] in here", "refund"), ask("what is <|pad|> in here", "refund")]
    path = str(write("train.jsonl", rows))
    assert lines_of(report(gather([path], DataConfig())), "control_tokens") == ["train:61", "train:62"]
    assert lines_of(report(gather([path], DataConfig(), byte_tokenizer())), "control_tokens") == ["train:62"]


def test_a_report_reads_back_equal(look: Callable[..., DataReport]) -> None:
    rows = good_rows()
    seen = look(train=[*rows, rows[0]], validation=rows[:3])
    assert DataReport.from_json(json.loads(json.dumps(seen.to_json()))) == seen


def test_a_plugged_in_check_is_run_and_a_second_of_its_name_refused(look: Callable[..., DataReport]) -> None:
    def kayaks(material):  # type: ignore[no-untyped-def]
        rows = tuple(item.named() for item in material.items if "kayak" in item.prompt)
        yield Finding("kayaks", "note", f"{len(rows)} kayaks", "sail", rows)

    with checks.restored():
        checks.register("kayaks")(kayaks)
        assert len(lines_of(look(train=good_rows()), "kayaks")) == 6
        with pytest.raises(ConfigError, match="registered twice"):
            checks.register("kayaks")(kayaks)


def test_unclear_columns_and_missing_files_say_what_to_write(tmp_path: Path, write: Callable[..., Path]) -> None:
    with pytest.raises(DataError, match="--prompt_field a --completion_field c"):
        gather([str(write("train.jsonl", [{"a": "b", "c": "d"}]))], DataConfig())
    with pytest.raises(DataError, match="no such file"):
        gather([str(tmp_path / "nothing.jsonl")], DataConfig())
