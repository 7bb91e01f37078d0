"""Losses of single predictions: logits and what should have come, one value for each target.

They serve generation and heads alike. Shape legend: M targets, V vocabulary or labels.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from oleaster.training.losses import losses


@losses.register("cross_entropy")
def cross_entropy(logits: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """-ln p(target), [M] in nats. (A generating model computes the same number in one pass: `losses.cross_entropy`.)"""
    return F.cross_entropy(logits, targets, reduction="none", label_smoothing=label_smoothing)


@losses.register("focal")
def focal(logits: Tensor, targets: Tensor, gamma: float = 2.0) -> Tensor:
    """(1 - p)^gamma times the cross-entropy, [M]: what is known already counts little (Lin et al. 2017).

    For rare labels and hard rows; `gamma=0` is the cross-entropy. Probabilities come out less sure than they are right.
    """
    nats = F.cross_entropy(logits, targets, reduction="none")
    return (1.0 - (-nats).exp()) ** gamma * nats


@losses.register("distillation")
def distillation(
    logits: Tensor, targets: Tensor, teacher_logits: Tensor, temperature: float = 2.0, share: float = 0.5
) -> Tensor:
    """`share` times KL(teacher || model) at `temperature`, the rest cross-entropy, [M] in nats (Hinton et al. 2015).

    The KL divergence is multiplied by temperature squared, so that its gradient does not shrink with it.
    """
    wanted, found = F.log_softmax(teacher_logits / temperature, -1), F.log_softmax(logits / temperature, -1)
    divergence = F.kl_div(found, wanted, reduction="none", log_target=True).sum(-1) * temperature**2
    return share * divergence + (1.0 - share) * F.cross_entropy(logits, targets, reduction="none")
