"""Embedding: texts become vectors whose cosine says how alike they are; learned from pairs."""

from __future__ import annotations

from oleaster.config.schema import Config
from oleaster.core.errors import DataError
from oleaster.data.encode_heads import score_range
from oleaster.data.prepare import Prepared
from oleaster.tasks.task import Task, settled


def settle(config: Config, prepared: Prepared) -> Config:
    """The scale of the scores, and the loss that rows with or without scores allow."""
    if prepared.config.data_format != "pairs":
        remedy = "columns sentence1 and sentence2, or --data_format pairs --prompt_field A --completion_field B"
        raise DataError("an embedding is learned from pairs of texts", where="data_format", remedy=remedy)
    found = score_range(prepared.train)
    loss = config.training.loss or ("info_nce" if found is None else "cosine")
    return settled(config, data={"score_range": config.data.score_range or found}, training={"loss": loss})


TASK = Task("embedding", settle, {"embedding": ("spearman",)})
