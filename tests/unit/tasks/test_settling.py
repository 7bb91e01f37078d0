"""What each kind of task decides from the rows, and which rows it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from oleaster import tasks
from oleaster.config.load import load_config, replace
from oleaster.config.rules import ALWAYS, HEADS
from oleaster.config.schema import Config
from oleaster.core.errors import ConfigError, DataError
from oleaster.data.papers import Head
from oleaster.data.prepare import prepare

LABELLED = [{"input": f"text {i}", "output": "abc"[i % 3]} for i in range(6)]
TAGGED = [{"tokens": ["Ada", "ran"], "tags": ["B-person", "O"]}]
PAIRS = [{"sentence1": "a", "sentence2": "b", "score": 4.5}]


@pytest.fixture
def settled(tmp_path: Path):
    def of(rows: list[dict[str, Any]], **leaves: Any) -> Config:
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        config = replace(Config(), data_name=str(path), validation_fraction=0.0, **leaves)
        return tasks.get_task(config.task.type).settle(config, prepare(config.data, 0))

    return of


def test_every_task_is_there_with_its_heads() -> None:
    assert list(tasks.tasks) == sorted(HEADS)


def test_classification_finds_its_labels(settled) -> None:
    config = settled(LABELLED, task="classification")
    assert config.task.labels == ["a", "b", "c"]
    assert config.data.system_prompt == "Classify the text as one of: a, b, c."
    assert tasks.head(config) is None
    assert tasks.constraint(config, "labels").labels == ("a", "b", "c")
    headed = settled(LABELLED, task="classification", head="sequence")
    assert tasks.head(headed) == Head("sequence", ("a", "b", "c"))
    assert headed.data.system_prompt is None


def test_text_and_label_are_prompt_and_answer_and_that_is_said(settled, tmp_path: Path) -> None:
    rows = [{"text": f"text {i}", "label": "abc"[i % 3]} for i in range(6)]
    assert settled(rows, task="classification").task.labels == ["a", "b", "c"]
    data = replace(Config(), data_name=str(tmp_path / "rows.jsonl")).data
    assert any("text is the prompt and label the answer" in note for note in prepare(data, 0).notes)
    named = data.model_copy(update={"prompt_field": "text", "completion_field": "label"})
    assert not any("is the prompt" in note for note in prepare(named, 0).notes)


def test_labels_that_are_given_stay(settled) -> None:
    assert settled(LABELLED, task="classification", labels="c,b,a,d").task.labels == ["c", "b", "a", "d"]


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        (["same"] * 3, "one and the same answer"),
        (["x" * 201, "y"], "one has 201 characters"),
        ([str(i) for i in range(1001)], "1,001 different answers"),
    ],
)
def test_answers_that_are_no_labels_are_refused(settled, answers, said) -> None:
    with pytest.raises(DataError, match=said):
        settled([{"input": f"t{i}", "output": a} for i, a in enumerate(answers)], task="classification")


def test_extraction_makes_instruction_schema_and_tags_of_the_kinds(settled) -> None:
    config = settled(TAGGED, task="extraction")
    assert config.data.system_prompt == 'List the named entities of the text as JSON: {"person": [...]}.'
    assert json.loads(tasks.constraint(config, "json").json_schema)["properties"].keys() == {"person"}
    assert tasks.head(settled(TAGGED, task="extraction", head="token")) == Head("token", ("O", "B-person", "I-person"))


def test_extraction_refuses_what_is_no_json_and_a_head_without_tags(settled) -> None:
    with pytest.raises(DataError, match="the answer of an extraction is JSON"):
        settled(LABELLED, task="extraction")
    with pytest.raises(DataError, match="a token head learns from tagged words"):
        settled(LABELLED, task="extraction", head="token")


def test_embedding_finds_the_range_and_a_loss_that_the_rows_allow(settled) -> None:
    config = settled(PAIRS, task="embedding", pooling="last")
    assert (config.data.score_range, config.training.loss) == ([0.0, 5.0], "cosine")
    assert tasks.head(config) == Head("embedding", pooling="last")
    bare = settled([{"anchor": "a", "positive": "b"}], task="embedding")
    assert (bare.data.score_range, bare.training.loss) == (None, "info_nce")
    with pytest.raises(DataError, match="learned from pairs"):
        settled(LABELLED, task="embedding")


@pytest.mark.parametrize("task", ["generation", "classification", "summarization"])
def test_pairs_are_for_embeddings(settled, task) -> None:
    with pytest.raises(DataError, match="--task embedding learns from pairs"):
        settled(PAIRS, task=task)


def test_rewriting_says_what_is_to_be_done(settled) -> None:
    rows = [{"document": "long", "summary": "short"}]
    assert settled(rows, task="summarization").data.system_prompt == "Summarize the text."
    rows = [{"en": "dog", "pl": "pies"}]
    fields = {"prompt_field": "en", "completion_field": "pl"}
    assert settled(rows, task="translation", **fields).data.system_prompt == "Translate the text into Polish."
    mine = settled(rows, task="translation", **fields, system_prompt="Na polski!")
    assert mine.data.system_prompt == "Na polski!"


@pytest.mark.parametrize(
    ("leaves", "said"),
    [
        ({"task": "generation", "head": "sequence"}, "generation is not answered by a sequence head"),
        ({"task": "classification", "head": "token"}, "--task extraction, or --head text or sequence"),
        ({"task": "classification", "class_weights": "balanced"}, "only the loss of a head weighs labels"),
        ({"task": "classification", "head": "sequence", "answer_with": "labels"}, "gives nothing else than its labels"),
        ({"loss": "distillation"}, "distillation needs a teacher"),
        ({"teacher_model": "m"}, "only the loss distillation has a teacher"),
        ({"loss": "focal", "label_smoothing_factor": "0.1"}, "the loss focal does not smooth labels"),
        ({"loss_options": "gamma=1"}, "no loss is named"),
        ({"score_range": "1"}, "must have at least 2|2 items"),
    ],
)
def test_settings_that_do_not_fit_are_refused(leaves, said) -> None:
    with pytest.raises(ConfigError, match=said):
        load_config(None, leaves, rules=ALWAYS)
