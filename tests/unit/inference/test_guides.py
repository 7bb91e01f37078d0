"""Answers held to JSON of a schema, or to given answers, whatever the logits say."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oleaster.core.errors import ConfigError
from oleaster.data.entities import Entity, schema, to_json
from oleaster.inference.guides import guide_of
from oleaster.inference.predictor import Sampling
from oleaster.models.tiny import byte_tokenizer

TOKENIZER = byte_tokenizer()
KINDS = ["person", "place"]
SCHEMA = json.dumps(schema(KINDS))
END = 2
WIDTH = 264
"""Wider than the tokenizer's 260 ids, as padded vocabularies are."""


def guide(sampling: Sampling):
    found = guide_of(sampling, TOKENIZER.backend_tokenizer.to_str, (END,))
    assert found is not None
    return found


def walk(seed: int, wish: str = "") -> str:
    """The answer of a model that draws at random but longs for `wish` and for the end."""
    held, source, ids = guide(Sampling(json_schema=SCHEMA)), np.random.default_rng(seed), []
    wanted = TOKENIZER(wish)["input_ids"]
    while len(ids) < 400:
        logits = source.normal(size=(1, WIDTH)).astype(np.float32)
        logits[0, END] += 5.0
        for char in '"]}':
            logits[0, TOKENIZER(char)["input_ids"][0]] += 3.0
        if len(ids) < len(wanted) and ids == wanted[: len(ids)]:
            logits[0, wanted[len(ids)]] += 100.0
        token = int(held.restrict(logits, [7], [ids])[0].argmax())
        if token == END:
            return TOKENIZER.decode(ids)
        ids.append(token)
    raise AssertionError("it never ended")


@given(seed=st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_whatever_is_drawn_is_json_of_the_schema(seed) -> None:
    found = json.loads(walk(seed))
    assert found.keys() <= set(KINDS)
    assert all(texts and all(isinstance(text, str) for text in texts) for texts in found.values())


@pytest.mark.parametrize(
    "entities",
    [[], [Entity("place", "Łódź")], [Entity("place", "x"), Entity("person", 'A "B" C'), Entity("place", "y\\z")]],
)
def test_what_training_writes_is_allowed_as_it_stands(entities) -> None:
    assert walk(0, to_json(entities)) == to_json(entities)


def test_rows_are_held_apart() -> None:
    held = guide(Sampling(json_schema=SCHEMA))
    brace, quote = (TOKENIZER(char)["input_ids"][0] for char in '{"')
    logits = np.zeros((2, WIDTH), np.float32)
    found = held.restrict(logits, [0, 1], [[], [brace]])
    assert np.flatnonzero(np.isfinite(found[0])).tolist() == [brace]
    assert np.isfinite(found[1, quote])
    assert not np.isfinite(found[1, brace])
    found = held.restrict(logits[:1], [1], [[brace, quote]])
    assert TOKENIZER.decode(np.flatnonzero(np.isfinite(found[0]))) == "p"


def test_choices_are_a_guide_too_and_nothing_is_none() -> None:
    found = guide(Sampling(choices=((5, END), (6, 7, END)))).restrict(np.zeros((1, 10), np.float32), [0], [[6]])
    assert np.flatnonzero(np.isfinite(found[0])).tolist() == [7]
    assert guide_of(Sampling(), TOKENIZER.backend_tokenizer.to_str, (END,)) is None


@pytest.mark.parametrize("broken", ["{", "[]", '{"type": "nothing"}'])
def test_a_schema_that_is_none_is_refused(broken) -> None:
    with pytest.raises(ConfigError, match="schema"):
        guide(Sampling(json_schema=broken))
