"""Which answers a model may give under a recipe, as token ids or as a schema."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from oleaster.config.schema import Config
from oleaster.core.errors import ConfigError

MOST_LABELS = 1000
"""More different answers than this are no labels."""
Choices = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Allowed:
    """What `inference.predictor.Sampling` is told; nothing: any text."""

    choices: Choices = ()
    json_schema: str = ""


def allowed_answers(config: Config, recipe: Path | None, tokenizer: Any) -> Allowed:
    """The answers that `answer_with` (auto: the kind of task) leaves.

    Args:
        config: its `task` is the recipe's, labels included.
        recipe: that of the training, where its rows must say what the labels are.

    Raises: ConfigError when labels are asked for and nothing says which.
    """
    from oleaster import tasks

    found = tasks.constraint(config, tasks.get_task(config.task.type).answers)
    if found.labels:
        return Allowed(choices=answer_tokens(found.labels, tokenizer, config))
    if config.evaluation.answer_with == "labels":
        return Allowed(choices=_answers_of_rows(recipe, tokenizer))
    return Allowed(json_schema=found.json_schema)


def answer_tokens(answers: Sequence[str], tokenizer: Any, config: Config) -> Choices:
    """The token ids of answers to any prompt of this recipe's shape, stop token included."""
    from oleaster.data.encode import encode
    from oleaster.data.papers import Example
    from oleaster.data.template import parse_template

    data = config.data.model_copy(update={"max_length": 2**20})
    if data.text_template is not None:
        template = parse_template(data.text_template)
        asked = dict.fromkeys(template.columns, "x")
        examples = [Example("", text_parts=template.parts({**asked, template.columns[-1]: a})) for a in answers]
    else:
        turn = Example("", messages=({"role": "user", "content": "x"},))
        said = [{"role": "assistant", "content": answer} for answer in answers]
        examples = [replace(turn, messages=(*turn.messages, message)) for message in said]
    rows, _ = encode(examples, tokenizer, data, every_turn=False)
    return tuple(row.input_ids[row.prompt_length :] for row in rows)


def _answers_of_rows(recipe: Path | None, tokenizer: Any) -> Choices:
    """The different answers of the training rows, as token ids with the stop token."""
    from oleaster.config.load import load_config
    from oleaster.data.encode import encode
    from oleaster.data.prepare import prepare

    if recipe is None:
        remedy = "--task classification --labels a,b,c names them"
        raise ConfigError("nothing says which labels there are", where="answer_with", remedy=remedy)
    trained = load_config(recipe)
    rows, _ = encode(prepare(trained.data, trained.seed).train, tokenizer, trained.data, every_turn=False)
    answers = sorted({row.input_ids[row.prompt_length :] for row in rows})
    if len(answers) > MOST_LABELS:
        found = f"the training rows have {len(answers):,} different answers; they are no labels"
        raise ConfigError(found, where="answer_with", remedy="leave it out here")
    return tuple(answers)
