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
from oleaster.models.kernels import Angles


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


def attend(q_NHD: Tensor, k_NJD: Tensor, v_NJD: Tensor, angles: Angles, buckets: Sequence[Bucket],
           how: Attending) -> Tensor:  # fmt: skip
    """Rotate q and k, let every row attend to the prefix and its own past. Returns [N, H * D].

    Short rows go through two batched products with the key/value heads never repeated; from `LONG` keys on, torch's
    flash attention keeps memory linear.
    """
    if how.softcap is None and max(b.longest + b.prefix for b in buckets) > LONG:
        return _attend_long(q_NHD, k_NJD, v_NJD, angles, buckets, how)
    return _Attend.apply(q_NHD, k_NJD, v_NJD, angles, buckets, how)  # type: ignore[return-value]


LONG = 384


class _Attend(torch.autograd.Function):
    """A bucket's queries are one block [B * J, G * L, D] (the heads of a key/value head side by side), its keys and
    values one block [B * J, P + L, D] with the prefix in front of each row."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, angles: Angles, buckets: Sequence[Bucket],
                how: Attending) -> Tensor:  # fmt: skip
        out = torch.empty_like(q)
        kept: list[Tensor] = []
        for bucket in buckets:
            queries, keys, values = _blocks(q, k, v, angles, bucket)
            scores, capped = torch.bmm(queries, keys.transpose(1, 2)), None
            by_query = scores.view(-1, bucket.longest, keys.shape[1])
            if how.softcap is None:
                kernels.softmax(by_query, bucket.prefix, how.window, how.scale)
            else:
                capped = scores.mul(how.scale / how.softcap).tanh_()
                torch.mul(capped, how.softcap, out=scores)
                kernels.softmax(by_query, bucket.prefix, how.window, 1.0)
            result = torch.bmm(scores, values).view(len(bucket.lengths), how.heads, bucket.longest, how.head_dim)
            kernels.from_block(result, out, bucket, 0, None)
            kept += [scores] if capped is None else [scores, capped]
        ctx.save_for_backward(q, k, v, *angles, *kept)
        ctx.buckets, ctx.how = buckets, how
        return out.view(out.shape[0], -1)

    @staticmethod
    def backward(ctx: Any, dout: Tensor) -> tuple[Any, ...]:
        q, k, v, cos, sin, *kept = ctx.saved_tensors
        how, kept = ctx.how, iter(kept)
        dout, angles = dout.view(q.shape), (cos, sin)
        dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        of_prefix: list[tuple[Tensor, Tensor]] = []
        for bucket in ctx.buckets:
            queries, keys, values = _blocks(q, k, v, angles, bucket)
            share = next(kept)
            grad = kernels.to_block(dout, bucket, 0, None).view(queries.shape)
            dvalues = torch.bmm(share.transpose(1, 2), grad)
            dscores = torch.bmm(grad, values.transpose(1, 2))
            kernels.softmax_backward(share, dscores, how.scale)
            if how.softcap is not None:
                capped = next(kept)
                dscores.addcmul_(dscores, capped.square(), value=-1.0)
            dqueries = torch.bmm(dscores, keys).view(len(bucket.lengths), how.heads, bucket.longest, how.head_dim)
            kernels.from_block(dqueries, dq, bucket, 0, angles)
            shape = (len(bucket.lengths), how.kv_heads, bucket.prefix + bucket.longest, how.head_dim)
            dkeys = torch.bmm(dscores.transpose(1, 2), queries).view(shape)
            prefix_dk = kernels.from_block(dkeys, dk, bucket, bucket.prefix, angles)
            prefix_dv = kernels.from_block(dvalues.view(shape), dv, bucket, bucket.prefix, None)
            if prefix_dk is not None and prefix_dv is not None:
                of_prefix.append((prefix_dk, prefix_dv))
        if of_prefix:
            # the prefix's own bucket has written its part already; add what the rows send back
            size = of_prefix[0][0].shape[0]
            back = (cos[:size], -sin[:size])
            dk[:size] += kernels.rotate(torch.stack([part for part, _ in of_prefix]).sum(0), back).to(dk.dtype)
            dv[:size] += torch.stack([part for _, part in of_prefix]).sum(0).to(dv.dtype)
        return dq, dk, dv, None, None, None


def _blocks(q: Tensor, k: Tensor, v: Tensor, angles: Angles, bucket: Bucket) -> tuple[Tensor, Tensor, Tensor]:
    """[B * J, G * L, D], [B * J, P + L, D] and the same for the values."""
    queries = kernels.to_block(q, bucket, 0, angles)
    keys = kernels.to_block(k, bucket, bucket.prefix, angles).flatten(0, 1)
    values = kernels.to_block(v, bucket, bucket.prefix, None).flatten(0, 1)
    return queries.view(keys.shape[0], -1, q.shape[-1]), keys, values


def _attend_long(q: Tensor, k: Tensor, v: Tensor, angles: Angles, buckets: Sequence[Bucket],
                 how: Attending) -> Tensor:  # fmt: skip
    q, k = kernels.rotate(q, angles), kernels.rotate(k, angles)
    parts = []
    for bucket in buckets:
        queries = _LineToBlock.apply(q, bucket, 0)
        keys, values = _LineToBlock.apply(k, bucket, bucket.prefix), _LineToBlock.apply(v, bucket, bucket.prefix)
        plain = bucket.prefix == 0 and how.window is None
        visible = None if plain else kernels.visible(bucket.longest, bucket.prefix, how.window, q.device)
        result = F.scaled_dot_product_attention(
            queries, keys, values, attn_mask=visible, is_causal=plain, scale=how.scale, enable_gqa=True
        )
        parts.append(result.transpose(1, 2).flatten(0, 1)[bucket.places.to(q.device)])
    return torch.cat(parts).flatten(1)


class _LineToBlock(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, line: Tensor, bucket: Bucket, prefix: int) -> Tensor:
        ctx.bucket, ctx.prefix, ctx.shape = bucket, prefix, line.shape
        return kernels.to_block(line, bucket, prefix, None)

    @staticmethod
    def backward(ctx: Any, dblock: Tensor) -> tuple[Any, ...]:
        dline = dblock.new_zeros(ctx.shape)
        of_prefix = kernels.from_block(dblock, dline, ctx.bucket, ctx.prefix, None)
        if of_prefix is not None:
            dline[: ctx.prefix] += of_prefix.to(dline.dtype)
        return dline, None, None
