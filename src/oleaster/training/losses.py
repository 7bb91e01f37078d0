"""What is minimised. A loss is a sum over targets; the loop divides once per optimiser step.

Shape legend: M targets, C hidden size, V vocabulary.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from oleaster.models import kernels
from oleaster.models.memory import CHUNK


class LossSum(NamedTuple):
    """A loss before division."""

    total: Tensor
    """Scalar: the sum over the targets, in nats."""
    count: int


def cross_entropy(hidden_MC: Tensor, head: tuple[Tensor | None, float | None], targets_M: Tensor,
                  label_smoothing: float = 0.0) -> LossSum:  # fmt: skip
    """-ln p(target), summed, from the hidden states that predict the targets.

    Logits are made, used and dropped in chunks of `CHUNK` targets, their gradient in the same visit, so the full
    [M, V] matrix never exists (the idea of Liger's fused linear cross-entropy).

    Args:
        hidden_MC: normed hidden states; or logits [M, V] when the head has no weight.
        head: (weight [V, C] or None, soft cap c of the logits: c * tanh(logits / c), or None).
        label_smoothing: share s of the target's probability given to all V tokens alike.
    """
    weight, softcap = head
    if weight is None:
        total = F.cross_entropy(hidden_MC.float(), targets_M, reduction="sum", label_smoothing=label_smoothing)
        return LossSum(total, len(targets_M))
    total = _HeadCrossEntropy.apply(hidden_MC, weight, targets_M, softcap, label_smoothing)
    return LossSum(total, len(targets_M))  # type: ignore[arg-type]


class _HeadCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, softcap: float | None, smoothing: float
    ) -> Tensor:
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        total = torch.zeros((), dtype=torch.float64, device=hidden.device)
        dhidden = torch.empty_like(hidden) if needs_hidden else None
        dweight = torch.zeros_like(weight, dtype=torch.float32) if needs_weight else None
        for at in range(0, len(targets), CHUNK):
            chunk = slice(at, at + CHUNK)
            logits, slope = hidden[chunk] @ weight.t(), None
            if softcap is not None:
                logits.div_(softcap).tanh_()
                slope = 1.0 - logits.square() if needs_hidden or needs_weight else None
                logits.mul_(softcap)
            losses = kernels.cross_entropy(logits, targets[chunk], smoothing, gradient=needs_hidden or needs_weight)
            total += losses.sum(dtype=torch.float64)
            grad = logits if slope is None else logits.mul_(slope)
            if dhidden is not None:
                torch.mm(grad, weight, out=dhidden[chunk])
            if dweight is not None:
                dweight.addmm_(grad.t().float(), hidden[chunk].float())
        ctx.save_for_backward(dhidden, dweight)
        ctx.weight_dtype = weight.dtype
        return total.float()

    @staticmethod
    def backward(ctx: Any, dtotal: Tensor) -> tuple[Any, ...]:
        dhidden, dweight = ctx.saved_tensors
        return (
            None if dhidden is None else dhidden * dtotal.to(dhidden.dtype),
            None if dweight is None else (dweight * dtotal).to(ctx.weight_dtype),
            None,
            None,
            None,
        )
