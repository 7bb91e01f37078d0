"""A head over a torch model: texts packed without padding, states read only where the head looks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from oleaster.data.batch import pack
from oleaster.data.papers import Encoded, Head
from oleaster.inference.head_predictor import Floats, HeadPredictor
from oleaster.inference.torch_predictor import asking
from oleaster.models.heads import embeddings, head_of
from oleaster.models.loaded import LoadedModel


class TorchHeads:
    """`head_predictor.HeadBackend` over a loaded model whose head is in place."""

    def __init__(self, loaded: LoadedModel, head: Head) -> None:
        self.model, self.head, self.context = loaded.model, head, loaded.context

    def read(self, texts: Sequence[Sequence[int]], places: Sequence[Sequence[int]]) -> list[Floats]:
        """See `HeadBackend.read`."""
        rows = [
            Encoded(tuple(text), (), 0, i, tuple(at)) for i, (text, at) in enumerate(zip(texts, places, strict=True))
        ]
        batch = pack(rows).to(next(self.model.parameters()).device)
        with asking(self.model):
            if self.head.kind == "embedding":
                lines = embeddings(self.model, batch, self.head.normalize)
                found = dict(zip(batch.rows, lines[:, None].cpu().numpy(), strict=True))
            else:
                logits = head_of(self.model)(self.model.target_hidden(batch).float()).cpu()  # type: ignore[operator]
                counts = torch.bincount(batch.target_rows.cpu(), minlength=len(batch)).tolist()
                found = dict(zip(batch.rows, (part.numpy() for part in logits.split(counts)), strict=True))
        return [np.asarray(found[i], np.float32) for i in range(len(texts))]


def head_predictor(loaded: LoadedModel, head: Head, name: str) -> HeadPredictor:
    """The predictor over a torch model with its head."""
    return HeadPredictor(TorchHeads(loaded, head), head, loaded.tokenizer, name)
