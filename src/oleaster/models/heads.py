"""Heads on a decoder: labels in the place of the vocabulary, or the pooled states as an embedding.

A head of labels is a linear map under the name that transformers gives it (`score`), so that the saved folder is one
that `AutoModelForSequenceClassification` or `AutoModelForTokenClassification` loads. The sequence head reads the last
token's state, which has seen the whole text; the token head reads each word off its last token.

Shape legend: M read states, L lines, C hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oleaster.core.errors import ModelError
from oleaster.data.batch import Batch
from oleaster.data.papers import Head

SPREAD = 0.02
"""Standard deviation of a new head's weights, as in transformers."""
TASK_TYPES = {"sequence": "SEQ_CLS", "token": "TOKEN_CLS", "embedding": "FEATURE_EXTRACTION"}
"""What PEFT calls a model with such a head."""


def put_head(model: Any, head: Head, seed: int) -> nn.Linear:
    """Put a new map from states to labels onto a `Decoder` (whose vocabulary it replaces) or a headed `Generic`.

    Returns the map: float32, drawn from `seed`, of a token head with a bias.
    """
    if hasattr(model.hub_model, "lm_head"):
        del model.hub_model.lm_head
        width = model.architecture.hidden_size
        model.hub_model.score = nn.Linear(width, len(head.labels), bias=head.kind == "token")
    linear = head_of(model).float()
    with torch.no_grad():
        linear.weight.normal_(0.0, SPREAD, generator=torch.Generator().manual_seed(seed))
        if linear.bias is not None:
            linear.bias.zero_()
    return linear


def head_of(model: Any) -> nn.Linear:
    """The map from states to labels of a model that has one."""
    hub_model = model.hub_model
    return hub_model.score if hasattr(hub_model, "score") else hub_model.classifier


def embeddings(model: Any, batch: Batch, normalize: bool = True) -> Tensor:
    """[L, C] float32, in packed order: the mean over each line's read states.

    Args:
        batch: its `target_sources` say which states: all of a text, or the last.
    """
    states = model.target_hidden(batch).float()
    counts = torch.bincount(batch.target_rows, minlength=len(batch))
    total = states.new_zeros(len(batch), states.shape[1]).index_add(0, batch.target_rows, states)
    mean = total / counts[:, None]
    return F.normalize(mean, dim=-1) if normalize else mean


def hub_class(config: Mapping[str, Any], head: Head) -> str:
    """The class of transformers that loads a model of this config.json with this head.

    Raises: ModelError when the family has none, so that nothing is trained which nothing could load.
    """
    if head.kind == "embedding":
        return (config.get("architectures") or ["AutoModel"])[0]
    from transformers.models.auto import modeling_auto

    task = "SEQUENCE" if head.kind == "sequence" else "TOKEN"
    known: Mapping[str, str] = getattr(modeling_auto, f"MODEL_FOR_{task}_CLASSIFICATION_MAPPING_NAMES")
    family = config.get("model_type", "")
    if family not in known:
        message = f"transformers has no {head.kind} head for {family}"
        raise ModelError(message, where="head", remedy="--head text answers by generation")
    return known[family]


def head_config(config: Mapping[str, Any], head: Head, pad_token_id: int | None) -> dict[str, Any]:
    """What config.json says differently once the model has this head.

    Args:
        pad_token_id: transformers finds the end of a text as the last token that is another one.
    """
    if head.kind == "embedding":
        return {}
    numbered = list(enumerate(head.labels))
    return {
        "architectures": [hub_class(config, head)],
        "id2label": {str(i): label for i, label in numbered},
        "label2id": {label: i for i, label in numbered},
        "pad_token_id": config.get("pad_token_id") if config.get("pad_token_id") is not None else pad_token_id,
    }
