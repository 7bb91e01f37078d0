"""Several processes on one training: who this one is, and sums over all of them.

Started by `torchrun` or `accelerate launch`, accelerate sets up the processes (gloo on CPU, nccl on GPU); a single
process never imports it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class Cluster:
    """This process among `size`."""

    rank: int
    size: int
    device: torch.device

    @classmethod
    def alone(cls) -> Cluster:
        """One process, on the GPU if there is one."""
        return cls(0, 1, torch.device("cuda" if torch.cuda.is_available() else "cpu"))

    @classmethod
    def join(cls) -> Cluster:
        """The processes that a launcher started together, else this one alone."""
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls.alone()
        from accelerate import PartialState

        state = PartialState(cpu=not torch.cuda.is_available())
        return cls(state.process_index, state.num_processes, torch.device(str(state.device)))

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def sum(self, value: float) -> float:
        """Sum of a number over all processes, exact for whole numbers below 2^53."""
        if self.size == 1:
            return value
        total = torch.tensor(value, dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(total)
        return total.item()

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Add up the gradients of all processes, in one message."""
        if self.size == 1:
            return
        held = list(parameters)
        grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in held]
        flat = torch.cat([g.reshape(-1) for g in grads])
        torch.distributed.all_reduce(flat)
        for parameter, part in zip(held, flat.split([g.numel() for g in grads]), strict=True):
            parameter.grad = part.view_as(parameter)

    def wait(self) -> None:
        """Until all processes are here."""
        if self.size > 1:
            torch.distributed.barrier()
