"""From logits to the next token, the same for every backend.

Numpy only, so that an exported model answers without torch. A sampled answer depends on the seed, its prompt and its
own logits, not on the batch it was computed in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from oleaster.inference.predictor import Sampling, Score

Logits = NDArray[np.float32]


def generators(prompts: Sequence[Sequence[int]], seed: int) -> list[np.random.Generator]:
    """One source of randomness per prompt, seeded by the seed, the prompt and how often the prompt came before.

    A prompt given n times yields n different answers; the same prompt in another call yields the same ones.
    """
    seen: Counter[tuple[int, ...]] = Counter()
    made = []
    for prompt in prompts:
        key = tuple(prompt)
        made.append(np.random.default_rng([seed, seen[key], *key]))
        seen[key] += 1
    return made


def choose(logits: Logits, sampling: Sampling, sources: Sequence[np.random.Generator]) -> NDArray[np.int64]:
    """The next token of each row.

    Args:
        logits: [rows, vocabulary]
        sources: one generator per row; a greedy choice draws nothing.

    Returns:
        [rows]; of equally likely tokens the greedy choice is the one with the lowest id.
    """
    if sampling.temperature == 0.0:
        return logits.argmax(axis=1)
    return np.array([_sample(row, sampling, source) for row, source in zip(logits, sources, strict=True)], np.int64)


def _sample(logits: Logits, sampling: Sampling, source: np.random.Generator) -> int:
    """Temperature first, then top-k, then top-p, as in Hugging Face's generate."""
    candidates = np.arange(logits.size)
    if 0 < sampling.top_k < logits.size:
        candidates = np.argpartition(logits, -sampling.top_k)[-sampling.top_k :]
    candidates = candidates[np.argsort(-logits[candidates], kind="stable")]
    scaled = logits[candidates].astype(np.float64) / sampling.temperature
    share = np.exp(scaled - scaled[0])
    cumulative = np.cumsum(share / share.sum())
    kept = 1 + np.count_nonzero(cumulative[:-1] < sampling.top_p)
    place = np.searchsorted(cumulative[:kept], source.random() * cumulative[kept - 1], side="right")
    return int(candidates[min(place, kept - 1)])


Choices = dict[int, "Choices"]
"""A tree of token ids: what may come first, and behind each what may come next."""


def choice_tree(choices: Sequence[Sequence[int]]) -> Choices:
    """The tree of all beginnings of `choices`."""
    tree: Choices = {}
    for choice in choices:
        branch = tree
        for token in choice:
            branch = branch.setdefault(token, {})
    return tree


def restrict(logits: Logits, tree: Choices, begun: Sequence[Sequence[int]]) -> Logits:
    """Logits [rows, vocabulary] with everything at minus infinity that continues no choice.

    Args:
        begun: the tokens that each row has so far.
    """
    allowed = np.full_like(logits, -np.inf)
    for row, tokens in enumerate(begun):
        branch = tree
        for token in tokens:
            branch = branch[token]
        ids = list(branch)
        allowed[row, ids] = logits[row, ids]
    return allowed


def score_of(logits: Logits, input_ids: Sequence[int], targets: Sequence[int]) -> Score:
    """The log-likelihood of `targets` from the logits [targets, vocabulary] that predict them, in float64."""
    exact = logits.astype(np.float64)
    wanted = np.asarray(input_ids)[list(targets)]
    highest = exact.max(axis=-1)
    log_total = highest + np.log(np.exp(exact - highest[:, None]).sum(axis=-1))
    total = (exact[np.arange(len(targets)), wanted] - log_total).sum()
    return Score(float(total), len(targets), int((exact.argmax(axis=-1) == wanted).sum()))
