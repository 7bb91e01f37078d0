"""What the loop tells whoever watches. Each is one JSON line of the run's log."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class StepReport:
    """One optimiser step, or the mean over the steps since the last report."""

    step: int
    """Optimiser steps done."""
    total_steps: int
    epoch: float
    loss: float
    """Nats per target token, mean over the target tokens since the last report."""
    learning_rate: float
    grad_norm: float
    """Norm before clipping, of the last step."""
    target_tokens: int
    """Learned tokens since the last report."""
    input_tokens: int
    """Tokens that went through the model since the last report (a shared prefix counts once)."""
    rows: int
    """Rows since the last report."""
    seconds: float
    """Wall time of these steps."""
    memory_mb: float
    """Resident memory of the process in MiB (1024 * 1024 bytes)."""
    peak_memory_mb: float
    cpu_percent: float
    """Process CPU time over wall time; 200 = two busy cores."""
    gpu_memory_mb: float | None = None


@dataclass(frozen=True)
class EvalReport:
    """One validation."""

    step: int
    total_steps: int
    epoch: float
    eval_loss: float
    """Nats per target token on the validation rows."""
    train_loss: float
    """Mean training loss since the validation before."""
    target_tokens: int
    seconds: float
    best: bool
    """Is this the lowest validation loss so far?"""


@dataclass(frozen=True)
class Notice:
    """Something the user should know: a fallback, a sign of overfitting, a damaged checkpoint."""

    step: int
    kind: str
    """Short stable name: `overfitting`, `early_stop`, `generic_path`, `checkpoint_damaged`, ..."""
    text: str
    """One or two sentences: what was seen, what it means, what to do."""


Event = StepReport | EvalReport | Notice
Sink = Callable[[Event], None]
