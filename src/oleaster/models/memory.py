"""How much memory a training needs, by arithmetic on config.json and the headers of the weights.

What it means: bytes of the tensors that live at the end of a forward pass, and of the process itself. Left out: the
short-lived gradients of one layer and the allocator's slack, so a measured peak lies somewhat above it. The
activations are those of Oleaster's own decoder; the generic path keeps two to three times as many.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

RUNTIME = 400_000_000
"""Bytes of a process with torch, transformers and a tokenizer loaded (measured: 260 to 420 MB on Linux)."""
CHUNK = 128
"""Targets whose logits exist at one time: 128 x 49,152 float32 are 25 MB."""
LONG = 384
"""Keys from which on attention goes through torch's flash kernel and keeps no scores."""
OPTIMIZER_BYTES = {"sgd": 0, "adafactor": 0, "rmsprop": 4, "adagrad": 4}
"""State per trained number; AdamW, in `ADAMW_BYTES`, keeps two float32."""
ADAMW_BYTES = 8
NF4_BYTES = 0.5 + 4 / 64
"""Per number held in 4 bits, its part of a scale included."""


@dataclass(frozen=True)
class Memory:
    """Bytes."""

    weights: int
    """The frozen base; 0 where all of it is trained."""
    trained: int
    """Float32 masters, their gradients and the optimiser's state."""
    activations: int
    """What the forward pass keeps for the backward pass."""
    logits: int
    """One chunk of logits and its gradient."""
    runtime: int = RUNTIME

    @property
    def total(self) -> int:
        return self.weights + self.trained + self.activations + self.logits + self.runtime


def estimate(
    config: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
    *,
    trained: int,
    tokens: int,
    longest: int,
    rank: int = 0,
    weight_bytes: int = 4,
    nf4: bool = False,
    optim: str = "adamw",
    gradient_checkpointing: bool = False,
) -> Memory:
    """Memory of one training step.

    Args:
        config: config.json of a Llama-like model or GPT-2.
        shapes: every tensor's shape by name, as `models.sanity.read_shapes` gives them.
        trained: how many numbers are trained, as `Method.trained_numbers(shapes)` gives it.
        tokens: tokens in one packed batch (a shared prefix counts once).
        longest: tokens of its longest row.
        rank: of the low-rank updates; 0 without.
        weight_bytes: bytes per number of base and activations: 4, or 2 for bfloat16.
        nf4: the linear layers, the head apart, are held in 4 bits.
    """
    numbers = sum(math.prod(shape) for shape in shapes.values())
    packed = sum(math.prod(shape) for name, shape in shapes.items() if nf4 and name.endswith("proj.weight"))
    whole = trained >= numbers
    layers = config.get("num_hidden_layers") or config["n_layer"]
    layer = kept_per_token(config, longest, rank)
    hidden = config.get("hidden_size") or config["n_embd"]
    kept = 2 * hidden * layers + layer if gradient_checkpointing else layer * layers
    return Memory(
        weights=0 if whole else weight_bytes * (numbers - packed) + int(NF4_BYTES * packed),
        trained=trained * (4 + 4 + OPTIMIZER_BYTES.get(optim, ADAMW_BYTES)),
        activations=(4 if whole else weight_bytes) * tokens * kept,
        logits=2 * 4 * CHUNK * config["vocab_size"],
    )


def kept_per_token(config: Mapping[str, Any], longest: int, rank: int) -> int:
    """Numbers that one layer keeps for each token.

    The residual stream, twice; q, k, v and the mixed values; gate and up; the inner values of seven low-rank branches;
    one row of attention scores per head. (Normed inputs and the gated product are made again, see models/fused.py.)
    """
    hidden = config.get("hidden_size") or config["n_embd"]
    heads = config.get("num_attention_heads") or config["n_head"]
    kv_heads = config.get("num_key_value_heads") or heads
    head_dim = config.get("head_dim") or hidden // heads
    inner = config.get("intermediate_size") or config.get("n_inner") or 4 * hidden
    scores = heads * longest if longest <= LONG else 0
    return 2 * hidden + 2 * (heads + kv_heads) * head_dim + 2 * inner + 7 * rank + scores
