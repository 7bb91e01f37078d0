"""Answers of a model with a head, whatever computes it: labels, entities as JSON, or vectors. No torch here."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from oleaster.config.schema import DataConfig
from oleaster.core.errors import DataError, collect
from oleaster.data.encode_heads import pooled, word_ends
from oleaster.data.entities import from_tags, to_json
from oleaster.data.papers import Head
from oleaster.data.render import voice_of
from oleaster.inference.choosing import score_of
from oleaster.inference.generation import batches
from oleaster.inference.predictor import Completion, Sampling, Score

Floats = NDArray[np.float32]


class HeadBackend(Protocol):
    """What runs the model."""

    context: int | None
    """Most tokens of a text, where the model has such a limit."""

    def read(self, texts: Sequence[Sequence[int]], places: Sequence[Sequence[int]]) -> list[Floats]:
        """What the head says of each text: logits [places, labels], or the embedding [1, C] pooled over `places`."""
        ...


class HeadPredictor:
    """A `Predictor` whose answers are the head's.

    A sequence head answers with the label's name and its id as the one token. A token head answers with the entities
    as JSON, the form that extraction by generation has. An embedding answers with its numbers as JSON; `embed` gives
    them as they are.

    Args:
        tokenizer: the model's own (transformers.PreTrainedTokenizerBase, fast).
    """

    def __init__(self, backend: HeadBackend, head: Head, tokenizer: Any, name: str) -> None:
        self.backend, self.head, self.tokenizer, self.name = backend, head, tokenizer, name

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling = Sampling(),
        on_token: Callable[[int, int], None] | None = None,
    ) -> list[Completion]:
        """See `Predictor.generate`. The likeliest label always; nothing of `sampling` has a meaning here."""
        if self.head.kind == "embedding":
            vectors = self.embed(prompts)
            return [Completion((), json.dumps([round(float(x), 6) for x in vector]), "stop") for vector in vectors]
        if self.head.kind == "sequence":
            chosen = [int(found[0].argmax()) for found in self._read(prompts, [[len(p) - 1] for p in prompts])]
            return [Completion((label,), self.head.labels[label], "stop") for label in chosen]
        worded = [self._words(prompt) for prompt in prompts]
        found = self._read([ids for _, ids, _ in worded], [ends for _, _, ends in worded])
        answers = []
        for (words, _, _), logits in zip(worded, found, strict=True):
            numbers = [int(n) for n in logits.argmax(-1)]
            tags = [self.head.labels[n] for n in numbers]
            tags += ["O"] * (len(words) - len(tags))
            answers.append(Completion(tuple(numbers), to_json(from_tags(words, tags)), "stop"))
        return answers

    def score(self, rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[Score]:
        """See `Predictor.score`: the targets are the ids of labels that stand behind the text."""
        texts = [ids[: targets[0]] for ids, targets in rows]
        places = [[len(text) - 1] if self.head.kind == "sequence" else self._words(text)[2] for text in texts]
        found = zip(rows, self._read(texts, places), strict=True)
        return [score_of(logits[: len(targets)], ids, targets) for (ids, targets), logits in found]

    def embed(self, texts: Sequence[Sequence[int]]) -> Floats:
        """[texts, C]"""
        found = self._read(texts, [pooled(len(text), self.head) for text in texts])
        return np.concatenate(found) if found else np.zeros((0, 0), np.float32)

    def _read(self, texts: Sequence[Sequence[int]], places: Sequence[Sequence[int]]) -> list[Floats]:
        self._check(texts)
        found: dict[int, Floats] = {}
        for batch in batches([len(text) for text in texts], 0, same_length=False):
            read = self.backend.read([texts[i] for i in batch], [places[i] for i in batch])
            found |= zip(batch, read, strict=True)
        return [found[i] for i in range(len(texts))]

    def _words(self, ids: Sequence[int]) -> tuple[list[str], list[int], list[int]]:
        """(words, ids, last token of each word) of a text given as ids."""
        words = self.tokenizer.decode(list(ids), skip_special_tokens=True).split()
        again, ends = word_ends(words, self._voice)
        return words, again, ends

    @cached_property
    def _voice(self) -> Any:
        return voice_of(self.tokenizer, DataConfig(use_chat_template=False))

    def _check(self, texts: Sequence[Sequence[int]]) -> None:
        context = self.backend.context
        problems = [DataError("the text is empty", where=f"text {i}") for i, text in enumerate(texts) if not text]
        problems += [
            DataError(f"{len(text)} tokens, the model's context is {context}", where=f"text {i}", remedy="shorten it")
            for i, text in enumerate(texts)
            if context is not None and len(text) > context
        ]
        collect(problems)
