"""Packed, prefix-shared, hand-differentiated = transformers' plain padded computation, per family, in float32."""

from __future__ import annotations

import pytest
import torch
from plain_reference import add_lora, both, largest_difference, our_backward, plain_loss, random_rows

from oleaster.data.batch import pack
from oleaster.models.decoder import Decoder
from oleaster.models.fused import LONG
from oleaster.models.generic import Generic
from oleaster.models.tiny import FAMILIES, make_tiny

LARGEST_RELATIVE_DIFFERENCE = 2e-5


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def family(request, tmp_path_factory):
    return request.param, make_tiny(request.param, tmp_path_factory.mktemp("tiny") / request.param)


@pytest.mark.parametrize("shared", [0, 1, 7, 14])
def test_loss_and_every_gradient(family, shared):
    name, folder = family
    model, reference = both(folder)
    assert isinstance(model, Generic if name == "gpt2" else Decoder)
    ours, theirs = add_lora(model.hub_model), add_lora(reference)
    rows = random_rows(seed=shared, shared=shared)
    assert pack(rows).prefix >= shared
    expected = plain_loss(reference, rows)
    expected.backward()
    assert our_backward(model, rows) == pytest.approx(expected.item(), abs=1e-5)
    worst, where = largest_difference(ours, theirs)
    assert worst < LARGEST_RELATIVE_DIFFERENCE, where


def test_full_training_has_every_gradient_of_the_plain_model(family):
    """Norms, biases and the embedding that is also the head included."""
    _, folder = family
    model, reference = both(folder)
    ours = dict(model.requires_grad_(True).hub_model.named_parameters())
    theirs = dict(reference.requires_grad_(True).named_parameters())
    rows = random_rows(seed=5, shared=6)
    expected = plain_loss(reference, rows)
    expected.backward()
    assert our_backward(model, rows) == pytest.approx(expected.item(), abs=1e-5)
    worst, where = largest_difference(ours, theirs)
    assert worst < LARGEST_RELATIVE_DIFFERENCE, where


def test_label_smoothing_is_that_of_torch(family):
    _, folder = family
    model, reference = both(folder)
    ours, theirs = add_lora(model.hub_model), add_lora(reference)
    rows = random_rows(seed=2, shared=3)
    expected = plain_loss(reference, rows, smoothing=0.2)
    expected.backward()
    assert our_backward(model, rows, smoothing=0.2) == pytest.approx(expected.item(), abs=1e-5)
    worst, where = largest_difference(ours, theirs)
    assert worst < LARGEST_RELATIVE_DIFFERENCE, where


LONGER_THAN_BLOCKS = {"longest": 2 * LONG, "count": 4}
"""Rows that leave the two batched products for torch's flash attention."""


@pytest.mark.parametrize("shared", [0, 21, LONG])
@pytest.mark.parametrize("name", ["llama", "mistral", "gemma2", "gemma3_text"])
def test_long_rows_with_windows_and_a_shared_prefix(name, shared, tmp_path):
    folder = make_tiny(name, tmp_path)
    model, reference = both(folder)
    ours, theirs = add_lora(model.hub_model), add_lora(reference)
    rows = random_rows(seed=shared, shared=shared, **LONGER_THAN_BLOCKS)
    batch = pack(rows)
    assert max(b.prefix + b.longest for b in batch.buckets) > LONG
    expected = plain_loss(reference, rows)
    expected.backward()
    assert our_backward(model, rows) == pytest.approx(expected.item(), abs=1e-5)
    worst, where = largest_difference(ours, theirs)
    assert worst < LARGEST_RELATIVE_DIFFERENCE, where


@pytest.mark.parametrize("long", [False, True])
def test_bfloat16_rounds_no_more_than_transformers_does(family, long):
    """Both are held against float32 computed with the same (rounded) weights."""
    name, folder = family
    if long and name == "gpt2":
        pytest.skip("gpt2 has 512 learned positions here")
    model, theirs = both(folder, torch.bfloat16)
    exact = both(folder, torch.bfloat16)[1].float()
    gradients = [add_lora(m) for m in (model.hub_model, theirs, exact)]
    rows = random_rows(seed=3, shared=7, **(LONGER_THAN_BLOCKS if long else {}))
    expected = plain_loss(exact, rows)
    expected.backward()
    rounded = plain_loss(theirs, rows)
    rounded.backward()
    assert our_backward(model, rows) == pytest.approx(expected.item(), abs=0.02)
    assert all(g.dtype == torch.float32 for g in gradients[0].values())
    worst, where = largest_difference(gradients[0], gradients[2])
    assert worst < 1.5 * largest_difference(gradients[1], gradients[2])[0], where
