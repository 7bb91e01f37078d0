"""Prompts that ONNX Runtime GenAI is given together."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from oleaster.inference.onnx_predictor import BATCH_ROWS, BATCH_TOKENS, _equal_length_batches


@given(st.lists(st.integers(1, 3 * BATCH_TOKENS // 64), max_size=200), st.booleans())
def test_every_prompt_once_in_batches_that_the_runtime_takes(lengths, together):
    prompts = [[1] * min(length, 64) for length in lengths]
    batches = list(_equal_length_batches(prompts, together))
    assert sorted(i for batch in batches for i in batch) == list(range(len(prompts)))
    for batch in batches:
        assert len({len(prompts[i]) for i in batch}) == 1
        assert len(batch) <= (BATCH_ROWS if together else 1)
        assert len(batch) * len(prompts[batch[0]]) <= BATCH_TOKENS
