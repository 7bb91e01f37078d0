"""What a training minimises: the loss that the recipe names, tried before the model is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from oleaster.config.schema import Config
from oleaster.core.errors import ConfigError, ModelError, collect, near_names

if TYPE_CHECKING:
    from oleaster.data.papers import Encoded, Head
    from oleaster.models.folder import ModelFolder
    from oleaster.training.criterion import Criterion
    from oleaster.training.losses import Loss


def read_aim(config: Config, base: ModelFolder, head: Head | None, rows: Sequence[Encoded]) -> Criterion | None:
    """The loss, checked; None for the language model's own cross-entropy, which has a faster way.

    Raises: ConfigError, see `read_criterion`; and when a loss wants scores that the rows have not.
    """
    from oleaster.training.criterion import read_criterion

    training, facts = config.training, base.config()
    if head is None and training.loss in (None, "cross_entropy") and not training.loss_options:
        return None
    options = list(training.loss_options or [])
    if training.label_smoothing_factor:
        options.append(f"label_smoothing={training.label_smoothing_factor}")
    if head is not None and head.kind == "embedding":
        width = facts.get("hidden_size") or facts["n_embd"]
        criterion = read_criterion(training.loss or "cosine", options, "pair", width)
        wants = {"label", "similarity", "distance"} & set(criterion.takes.values())
        if wants and criterion.name != "info_nce" and any(row.similarity is None for row in rows):
            message = f"the loss '{criterion.name}' wants {', '.join(sorted(wants))}, but the rows do not say how alike"
            raise ConfigError(message, where="score_field", remedy="--score_field COLUMN, or --loss info_nce")
        return criterion
    width = facts["vocab_size"] if head is None else len(head.labels)
    return read_criterion(training.loss or "cross_entropy", options, "token", width)


def objective(
    criterion: Criterion | None, config: Config, head: Head | None, rows: Sequence[Encoded], teacher: Any
) -> Loss | None:
    """The loss as the loop calls it; None: the loop's own."""
    from oleaster.training.criterion import read_criterion
    from oleaster.training.objective import head_objective, pair_objective, text_objective

    if criterion is None:
        return None
    if head is None:
        return text_objective(criterion, teacher)
    if head.kind == "embedding":
        return pair_objective(criterion, head.normalize)
    held_out = None
    if config.training.label_smoothing_factor:
        held_out = read_criterion(criterion.name, config.training.loss_options, "token", len(head.labels))
    return head_objective(criterion, class_weights(config, head, rows), held_out)


def class_weights(config: Config, head: Head, rows: Sequence[Encoded]) -> Any:
    """[labels] float32 that weigh 1 on average over the training rows' targets; None where all labels weigh the same.

    Raises: ConfigError for labels that are not there and weights that are none.
    """
    import torch

    words = config.task.class_weights
    if not words:
        return None
    counts = Counter(row.input_ids[t] for row in rows for t in row.targets)
    if words == ["balanced"]:
        weights = [1.0 / counts[i] if counts[i] else 0.0 for i in range(len(head.labels))]
    else:
        given = _given_weights(words, head)
        weights = [given.get(label, 1.0) for label in head.labels]
    mean = sum(weights[i] * n for i, n in counts.items()) / sum(counts.values())
    if not mean:
        raise ConfigError("no row has a weight", where="class_weights", remedy="give a label of the rows more than 0")
    return torch.tensor(weights) / mean


def _given_weights(words: Sequence[str], head: Head) -> dict[str, float]:
    weights: dict[str, float] = {}
    problems = []
    for word in words:
        label, _, text = word.rpartition("=")
        try:
            weights[label] = float(text)
        except ValueError:
            weights[label] = -1.0
        if label not in head.labels:
            problem = f"there is no label '{label}'" if label else f"'{word}' is neither balanced nor label=weight"
            problems.append(ConfigError(problem, where="class_weights", remedy=near_names(label, head.labels)))
        elif not 0.0 <= weights[label] < float("inf"):
            problems.append(ConfigError(f"'{word}' gives no weight", where="class_weights", remedy=f"{label}=2.0"))
    collect(problems)
    return weights


def check_teacher(config: Config, tokenizer: Any) -> None:
    """Raises: ModelError when the teacher's tokenizer gives other ids, before any weights are read."""
    name = config.training.teacher_model
    if not name:
        return
    from oleaster.models.source import resolve
    from oleaster.models.tokenizer import load_tokenizer
    from oleaster.pipeline.loading import parts

    source, _ = parts(name, config)
    folder = resolve(config.model.model_copy(update={"model_name_or_path": source})).folder
    if load_tokenizer(folder, config.model.trust_remote_code).get_vocab() != tokenizer.get_vocab():
        message = "the teacher has another tokenizer: its probabilities are of other tokens"
        raise ModelError(message, where=name, remedy="name a larger model of the same family")


def load_teacher(config: Config, device: Any) -> Any:
    """The teacher's model, frozen and in evaluation mode; None without one."""
    if not config.training.teacher_model:
        return None
    from oleaster.pipeline.loading import load_tuned

    loaded: Any = load_tuned(config.training.teacher_model, config)
    return loaded.model.requires_grad_(False).eval().to(device or "cpu")
