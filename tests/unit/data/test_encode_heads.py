"""What a head reads and learns of rows: labels behind texts, tags behind words, pairs."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from oleaster.config.schema import DataConfig
from oleaster.core.errors import DataError
from oleaster.data.encode_heads import encode_all_for_head, encode_head_prompt, score_range, word_ends
from oleaster.data.entities import Entity, bio_labels, from_tags, kinds_of, schema, split_words, to_json
from oleaster.data.papers import Head
from oleaster.data.prepare import prepare
from oleaster.data.render import voice_of

TAGGED = [
    {"tokens": ["Ada", "met", "Bob", "Ross", "."], "tags": ["B-person", "O", "B-person", "I-person", "O"]},
    {"tokens": ["Oslo", "rains", "!"], "tags": ["B-place", "O", "O"]},
]
KINDS = Head("token", bio_labels(["person", "place"]))


def encoded(rows: list[dict[str, Any]], write: Any, tokenizer: Any, head: Head, **settings_: Any) -> Any:
    config = DataConfig(data_name=write("rows.jsonl", rows), validation_fraction=0.0, **settings_)
    prepared = prepare(config, 0)
    return encode_all_for_head(prepared, tokenizer, config, head)


def test_a_label_is_the_token_behind_its_text(write, chatml) -> None:
    rows = [{"text": "hello", "kind": "b"}, {"text": "good day", "kind": "a"}]
    found = encoded(rows, write, chatml, Head("sequence", ("a", "b")), prompt_field="text", completion_field="kind")
    first, second = found.train
    plain = chatml("hello")["input_ids"]
    assert list(first.prompt_ids) == plain, "a head reads what plain transformers would give it"
    assert (first.input_ids[-1], first.targets, second.input_ids[-1]) == (1, (len(plain),), 0)
    assert found.config.use_chat_template is False
    assert encode_head_prompt("hello", chatml, found.config, Head("sequence")) == plain
    assert (found.ledger.train.tokens_trained, found.ledger.train.tokens_masked) == (2, len(plain) - 1 + 7)


def test_a_template_is_read_up_to_its_answer(write, chatml) -> None:
    rows = [{"text": "hello", "kind": "a"}]
    found = encoded(rows, write, chatml, Head("sequence", ("a",)), text_template="Say: {text}\n{kind}")
    assert chatml.decode(found.train[0].prompt_ids) == "Say: hello\n"
    assert tuple(encode_head_prompt("hello", chatml, found.config, Head("sequence"))) == found.train[0].prompt_ids


def test_the_chat_template_is_used_where_it_is_asked_for(write, chatml) -> None:
    rows = [{"input": "hello", "output": "a"}]
    found = encoded(rows, write, chatml, Head("sequence", ("a",)), use_chat_template=True)
    text = "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
    assert chatml.decode(found.train[0].prompt_ids) == text


def test_an_unknown_label_is_named_with_its_row(write, chatml) -> None:
    with pytest.raises(DataError, match=r"rows.jsonl:1: 'b' is none of the 1 labels"):
        encoded([{"input": "x", "output": "b"}], write, chatml, Head("sequence", ("a",)))


def test_tags_stand_behind_their_words_and_are_read_off_the_last_tokens(write, chatml) -> None:
    found = encoded(TAGGED, write, chatml, KINDS)
    row = found.train[0]
    text = chatml.decode(row.prompt_ids)
    assert text == "Ada met Bob Ross ."
    assert [chatml.decode(row.input_ids[: s + 1]) for s in row.sources] == [
        "Ada",
        "Ada met",
        "Ada met Bob",
        "Ada met Bob Ross",
        text,
    ]
    assert [KINDS.labels[row.input_ids[t]] for t in row.targets] == TAGGED[0]["tags"]


def test_words_that_a_cut_took_away_are_not_learned(write, chatml) -> None:
    found = encoded(TAGGED, write, chatml, KINDS, max_length=8, overlong="truncate")
    row = found.train[0]
    assert chatml.decode(row.prompt_ids) == "Ada met "
    assert len(row.targets) == 2
    with pytest.raises(DataError, match="2 of 2 rows are longer than --max_length 8"):
        encoded(TAGGED, write, chatml, KINDS, max_length=8)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"tokens": ["a", "b"], "tags": ["O"]}, "2 words, but 1 tags"),
        ({"tokens": ["a b"], "tags": ["O"]}, "white space in it"),
        ({"tokens": ["a"], "tags": ["person"]}, "'person' is no BIO tag"),
        ({"tokens": "a", "tags": ["O"]}, "'tokens' is not a list of texts"),
    ],
)
def test_wrong_tags_are_named_by_row(write, chatml, row, said) -> None:
    with pytest.raises(DataError, match=f"rows.jsonl:1: .*{said}"):
        encoded([row], write, chatml, KINDS)


def test_pairs_carry_both_texts_and_how_alike_they_are(write, chatml) -> None:
    rows = [{"sentence1": "one", "sentence2": "two two", "score": 1}, {"sentence1": "x", "sentence2": "y", "score": 5}]
    found = encoded(rows, write, chatml, Head("embedding"), score_range=[0.0, 5.0])
    row = found.train[0]
    assert (row.targets, row.sources, row.similarity) == ((), (0, 1, 2), 0.2)
    assert chatml.decode(row.pair.prompt_ids) == "two two"
    assert row.pair.sources == tuple(range(7))
    last = encoded(rows, write, chatml, Head("embedding", pooling="last")).train[0]
    assert (last.sources, last.pair.sources, last.similarity) == ((2,), (6,), 1.0)


def test_scores_get_whole_numbers_for_their_range(write) -> None:
    def of(*scores: Any) -> Any:
        rows = [{"sentence1": "a", "sentence2": f"b{i}", "score": s} for i, s in enumerate(scores)]
        return score_range(prepare(DataConfig(data_name=write("r.jsonl", rows), validation_fraction=0.0), 0).train)

    assert of(0.4, 4.6) == [0.0, 5.0]
    assert of(0, 1) == [0.0, 1.0]
    assert of(-1, 1) == [-1.0, 1.0]


@given(words=st.lists(st.text("abŁęß<|>im_end", min_size=1, max_size=12), min_size=1, max_size=8))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
def test_every_word_ends_where_its_last_byte_is(chatml, words) -> None:
    """Control tokens inside words included."""
    ids, ends = word_ends(words, voice_of(chatml, DataConfig()))
    assert len(ends) == len(words)
    assert ends[-1] == len(ids) - 1
    for i, end in enumerate(ends):
        assert chatml.decode(ids[: end + 1]) == " ".join(words[: i + 1])


def test_entities_go_from_tags_to_json() -> None:
    found = from_tags(["I", "saw", "New", "York", "Rome", "x"], ["O", "O", "B-place", "I-place", "I-thing", "I-thing"])
    assert found == [Entity("place", "New York"), Entity("thing", "Rome x")]
    assert to_json(found) == '{"place": ["New York"], "thing": ["Rome x"]}'
    assert from_tags(["a", "b"], ["B-x", "B-x"]) == [Entity("x", "a"), Entity("x", "b")]
    assert kinds_of(["O", "B-b", "I-a"]) == ["a", "b"]
    assert schema(["a"])["properties"].keys() == {"a"}


def test_words_of_a_users_text_are_divided_as_corpora_do() -> None:
    assert split_words('He said: "Rome, Oslo."') == ["He", "said", ":", '"', "Rome", ",", "Oslo", ".", '"']
    assert split_words("@ada's  site http://a.b/c") == ["@ada's", "site", "http://a.b/c"]
    assert split_words("...") == [".", ".", "."]
