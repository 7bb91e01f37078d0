"""Eyes on the machine: what slows a training down, told once, with the step and what to do.

A report counts when it is about at least a second; three in a row are no accident.
"""

from __future__ import annotations

from dataclasses import dataclass

from oleaster.training.reports import Notice, StepReport

_SHORTEST = 1.0
"""Seconds; below, the clock of a process's CPU time is too coarse."""


@dataclass
class IdleCoresWatch:
    """Notices when the threads that were given to the training wait."""

    threads: int
    reports: int = 3
    share: float = 0.6
    """Use of the threads below which they idle."""
    seen: int = 0
    noticed: bool = False

    def update(self, report: StepReport) -> Notice | None:
        """Take in one report; the first step, with its one-time work, and training on a GPU do not count."""
        if report.seconds < _SHORTEST or report.step == 1 or report.gpu_memory_mb is not None:
            return None
        used = report.cpu_percent / (100 * self.threads)
        self.seen = self.seen + 1 if used < self.share else 0
        if self.noticed or self.seen < self.reports:
            return None
        self.noticed = True
        others = report.machine_cpu_percent - report.cpu_percent
        if others > (1 - self.share) * 100 * self.threads:
            why = f"other programs use {others / 100:.1f} cores: end them, or give this training fewer num_threads"
        else:
            why = "the rows of a step are too few for them: a larger per_device_train_batch_size, or fewer num_threads"
        return Notice(
            report.step,
            "idle_cores",
            f"Idle cores: {report.cpu_percent / 100:.1f} of {self.threads} threads are busy. Probably {why}.",
        )


@dataclass
class StarvationWatch:
    """Notices when the model waits for its rows."""

    reports: int = 3
    share: float = 0.2
    """Share of the time spent on rows that is too much."""
    seen: int = 0
    noticed: bool = False

    def update(self, report: StepReport) -> Notice | None:
        """Take in one report."""
        if report.seconds < _SHORTEST:
            return None
        waited = report.preparing_seconds / report.seconds
        self.seen = self.seen + 1 if waited > self.share else 0
        if self.noticed or self.seen < self.reports:
            return None
        self.noticed = True
        return Notice(
            report.step,
            "data_starvation",
            f"Data starvation: {waited:.0%} of the time goes into choosing and packing rows, during which the model "
            f"waits. A larger per_device_train_batch_size packs more at once; a shorter max_length has less to pack.",
        )


@dataclass
class SwapWatch:
    """Notices when memory of the training lies on the disk."""

    limit_mb: float = 64.0
    """MiB that any long process may have there."""
    noticed: bool = False

    def update(self, report: StepReport) -> Notice | None:
        """Take in one report."""
        if self.noticed or report.swap_mb <= self.limit_mb:
            return None
        self.noticed = True
        return Notice(
            report.step,
            "swap",
            f"Swapping: {report.swap_mb:,.0f} MB of the training lie on the disk, every step waits for them. A smaller "
            f"per_device_train_batch_size, gradient_checkpointing, bf16 or a shorter max_length need less memory; "
            f"programs beside this one can be ended.",
        )
