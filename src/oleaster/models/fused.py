"""The pieces of a decoder layer, each with its gradient written out.

Plain autograd keeps every intermediate and walks LoRA's thin products one by one; here each piece keeps only what its
gradient needs and touches memory as seldom as possible. The element-wise work runs in `kernels` (compiled C where a
compiler is there, torch otherwise). `tests/numerics` compares loss and every gradient with transformers' own code.

Shape legend: N packed tokens, K inputs, O outputs of a projection, r rank, H query heads, J key/value heads,
G = H / J, D head size, B rows of a bucket, L places per row, P prefix tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from oleaster.data.batch import Bucket
from oleaster.models import kernels


@dataclass(frozen=True)
class Projection:
    """A linear map and, where one is attached, its LoRA branch: y = W x + b + scale * B A x."""

    weight: Tensor
    """[O, K]"""
    bias: Tensor | None
    """[O]"""
    lora_a: Tensor | None = None
    """[r, K] float32"""
    lora_b: Tensor | None = None
    """[O, r] float32"""
    scale: float = 0.0
    dropout: float = 0.0


def project(x_NK: Tensor, projections: Sequence[Projection]) -> tuple[Tensor, ...]:
    """All projections of one input. One dropout mask serves the LoRA branches of the group."""
    tensors = [t for p in projections for t in (p.weight, p.bias, p.lora_a, p.lora_b)]
    dropout = max(p.dropout for p in projections) if torch.is_grad_enabled() else 0.0
    return _Project.apply(x_NK, [p.scale for p in projections], dropout, *tensors)  # type: ignore[return-value]


class _Project(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scales: list[float], dropout: float, *tensors: Tensor | None
    ) -> tuple[Tensor, ...]:
        groups = [tensors[i : i + 4] for i in range(0, len(tensors), 4)]
        branches = [(a, b, s) for (_, _, a, b), s in zip(groups, scales, strict=True) if a is not None]
        dropped, mask, a_all, h_all = x, None, None, None
        if branches:
            if dropout > 0.0:
                mask = torch.empty_like(x).bernoulli_(1.0 - dropout).div_(1.0 - dropout)
                dropped = x * mask
            a_all = torch.cat([a for a, _, _ in branches]).to(x.dtype)
            h_all = dropped @ a_all.t()
        outputs, scaled, at = [], [], 0
        for (weight, bias, a, b), scale in zip(groups, scales, strict=True):
            y = F.linear(x, weight, bias)
            if a is not None:
                scaled.append((b * scale).to(x.dtype))
                y.addmm_(h_all[:, at : at + a.shape[0]], scaled[-1].t())
                at += a.shape[0]
            outputs.append(y)
        needs_weight = any(ctx.needs_input_grad[3 + 4 * i] for i in range(len(groups)))
        keep_x = needs_weight or (bool(branches) and dropout == 0.0)
        ctx.save_for_backward(x if keep_x else None, mask if mask is None else dropped, mask, a_all, h_all, *tensors)
        ctx.scales, ctx.scaled, ctx.dtype, ctx.shape = scales, scaled, x.dtype, x.shape
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        x, dropped, mask, a_all, h_all, *tensors = ctx.saved_tensors
        dropped = x if dropped is None else dropped
        groups = [tensors[i : i + 4] for i in range(0, len(tensors), 4)]
        needs = ctx.needs_input_grad[3:]
        results: list[Tensor | None] = [None] * len(tensors)
        dx, g_all = None, None
        if a_all is not None:
            g_all = torch.empty(ctx.shape[0], a_all.shape[0], dtype=ctx.dtype, device=a_all.device)
        at, branch = 0, 0
        for i, ((weight, bias, a, b), dy) in enumerate(zip(groups, grads, strict=True)):
            dy = dy.contiguous()
            if ctx.needs_input_grad[0]:
                dx = dy @ weight if dx is None else dx.addmm_(dy, weight)
            if needs[4 * i]:
                results[4 * i] = dy.t() @ x
            if bias is not None and needs[4 * i + 1]:
                results[4 * i + 1] = dy.sum(0)
            if a is not None:
                rank, scaled_b = a.shape[0], ctx.scaled[branch]
                torch.mm(dy, scaled_b, out=g_all[:, at : at + rank])
                results[4 * i + 3] = (dy.t() @ h_all[:, at : at + rank]).to(b.dtype).mul_(ctx.scales[i])
                at, branch = at + rank, branch + 1
        if g_all is not None:
            da_all = (g_all.t() @ dropped).float()
            at = 0
            for i, (_, _, a, _) in enumerate(groups):
                if a is not None:
                    results[4 * i + 2] = da_all[at : at + a.shape[0]]
                    at += a.shape[0]
            if dx is not None and mask is None:
                dx.addmm_(g_all, a_all)
            elif dx is not None:
                dx.addcmul_(g_all @ a_all, mask)
        return dx, None, None, *results


def rms_norm(x: Tensor, weight: Tensor, eps: float, plus_one: bool) -> Tensor:
    """x / rms(x) * weight over the last dimension (Zhang & Sennrich 2019); `plus_one`: times 1 + weight (Gemma)."""
    return _RmsNorm.apply(x, None, weight, eps, plus_one)[0]  # type: ignore[index]


def add_rms_norm(x: Tensor, delta: Tensor, weight: Tensor, eps: float, plus_one: bool) -> tuple[Tensor, Tensor]:
    """(rms_norm(x + delta), x + delta): the residual sum and the norm behind it in one pass."""
    return _RmsNorm.apply(x, delta, weight, eps, plus_one)  # type: ignore[return-value]


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, delta: Tensor | None, weight: Tensor, eps: float, plus_one: bool
    ) -> tuple[Tensor, ...]:
        scale = weight.float() + 1.0 if plus_one else weight
        y, total, inverse = kernels.rms_norm(x, delta, scale, eps)
        ctx.save_for_backward(total, scale, inverse)
        ctx.weight_dtype = weight.dtype
        return (y,) if delta is None else (y, total)

    @staticmethod
    def backward(ctx: Any, dy: Tensor, dtotal: Tensor | None = None) -> tuple[Any, ...]:
        total, scale, inverse = ctx.saved_tensors
        dx = kernels.rms_norm_backward(dy, dtotal, total, scale, inverse)
        dweight = None
        if ctx.needs_input_grad[2]:
            normed = total.float() * inverse[..., None]
            dweight = (dy.float() * normed).reshape(-1, total.shape[-1]).sum(0).to(ctx.weight_dtype)
        return dx, (dx if ctx.needs_input_grad[1] else None), dweight, None, None


def gated(gate: Tensor, up: Tensor, activation: str) -> Tensor:
    """activation(gate) * up, element by element (SwiGLU and GeGLU, Shazeer 2020)."""
    return _Gated.apply(gate, up, activation)  # type: ignore[return-value]


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, activation: str) -> Tensor:
        ctx.save_for_backward(gate, up)
        ctx.activation = activation
        return kernels.gated(gate, up, activation)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
        gate, up = ctx.saved_tensors
        dgate, dup = kernels.gated_backward(dy, gate, up, ctx.activation)
        return dgate, dup, None


@dataclass(frozen=True)
class Attending:
    """How a layer attends."""

    heads: int
    kv_heads: int
    head_dim: int
    scale: float
    window: int | None
    softcap: float | None


def attend(q_NHD: Tensor, k_NJD: Tensor, v_NJD: Tensor, angles: tuple[Tensor, Tensor], buckets: Sequence[Bucket],
           how: Attending) -> Tensor:  # fmt: skip
    """Rotate q and k, let every row attend to the prefix and its own past. Returns [N, H * D].

    Args:
        angles: cosine and sine, [N, rotary width / 2] each.

    Short rows go through two batched products with the key/value heads never repeated; from `LONG` keys on, torch's
    flash attention keeps memory linear.
    """
    if how.softcap is None and max(b.longest + b.prefix for b in buckets) > LONG:
        return _attend_long(q_NHD, k_NJD, v_NJD, angles, buckets, how)
    return _Attend.apply(q_NHD, k_NJD, v_NJD, *angles, buckets, how)  # type: ignore[return-value]


LONG = 384


def allowed(length: int, prefix: int, window: int | None, device: torch.device) -> Tensor:
    """[L, P + L] bool: may the query at place P + i of its row see the key at place j?"""
    query = torch.arange(prefix, prefix + length, device=device)[:, None]
    key = torch.arange(prefix + length, device=device)[None, :]
    seen = key <= query
    return seen if window is None else seen & (query - key < window)


def _block(x: Tensor, bucket: Bucket) -> Tensor:
    """[B, L, heads, D] of the bucket's tokens; a view where the rows are even."""
    tokens = x[bucket.start : bucket.start + bucket.tokens]
    if not bucket.even:
        tokens = tokens[bucket.index[0].to(x.device)]
    return tokens.view(len(bucket.lengths), bucket.longest, *x.shape[1:])


def _queries(x_BLHD: Tensor, kv_heads: int) -> Tensor:
    """[B * J, G * L, D]: the query heads of a key/value head side by side."""
    B, L, H, D = x_BLHD.shape
    grouped = x_BLHD.view(B, L, kv_heads, H // kv_heads, D).permute(0, 2, 3, 1, 4)
    return grouped.reshape(B * kv_heads, (H // kv_heads) * L, D)


def _keys(x_NJD: Tensor, bucket: Bucket) -> Tensor:
    """[B * J, P + L, D]: the prefix in front of each row."""
    own = _block(x_NJD, bucket).transpose(1, 2)
    B, J, L, D = own.shape
    if not bucket.prefix:
        return own.reshape(B * J, L, D)
    prefix = x_NJD[: bucket.prefix].transpose(0, 1).expand(B, J, bucket.prefix, D)
    return torch.cat([prefix, own], dim=2).view(B * J, bucket.prefix + L, D)


def _put(target_NX: Tensor, block_BLX: Tensor, bucket: Bucket) -> None:
    """Write the block's real places back to the line of tokens."""
    flat = block_BLX.reshape(-1, *target_NX.shape[1:])
    if not bucket.even:
        flat = flat[bucket.index[1].to(flat.device)]
    target_NX[bucket.start : bucket.start + bucket.tokens] = flat


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, buckets: Sequence[Bucket],
                how: Attending) -> Tensor:  # fmt: skip
        q, k = kernels.rotate(q, cos, sin), kernels.rotate(k, cos, sin)
        out = torch.empty_like(q)
        kept: list[Tensor] = []
        for bucket in buckets:
            B, L, P, J = len(bucket.lengths), bucket.longest, bucket.prefix, how.kv_heads
            queries, keys, values = _queries(_block(q, bucket), J), _keys(k, bucket), _keys(v, bucket)
            scores = torch.bmm(queries, keys.transpose(1, 2)).view(B * J, -1, L, P + L).mul_(how.scale)
            if how.softcap is not None:
                scores = scores.div_(how.softcap).tanh_()
                kept.append(scores.clone())
                scores.mul_(how.softcap)
            scores.masked_fill_(~allowed(L, P, how.window, q.device), float("-inf"))
            share = torch.softmax(scores, -1)
            kept.append(share)
            result = torch.bmm(share.view(B * J, -1, P + L), values)
            _put(out, _unqueries(result, B, L, J), bucket)
        ctx.save_for_backward(q, k, v, cos, sin, *kept)
        ctx.buckets, ctx.how = buckets, how
        return out.view(out.shape[0], -1)

    @staticmethod
    def backward(ctx: Any, dout: Tensor) -> tuple[Any, ...]:
        q, k, v, cos, sin, *kept = ctx.saved_tensors
        how: Attending = ctx.how
        dout = dout.reshape(q.shape)
        dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        shared_k, shared_v = [], []
        kept = iter(kept)
        for bucket in ctx.buckets:
            B, L, P, J = len(bucket.lengths), bucket.longest, bucket.prefix, how.kv_heads
            capped = next(kept) if how.softcap is not None else None
            share = next(kept)
            flat = share.view(B * J, -1, P + L)
            queries, keys, values = _queries(_block(q, bucket), J), _keys(k, bucket), _keys(v, bucket)
            grad = _block(dout, bucket)
            if not bucket.even:
                grad = grad * _real(bucket, grad)
            grad = _queries(grad, J)
            dvalues = torch.bmm(flat.transpose(1, 2), grad)
            dshare = torch.bmm(grad, values.transpose(1, 2)).view_as(share)
            dscores = torch._softmax_backward_data(dshare, share, -1, share.dtype)
            if capped is not None:
                dscores = dscores * (1.0 - capped * capped)
            dscores = dscores.view_as(flat).mul_(how.scale)
            _put(dq, _unqueries(torch.bmm(dscores, keys), B, L, J), bucket)
            for whole, part, shared in (
                (dk, torch.bmm(dscores.transpose(1, 2), queries), shared_k),
                (dv, dvalues, shared_v),
            ):
                part = part.view(B, J, P + L, -1)
                _put(whole, part[:, :, P:].transpose(1, 2), bucket)
                if P:
                    shared.append(part[:, :, :P].sum(0).transpose(0, 1))
        for whole, shared in ((dk, shared_k), (dv, shared_v)):
            for part in shared:
                whole[: part.shape[0]] += part
        return kernels.rotate(dq, cos, -sin), kernels.rotate(dk, cos, -sin), dv, None, None, None, None


def _unqueries(x: Tensor, B: int, L: int, J: int) -> Tensor:
    """[B * J, G * L, D] back to [B, L, H, D]."""
    return x.view(B, J, -1, L, x.shape[-1]).permute(0, 3, 1, 2, 4).reshape(B, L, -1, x.shape[-1])


def _real(bucket: Bucket, like: Tensor) -> Tensor:
    """[B, L, 1, 1]: 1 at real places, 0 at padded ones, which repeat a token and must not send its gradient twice."""
    lengths = torch.tensor(bucket.lengths, device=like.device)
    return (torch.arange(bucket.longest, device=like.device) < lengths[:, None]).to(like.dtype)[:, :, None, None]


def _attend_long(q: Tensor, k: Tensor, v: Tensor, angles: tuple[Tensor, Tensor], buckets: Sequence[Bucket],
                 how: Attending) -> Tensor:  # fmt: skip
    q, k = _Rotate.apply(q, *angles), _Rotate.apply(k, *angles)
    parts = []
    for bucket in buckets:
        B, L, P, J = len(bucket.lengths), bucket.longest, bucket.prefix, how.kv_heads
        queries = _block(q, bucket).transpose(1, 2)
        keys, values = _keys(k, bucket).view(B, J, P + L, -1), _keys(v, bucket).view(B, J, P + L, -1)
        plain = P == 0 and how.window is None
        result = F.scaled_dot_product_attention(
            queries,
            keys,
            values,
            attn_mask=None if plain else allowed(L, P, how.window, q.device),
            is_causal=plain,
            scale=how.scale,
            enable_gqa=True,
        )
        flat = result.transpose(1, 2).reshape(B * L, -1)
        parts.append(flat if bucket.even else flat[bucket.index[1].to(flat.device)])
    return torch.cat(parts)


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return kernels.rotate(x, cos, sin)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
        cos, sin = ctx.saved_tensors
        return kernels.rotate(dy, cos, -sin), None, None
