"""Which number type the frozen base is fastest in, found out by trying."""

from __future__ import annotations

import time
from typing import Any

import torch

WORTH = 1.1
"""bfloat16 must be this much faster than float32: it also rounds."""


def choose_dtype(wanted: str, config: dict[str, Any], device: torch.device) -> tuple[torch.dtype, str]:
    """(type, why) for base weights and activations.

    Args:
        wanted: `float32`, `bfloat16`, or `auto`: the faster one for a matrix product of the model's own size. On a CPU
            that is bfloat16 where the processor multiplies it in hardware (AMX, most AVX512-BF16), else float32.
        config: config.json of the model.
    """
    if wanted != "auto":
        return getattr(torch, wanted), "asked for"
    if device.type == "cuda":
        good = torch.cuda.is_bf16_supported()
        return (torch.bfloat16 if good else torch.float32), f"the GPU {'has' if good else 'lacks'} bfloat16"
    hidden = config.get("hidden_size") or config.get("n_embd") or 1024
    inner = config.get("intermediate_size") or 4 * hidden
    seconds = {dtype: _product_seconds(dtype, hidden, inner) for dtype in (torch.float32, torch.bfloat16)}
    gain = seconds[torch.float32] / seconds[torch.bfloat16]
    why = f"a {hidden} x {inner} product is {gain:.2f} times as fast in bfloat16 as in float32 on this machine"
    return (torch.bfloat16 if gain >= WORTH else torch.float32), why


def _product_seconds(dtype: torch.dtype, hidden: int, inner: int, tokens: int = 256) -> float:
    """Shortest of five products [tokens, hidden] x [hidden, inner], after one to warm up."""
    x, weight = torch.ones(tokens, hidden, dtype=dtype), torch.ones(inner, hidden, dtype=dtype)
    best = float("inf")
    for attempt in range(6):
        begun = time.perf_counter()
        torch.nn.functional.linear(x, weight)
        best = min(best, time.perf_counter() - begun) if attempt else best
    return best
