"""Every loss counts the same however its rows are put into batches, and never as a mean of means."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from plain_reference import add_lora, plain_loss, random_rows

from oleaster.data.batch import pack
from oleaster.data.papers import Encoded, Head
from oleaster.models.heads import head_of
from oleaster.models.load import load_weights
from oleaster.models.tiny import make_tiny
from oleaster.training.criterion import read_criterion
from oleaster.training.losses import by_chunks, cross_entropy, losses
from oleaster.training.objective import head_objective, pair_objective, text_objective

SPLITS = [[range(6)], [range(2), range(2, 6)], [[i] for i in range(6)]]
TOKEN_LOSSES = ("cross_entropy", "focal", "distillation")
USERS = """
import torch, torch.nn as nn, torch.nn.functional as F

def mean(logits, targets):
    return F.cross_entropy(logits, targets)

def total(logits, targets):
    return F.cross_entropy(logits, targets, reduction="sum")

def values(logits, targets):
    return F.cross_entropy(logits, targets, reduction="none")

class Contrastive(nn.Module):
    def __init__(self, margin=1.0):
        super().__init__()
        self.margin = margin

    def forward(self, output1, output2, label):
        d = nn.functional.pairwise_distance(output1, output2)
        return torch.mean((1-label) * d ** 2 + label * torch.clamp(self.margin - d, min=0.0) ** 2)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_tiny("gemma2", tmp_path_factory.mktemp("tiny") / "gemma2")  # it caps its logits


@pytest.fixture(scope="module")
def users(tmp_path_factory):
    path = tmp_path_factory.mktemp("losses") / "users.py"
    path.write_text(USERS)
    return path


def gradients(model, parameters, loss, rows, split):
    """(mean loss, gradients) of the rows in several passes, divided once."""
    batches = [pack([rows[i] for i in part]) for part in split]
    count = sum(batch.units for batch in batches)
    total = 0.0
    for batch in batches:
        found = loss(model, batch)
        assert found.count == batch.units
        (found.total / count).backward()
        total += found.total.item()
    grads = {name: p.grad.clone() for name, p in parameters.items()}
    for p in parameters.values():
        p.grad = None
    return total / count, grads


def same_in_all_splits(model, parameters, loss, rows):
    value, grads = gradients(model, parameters, loss, rows, SPLITS[0])
    for split in SPLITS[1:]:
        other, others = gradients(model, parameters, loss, rows, split)
        assert other == pytest.approx(value, rel=1e-5)
        for name in grads:
            torch.testing.assert_close(others[name], grads[name], atol=1e-6, rtol=1e-3)
    return value, grads


@pytest.mark.parametrize("name", TOKEN_LOSSES)
def test_losses_of_texts(folder, name):
    model = load_weights(folder, torch.float32)[0].train()
    teacher = load_weights(make_tiny("gemma2", folder.parent / "teacher", seed=9), torch.float32)[0]
    parameters = add_lora(model)
    loss = text_objective(read_criterion(name, None, "token", 260), teacher)
    same_in_all_splits(model, parameters, loss, random_rows(3, 5))


@pytest.mark.parametrize("name", ["mean", "total", "values"])
def test_a_users_loss_weighs_every_target_the_same_whatever_it_returns(folder, users, name):
    """Rows differ in their number of targets, so a mean of means would be another number."""
    model = load_weights(folder, torch.float32)[0].train()
    parameters, rows = add_lora(model), random_rows(3, 5)
    criterion = read_criterion(f"{users}:{name}", None, "token", 260)
    assert criterion.adds == {"total": "sum"}.get(name, name)
    value, grads = same_in_all_splits(model, parameters, text_objective(criterion), rows)

    def own(model, batch):
        return cross_entropy(model.target_hidden(batch), model.head(), batch.target_ids)

    expected, plain = gradients(model, parameters, own, rows, SPLITS[0])
    assert value == pytest.approx(expected, rel=1e-5)
    for key in plain:
        torch.testing.assert_close(grads[key], plain[key], atol=1e-6, rtol=1e-3)


@pytest.mark.parametrize("name", ["cross_entropy", "focal"])
@pytest.mark.parametrize("weighted", [False, True])
def test_losses_of_heads(folder, name, weighted):
    head = Head("sequence", ("a", "b", "c"))
    model = load_weights(folder, torch.float32, head=head)[0].train()
    parameters = add_lora(model.model) | {"score": head_of(model).requires_grad_(True).weight}
    texts = [row.input_ids for row in random_rows(4, 3)]
    rows = [Encoded((*t, i % 3), (len(t),), len(t), i) for i, t in enumerate(texts)]
    weights = torch.tensor([0.5, 2.0, 0.5]) if weighted else None
    same_in_all_splits(model, parameters, head_objective(read_criterion(name, None, "token", 3), weights), rows)


@pytest.mark.parametrize("name", ["contrastive", "cosine", "tutorial"])
def test_losses_of_pairs(folder, users, name):
    model = load_weights(folder, torch.float32)[0].train()
    parameters = add_lora(model.model)
    texts = [row.input_ids for row in random_rows(6, 3, count=12)]
    lines = [Encoded(t, (), len(t), i // 2, tuple(range(len(t)))) for i, t in enumerate(texts)]
    rows = [
        Encoded(a.input_ids, (), 1, i, a.sources, b, i / 5)
        for i, (a, b) in enumerate(zip(lines[::2], lines[1::2], strict=True))
    ]
    found = {}
    for each in {name, "contrastive"}:
        criterion = read_criterion(f"{users}:Contrastive" if each == "tutorial" else each, None, "pair", 64)
        found[each] = same_in_all_splits(model, parameters, pair_objective(criterion), rows)
    if name == "tutorial":
        assert found[name][0] == pytest.approx(found["contrastive"][0], rel=1e-5)


def test_info_nce_is_another_lesson_in_another_batch():
    """Its wrong answers are the other pairs of the pass: that it knows so keeps it from being cut into chunks."""
    assert read_criterion("info_nce", None, "pair", 8).adds == "together"
    assert {n for n in losses if n not in (*TOKEN_LOSSES, "contrastive", "cosine")} == {"info_nce"}


def test_chunks_are_the_whole():
    draw = torch.Generator().manual_seed(0)
    hidden = torch.randn(700, 12, generator=draw, requires_grad=True)
    weight = torch.randn(31, 12, generator=draw, requires_grad=True)
    targets = torch.randint(31, (700,), generator=draw)

    def total_of(logits: torch.Tensor, which: slice) -> torch.Tensor:
        return F.cross_entropy(logits, targets[which], reduction="sum")

    by_chunks(hidden, (weight, 5.0), total_of).mul(2.0).backward()
    found = hidden.grad, weight.grad
    hidden.grad = weight.grad = None
    (2.0 * total_of((hidden @ weight.t() / 5.0).tanh() * 5.0, slice(None))).backward()
    torch.testing.assert_close(found[0], hidden.grad, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found[1], weight.grad, atol=1e-3, rtol=1e-4)


def test_distillation_from_itself_is_half_the_cross_entropy(folder):
    """KL to oneself is zero, so only the share of the cross-entropy is left."""
    model = load_weights(folder, torch.float32)[0]
    rows = random_rows(3, 5)
    found = text_objective(read_criterion("distillation", ["share=0.5"], "token", 260), model)(model, pack(rows))
    import transformers

    plain = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    assert found.total.item() / found.count == pytest.approx(0.5 * plain_loss(plain, rows).item(), abs=1e-5)
