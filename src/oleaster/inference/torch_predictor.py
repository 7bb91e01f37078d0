"""The predictor over a torch model: what evaluation, chat and the exporter's comparison ask."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from oleaster.core.errors import DataError, collect
from oleaster.inference.decoder_backend import DecoderBackend
from oleaster.inference.generation import Backend, answer, batches
from oleaster.inference.guides import guide_of
from oleaster.inference.predictor import Completion, Sampling, Score
from oleaster.inference.transformers_backend import TransformersBackend
from oleaster.models.decoder import Decoder
from oleaster.models.generic import Generic
from oleaster.models.loaded import LoadedModel


class TorchBackend(Backend[Any], Protocol):
    """A backend that also gives logits at chosen places."""

    def target_logits(
        self, rows: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Logits of the marked tokens of a batch, a bounded number at a time.

        Args:
            rows: token ids.
            targets: for each row the positions whose tokens are predicted, ascending, at least one, from 1.

        Yields:
            (row of each target [N], token id of each target [N], logits [N, V] in float32)
        """
        ...


class TorchPredictor:
    """A `Predictor` over a loaded model, attached adapters included.

    The model's weights are neither copied nor changed; its training mode is restored after each call, so that a run in
    training can be asked.
    """

    def __init__(self, loaded: LoadedModel, name: str) -> None:
        self.name = name
        self.loaded = loaded
        self.backend = _backend(loaded)

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling = Sampling(),
        on_token: Callable[[int, int], None] | None = None,
    ) -> list[Completion]:
        """See `Predictor.generate`.

        Raises:
            DataError: an empty prompt, or one that leaves no place for an answer; all of them in one error.
        """
        stops = self.loaded.stop_ids
        guide = guide_of(sampling, self.loaded.tokenizer.backend_tokenizer.to_str, stops)
        with asking(self.loaded.model):
            return answer(self.backend, prompts, sampling, frozenset(stops), self._decode, on_token, guide)

    def score(self, rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[Score]:
        """See `Predictor.score`. Log-softmax in float32, sums in float64.

        Raises:
            DataError: a row longer than the model's context, or a target without a token before it.
        """
        self._check(rows)
        total = torch.zeros(len(rows), dtype=torch.float64)
        correct = torch.zeros(len(rows), dtype=torch.int64)
        asked = [i for i, (_, targets) in enumerate(rows) if targets]
        lengths = [rows[i][1][-1] for i in asked]
        with asking(self.loaded.model):
            for batch in batches(lengths, 0, same_length=not self.backend.pads):
                index = torch.tensor([asked[i] for i in batch])
                ids, targets = zip(*(rows[i] for i in index.tolist()), strict=True)
                for owner, token, logits in self.backend.target_logits(ids, targets):
                    chosen = logits.gather(1, token[:, None])[:, 0] - logits.logsumexp(1)
                    total.index_add_(0, index[owner], chosen.double())
                    correct.index_add_(0, index[owner], (logits.argmax(1) == token).long())
        found = zip(total.tolist(), correct.tolist(), rows, strict=True)
        return [Score(nats, len(targets), hits) for nats, hits, (_, targets) in found]

    def _decode(self, ids: list[int]) -> str:
        return self.loaded.tokenizer.decode(ids, skip_special_tokens=True)

    def _check(self, rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> None:
        problems, context = [], self.backend.context
        for index, (ids, targets) in enumerate(rows):
            if targets and targets[0] < 1:
                problems.append(DataError("the first token is a target, but nothing predicts it", where=f"row {index}"))
            # The last target itself never enters the model, nor what follows it.
            if context is not None and targets and targets[-1] > context:
                found = f"{len(ids)} tokens, the model's context is {context}"
                problems.append(DataError(found, where=f"row {index}", remedy="use a smaller max_length"))
        collect(problems)


def _backend(loaded: LoadedModel) -> TorchBackend:
    model = loaded.model
    if isinstance(model, Decoder):
        return DecoderBackend(model, loaded.context)
    return TransformersBackend(model.causal_lm if isinstance(model, Generic) else model)


@contextmanager
def asking(model: nn.Module) -> Iterator[None]:
    """Without gradients and dropout. `no_grad` and not `inference_mode`: what a model caches while it is asked, such
    as rotary tables, must stay usable in training."""
    training = {module for module in model.modules() if module.training}
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True
