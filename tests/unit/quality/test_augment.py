"""Made rows keep labels, numbers, names and negations, are marked, and doubtful ones are thrown away."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from quality_rows import Row, good_rows

from oleaster.config.schema import DataConfig
from oleaster.core.errors import ConfigError
from oleaster.data.augmented import MADE_BY, MADE_FROM, row_id
from oleaster.inference.predictor import Completion, Sampling
from oleaster.models.tiny import byte_tokenizer
from oleaster.quality.asking import Judge, Writer, why_not
from oleaster.quality.augment import augment
from oleaster.quality.material import Material, gather
from oleaster.quality.wording import masking, typos

Write = Callable[[str, Sequence[Row]], Path]
NONE: frozenset[str] = frozenset()


class Parrot:
    """A predictor that answers each prompt with the next of some texts."""

    name = "parrot"

    def __init__(self, *texts: str) -> None:
        self.texts, self.asked = list(texts), list[str]()

    def generate(self, prompts, sampling=Sampling(), on_token=None):  # type: ignore[no-untyped-def]
        self.asked += [byte_tokenizer().decode(prompt) for prompt in prompts]
        return [Completion((), self.texts[i % len(self.texts)], "stop") for i in range(len(prompts))]

    def score(self, rows):  # type: ignore[no-untyped-def]
        raise NotImplementedError


def material(write: Write, rows: Sequence[Row], **settings: str) -> Material:
    return gather([str(write("rows.jsonl", rows))], DataConfig(**settings))  # type: ignore[arg-type]


@given(text=st.text(alphabet="abcdefgh ADE19.,'", max_size=60), seed=st.integers(0, 50))
def test_a_typing_error_touches_plain_words_only(text: str, seed: int) -> None:
    spoiled = typos(text, frozenset({"abcd"}), random.Random(seed))
    if spoiled is None:
        return
    before, after = text.split(), spoiled.split()
    assert len(before) == len(after)
    for i, (old, new) in enumerate(zip(before, after, strict=True)):
        if old != new:
            assert old.isalpha() or old.strip(".,'").isalpha()
            assert old.casefold().strip(".,'") != "abcd"
            assert i == 0 or not old[0].isupper()
            assert old[0] == new[0]
            assert abs(len(old) - len(new)) <= 1


def test_words_that_carry_the_meaning_are_kept() -> None:
    draw = random.Random(1)
    for _ in range(200):
        text = masking("please do not send 3 lamps to Anna in June", frozenset({"lamps"}), draw)
        assert text is not None
        assert {"not", "3", "lamps", "Anna", "June"} <= set(text.split())
        assert len(text.split()) == 9
    assert masking("too short a text", NONE, draw) is None
    assert typos("42 ABC no", NONE, draw) is None


def test_made_rows_are_marked_and_otherwise_like_their_source(write: Write) -> None:
    rows = good_rows()
    done = augment(material(write, rows), ["typos", "masking"], copies=2, seed=5)
    by_id = {row_id(row): row for row in rows}
    assert len(done.rows) == sum(done.made.values()) > 100
    assert set(done.made) == {"typos", "masking"}
    for row in done.rows:
        source = by_id[row[MADE_FROM]]
        assert row["completion"] == source["completion"]
        assert row["prompt"] != source["prompt"]
    texts = Counter(row["prompt"] for row in done.rows)
    assert max(texts.values()) == 1
    assert done.rows == augment(material(write, rows), ["typos", "masking"], copies=2, seed=5).rows


def test_rare_labels_are_filled_up(write: Write) -> None:
    rows = [row for i, row in enumerate(good_rows()) if row["completion"] != "damage" or i % 2]
    before = Counter(row["completion"] for row in rows)
    done = augment(material(write, rows), ["typos"], up_to=20)
    assert before == {"delivery": 20, "refund": 20, "damage": 10}
    assert {row["completion"] for row in done.rows} == {"damage"}
    assert len(done.rows) == 10


def test_made_rows_are_not_made_of_made_ones(write: Write) -> None:
    rows = [*good_rows(), {**good_rows()[0], "prompt": "whenn will it be here", MADE_BY: "typos", MADE_FROM: "x"}]
    assert not any("whenn" in row["prompt"] for row in augment(material(write, rows), ["typos"]).rows)


def test_the_models_wordings_are_taken_only_when_they_pass(write: Write) -> None:
    rows = good_rows()
    parrot = Parrot(
        "when might lamp together with toaster be brought over here",
        "",
        "both the lamp and the toaster came broken to me",
        "i want my money back for lamp with toaster",
    )
    writer = Writer(parrot, byte_tokenizer(), seed=1)
    done = augment(material(write, rows[:6] + rows[30:]), ["paraphrase"], writer=writer)
    assert done.made["paraphrase"] == len(done.rows) >= 1
    assert done.rows[0]["prompt"] == parrot.texts[0]
    assert done.rows[0][MADE_FROM] == row_id(rows[0])
    assert done.refused["paraphrase: empty"] == 9
    assert done.refused["paraphrase: nearer to another label"] > 5
    assert all(row["completion"] in row_label(row["prompt"]) for row in done.rows)
    assert "Say the same in other words" in parrot.asked[0]
    assert rows[0]["prompt"] in parrot.asked[0]


def row_label(prompt: str) -> str:
    return "delivery" if "brought" in prompt else "damage" if "broken" in prompt else "refund"


def test_rows_written_anew_name_all_rows_they_were_made_from(write: Write) -> None:
    parrot = Parrot("- when will sofa and kayak come and be brought here\n- and another")
    rows = good_rows()
    done = augment(material(write, rows), ["back_generation"], writer=Writer(parrot, byte_tokenizer(), seed=1))
    (row,) = done.rows
    assert row["prompt"] == "when will sofa and kayak come and be brought here"
    assert row["completion"] == "delivery"
    origin = row[MADE_FROM].split()
    assert len(origin) == 5
    shown = [r["prompt"] for r in rows if row_id(r) in origin]
    assert all(any(text in asked for asked in parrot.asked) for text in shown)
    assert done.refused["back_generation: there already"] == 19
    assert done.refused["back_generation: nearer to another label"] == 40


@pytest.mark.parametrize(
    ("new", "old", "reason"),
    [
        ("", "where is it", "empty"),
        ("Where is it?", "where is it", "the same as before"),
        ("it", "where is my parcel that i asked for", "of another length"),
        ("give me 4 of the lamps", "i want 3 of your lamps", "other numbers"),
        (
            "gdzie jest moja paczka, miała przyjść wczoraj wieczorem",
            "where is my parcel, it should have come last night",
            "another language",
        ),
        ("what happened to my parcel", "where is my parcel now", None),
    ],
)
def test_doubts(new: str, old: str, reason: str | None) -> None:
    assert why_not(new, old, same_content=True) == reason


def test_the_judge_knows_its_own_rows() -> None:
    rows = good_rows()
    judge = Judge([row["prompt"] for row in rows], [row["completion"] for row in rows])
    assert judge.labels_of([row["prompt"] for row in rows]) == [row["completion"] for row in rows]


def test_ways_that_could_make_an_answer_wrong_are_refused(write: Write) -> None:
    free = [{"prompt": f"translate the word number {i}", "completion": f"słowo {i}"} for i in range(30)]
    with pytest.raises(ConfigError, match="no labels"):
        augment(material(write, free), ["masking"])
    assert augment(material(write, free), ["typos"]).rows
    with pytest.raises(ConfigError, match="add -m MODEL"):
        augment(material(write, good_rows()), ["paraphrase"])
    with pytest.raises(ConfigError, match="did you mean 'typos'"):
        augment(material(write, good_rows()), ["typo"])


def test_the_last_question_of_a_chat_and_the_instruction_are_changed(write: Write) -> None:
    chats = [
        {"conversations": [{"from": "human", "value": f"hello number {i}"}, {"from": "gpt", "value": f"dear {i}"}]}
        for i in range(3)
    ]
    row = augment(material(write, chats), ["typos"]).rows[0]
    assert row["conversations"][0]["value"] != "hello number 0"
    assert row["conversations"][1] == chats[0]["conversations"][1]
    tasks = [{"instruction": f"translate sentence {i}", "input": "the house", "output": f"dom {i}"} for i in range(3)]
    row = augment(material(write, tasks), ["typos"]).rows[0]
    assert (row["input"], row["output"]) == ("the house", "dom 0")
    assert row["instruction"] != "translate sentence 0"
