"""Llama and its relatives, computed on packed rows.

The parameters carry transformers' names (`model.layers.0.self_attn.q_proj.weight`), so that adapters and files are
those of the hub; only the computation is Oleaster's own. A LoRA branch is recognised on any projection by its
attributes `base`, `lora_A`, `lora_B`, `scaling`, `dropout` (see methods/lora.py) and computed together with it; a small
network behind an output projection by its function `adapt` (see methods/bottleneck.py).

Shape legend: N packed tokens, M targets, C hidden size, H query heads, J key/value heads, D head size.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from oleaster.data.batch import Batch, Bucket
from oleaster.models.architecture import Architecture, LayerKind, Rope
from oleaster.models.fused import (
    ALONE,
    Again,
    Angles,
    Attending,
    Branch,
    Projection,
    Seats,
    add_rms_norm,
    attend,
    gated,
    gated_again,
    norm_again,
    project,
    rms_norm,
)
from oleaster.models.nf4 import Nf4Linear


def linear(inputs: int, outputs: int, bias: bool) -> nn.Linear:
    """An nn.Linear of meta tensors: its weights come from a file. (Drawing numbers on the meta device, as
    `torch.device("meta")` would, makes torch import its compiler: a second of every start.)"""
    layer = nn.Linear(1, 1, bias=bias)
    layer.in_features, layer.out_features = inputs, outputs
    layer.weight = nn.Parameter(torch.empty(outputs, inputs, device="meta"))
    if bias:
        layer.bias = nn.Parameter(torch.empty(outputs, device="meta"))
    return layer


class Norm(nn.Module):
    """A learned scale; `fused.rms_norm` does the work."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width, device="meta"))


class Attention(nn.Module):
    def __init__(self, a: Architecture) -> None:
        super().__init__()
        q, kv = a.num_heads * a.head_dim, a.num_kv_heads * a.head_dim
        if a.fused_projections:
            self.qkv_proj = linear(a.hidden_size, q + 2 * kv, bias=a.qkv_bias)
        else:
            self.q_proj = linear(a.hidden_size, q, bias=a.qkv_bias)
            self.k_proj = linear(a.hidden_size, kv, bias=a.qkv_bias)
            self.v_proj = linear(a.hidden_size, kv, bias=a.qkv_bias)
        self.o_proj = linear(q, a.hidden_size, bias=a.o_bias)
        if a.qk_norm:
            self.q_norm, self.k_norm = Norm(a.head_dim), Norm(a.head_dim)


class Mlp(nn.Module):
    def __init__(self, a: Architecture) -> None:
        super().__init__()
        if a.fused_projections:
            self.gate_up_proj = linear(a.hidden_size, 2 * a.intermediate_size, bias=a.mlp_bias)
        else:
            self.gate_proj = linear(a.hidden_size, a.intermediate_size, bias=a.mlp_bias)
            self.up_proj = linear(a.hidden_size, a.intermediate_size, bias=a.mlp_bias)
        self.down_proj = linear(a.intermediate_size, a.hidden_size, bias=a.mlp_bias)


class Layer(nn.Module):
    def __init__(self, a: Architecture) -> None:
        super().__init__()
        self.self_attn, self.mlp = Attention(a), Mlp(a)
        self.input_layernorm, self.post_attention_layernorm = Norm(a.hidden_size), Norm(a.hidden_size)
        if a.post_norms:
            self.pre_feedforward_layernorm = Norm(a.hidden_size)
            self.post_feedforward_layernorm = Norm(a.hidden_size)


class Trunk(nn.Module):
    def __init__(self, a: Architecture) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(
            a.vocab_size, a.hidden_size, _weight=torch.empty(a.vocab_size, a.hidden_size, device="meta")
        )
        self.layers = nn.ModuleList(Layer(a) for _ in a.layers)
        self.norm = Norm(a.hidden_size)


class Decoder(nn.Module):
    """A causal language model of one of `architecture.FAMILIES`; `load.load_decoder` gives it its weights."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.gradient_checkpointing = False
        self.neftune_noise_alpha: float | None = None
        self.model = Trunk(architecture)
        self.lm_head = linear(architecture.hidden_size, architecture.vocab_size, bias=False)
        if architecture.tied_head:
            self.lm_head.weight = self.model.embed_tokens.weight

    @property
    def hub_model(self) -> nn.Module:
        """The module whose parameters carry transformers' names."""
        return self

    def head(self) -> tuple[Tensor, float | None]:
        """(weight [V, C], soft cap of the logits)"""
        return self.lm_head.weight, self.architecture.logit_softcap

    def target_hidden(self, batch: Batch) -> Tensor:
        """[M, C]: the normed hidden state that predicts each target of the batch."""
        needed, which = batch.target_sources.unique(return_inverse=True)
        hidden, delta = self.embed(batch), None
        angles = {kind.rope: rotary(kind.rope, batch.positions) for kind in set(self.architecture.layers)}
        last = len(self.architecture.layers) - 1
        for i, (layer, kind) in enumerate(self.layers()):
            arguments = (layer, kind, hidden, delta, angles[kind.rope], batch.buckets, needed if i == last else None)
            if self.gradient_checkpointing and self.training:
                hidden, delta = checkpoint(self.layer, *arguments, use_reentrant=False)  # type: ignore[misc]
            else:
                hidden, delta = self.layer(*arguments)
        normed, _ = self.normed(self.model.norm, hidden, delta)
        return normed[which]

    def layers(self) -> Iterator[tuple[Layer, LayerKind]]:
        """The layers from the input on, each with what is particular to it."""
        return zip(cast("Iterable[Layer]", self.model.layers), self.architecture.layers, strict=True)

    def embed(self, batch: Batch) -> Tensor:
        """[N, C]"""
        x = self.embed_ids(batch.ids)
        if self.training and self.neftune_noise_alpha:
            size = self.neftune_noise_alpha / (_row_lengths(batch).to(x.device) * x.shape[1]).sqrt()
            x = x + torch.empty_like(x).uniform_(-1.0, 1.0) * size[:, None].to(x.dtype)
        return x

    def embed_ids(self, ids: Tensor) -> Tensor:
        """[N, C]"""
        x = self.model.embed_tokens(ids)
        scale = self.architecture.embed_scale
        return x if scale == 1.0 else x * torch.tensor(scale, dtype=x.dtype)

    def logits(self, normed: Tensor) -> Tensor:
        """[N, V]"""
        logits, cap = nn.functional.linear(normed, self.lm_head.weight), self.architecture.logit_softcap
        return logits if cap is None else logits.div_(cap).tanh_().mul_(cap)

    def attending(self, kind: LayerKind) -> Attending:
        """How a layer of this kind attends."""
        a = self.architecture
        return Attending(a.num_heads, a.num_kv_heads, a.head_dim, a.query_scale, kind.window, a.attention_softcap)

    def layer(self, layer: Layer, kind: LayerKind, hidden: Tensor, delta: Tensor | None, angles: Angles,
              buckets: tuple[Bucket, ...], needed: Tensor | None) -> tuple[Tensor, Tensor]:  # fmt: skip
        """One layer; takes and gives the residual stream as two terms, summed by the norm that follows.

        `needed`: the only tokens whose result is used any more (last layer), [n] indices.
        """
        x, hidden = self.normed(layer.input_layernorm, hidden, delta)
        q, k, v = self.queries_keys_values(layer.self_attn, x, self.again(layer.input_layernorm, hidden))
        mixed = attend(q, k, v, angles, buckets, self.attending(kind))
        if needed is not None:
            mixed, hidden = mixed[needed], hidden[needed]
        return self.after_attention(layer, mixed, hidden)

    def queries_keys_values(
        self, attention: Attention, x: Tensor, again: Again | None = None, seats: Seats = ALONE
    ) -> tuple[Tensor, Tensor, Tensor]:
        """[N, H, D], [N, J, D], [N, J, D], before the rotation."""
        a = self.architecture
        if a.fused_projections:
            (qkv,) = project(x, [projection(attention.qkv_proj)], again, seats)
            widths = [n * a.head_dim for n in (a.num_heads, a.num_kv_heads, a.num_kv_heads)]
            q, k, v = (part.contiguous() for part in qkv.split(widths, -1))
        else:
            names = (attention.q_proj, attention.k_proj, attention.v_proj)
            q, k, v = project(x, [projection(p) for p in names], again, seats)
        q, k, v = (part.view(x.shape[0], -1, a.head_dim) for part in (q, k, v))
        if a.qk_norm:
            q = rms_norm(q, attention.q_norm.weight, a.norm_eps, a.norm_plus_one)
            k = rms_norm(k, attention.k_norm.weight, a.norm_eps, a.norm_plus_one)
        return q, k, v

    def after_attention(
        self, layer: Layer, mixed: Tensor, hidden: Tensor, seats: Seats = ALONE
    ) -> tuple[Tensor, Tensor]:
        """Output projection and MLP. Returns the residual stream as two terms."""
        a = self.architecture
        (out,) = project(mixed, [projection(layer.self_attn.o_proj)], None, seats)
        out = adapted(layer.self_attn.o_proj, out)
        if a.post_norms:
            out = self.normed(layer.post_attention_layernorm, out, None)[0]
        norm = layer.pre_feedforward_layernorm if a.post_norms else layer.post_attention_layernorm
        x, hidden = self.normed(norm, hidden, out)
        again = self.again(norm, hidden)
        if a.fused_projections:
            (gate_up,) = project(x, [projection(layer.mlp.gate_up_proj)], again, seats)
            gate, up = (part.contiguous() for part in gate_up.chunk(2, -1))
        else:
            both = [projection(layer.mlp.gate_proj), projection(layer.mlp.up_proj)]
            gate, up = project(x, both, again, seats)
        again = gated_again(gate, up, a.activation)
        (out,) = project(gated(gate, up, a.activation), [projection(layer.mlp.down_proj)], again, seats)
        out = adapted(layer.mlp.down_proj, out)
        if a.post_norms:
            out = self.normed(layer.post_feedforward_layernorm, out, None)[0]
        return hidden, out

    def normed(self, norm: Norm, x: Tensor, delta: Tensor | None) -> tuple[Tensor, Tensor]:
        """(norm(x + delta), x + delta)"""
        a = self.architecture
        if delta is None:
            return rms_norm(x, norm.weight, a.norm_eps, a.norm_plus_one), x
        return add_rms_norm(x, delta, norm.weight, a.norm_eps, a.norm_plus_one)

    def again(self, norm: Norm, total: Tensor) -> Again:
        """What `normed` gave for this residual sum, once more."""
        return norm_again(total, norm.weight, self.architecture.norm_eps, self.architecture.norm_plus_one)


class Shared(nn.Module):
    """A projection of one base under several adapters: who sits where has which branch."""

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        """What stands in this place in each seat's own model; all hold the same frozen weight."""


def projection(module: nn.Module) -> Projection:
    """The tensors of a projection, with its LoRA branch if one is attached."""
    if isinstance(module, Shared):
        parts = [projection(member) for member in module.members]
        return replace(parts[0], branches=tuple(part.branches[0] for part in parts))
    if hasattr(module, "lora_A"):
        plain = projection(module.base)  # type: ignore[arg-type]
        dropout = module.dropout if module.training else 0.0
        return replace(plain, branches=(Branch(module.lora_A, module.lora_B, module.scaling, dropout),))  # type: ignore[arg-type]
    return Projection(module if isinstance(module, Nf4Linear) else module.weight, module.bias)  # type: ignore[arg-type]


def adapted(module: nn.Module, out: Tensor) -> Tensor:
    """The result of a projection, through the small network that may stand behind it."""
    return module.adapt(out) if hasattr(module, "adapt") else out  # type: ignore[operator]


def rotary(rope: Rope, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine, [N, width / 2] float32."""
    angles = positions.float()[:, None] * torch.tensor(rope.inv_freq, device=positions.device)[None, :]
    return angles.cos(), angles.sin()


def _row_lengths(batch: Batch) -> Tensor:
    """[N] how many tokens the row of each token has; the prefix counts as the longest row's."""

    def parts() -> Iterator[int]:
        yield from [batch.prefix + batch.lengths[0]] * batch.prefix
        for length in batch.lengths:
            yield from [batch.prefix + length] * length

    return torch.tensor(list(parts()))
