"""A space, and a loss over it that is no training."""

from __future__ import annotations

import math
from typing import Any

SPACE: dict[str, Any] = {
    "learning_rate": {"type": "float", "low": 1e-5, "high": 1e-1, "log": True},
    "lora_r": {"type": "int", "low": 2, "high": 64},
    "lr_scheduler_type": ["cosine", "linear"],
}


def loss_of(point: dict[str, str]) -> float:
    """A valley: low near learning_rate 1e-3 and rank 16."""
    return abs(math.log10(float(point.get("learning_rate", "1e-3"))) + 3) + abs(int(point["lora_r"]) - 16) / 5000
