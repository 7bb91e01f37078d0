"""The pieces of a decoder layer, each with its gradient written out.

Plain autograd keeps every intermediate and walks LoRA's thin products one by one; here each piece keeps only what its
gradient needs and touches memory as seldom as possible. The element-wise work runs in `kernels` (compiled C where a
compiler is there, torch otherwise). `tests/numerics` compares loss and every gradient with transformers' own code.

Shape legend: N packed tokens, K inputs, O outputs of a projection, r rank, H query heads, J key/value heads,
G = H / J, D head size, B rows of a bucket, L places per row, P prefix tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from oleaster.data.batch import Bucket
from oleaster.models import kernels
from oleaster.models.kernels import Angles
from oleaster.models.memory import LONG
from oleaster.models.nf4 import Nf4Linear


class Branch(NamedTuple):
    """A low-rank update beside a linear map: + scale * B A x."""

    a: Tensor
    """[r, K] float32"""
    b: Tensor
    """[O, r] float32"""
    scale: float
    dropout: float


@dataclass(frozen=True)
class Projection:
    """A linear map y = W x + b and the branch that each seat has on it."""

    weight: Tensor | Nf4Linear
    """[O, K], or the layer that makes it from 4 bits"""
    bias: Tensor | None
    """[O]"""
    branches: tuple[Branch | None, ...] = (None,)
    """One for each seat."""


Seats = Sequence[slice]
"""Who sits where on the line: each adapter acts on tokens of its own. One adapter has them all."""
ALONE: Seats = (slice(None),)

Again = Callable[[], Tensor]
"""Makes an element-wise result once more from what is kept anyway: the same bits, for less than keeping them costs."""


def project(
    x_NK: Tensor, projections: Sequence[Projection], again: Again | None = None, seats: Seats = ALONE
) -> tuple[Tensor, ...]:
    """All projections of one input. One dropout mask serves a seat's branches on the group.

    Args:
        again: gives `x_NK` once more on the way back, so that it need not be kept.
        seats: the tokens of each seat; every projection has as many branches.
    """
    packed = [p.weight if isinstance(p.weight, Nf4Linear) else None for p in projections]
    plain = [t for p, held in zip(projections, packed, strict=True) for t in (None if held else p.weight, p.bias)]
    group = _Group(packed, [], again)
    thin: list[Tensor] = []
    for seat, tokens in enumerate(seats):
        branches = [(i, p.branches[seat]) for i, p in enumerate(projections)]
        found = [(i, branch) for i, branch in branches if branch is not None]
        if found:
            dropout = max(branch.dropout for _, branch in found) if torch.is_grad_enabled() else 0.0
            at = 2 * len(projections) + len(thin)
            group.seats.append(_Seat(tokens, dropout, at, [(i, branch.scale) for i, branch in found]))
            thin += [t for _, branch in found for t in (branch.a, branch.b)]
    return _Project.apply(x_NK, group, *plain, *thin)  # type: ignore[return-value]


class _Seat(NamedTuple):
    """A seat's branches on a group of projections."""

    tokens: slice
    dropout: float
    first: int
    """Place of its first A among the tensors of the group; B follows A, branch follows branch."""
    branches: list[tuple[int, float]]
    """(which projection, scale)"""

    def drop(self, x: Tensor, seed: int) -> Tensor:
        return kernels.dropped(x, self.dropout, seed) if self.dropout > 0.0 else x

    def pairs(self, tensors: Sequence[Tensor | None]) -> Iterator[tuple[int, float, Tensor, Tensor, slice]]:
        """(projection, scale, A, B, where the branch's columns lie among the R of all A's together)"""
        at = 0
        for k, (i, scale) in enumerate(self.branches):
            a, b = tensors[self.first + 2 * k], tensors[self.first + 2 * k + 1]
            assert a is not None
            assert b is not None
            yield i, scale, a, b, slice(at, at + a.shape[0])
            at += a.shape[0]


class _Group(NamedTuple):
    packed: list[Nf4Linear | None]
    """For each projection the layer that makes its weight; None where the weight is a tensor."""
    seats: list[_Seat]
    again: Again | None

    def weight(self, i: int, tensors: Sequence[Tensor | None], dtype: torch.dtype) -> Tensor:
        """[O, K] of projection i."""
        held, tensor = self.packed[i], tensors[2 * i]
        return held.numbers(dtype) if held is not None else tensor  # type: ignore[return-value]


class _Project(torch.autograd.Function):
    """The A's of a seat are one matrix [R, K], so that the input is read once for all branches, and once on the way
    back; the thin products with B go straight into the outputs of the frozen matrices."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: _Group, *tensors: Tensor | None) -> Any:
        several = range(len(group.packed))
        outputs = [F.linear(x, group.weight(i, tensors, x.dtype), tensors[2 * i + 1]) for i in several]
        kept: list[Tensor | None] = []
        ctx.scaled, ctx.seeds = [], []
        for seat in group.seats:
            seed = int(torch.randint(2**31, ())) if seat.dropout > 0.0 else 0
            a_RK = torch.cat([a for _, _, a, _, _ in seat.pairs(tensors)]).to(x.dtype)
            h_NR = seat.drop(x[seat.tokens], seed) @ a_RK.t()
            for i, scale, _, b, ranks in seat.pairs(tensors):
                ctx.scaled.append((b * scale).to(x.dtype))
                outputs[i][seat.tokens].addmm_(h_NR[:, ranks], ctx.scaled[-1].t())
            kept += [a_RK, h_NR]
            ctx.seeds.append(seed)
        ctx.needs_x = bool(group.seats) or any(ctx.needs_input_grad[2 : 2 + 2 * len(group.packed) : 2])
        ctx.save_for_backward(x if ctx.needs_x and group.again is None else None, *kept, *tensors)
        ctx.group = group
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        group: _Group = ctx.group
        x, *saved = ctx.saved_tensors
        kept, tensors = saved[: 2 * len(group.seats)], saved[2 * len(group.seats) :]
        if ctx.needs_x and group.again is not None:
            x = group.again()
        needs = ctx.needs_input_grad[2:]
        results: list[Tensor | None] = [None] * len(tensors)
        dx, scaled = None, iter(ctx.scaled)
        grads = tuple(dy.contiguous() for dy in grads)
        for i, dy in enumerate(grads):
            bias = tensors[2 * i + 1]
            if ctx.needs_input_grad[0]:
                weight = group.weight(i, tensors, dy.dtype)
                dx = dy @ weight if dx is None else dx.addmm_(dy, weight)
            if needs[2 * i]:
                results[2 * i] = dy.t() @ x
            if bias is not None and needs[2 * i + 1]:
                results[2 * i + 1] = dy.sum(0)
        for s, seat in enumerate(group.seats):
            (a_RK, h_NR), seed = kept[2 * s : 2 * s + 2], ctx.seeds[s]
            g_NR = torch.empty_like(h_NR)
            for k, (i, scale, _, b, ranks) in enumerate(seat.pairs(tensors)):
                dy = grads[i][seat.tokens]
                torch.mm(dy, next(scaled), out=g_NR[:, ranks])
                results[seat.first + 2 * k + 1] = (dy.t() @ h_NR[:, ranks]).to(b.dtype).mul_(scale)
            da_RK = (g_NR.t() @ seat.drop(x[seat.tokens], seed)).float()
            for k, (_, _, _, _, ranks) in enumerate(seat.pairs(tensors)):
                results[seat.first + 2 * k] = da_RK[ranks]
            if dx is not None and seat.dropout > 0.0:
                dx[seat.tokens] += seat.drop(g_NR @ a_RK, seed)
            elif dx is not None:
                dx[seat.tokens].addmm_(g_NR, a_RK)
        return dx, None, *results


def rms_norm(x: Tensor, weight: Tensor, eps: float, plus_one: bool) -> Tensor:
    """x / rms(x) * weight over the last dimension (Zhang & Sennrich 2019); `plus_one`: times 1 + weight (Gemma)."""
    return _RmsNorm.apply(x, None, weight, eps, plus_one)[0]  # type: ignore[index]


def add_rms_norm(x: Tensor, delta: Tensor, weight: Tensor, eps: float, plus_one: bool) -> tuple[Tensor, Tensor]:
    """(rms_norm(x + delta), x + delta): the residual sum and the norm behind it in one pass."""
    return _RmsNorm.apply(x, delta, weight, eps, plus_one)  # type: ignore[return-value]


def norm_again(total: Tensor, weight: Tensor, eps: float, plus_one: bool) -> Again:
    """The norm's result from its input, the residual sum."""
    total, weight = total.detach(), weight.detach()
    return lambda: rms_norm(total, weight, eps, plus_one)


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


def gated_again(gate: Tensor, up: Tensor, activation: str) -> Again:
    """The gated product from its factors."""
    gate, up = gate.detach(), up.detach()
    return lambda: kernels.gated(gate, up, activation)


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
