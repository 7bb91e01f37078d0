"""The loop alone, over a backend that counts instead of computing."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from oleaster.inference.generation import BATCH_ROWS, BATCH_SLOTS, answer, batches
from oleaster.inference.predictor import Sampling

STOP = 0


class CountingBackend:
    """Answers a prompt [..., n] with n-1, n-2, ..., 1 and then the stop token."""

    pads = True
    context: int | None = None

    def __init__(self) -> None:
        self.steps: list[int] = []

    def prefill(self, prompts, room):
        return self._logits(np.array([p[-1] for p in prompts])), None

    def step(self, ids, state):
        self.steps.append(len(ids))
        return self._logits(ids)

    def keep(self, rows, state):
        pass

    @staticmethod
    def _logits(ids):
        return -np.abs(np.arange(100)[None] - (ids[:, None] - 1)).astype(np.float32)


def test_rows_leave_the_batch_when_they_are_done():
    backend = CountingBackend()
    found = answer(backend, [(3,), (1,), (9, 2), (50,)], Sampling(max_new_tokens=4), frozenset({STOP}), str)
    assert [c.token_ids for c in found] == [(2, 1), (), (1,), (49, 48, 47, 46)]
    assert [c.finish for c in found] == ["stop", "stop", "stop", "length"]
    assert [c.text for c in found] == ["[2, 1]", "[]", "[1]", "[49, 48, 47, 46]"]
    assert backend.steps == [3, 2, 1]


@given(lengths=st.lists(st.integers(1, 3000), max_size=200), extra=st.integers(0, 500), same=st.booleans())
def test_batches_hold_every_row_once_longest_first_and_stay_in_their_bounds(lengths, extra, same):
    found = list(batches(lengths, extra, same_length=same))
    assert sorted(i for batch in found for i in batch) == list(range(len(lengths)))
    order = [lengths[i] for batch in found for i in batch]
    assert order == sorted(order, reverse=True)
    for batch in found:
        assert len(batch) <= BATCH_ROWS
        assert len(batch) == 1 or len(batch) * (lengths[batch[0]] + extra) <= BATCH_SLOTS
        assert not same or len({lengths[i] for i in batch}) == 1
