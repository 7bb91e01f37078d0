"""Metrics of the learned tokens: how likely the reference answer is to the model. No answer is asked for.

Parameters: `nats`, the sum of -ln p over a row's learned tokens; `targets`, their number (the stop token included);
`correct`, how many were also the likeliest; `sizes`, the UTF-8 bytes of the learned text.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from oleaster.evaluation.metrics.registry import metrics
from oleaster.evaluation.tally import Floats, Tally, ratio, share


@metrics.register("loss")
def loss(nats: Sequence[float], targets: Sequence[int]) -> Tally:
    """Mean of -ln p over all learned tokens, in nats per token; lower is better. Long rows weigh more.

    Misleads across tokenizers (fewer, longer tokens cost more each: see `bits_per_byte`), and can fall while the
    answers stay wrong.
    """
    return ratio(nats, targets, "nats/token", lower_is_better=True)


@metrics.register("perplexity")
def perplexity(nats: Sequence[float], targets: Sequence[int]) -> Tally:
    """exp(loss): between how many equally likely tokens the model hesitates; 1 is certainty, lower is better.

    Misleads as `loss` does. Figures of two models with different tokenizers say nothing about each other.
    """
    return Tally(ratio(nats, targets, "").rows, _perplexity, "perplexity", lower_is_better=True)


@metrics.register("bits_per_byte")
def bits_per_byte(nats: Sequence[float], sizes: Sequence[int]) -> Tally:
    """Bits that the model needs for each byte of the learned text; lower is better. Comparable across tokenizers.

    The stop token's cost is counted although it has no byte, which shows in very short answers. Misleads across
    scripts: a letter takes one byte in English, two in Greek. Rows whose text is not plain (tool calls) take no part.
    """
    return ratio([total / math.log(2) for total in nats], sizes, "bits/byte", lower_is_better=True)


@metrics.register("token_accuracy")
def token_accuracy(correct: Sequence[int], targets: Sequence[int]) -> Tally:
    """Share of learned tokens that were also the likeliest, 0 to 1.

    Misleads because each token is judged after the right beginning, which a real answer does not have: most tokens of
    a word are easy once its first one is given.
    """
    return ratio(correct, targets, "share")


@metrics.register("natural_stop")
def natural_stop(finishes: Sequence[str]) -> Tally:
    """Share of answers that the model ended by itself, 0 to 1.

    Near 0 the stop token was never learned, or `max_new_tokens` is too small. Misleads at 1 when answers end too early.
    """
    return share([finish == "stop" for finish in finishes])


def _perplexity(sums: Floats) -> Floats:
    return np.exp(sums[..., 0] / sums[..., 1])
