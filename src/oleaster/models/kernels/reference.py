"""The kernels in plain torch: what they compute is defined here. See __init__ for what each takes and gives."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from oleaster.data.batch import Bucket

NF4_LEVELS = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
"""The sixteen quantiles; 0 is one of them."""


def rms_norm(x: Tensor, delta: Tensor | None, scale: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    total = x if delta is None else x + delta
    wide = total.float()
    inverse = torch.rsqrt(wide.square().mean(-1) + eps)
    return (wide * inverse[..., None] * scale).to(x.dtype), total, inverse


def rms_norm_backward(dy: Tensor, dtotal: Tensor | None, total: Tensor, scale: Tensor, inverse: Tensor) -> Tensor:
    normed, g = total.float() * inverse[..., None], dy.float() * scale
    dx = (g - normed * (g * normed).mean(-1, keepdim=True)) * inverse[..., None]
    return dx.to(dy.dtype) if dtotal is None else (dx + dtotal.float()).to(dy.dtype)


def gated(gate: Tensor, up: Tensor, activation: str) -> Tensor:
    return (F.silu(gate) if activation == "silu" else F.gelu(gate, approximate="tanh")).mul_(up)


def gated_backward(dy: Tensor, gate: Tensor, up: Tensor, activation: str) -> tuple[Tensor, Tensor]:
    if activation == "silu":
        active = F.silu(gate)
        dgate = torch.ops.aten.silu_backward(dy * up, gate)
    else:
        active = F.gelu(gate, approximate="tanh")
        dgate = torch.ops.aten.gelu_backward(dy * up, gate, approximate="tanh")
    return dgate, active.mul_(dy)


def dropped(x: Tensor, share: float, seed: int) -> Tensor:
    number = torch.arange(x.numel(), device=x.device).view(x.shape)
    kept = _mix((_mix(number) + seed) & 0xFFFFFFFF) >= least_kept(share)
    return (x.float() * kept * (1.0 / (1.0 - share))).to(x.dtype)


def least_kept(share: float) -> int:
    """Of the 2^32 values of the hash, those from this one on keep their element."""
    return round(share * 2**32)


def _mix(x: Tensor) -> Tensor:
    """A hash of 32 bits held in int64 (lowbias32 of Wellons' hash prospector: flips each output bit half the time)."""
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & 0xFFFFFFFF
    x = ((x ^ (x >> 15)) * 0x846CA68B) & 0xFFFFFFFF
    return x ^ (x >> 16)


def rotate(x: Tensor, angles: tuple[Tensor, Tensor], sign: float = 1.0) -> Tensor:
    c, s = (a[:, None].to(x.dtype) for a in angles)
    half = c.shape[-1]
    first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return torch.cat([first * c - second * (sign * s), second * c + first * (sign * s), rest], -1)


def to_block(line: Tensor, bucket: Bucket, prefix: int, angles: tuple[Tensor, Tensor] | None) -> Tensor:
    if angles is not None:
        line = rotate(line, angles)
    own = line.new_zeros(len(bucket.lengths) * bucket.longest, *line.shape[1:])
    own[bucket.places.to(line.device)] = line[bucket.start : bucket.start + bucket.tokens]
    own = own.view(len(bucket.lengths), bucket.longest, *line.shape[1:]).transpose(1, 2)
    if not prefix:
        return own.contiguous()
    front = line[:prefix].transpose(0, 1).expand(own.shape[0], -1, -1, -1)
    return torch.cat([front, own], dim=2)


def from_block(
    block: Tensor, line: Tensor, bucket: Bucket, prefix: int, angles: tuple[Tensor, Tensor] | None
) -> Tensor | None:
    own = block[:, :, prefix:].transpose(1, 2).reshape(-1, *line.shape[1:])[bucket.places.to(line.device)]
    tokens = slice(bucket.start, bucket.start + bucket.tokens)
    if angles is not None:
        own = rotate(own, (angles[0][tokens], angles[1][tokens]), sign=-1.0)
    line[tokens] = own
    return block[:, :, :prefix].float().sum(0).transpose(0, 1) if prefix else None


def softmax(scores: Tensor, prefix: int, window: int | None, scale: float) -> Tensor:
    allowed = visible(scores.shape[1], prefix, window, scores.device)
    scores.mul_(scale).masked_fill_(~allowed, float("-inf"))
    return scores.copy_(torch.softmax(scores, -1))


def visible(length: int, prefix: int, window: int | None, device: torch.device) -> Tensor:
    """[L, prefix + L] bool: may the query at place prefix + i of its row see the key at place j?"""
    query = torch.arange(prefix, prefix + length, device=device)[:, None]
    key = torch.arange(prefix + length, device=device)[None, :]
    seen = key <= query
    return seen if window is None else seen & (query - key < window)


def softmax_backward(share: Tensor, dshare: Tensor, scale: float) -> Tensor:
    return dshare.sub_((dshare * share).sum(-1, keepdim=True)).mul_(share).mul_(scale)


def cross_entropy(logits: Tensor, targets: Tensor, smoothing: float, gradient: bool) -> Tensor:
    wide = logits.float()
    log_sum, target = wide.logsumexp(-1, keepdim=True), targets[:, None]
    chosen = (1.0 - smoothing) * wide.gather(-1, target) + smoothing * wide.mean(-1, keepdim=True)
    loss = (log_sum - chosen).squeeze(-1)
    if gradient:
        grad = (wide - log_sum).exp_().sub_(smoothing / logits.shape[-1])
        grad.scatter_add_(-1, target, torch.full_like(chosen, smoothing - 1.0))
        logits.copy_(grad)
    return loss


def nf4_codes(flat: Tensor, block: int) -> tuple[Tensor, Tensor]:
    blocks = F.pad(flat.float(), (0, -flat.numel() % block)).view(-1, block)
    scales = blocks.abs().amax(1)
    shares = blocks / scales.clamp_min(torch.finfo(torch.float32).tiny)[:, None]
    codes = torch.bucketize(shares, nf4_middles().to(flat.device), out_int32=True).to(torch.uint8).view(-1, 2)
    return codes[:, 0] * 16 + codes[:, 1], scales


def nf4_middles() -> Tensor:
    """[15] where the nearest level changes."""
    levels = torch.tensor(NF4_LEVELS)
    return (levels[1:] + levels[:-1]) / 2


def nf4_numbers(codes: Tensor, scales: Tensor, out: Tensor) -> Tensor:
    pairs = torch.stack([codes >> 4, codes & 15], -1).view(len(scales), -1)
    levels = torch.tensor(NF4_LEVELS, device=codes.device)
    return out.copy_((levels[pairs.int()] * scales[:, None]).flatten())
