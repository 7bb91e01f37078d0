"""A first recipe: loads, fits the rows, and says why."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from oleaster.config.load import load_config
from oleaster.config.schema import Config
from oleaster.core.errors import DataError
from oleaster.data.prepare import prepare
from oleaster.models.tiny import make_tiny
from oleaster.pipeline.drafting import Draft, draft
from oleaster.tasks import get_task

SUPPORT = Path(__file__).parents[3] / "examples" / "support" / "train.jsonl"
Drafted = Callable[..., tuple[Draft, Config]]


@pytest.fixture
def drafted(tmp_path: Path) -> Drafted:
    """Writes rows, drafts a recipe, and reads it back with its rows prepared."""

    def make(rows: list[dict[str, Any]], model: str | None = None) -> tuple[Draft, Config]:
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return read(draft(str(path), model), tmp_path)

    return make


def read(made: Draft, folder: Path) -> tuple[Draft, Config]:
    (folder / "recipe.yaml").write_text(made.text, encoding="utf-8")
    config = load_config(folder / "recipe.yaml")
    assert prepare(config.data, config.seed).train
    return made, config


def test_labels_are_seen_and_the_other_choice_is_named(tmp_path: Path) -> None:
    made, config = read(draft(str(SUPPORT)), tmp_path)
    assert (config.data.prompt_field, config.data.completion_field) == ("phrase", "intent")
    assert "'tone' could be the answer too" in made.notes[0]
    assert made.notes[1].startswith("12 labels, from 34 rows")
    assert "the same share of each of 12 labels" in made.text
    assert config.training.learning_rate == 5e-4
    assert config.evaluation.max_new_tokens < 20


@pytest.mark.parametrize(
    ("row", "task", "columns"),
    [
        ({"text": "write {}", "mood": "m{5}"}, "classification", ("text", "mood")),
        ({"tokens": ["Bob", "{}"], "tags": ["B-person", "O"]}, "extraction", ("tokens", "tags")),
        ({"sentence1": "a cat {}", "sentence2": "a dog {}", "score": "{5}"}, "embedding", ("sentence1", "sentence2")),
        ({"document": "long long {}", "summary": "short {}"}, "summarization", ("document", "summary")),
        ({"doc": "news.{5}", "pl": "kot {} i pies", "en": "cat {}"}, "translation", ("en", "pl")),
        ({"facts": "name[{}]", "text": "a place called {}", "references": ["a place called {}"]}, "generation",
         ("facts", "text")),
        ({"id": "{}", "body": "a long text {}", "note": "short {}"}, "generation", ("body", "note")),
    ],
)  # fmt: skip
def test_the_kind_of_task_is_seen(drafted: Drafted, row: dict[str, Any], task: str, columns: tuple[str, str]) -> None:
    text = json.dumps(row)
    rows = [json.loads(text.replace("{}", f"n{n}").replace("{5}", str(n % 5))) for n in range(60)]
    made, config = drafted(rows)
    settled = prepare(config.data, config.seed)
    assert config.task.type == task
    assert (settled.config.prompt_field, settled.config.completion_field) == columns
    assert get_task(task).settle(config, settled).task.type == task
    assert ("max_new_tokens" in made.text) == (task != "embedding")


@pytest.mark.parametrize(
    ("row", "shape"),
    [
        ({"input": "why {}?", "output": "because {}"}, "completion"),
        ({"instruction": "say {}", "input": "x", "output": "y {}"}, "alpaca"),
        ({"messages": [{"role": "user", "content": "{}"}, {"role": "assistant", "content": "a {}"}]}, "messages"),
        ({"text": "a story of {}"}, "text"),
    ],
)
def test_known_shapes_are_taken_by_their_columns(drafted: Drafted, row: dict[str, Any], shape: str) -> None:
    rows = [json.loads(json.dumps(row).replace("{}", f"number {n}")) for n in range(30)]
    made, config = drafted(rows)
    assert f"the columns say that it is {shape}" in made.notes
    if shape != "completion":
        assert config.data.data_format == shape


def test_lengths_and_steps_follow_from_the_rows(drafted: Drafted) -> None:
    long = [{"document": f"{n} " + "word " * 2000, "summary": f"short {n} " * 20} for n in range(150)]
    made, config = drafted(long)
    assert (config.data.prompt_field, config.data.completion_field) == ("document", "summary")
    assert config.training.per_device_train_batch_size * config.training.gradient_accumulation_steps == 16
    assert config.training.per_device_train_batch_size < 16
    assert config.data.max_length > 2857
    assert config.training.num_train_epochs == 10
    assert config.data.validation_fraction == 0.2
    longer = [{"document": "word " * 4000 * (n % 2 + 1) + str(n), "summary": f"s {n}"} for n in range(30)]
    made, config = drafted(longer)
    assert (config.data.max_length, config.data.overlong) == (4096, "truncate")
    assert "Rows longer than that: 30; their prompts are cut (`drop`: they are left out)" in made.text
    made, config = drafted([*long, longer[0]])
    assert (config.data.max_length, config.data.overlong) == (4096, "drop")
    assert config.training.per_device_train_batch_size == 1


def test_tokens_are_counted_where_the_model_is(drafted: Drafted, tmp_path: Path) -> None:
    tiny = make_tiny("llama", tmp_path / "tiny")
    made, config = drafted([{"prompt": "a" * 90, "completion": "b" * 10 + str(n)} for n in range(30)], str(tiny))
    assert "The longest row has 102 tokens (counted by the model's tokenizer)" in made.text
    assert config.model.model_name_or_path == str(tiny)


def test_repeats_and_contradictions_are_said(drafted: Drafted) -> None:
    rows = [{"prompt": f"p{n % 15}", "completion": f"c{n % 20}"} for n in range(60)]
    made, _ = drafted([*rows, rows[0]])
    assert any("repeat an earlier one exactly" in note for note in made.notes)
    assert any("ask what another row answers otherwise" in note for note in made.notes)


def test_values_that_yaml_would_misread_come_through(drafted: Drafted, tmp_path: Path) -> None:
    rows = [{"no": f"the question is {n}", "yes: maybe": f"answer {n}"} for n in range(30)]
    made, config = drafted(rows)
    assert {config.data.prompt_field, config.data.completion_field} == {"no", "yes: maybe"}
    assert yaml.safe_load(made.text)["passes"] == ["finetune", "evaluate", "onnx"]


def test_rows_with_nothing_to_learn_are_refused(tmp_path: Path) -> None:
    (tmp_path / "numbers.jsonl").write_text('{"a": 1, "b": 2}\n')
    with pytest.raises(DataError, match="no two columns hold texts"):
        draft(str(tmp_path / "numbers.jsonl"))
