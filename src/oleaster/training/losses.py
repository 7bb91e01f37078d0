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

    def visit(hidden: Tensor, chunk: slice, dhidden: Tensor | None, dweight: Tensor | None) -> Tensor:
        wanted = dhidden is not None or dweight is not None
        logits, slope = hidden @ weight.t(), None
        if softcap is not None:
            logits.div_(softcap).tanh_()
            slope = 1.0 - logits.square() if wanted else None
            logits.mul_(softcap)
        values = kernels.cross_entropy(logits, targets_M[chunk], label_smoothing, gradient=wanted)
        grad = logits if slope is None else logits.mul_(slope)  # the kernel left the gradient where the logits were
        if dhidden is not None:
            torch.mm(grad, weight, out=dhidden)
        if dweight is not None:
            dweight.addmm_(grad.t().float(), hidden.float())
        return values.sum(dtype=torch.float64)

    return LossSum(_SumOverChunks.apply(hidden_MC, weight, visit), len(targets_M))  # type: ignore[arg-type]


def by_chunks(
    hidden_MC: Tensor, head: tuple[Tensor, float | None], total_of: Callable[[Tensor, slice], Tensor]
) -> Tensor:
    """Sum of any loss of logits that adds up over the targets; like `cross_entropy`, never all logits at once.

    Args:
        head: as in `cross_entropy`, with a weight.
        total_of: from the logits of some targets [m, V] in float32, and which these are, to the sum of their loss.
    """
    weight, softcap = head

    def visit(hidden: Tensor, chunk: slice, dhidden: Tensor | None, dweight: Tensor | None) -> Tensor:
        into = [into for into in (dhidden, dweight) if into is not None]
        with torch.set_grad_enabled(bool(into)):
            h = hidden.detach().requires_grad_(dhidden is not None)
            w = weight.detach().requires_grad_(dweight is not None)
            logits = F.linear(h, w).float()
            logits = logits if softcap is None else (logits / softcap).tanh() * softcap
            total = total_of(logits, chunk)
        if into:
            for sum_, grad in zip(
                into, torch.autograd.grad(total, [x for x in (h, w) if x.requires_grad]), strict=True
            ):
                sum_.add_(grad)
        return total.detach()

    return _SumOverChunks.apply(hidden_MC, weight, visit)  # type: ignore[return-value]


class _SumOverChunks(torch.autograd.Function):
    """Sum of `visit(hidden[chunk], chunk, dhidden[chunk], dweight)` over chunks of the targets.

    A visit returns the loss of its targets and, where they are not None, writes its gradients into `dhidden` [m, C]
    and adds them to `dweight` [V, C] (float32): a backward pass that made the logits again would pay for them twice.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, visit: Any) -> Tensor:
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        total = torch.zeros((), dtype=torch.float64, device=hidden.device)
        dhidden = torch.zeros_like(hidden) if needs_hidden else None
        dweight = torch.zeros_like(weight, dtype=torch.float32) if needs_weight else None
        for at in range(0, len(hidden), CHUNK):
            chunk = slice(at, at + CHUNK)
            total += visit(hidden[chunk], chunk, None if dhidden is None else dhidden[chunk], dweight)
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
        )
