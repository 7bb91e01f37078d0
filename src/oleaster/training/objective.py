"""The loss as the loop calls it: from a model and a batch to a sum, whatever answers and whatever is minimised."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from oleaster.core.errors import ConfigError
from oleaster.data.batch import Batch
from oleaster.models.heads import embeddings, head_of
from oleaster.training.criterion import Criterion
from oleaster.training.losses import Loss, LossSum, by_chunks


def text_objective(criterion: Criterion, teacher: Any = None) -> Loss:
    """A loss of the language model's own predictions.

    Args:
        teacher: model whose logits `teacher_logits` are; the same vocabulary.
    """

    def loss(model: Any, batch: Batch) -> LossSum:
        hidden, (weight, softcap) = model.target_hidden(batch), model.head()
        taught = _teacher_of(teacher, batch)

        def total_of(logits: Tensor, which: slice) -> Tensor:
            given = {"logits": logits, "targets": batch.target_ids[which], **taught(which)}
            return criterion.total(given, len(logits))

        everything = slice(None)
        if weight is None:  # `hidden` are logits already
            return LossSum(total_of(hidden.float(), everything), batch.units)
        if criterion.adds == "together":
            logits = F.linear(hidden, weight).float()
            return LossSum(total_of(_capped(logits, softcap), everything), batch.units)
        return LossSum(by_chunks(hidden, (weight, softcap), total_of), batch.units)

    return loss


def head_objective(
    criterion: Criterion, class_weights: Tensor | None = None, held_out: Criterion | None = None
) -> Loss:
    """A loss of a head's predictions.

    Args:
        held_out: the loss of validation rows, where it is another one (labels are not smoothed there).
        class_weights: [labels] float32; each target's value is multiplied by its label's. They are normed so that the
            training rows weigh 1 on average, and the sum is divided by the rows: so the loss stays the same however
            rows are put into batches. (torch divides by the weights of the batch at hand.)

    Raises: ConfigError for weights with a loss that gives no value for each target.
    """
    if class_weights is not None and criterion.adds != "values":
        message = f"the loss '{criterion.name}' gives no value for each row that a class weight could multiply"
        raise ConfigError(message, where="class_weights", remedy="return one value per target, shape [M]")

    def loss(model: Any, batch: Batch) -> LossSum:
        logits = head_of(model)(model.target_hidden(batch).float())
        given = {"logits": logits, "targets": batch.target_ids}
        chosen = criterion if model.training or held_out is None else held_out
        if class_weights is None:
            return LossSum(chosen.total(given, batch.units), batch.units)
        return LossSum((chosen(given) * class_weights.to(logits.device)[batch.target_ids]).sum(), batch.units)

    return loss


def pair_objective(criterion: Criterion, normalize: bool = True) -> Loss:
    """A loss of the embeddings of pairs. Rows that do not say how alike they are count as alike."""

    def loss(model: Any, batch: Batch) -> LossSum:
        assert batch.pairs is not None
        lines = embeddings(model, batch, normalize)
        similarity = batch.similarity
        if similarity is None:
            similarity = torch.ones(len(batch.pairs), device=lines.device)
        given = {"output1": lines[batch.pairs[:, 0]], "output2": lines[batch.pairs[:, 1]]}
        return LossSum(criterion.total({**given, **criterion.labels(similarity)}, batch.units), batch.units)

    return loss


def _teacher_of(teacher: Any, batch: Batch) -> Callable[[slice], Mapping[str, Tensor]]:
    if teacher is None:
        return lambda which: {}
    with torch.no_grad():
        hidden, (weight, softcap) = teacher.target_hidden(batch), teacher.head()

    def logits(which: slice) -> Mapping[str, Tensor]:
        with torch.no_grad():
            part = hidden[which]
            return {"teacher_logits": _capped((part if weight is None else F.linear(part, weight)).float(), softcap)}

    return logits


def _capped(logits: Tensor, softcap: float | None) -> Tensor:
    return logits if softcap is None else (logits / softcap).tanh() * softcap
