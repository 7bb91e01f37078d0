"""Element-wise work of a layer: one pass over memory each, in compiled C where a compiler is there.

Every function takes and returns tensors of the model's dtype and computes in float32. The torch versions below are
the reference and serve every machine without a C compiler, and every device but the CPU.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def rms_norm(x: Tensor, delta: Tensor | None, scale: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """(y, total, inverse): total = x + delta, inverse = 1 / rms(total) [...], y = total * inverse * scale."""
    total = x if delta is None else x + delta
    wide = total.float()
    inverse = torch.rsqrt(wide.square().mean(-1) + eps)
    return (wide * inverse[..., None] * scale.float()).to(x.dtype), total, inverse


def rms_norm_backward(dy: Tensor, dtotal: Tensor | None, total: Tensor, scale: Tensor, inverse: Tensor) -> Tensor:
    """Gradient of `rms_norm` with respect to total, plus what reaches total from elsewhere."""
    wide, g = total.float() * inverse[..., None], dy.float() * scale.float()
    dx = (g - wide * (g * wide).mean(-1, keepdim=True)) * inverse[..., None]
    return dx.to(dy.dtype) if dtotal is None else (dx + dtotal.float()).to(dy.dtype)


def gated(gate: Tensor, up: Tensor, activation: str) -> Tensor:
    """activation(gate) * up; activation is silu or gelu_tanh."""
    return (F.silu(gate) if activation == "silu" else F.gelu(gate, approximate="tanh")).mul_(up)


def gated_backward(dy: Tensor, gate: Tensor, up: Tensor, activation: str) -> tuple[Tensor, Tensor]:
    """(dgate, dup)"""
    if activation == "silu":
        active = F.silu(gate)
        dgate = torch.ops.aten.silu_backward(dy * up, gate)
    else:
        active = F.gelu(gate, approximate="tanh")
        dgate = torch.ops.aten.gelu_backward(dy * up, gate, approximate="tanh")
    return dgate, active.mul_(dy)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn pairs (i, i + width/2) of each head by the angles (Su et al. 2021, in transformers' half-split order).

    Args:
        x: [N, heads, D]
        cos, sin: [N, width / 2] float32; channels from `width` on stay as they are.
    """
    half = cos.shape[-1]
    c, s = cos[:, None].to(x.dtype), sin[:, None].to(x.dtype)
    first, second = x[..., :half], x[..., half : 2 * half]
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    torch.sub(first * c, second * s, out=out[..., :half])
    torch.add(second * c, first * s, out=out[..., half : 2 * half])
    if 2 * half < x.shape[-1]:
        out[..., 2 * half :] = x[..., 2 * half :]
    return out
