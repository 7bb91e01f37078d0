"""Packed, prefix-shared, hand-differentiated = transformers' plain padded computation, per family, in float32."""

from __future__ import annotations

import random
import zlib

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM

from oleaster.data.batch import pack
from oleaster.data.papers import Encoded
from oleaster.models.decoder import Decoder
from oleaster.models.generic import Generic
from oleaster.models.load import load_weights
from oleaster.models.tiny import FAMILIES, make_tiny
from oleaster.training.losses import cross_entropy

LARGEST_RELATIVE_DIFFERENCE = 2e-5


class Branch(torch.nn.Module):
    """LoRA in the plainest form, with the attributes by which the decoder knows one."""

    def __init__(self, base: torch.nn.Module, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        conv1d = type(base).__name__ == "Conv1D"
        inputs, outputs = base.weight.shape if conv1d else base.weight.shape[::-1]
        self.base, self.scaling, self.dropout = base, 0.7, 0.0
        self.lora_A = torch.nn.Parameter(torch.randn(rank, inputs, generator=generator) * 0.1)
        self.lora_B = torch.nn.Parameter(torch.randn(outputs, rank, generator=generator) * 0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base(x) + self.scaling * (x @ self.lora_A.t()) @ self.lora_B.t()


def random_rows(seed: int, shared: int, count: int = 6, longest: int = 30) -> list[Encoded]:
    """Rows with a common beginning of `shared` tokens, answers in one or two stretches, lengths mixed."""
    draw = random.Random(seed)
    beginning = [draw.randrange(4, 260) for _ in range(shared)]
    rows = []
    for i in range(count):
        own = [draw.randrange(4, 260) for _ in range(draw.randrange(3, longest))]
        ids = beginning + own
        start = shared + draw.randrange(1, len(own))
        targets = sorted(set(range(start, len(ids))) | ({shared + 1} if i % 2 else set()))
        rows.append(Encoded(tuple(ids), tuple(targets), start, i))
    return rows


def add_lora(model: torch.nn.Module, rank: int = 4) -> dict[str, torch.nn.Parameter]:
    """A random (not zero) LoRA branch on every linear map but the head, the same for the same names."""
    found = {}
    for name, module in list(model.named_modules()):
        is_linear = isinstance(module, torch.nn.Linear) or type(module).__name__ == "Conv1D"
        if not is_linear or "lm_head" in name:
            continue
        parent, leaf = model.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2]
        branch = Branch(module, rank, torch.Generator().manual_seed(zlib.crc32(name.encode())))
        setattr(parent, leaf, branch)
        found |= {f"{name}.A": branch.lora_A, f"{name}.B": branch.lora_B}
    return found


def plain_loss(causal_lm: torch.nn.Module, rows: list[Encoded]) -> torch.Tensor:
    """Mean cross-entropy over the targets: rows padded on the right, full logits, labels, nothing clever."""
    width = max(len(r.input_ids) for r in rows)
    ids, mask = torch.zeros(len(rows), width, dtype=torch.long), torch.zeros(len(rows), width, dtype=torch.long)
    labels = torch.full((len(rows), width), -100)
    for i, row in enumerate(rows):
        ids[i, : len(row.input_ids)], mask[i, : len(row.input_ids)] = torch.tensor(row.input_ids), 1
        labels[i, list(row.targets)] = ids[i, list(row.targets)]
    logits = causal_lm(input_ids=ids, attention_mask=mask, use_cache=False).logits
    return F.cross_entropy(logits[:, :-1].reshape(-1, logits.shape[-1]), labels[:, 1:].reshape(-1))


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).norm() / b.norm().clamp(min=1e-12)).item()


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def family(request, tmp_path_factory):
    return request.param, make_tiny(request.param, tmp_path_factory.mktemp("tiny") / request.param)


@pytest.mark.parametrize("shared", [0, 1, 7, 14])
def test_loss_and_every_gradient(family, shared):
    name, folder = family
    reference = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    reference.requires_grad_(False)
    model, reason = load_weights(folder, torch.float32)
    assert isinstance(model, Generic if name == "gpt2" else Decoder), reason
    ours, theirs = add_lora(model.hub_model), add_lora(reference)
    assert ours.keys() == theirs.keys()
    assert ours

    rows = random_rows(seed=shared, shared=shared)
    expected = plain_loss(reference, rows)
    expected.backward()
    batch = pack(rows)
    assert batch.prefix >= shared
    loss = cross_entropy(model.target_hidden(batch), model.head(), batch.target_ids)
    (loss.total / loss.count).backward()

    assert loss.count == sum(len(r.targets) for r in rows)
    assert abs(loss.total.item() / loss.count - expected.item()) < 1e-5
    worst = {n: relative(ours[n].grad, theirs[n].grad) for n in ours}
    assert max(worst.values()) < LARGEST_RELATIVE_DIFFERENCE, max(worst.items(), key=lambda pair: pair[1])
