"""The loop that answers prompts: batches of similar length, one token per turn, finished rows leave at once.

No torch here: a backend takes token ids and gives logits as numpy arrays, whatever computes them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from oleaster.core.errors import DataError, collect
from oleaster.inference.choosing import Logits, choose, generators
from oleaster.inference.guides import Guide
from oleaster.inference.predictor import Completion, Sampling

State = TypeVar("State")

BATCH_ROWS = 64
BATCH_SLOTS = 8192
"""Most cache places (rows x tokens) of one batch: 0.4 GB of keys and values for a 135M model in float32."""


class Backend(Protocol[State]):
    """What the loop needs of a model. `State` is the backend's own: cached keys and values of a batch."""

    pads: bool
    """Can rows of different length be computed together with the same result?"""
    context: int | None
    """Most tokens of prompt and answer together, where the model has such a limit."""

    def prefill(self, prompts: Sequence[Sequence[int]], room: int) -> tuple[Logits, State]:
        """Read the prompts. Returns the logits [rows, vocabulary] of the first answer token and a state with room for
        `room` further tokens."""
        ...

    def step(self, ids: NDArray[np.int64], state: State) -> Logits:
        """Append one token per row (ids: [rows]) to the state. Returns the logits [rows, vocabulary] of the next."""
        ...

    def keep(self, rows: Sequence[int], state: State) -> None:
        """Drop all rows of the state but these; the order stays."""
        ...


@dataclass
class _Answer(Generic[State]):
    prompt: int
    room: int
    source: np.random.Generator
    ids: list[int]
    stopped: bool = False

    @property
    def done(self) -> bool:
        return self.stopped or len(self.ids) >= self.room


def answer(
    backend: Backend[State],
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    stop_ids: frozenset[int],
    decode: Callable[[list[int]], str],
    on_token: Callable[[int, int], None] | None = None,
    guide: Guide | None = None,
) -> list[Completion]:
    """One completion per prompt, in the order given; see `Predictor.generate`.

    A stop token ends an answer; it is neither part of it nor told to `on_token`. An answer that would not fit into
    the model's context ends there with finish `length`.

    Raises:
        DataError: an empty prompt, or one that leaves no place for an answer; all of them in one error.
    """
    check_prompts(prompts, backend.context)
    sources = generators(prompts, sampling.seed)
    limit = sampling.max_new_tokens
    room = [limit if backend.context is None else min(limit, backend.context - len(p)) for p in prompts]
    answers = [_Answer(i, room[i], sources[i], []) for i in range(len(prompts))]
    for batch in batches([len(p) for p in prompts], limit, same_length=not backend.pads):
        _answer_batch(backend, prompts, [answers[i] for i in batch], sampling, stop_ids, on_token, guide)
    return [Completion(tuple(a.ids), decode(a.ids), "stop" if a.stopped else "length") for a in answers]


def batches(lengths: Sequence[int], extra: int, *, same_length: bool) -> Iterator[list[int]]:
    """Indices of rows that are computed together: longest first, so that the largest need of memory comes first.

    Args:
        lengths: tokens of each row.
        extra: tokens that each row will grow by.
        same_length: never put rows of different length together.
    """
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batch:
            longest = lengths[batch[0]]
            full = len(batch) == BATCH_ROWS or (len(batch) + 1) * (longest + extra) > BATCH_SLOTS
            if full or (same_length and lengths[index] != longest):
                yield batch
                batch = []
        batch.append(index)
    if batch:
        yield batch


def _answer_batch(
    backend: Backend[State],
    prompts: Sequence[Sequence[int]],
    active: list[_Answer],
    sampling: Sampling,
    stop_ids: frozenset[int],
    on_token: Callable[[int, int], None] | None,
    guide: Guide | None,
) -> None:
    logits, state = backend.prefill([prompts[a.prompt] for a in active], max(a.room for a in active))
    while True:
        if guide is not None:
            logits = guide.restrict(logits, [a.prompt for a in active], [a.ids for a in active])
        chosen = choose(logits, sampling, [a.source for a in active])
        for row, token in zip(active, chosen.tolist(), strict=True):
            if token in stop_ids:
                row.stopped = True
                continue
            row.ids.append(token)
            if on_token is not None:
                on_token(row.prompt, token)
        alive = [i for i, row in enumerate(active) if not row.done]
        if not alive:
            return
        if len(alive) < len(active):
            backend.keep(alive, state)
            active, chosen = [active[i] for i in alive], chosen[alive]
        logits = backend.step(chosen, state)


def check_prompts(prompts: Sequence[Sequence[int]], context: int | None) -> None:
    """Raises: DataError that names every prompt that is empty, or leaves no place for an answer in the context."""
    problems = []
    for index, prompt in enumerate(prompts):
        if not prompt:
            problems.append(DataError("the prompt is empty", where=f"prompt {index}", remedy="give at least one token"))
        elif context is not None and len(prompt) >= context:
            problems.append(
                DataError(
                    f"{len(prompt)} tokens leave no place for an answer: the model's context is {context} tokens",
                    where=f"prompt {index}",
                    remedy=f"shorten it to at most {context - 1} tokens",
                )
            )
    collect(problems)
