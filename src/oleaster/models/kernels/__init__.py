"""Element-wise work of a layer: one pass over memory each, in compiled C where a compiler is there.

Every function takes and returns tensors of the model's dtype and computes in float32. `reference` has the torch
versions, which define what is right and serve machines without a C compiler and every device but the CPU;
`compiled` has the same functions over kernels.c. The choice falls per call, by the tensor's device and type.
"""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor

from oleaster.data.batch import Bucket
from oleaster.models.kernels import compiled, reference

__all__ = [
    "cross_entropy",
    "dropped",
    "from_block",
    "gated",
    "gated_backward",
    "nf4_codes",
    "nf4_numbers",
    "rms_norm",
    "rms_norm_backward",
    "rotate",
    "softmax",
    "softmax_backward",
    "to_block",
    "visible",
    "why_not_compiled",
]

Angles = tuple[Tensor, Tensor]
"""Cosine and sine of each token's rotation, [N, width / 2] float32 each."""


def why_not_compiled() -> str | None:
    """None when the compiled kernels are in use on the CPU, else the reason in one sentence."""
    return compiled.library().reason


def _by(x: Tensor) -> ModuleType:
    fits = x.device.type == "cpu" and x.dtype in (torch.float32, torch.bfloat16)
    return compiled if fits and compiled.library().functions is not None else reference


def rms_norm(x: Tensor, delta: Tensor | None, scale: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """(y, total, inverse): total = x + delta, inverse = 1 / rms(total) [...] float32, y = total * inverse * scale."""
    return _by(x).rms_norm(x, delta, scale.float(), eps)


def rms_norm_backward(dy: Tensor, dtotal: Tensor | None, total: Tensor, scale: Tensor, inverse: Tensor) -> Tensor:
    """Gradient of `rms_norm` with respect to total, plus `dtotal`, what reaches total from elsewhere."""
    return _by(dy).rms_norm_backward(dy, dtotal, total, scale.float(), inverse)


def gated(gate: Tensor, up: Tensor, activation: str) -> Tensor:
    """activation(gate) * up; activation is silu or gelu_tanh."""
    return _by(gate).gated(gate, up, activation)


def gated_backward(dy: Tensor, gate: Tensor, up: Tensor, activation: str) -> tuple[Tensor, Tensor]:
    """(dgate, dup)"""
    return _by(dy).gated_backward(dy, gate, up, activation)


def dropped(x: Tensor, share: float, seed: int) -> Tensor:
    """Dropout: `share` of the elements are 0, the others x / (1 - share).

    Which ones is a hash of `seed` (0 to 2^31 - 1) and an element's number, so the backward pass draws the same again
    instead of keeping a mask, and threads and devices agree. (Drawing from torch's generator costs 30 times as much.)
    """
    return _by(x).dropped(x, share, seed)


def rotate(x: Tensor, angles: Angles) -> Tensor:
    """Turn pairs (i, i + width/2) of each head by the angles (Su et al. 2021, in transformers' half-split order).

    x: [N, heads, D]; channels from `width` on stay as they are.
    """
    return reference.rotate(x, angles)


def to_block(line: Tensor, bucket: Bucket, prefix: int, angles: Angles | None) -> Tensor:
    """A bucket's rows as a padded block, rotated on the way: [N, heads, D] -> [B, heads, prefix + L, D].

    `prefix`: that many tokens of the line's beginning stand in front of every row. Places behind a row's end are 0.
    """
    return _by(line).to_block(line, bucket, prefix, angles)


def from_block(block: Tensor, line: Tensor, bucket: Bucket, prefix: int, angles: Angles | None) -> Tensor | None:
    """Write a block's rows back to `line`, rotated back. Returns the prefix places summed over the rows, not rotated
    back, [prefix, heads, D] float32; None without a prefix."""
    return _by(block).from_block(block, line, bucket, prefix, angles)


def softmax(scores: Tensor, prefix: int, window: int | None, scale: float) -> Tensor:
    """In place: softmax of scale * scores over the keys that each query may see, 0 elsewhere.

    scores: [blocks, L, prefix + L]; the query at place l sees keys 0..prefix + l, of those the last `window`.
    """
    return _by(scores).softmax(scores, prefix, window, scale)


def visible(length: int, prefix: int, window: int | None, device: torch.device) -> Tensor:
    """[L, prefix + L] bool: may the query at place prefix + i of its row see the key at place j?"""
    return reference.visible(length, prefix, window, device)


def softmax_backward(share: Tensor, dshare: Tensor, scale: float) -> Tensor:
    """In place on dshare: gradient with respect to the scores, from the shares and their gradient."""
    return _by(share).softmax_backward(share, dshare, scale)


def cross_entropy(logits: Tensor, targets: Tensor, smoothing: float, gradient: bool) -> Tensor:
    """-ln p(target) of each row [M] float32; with `gradient`, the logits [M, V] become the loss's gradient."""
    return _by(logits).cross_entropy(logits, targets, smoothing, gradient)


def nf4_codes(flat: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """NF4 codes [bytes] and scales [blocks] float32 of numbers [n], see `models.nf4.pack_nf4`; `block` is even."""
    return _by(flat).nf4_codes(flat, block)


def nf4_numbers(codes: Tensor, scales: Tensor, out: Tensor) -> Tensor:
    """The numbers behind NF4 codes, written to `out` [2 * bytes]; see `models.nf4.pack_nf4`."""
    return _by(out).nf4_numbers(codes, scales, out)
