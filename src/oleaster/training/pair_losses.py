"""Losses of pairs of texts: two embeddings and how alike they should be, one value for each pair.

Shape legend: Q pairs, C width of an embedding. `similarity` is 0 to 1.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from oleaster.training.losses import losses


@losses.register("contrastive")
def contrastive(output1: Tensor, output2: Tensor, similarity: Tensor, margin: float = 1.0) -> Tensor:
    """Squared distance of what is alike, squared shortfall to `margin` of what is not, [Q] (Hadsell et al. 2006).

    A similarity between 0 and 1 weighs the two.
    """
    distance = F.pairwise_distance(output1, output2)
    return similarity * distance**2 + (1.0 - similarity) * (margin - distance).clamp(min=0.0) ** 2


@losses.register("cosine")
def cosine(output1: Tensor, output2: Tensor, similarity: Tensor) -> Tensor:
    """Squared difference of cosine and similarity, [Q] (Reimers and Gurevych 2019)."""
    return (F.cosine_similarity(output1, output2) - similarity) ** 2


@losses.register("info_nce")
def info_nce(
    output1: Tensor, output2: Tensor, similarity: Tensor, temperature: float = 0.05, alike: float = 0.5
) -> Tensor:
    """-ln of the share that each text gives its partner among all second texts, by cosine, [Q] (van den Oord 2018).

    The other pairs of the same forward pass are the wrong answers, so more rows in a pass make a harder and better
    lesson, and accumulation adds none. Pairs whose similarity is below `alike` are wrong answers only.
    """
    cosines = F.normalize(output1, dim=-1) @ F.normalize(output2, dim=-1).t()
    partners = torch.arange(len(cosines), device=cosines.device)
    nats = F.cross_entropy(cosines / temperature, partners, reduction="none")
    return nats * (similarity >= alike)
