"""Which token follows: greedy, and sampling against the distribution it promises."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oleaster.inference.choosing import choice_tree, choose, generators, restrict
from oleaster.inference.predictor import Sampling

LOGITS = np.log(np.array([0.1, 0.4, 0.2, 0.3], np.float32))


def drawn(sampling: Sampling, count: int = 4000) -> np.ndarray:
    """Share of each token in `count` draws."""
    sources = generators([(7,)] * count, seed=1)
    return np.bincount(choose(np.tile(LOGITS, (count, 1)), sampling, sources), minlength=4) / count


def test_greedy_takes_the_likeliest_and_the_lowest_of_equals():
    logits = np.array([[0, 2, 1], [3, 1, 3]], np.float32)
    assert choose(logits, Sampling(), generators([(1,), (2,)], 0)).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(temperature=1.0), [0.1, 0.4, 0.2, 0.3]),
        (Sampling(temperature=0.5), [1 / 30, 16 / 30, 4 / 30, 9 / 30]),
        (Sampling(temperature=1.0, top_k=2), [0, 4 / 7, 0, 3 / 7]),
        (Sampling(temperature=1.0, top_p=0.75), [0, 4 / 9, 2 / 9, 3 / 9]),
        (Sampling(temperature=1.0, top_p=0.3), [0, 1, 0, 0]),
        (Sampling(temperature=1.0, top_k=3, top_p=0.6), [0, 4 / 7, 0, 3 / 7]),
    ],
)
def test_tokens_come_as_often_as_the_filtered_distribution_says(sampling, expected):
    np.testing.assert_allclose(drawn(sampling), expected, atol=0.03)


@given(
    logits=st.lists(st.floats(-50, 50, width=32), min_size=2, max_size=30),
    sampling=st.builds(
        Sampling,
        temperature=st.floats(0.01, 5),
        top_k=st.integers(0, 40),
        top_p=st.floats(0.01, 1),
        seed=st.integers(0, 9),
    ),
)
def test_a_sampled_token_is_one_of_the_k_likeliest_and_does_not_depend_on_other_rows(logits, sampling):
    row = np.array([logits], np.float32)
    prompts = [(1, 2), (3,)]
    alone = choose(row, sampling, generators(prompts[:1], sampling.seed))[0]
    beside = choose(np.vstack([row, row[:, ::-1]]), sampling, generators(prompts, sampling.seed))[0]
    assert alone == beside
    assert np.count_nonzero(row[0] > row[0, alone]) < (sampling.top_k or len(logits))


def test_restrict_leaves_only_what_continues_a_choice():
    tree = choice_tree([(5, 1, 0), (5, 2, 0), (7, 0)])
    logits = np.arange(20, dtype=np.float32).reshape(2, 10)
    restricted = restrict(logits, tree, [[], [5]])
    assert np.flatnonzero(np.isfinite(restricted[0])).tolist() == [5, 7]
    assert np.flatnonzero(np.isfinite(restricted[1])).tolist() == [1, 2]
    assert restricted[0, 7] == logits[0, 7]


@given(st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=4).map(lambda x: (*x, 0)), min_size=1, max_size=8))
def test_a_greedy_walk_through_the_tree_ends_at_a_choice(choices):
    tree, ids, source = choice_tree(choices), [], np.random.default_rng(0)
    while not ids or ids[-1] != 0:
        ids.append(int(restrict(source.random((1, 10), dtype=np.float32), tree, [ids]).argmax()))
    assert tuple(ids) in set(choices)
