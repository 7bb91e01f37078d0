"""Extraction: the named entities of a text, written as JSON by the language model or tagged word by word by a head.

Rows are words with BIO tags (columns tokens and tags), or prompts with JSON answers of the user's own form.
"""

from __future__ import annotations

import json

from oleaster.config.rules import head_of
from oleaster.config.schema import Config
from oleaster.core.errors import DataError
from oleaster.data.entities import kinds_of
from oleaster.data.faults import raise_faults
from oleaster.data.prepare import Prepared
from oleaster.tasks.generation import refuse_pairs
from oleaster.tasks.task import Task, settled, with_instruction


def settle(config: Config, prepared: Prepared) -> Config:
    """The kinds of entity are those of the tags; they make the instruction and the schema of the answers."""
    refuse_pairs(config, prepared)
    if prepared.config.data_format != "tagged":
        if head_of(config) == "token":
            remedy = "columns tokens and tags (O, B-person, I-person, ...); or --head text with JSON answers"
            raise DataError("a token head learns from tagged words", where="data_format", remedy=remedy)
        raise_faults([fault for example in prepared.train if (fault := _no_json(example.target, example.source))])
        return config
    column = prepared.config.completion_field or ""
    kinds = config.task.labels or kinds_of(tag for example in prepared.train for tag in example.row[column])
    if not kinds:
        raise DataError("no word is tagged as an entity", where=column, remedy="look at the column of the tags")
    config = settled(config, task={"labels": list(kinds)})
    if head_of(config) == "token":
        return config
    form = ", ".join(f'"{kind}": [...]' for kind in kinds)
    return with_instruction(config, f"List the named entities of the text as JSON: {{{form}}}.")


def _no_json(answer: str, source: str) -> DataError | None:
    try:
        json.loads(answer)
    except ValueError as error:
        message = f"the answer of an extraction is JSON, this is none ({error})"
        return DataError(message, where=source, remedy="--task generation learns any text")
    return None


TASK = Task("extraction", settle, {"text": ("entity_f1", "json_validity"), "token": ("entity_f1",)}, "json")
