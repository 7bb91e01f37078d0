"""What a run needs before its first step, and a shelf for what several runs of one process have in common."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oleaster.config.schema import Config
from oleaster.core.errors import ModelError
from oleaster.core.run import Run
from oleaster.pipeline.loading import load_base

if TYPE_CHECKING:
    from oleaster.data.encode import EncodedData
    from oleaster.data.papers import Head
    from oleaster.data.prepare import Prepared
    from oleaster.models.folder import ModelFolder
    from oleaster.models.loaded import BaseNeeds, LoadedModel
    from oleaster.training.criterion import Criterion


@dataclass(frozen=True)
class Ready:
    """Everything checked that can be checked before weights are read."""

    config: Config
    """With all decided that the rows decide: their shape, the chat template, labels, instruction."""
    base: ModelFolder
    tokenizer: Any
    prepared: Prepared
    data: EncodedData
    head: Head | None = None
    """What answers in the place of the vocabulary."""
    aim: Criterion | None = None
    """What is minimised; None: the language model's cross-entropy."""

    @property
    def notes(self) -> tuple[str, ...]:
        return (*self.prepared.notes, *self.data.notes, *(self.aim.notes if self.aim else ()))


def get_ready(config: Config) -> Ready:
    """Find the base model, read and encode the rows, try the loss.

    Raises: ConfigError, DataError, ModelError; nothing is written.
    """
    from oleaster import tasks
    from oleaster.core.plugins import load_plugins
    from oleaster.data.encode import encode_all
    from oleaster.data.encode_heads import encode_all_for_head
    from oleaster.data.prepare import prepare
    from oleaster.evaluation.metrics import check_metrics
    from oleaster.models.sanity import check
    from oleaster.models.source import resolve
    from oleaster.models.tokenizer import load_tokenizer
    from oleaster.pipeline.aims import check_teacher
    from oleaster.pipeline.heads import check_base

    load_plugins(config.plugins)
    if config.evaluation.metrics:  # before hours of training, not after them
        check_metrics(config.evaluation.metrics)
    _refuse_adapted_base(config)
    prepared = prepare(config.data, config.seed)
    settled = tasks.settle(config, prepared)
    head = tasks.head(settled)
    base = resolve(config.model)
    tokenizer = load_tokenizer(base.folder, config.model.trust_remote_code)
    check(base, tokenizer, config.model.trust_remote_code)
    check_base(base, head)
    check_teacher(config, tokenizer)
    if head is None:
        data = encode_all(prepared, tokenizer, settled.data)
    else:
        data = encode_all_for_head(prepared, tokenizer, settled.data, head)
    return _aimed(Ready(config, base, tokenizer, prepared, data, head), config)


def _aimed(ready: Ready, config: Config) -> Ready:
    """`ready` for `config`, which may differ in what the rows do not depend on: its loss is tried."""
    from oleaster import tasks
    from oleaster.pipeline.aims import read_aim

    settled = tasks.settle(config, ready.prepared).model_copy(update={"data": ready.data.config})
    return replace(ready, config=settled, aim=read_aim(settled, ready.base, ready.head, ready.data.train))


def _refuse_adapted_base(config: Config) -> None:
    """A run's folder as the base would silently mean its base, without the adapter that was trained."""
    name = config.model.model_name_or_path or ""
    if Run.is_run(Path(name)) and Run(Path(name)).adapter.is_dir():
        raise ModelError(
            "is a run with an adapter, not a model",
            where=name,
            remedy=f"--model_name_or_path {Run(Path(name)).model} begins from its base again",
        )


class Shelf:
    """Keeps rows with their tokens, and one base with its weights read, from one run of a process to the next.

    Two runs share what the settings say is the same; every setting counts but those that only the training, its
    watching and what follows it read. Weights that are trained themselves are never shared.
    """

    KEPT_ROWS = 4
    """Sets of encoded rows, the last used ones (all of them while runs go on together)."""

    def __init__(self, together: bool = False) -> None:
        """
        Args:
            together: the runs go on side by side. Each gets a model of its own over the same tensors.
        """
        self._together = together
        self._ready: OrderedDict[str, Ready] = OrderedDict()
        self._base: tuple[str, LoadedModel, str] | None = None

    def ready(self, config: Config) -> Ready:
        """`get_ready(config)`, made once for all configs with the same rows and base."""
        key = _key(config, _AFTER_THE_ROWS)
        if key not in self._ready:
            self._ready[key] = get_ready(config)
        self._ready.move_to_end(key)
        while len(self._ready) > self.KEPT_ROWS and not self._together:
            self._ready.popitem(last=False)
        return _aimed(self._ready[key], config)

    @contextmanager
    def base(self, config: Config, ready: Ready, device: Any, needs: BaseNeeds) -> Iterator[tuple[LoadedModel, str]]:
        """The base and why it has its number type. What is attached in the block comes off when the block ends.

        Args:
            needs: of the method. A base whose weights are trained, or with a head of labels, is for this block alone.
        """
        from oleaster.methods.restored import restored
        from oleaster.models.joint import share_base

        labelled = ready.head is not None and ready.head.kind != "embedding"
        if needs.trained or labelled or config.training.fsdp != "none":  # a head of labels is trained whole
            yield load_base(config, ready.base, ready.tokenizer, device, needs, ready.head)
            return
        read = replace(needs, generic="yes" if needs.generic else None)  # the reason does not change the base
        key = f"{_key(config, _NOT_THE_BASE)} {config.training.bf16} {read} {device}"
        if self._base is None or self._base[0] != key:
            self._base = None  # the former goes before the next one comes: there is memory for one
            self._base = (key, *load_base(config, ready.base, ready.tokenizer, device, needs))
        _, loaded, why = self._base
        loaded = replace(loaded, why_generic=needs.generic or loaded.why_generic)
        if self._together:
            yield replace(loaded, model=share_base(loaded.model)), why
            return
        with restored(loaded.model):
            yield loaded, why

    @contextmanager
    def tuned(self, run: Run, config: Config) -> Iterator[LoadedModel]:
        """The model of a finished run, ready to answer: the base with its adapter on while the block lasts.

        Args:
            config: the recipe of the run.
        """
        import torch

        from oleaster.methods import saved_method
        from oleaster.pipeline.loading import attach, load_tuned

        ready = self.ready(config)
        if not run.adapter.is_dir() or ready.head is not None:
            yield load_tuned(run.folder, config, ready.head)
            return
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        needs = saved_method(run.adapter).needs
        with self.base(config, ready, device, needs) as (loaded, _):
            attach(loaded, run.adapter)
            yield loaded


_AFTER_THE_ROWS = {
    *("output_path", "task_name", "log_level", "passes", "search_space", "search_strategy"),
    *("method", "training", "watch", "evaluation", "export"),
}
"""Sections and settings that rows and tokens do not depend on."""
_NOT_THE_BASE = {*_AFTER_THE_ROWS, "data", "seed"}


def _key(config: Config, without: set[str]) -> str:
    return config.model_dump_json(exclude=without)
