"""What is minimised. A loss is a sum over targets; the loop divides once per optimiser step.

Shape legend: M targets, C hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oleaster.core.registry import Registry
from oleaster.data.batch import Batch
from oleaster.models import kernels
from oleaster.models.memory import CHUNK

losses: Registry[Callable[..., Any]] = Registry("loss")
"""By name: a function, or a class of torch.nn.Module, whose arguments `criterion.OFFERED` can fill. A plug-in enters
its own with `@losses.register("name")`."""


class LossSum(NamedTuple):
    """A loss before division."""

    total: Tensor
    """Scalar: the sum over the targets (in nats), or over the pairs."""
    count: int


Loss = Callable[[nn.Module, Batch], LossSum]
"""What the loop minimises, from a model with `target_hidden` and a batch."""


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


def by_chunks(
    hidden_MC: Tensor, head: tuple[Tensor, float | None], total_of: Callable[[Tensor, slice], Tensor]
) -> Tensor:
    """Sum of any loss of logits that adds up over the targets; like `cross_entropy`, never all logits at once.

    Args:
        head: as in `cross_entropy`, with a weight.
        total_of: from the logits of some targets [m, V] in float32, and which these are, to the sum of their loss.
    """
    return _ByChunks.apply(hidden_MC, *head, total_of)  # type: ignore[return-value]


class _ByChunks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, softcap: float | None, total_of: Any) -> Tensor:
        needs = ctx.needs_input_grad[:2]
        total = torch.zeros((), dtype=torch.float64, device=hidden.device)
        dhidden = torch.empty_like(hidden) if needs[0] else None
        dweight = torch.zeros_like(weight, dtype=torch.float32) if needs[1] else None
        for at in range(0, len(hidden), CHUNK):
            chunk = slice(at, at + CHUNK)
            with torch.set_grad_enabled(any(needs)):
                h, w = hidden[chunk].detach().requires_grad_(needs[0]), weight.detach().requires_grad_(needs[1])
                logits = F.linear(h, w).float()
                logits = logits if softcap is None else (logits / softcap).tanh() * softcap
                value = total_of(logits, chunk)
            total += value.detach().double()
            asked = [tensor for tensor, needed in ((h, needs[0]), (w, needs[1])) if needed]
            grads = list(torch.autograd.grad(value, asked)) if asked else []
            if dhidden is not None:
                dhidden[chunk] = grads.pop(0)
            if dweight is not None:
                dweight += grads.pop(0)
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
        )


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
