"""Heads and pair losses on packed rows = plain transformers on padded rows: loss and every gradient, in float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from plain_reference import add_lora, largest_difference, random_rows

from oleaster.core.errors import ModelError
from oleaster.data.batch import pack
from oleaster.data.papers import Encoded, Head
from oleaster.models.heads import embeddings, head_of, hub_class
from oleaster.models.load import load_weights
from oleaster.models.tiny import FAMILIES, make_tiny
from oleaster.training.criterion import read_criterion
from oleaster.training.objective import head_objective, pair_objective

LABELS = ("a", "b", "c", "d", "e")
LARGEST_RELATIVE_DIFFERENCE = 2e-5
AUTO_CLASSES = {
    "sequence": "AutoModelForSequenceClassification",
    "token": "AutoModelForTokenClassification",
    "embedding": "AutoModel",
}
"""What loads a head in transformers."""


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def family(request, tmp_path_factory):
    return request.param, make_tiny(request.param, tmp_path_factory.mktemp("tiny") / request.param)


def both(folder: Path, head: Head) -> tuple[Any, Any]:
    """(ours, transformers' own model with such a head), the same weights, a LoRA branch on every linear map."""
    ours = load_weights(folder, torch.float32, head=head)[0]
    own = getattr(transformers, AUTO_CLASSES[head.kind])
    further = {"num_labels": len(head.labels)} if head.labels else {}
    plain = own.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager", **further)
    if head.labels:
        target = plain.score if hasattr(plain, "score") else plain.classifier
        target.load_state_dict(head_of(ours).state_dict())
    return ours.train(), plain.eval().requires_grad_(False)


def padded(texts: list[tuple[int, ...]]) -> dict[str, torch.Tensor]:
    width = max(map(len, texts))
    ids = torch.tensor([[*text, *[0] * (width - len(text))] for text in texts])
    mask = torch.tensor([[1] * len(text) + [0] * (width - len(text)) for text in texts])
    return {"input_ids": ids, "attention_mask": mask}


def texts_of(seed: int, shared: int, count: int = 6) -> list[tuple[int, ...]]:
    return [row.input_ids for row in random_rows(seed, shared, count)]


def trained(model: Any) -> dict[str, torch.nn.Parameter]:
    """LoRA branches on every linear map of the body, and the head whole; by the names that both sides share."""
    module = getattr(model, "hub_model", model)
    body = module.base_model if hasattr(module, "base_model") else module.model
    heads = [getattr(module, name) for name in ("score", "classifier") if hasattr(module, name)]
    whole = {name: parameter for head in heads for name, parameter in head.requires_grad_(True).named_parameters()}
    return add_lora(body) | whole


@pytest.mark.parametrize("shared", [0, 9])
def test_the_sequence_head_is_that_of_transformers(family, shared):
    _, folder = family
    head = Head("sequence", LABELS)
    ours, plain = both(folder, head)
    parameters = trained(ours), trained(plain)
    texts = texts_of(1, shared)
    labels = [i % len(LABELS) for i in range(len(texts))]
    rows = [Encoded((*t, label), (len(t),), len(t), i) for i, (t, label) in enumerate(zip(texts, labels, strict=True))]
    found = head_objective(read_criterion("cross_entropy", None, "token", len(LABELS)))(ours, pack(rows))
    (found.total / found.count).backward()
    plain.config.pad_token_id = 0
    expected = plain(**padded(texts), labels=torch.tensor(labels), use_cache=False).loss
    expected.backward()
    assert found.count == len(texts)
    assert found.total.item() / found.count == pytest.approx(expected.item(), abs=1e-5)
    worst, where = largest_difference(*parameters)
    assert worst < LARGEST_RELATIVE_DIFFERENCE, where


@pytest.mark.parametrize("shared", [0, 9])
def test_the_token_head_is_that_of_transformers(family, shared):
    name, folder = family
    head = Head("token", LABELS)
    if name == "gemma3_text":
        with pytest.raises(ModelError, match="transformers has no token head for gemma3_text"):
            hub_class({"model_type": name}, head)
        return
    ours, plain = both(folder, head)
    parameters = trained(ours), trained(plain)
    texts = texts_of(2, shared)
    ends = [tuple(range(1 + i % 2, len(t), 3)) for i, t in enumerate(texts)]
    tags = [[(i + e) % len(LABELS) for e in at] for i, at in enumerate(ends)]
    rows = [
        Encoded((*t, *tag), tuple(range(len(t), len(t) + len(tag))), len(t), i, at)
        for i, (t, tag, at) in enumerate(zip(texts, tags, ends, strict=True))
    ]
    found = head_objective(read_criterion("cross_entropy", None, "token", len(LABELS)))(ours, pack(rows))
    (found.total / found.count).backward()
    inputs = padded(texts)
    labels = torch.full_like(inputs["input_ids"], -100)
    for i, (at, tag) in enumerate(zip(ends, tags, strict=True)):
        labels[i, list(at)] = torch.tensor(tag)
    expected = plain(**inputs, labels=labels, use_cache=False).loss
    expected.backward()
    assert found.count == sum(map(len, ends))
    assert found.total.item() / found.count == pytest.approx(expected.item(), abs=1e-5)
    worst, where = largest_difference(*parameters)
    assert worst < LARGEST_RELATIVE_DIFFERENCE, where


@pytest.mark.parametrize("pooling", ["mean", "last"])
@pytest.mark.parametrize("loss", ["contrastive", "cosine", "info_nce"])
def test_pairs_are_those_of_the_plain_model(family, pooling, loss):
    _, folder = family
    head = Head("embedding", pooling=pooling)
    ours, plain = both(folder, head)
    parameters = trained(ours), trained(plain)
    texts = texts_of(3, 4, count=8)

    def pooled(length: int) -> tuple[int, ...]:
        return tuple(range(length)) if pooling == "mean" else (length - 1,)

    lines = [Encoded(t, (), len(t), i // 2, pooled(len(t))) for i, t in enumerate(texts)]
    alike = [1.0, 0.0, 0.7, 0.5]
    rows = [
        Encoded(first.input_ids, (), 1, i, first.sources, second, similarity)
        for i, (first, second, similarity) in enumerate(zip(lines[::2], lines[1::2], alike, strict=True))
    ]
    criterion = read_criterion(loss, None, "pair", 64)
    found = pair_objective(criterion)(ours, pack(rows))
    (found.total / found.count).backward()

    inputs = padded(texts)
    states = plain(**inputs, use_cache=False).last_hidden_state
    mask = inputs["attention_mask"][:, :, None]
    if pooling == "mean":
        vectors = (states * mask).sum(1) / mask.sum(1)
    else:
        vectors = states[torch.arange(len(texts)), inputs["attention_mask"].sum(1) - 1]
    vectors = F.normalize(vectors, dim=-1)
    given = {"output1": vectors[::2], "output2": vectors[1::2], "similarity": torch.tensor(alike)}
    expected = criterion(given).mean()
    expected.backward()
    assert found.count == len(rows)
    assert found.total.item() / found.count == pytest.approx(expected.item(), abs=1e-5)
    worst, where = largest_difference(*parameters)
    assert worst < LARGEST_RELATIVE_DIFFERENCE, where


def test_embeddings_of_lines_are_in_packed_order(tmp_path):
    model = load_weights(make_tiny("llama", tmp_path), torch.float32)[0]
    texts = [(5, 6, 7), (5, 6, 7, 8, 9), (5,)]
    rows = [Encoded(t, (), len(t), i, tuple(range(len(t)))) for i, t in enumerate(texts)]
    batch = pack(rows)
    assert batch.rows == (1, 0, 2)
    together = embeddings(model, batch)
    alone = torch.cat([embeddings(model, pack([rows[i]])) for i in batch.rows])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)
