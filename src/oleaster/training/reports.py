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
    machine_cpu_percent: float = 0.0
    """CPU time of all programs over wall time; 200 = two busy cores."""
    swap_mb: float = 0.0
    """Memory of the process that lies on the disk, in MiB; 0 where the system does not say."""
    preparing_seconds: float = 0.0
    """Part of `seconds` in which rows were chosen and packed."""


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


def scalars(event: Event) -> dict[str, float]:
    """The figures of an event under the names that TensorBoard and MLflow show; none of a notice."""
    if isinstance(event, EvalReport):
        return {"eval/loss": event.eval_loss}
    if isinstance(event, Notice):
        return {}
    scalars = {
        "train/loss": event.loss,
        "lr": event.learning_rate,
        "grad_norm": event.grad_norm,
        "tokens_per_second": event.input_tokens / event.seconds if event.seconds > 0 else 0.0,
        "memory_mb": event.memory_mb,
        "peak_memory_mb": event.peak_memory_mb,
        "cpu_percent": event.cpu_percent,
        "machine_cpu_percent": event.machine_cpu_percent,
        "swap_mb": event.swap_mb,
    }
    return scalars if event.gpu_memory_mb is None else {**scalars, "gpu_memory_mb": event.gpu_memory_mb}
