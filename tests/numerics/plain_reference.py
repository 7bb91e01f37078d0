"""What the engine is held against: transformers' own code on padded rows, and the rows and adapters for both."""

from __future__ import annotations

import random
import zlib
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM

from oleaster.data.batch import pack
from oleaster.data.papers import Encoded
from oleaster.models.load import load_weights
from oleaster.training.losses import cross_entropy


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
        a, b = self.lora_A.to(x.dtype), self.lora_B.to(x.dtype)
        return self.base(x) + self.scaling * (x @ a.t()) @ b.t()


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


def plain_loss(causal_lm: torch.nn.Module, rows: list[Encoded], smoothing: float = 0.0) -> torch.Tensor:
    """Mean cross-entropy over the targets: rows padded on the right, full logits, labels, nothing clever."""
    width = max(len(r.input_ids) for r in rows)
    ids, mask = torch.zeros(len(rows), width, dtype=torch.long), torch.zeros(len(rows), width, dtype=torch.long)
    labels = torch.full((len(rows), width), -100)
    for i, row in enumerate(rows):
        ids[i, : len(row.input_ids)], mask[i, : len(row.input_ids)] = torch.tensor(row.input_ids), 1
        labels[i, list(row.targets)] = ids[i, list(row.targets)]
    logits = causal_lm(input_ids=ids, attention_mask=mask, use_cache=False).logits
    flat = logits[:, :-1].float().reshape(-1, logits.shape[-1])
    return F.cross_entropy(flat, labels[:, 1:].reshape(-1), label_smoothing=smoothing)


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    """Norm of the difference over the norm of `b`."""
    return ((a - b).norm() / b.norm().clamp(min=1e-12)).item()


def our_backward(model: Any, rows: list[Encoded], smoothing: float = 0.0) -> float:
    """Mean loss over the targets as the engine computes it; gradients are left in the parameters."""
    batch = pack(rows)
    loss = cross_entropy(model.target_hidden(batch), model.head(), batch.target_ids, smoothing)
    (loss.total / loss.count).backward()
    return loss.total.item() / loss.count


def both(folder: Path, dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """(the engine's model, transformers' model with eager attention), the same weights, nothing trained yet."""
    reference = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager")
    return load_weights(folder, dtype)[0], reference.requires_grad_(False)


def largest_difference(ours: dict[str, Any], plain: dict[str, Any]) -> tuple[float, str]:
    """The largest relative difference of a gradient, and the parameter's name."""
    assert ours.keys() == plain.keys()
    assert ours
    return max((relative(ours[name].grad.float(), plain[name].grad.float()), name) for name in ours)
