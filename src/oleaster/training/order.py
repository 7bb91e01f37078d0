"""Which rows make up which step: decided by the settings alone, so that a resumed run meets the same ones."""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from oleaster.config.schema import Config
from oleaster.data.papers import Encoded
from oleaster.training.cluster import Cluster


@dataclass(frozen=True)
class Plan:
    """How many steps there are, and when what happens."""

    steps_per_epoch: int
    total_steps: int
    eval_steps: int | None
    save_steps: int

    @classmethod
    def of(cls, config: Config, rows: int, validation: int, processes: int = 1) -> Plan:
        """The plan for `rows` training rows and `validation` held-out ones."""
        t, w = config.training, config.watch
        batches = math.ceil(rows / (t.per_device_train_batch_size * processes))
        per_epoch = math.ceil(batches / t.gradient_accumulation_steps)
        given = t.max_steps if t.max_steps is not None and t.max_steps > 0 else None
        total = given or max(1, math.ceil(t.num_train_epochs * per_epoch))
        evaluate = (w.eval_steps or max(1, min(per_epoch, total) // 2)) if validation else None
        return cls(per_epoch, total, evaluate, w.save_steps or evaluate or 100)


def rows_of_step(
    rows: Sequence[Encoded], config: Config, plan: Plan, step: int, cluster: Cluster
) -> list[list[Encoded]]:
    """The rows of each forward pass of optimiser step `step` on this process.

    Each epoch has an order of its own, drawn from seed and epoch alone; a process takes every size-th row, so that the
    rows of a step are the same however many processes share them.
    """
    t = config.training
    epoch, within = divmod(step, plan.steps_per_epoch)
    order = _order(len(rows), config.seed * 100_003 + epoch)
    size = t.per_device_train_batch_size * cluster.size
    first = within * t.gradient_accumulation_steps
    starts = range(first * size, min((first + t.gradient_accumulation_steps) * size, len(rows)), size)
    return [[rows[i] for i in order[at : at + size][cluster.rank :: cluster.size].tolist()] for at in starts]


@functools.lru_cache(maxsize=8)
def _order(rows: int, seed: int) -> torch.Tensor:
    """[rows]: all rows in the order of an epoch; kept, as every step of the epoch asks for it."""
    return torch.randperm(rows, generator=torch.Generator().manual_seed(seed))


def seed_of_step(seed: int, step: int, rank: int) -> int:
    """What the random numbers of a step (dropout, NEFTune) are drawn from: every process has its own, and a resumed
    training needs nobody's state to draw them again."""
    return int.from_bytes(hashlib.sha256(f"{seed} {step} {rank}".encode()).digest()[:7], "big")


def hash_rows(rows: Sequence[Encoded]) -> str:
    """Sixteen hex digits that change when any token or target does."""
    digest = hashlib.sha256()
    for row in rows:
        further = (row.sources, row.pair and (row.pair.input_ids, row.pair.sources), row.similarity)
        digest.update(repr((row.input_ids, row.targets, *(further if any(further) else ()))).encode())
    return digest.hexdigest()[:16]
