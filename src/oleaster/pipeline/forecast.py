"""What a training will take on this machine: found out by a few of its real steps, nothing written."""

from __future__ import annotations

import itertools
import math
import random
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from oleaster.config.schema import Config
from oleaster.core.machine import peak_memory_mb
from oleaster.pipeline.loading import load_base, use_threads
from oleaster.pipeline.tuning import Preview, plan, set_up

if TYPE_CHECKING:
    from oleaster.data.papers import Encoded, Example
    from oleaster.pipeline.shelf import Ready
    from oleaster.training.order import Plan

FEWEST_STEPS, MOST_STEPS, ENOUGH_SECONDS = 4, 16, 3.0
"""Steps that are timed: some from all over the first epoch, more of them while they take little time."""
SAVED = 2**30
"""Most bytes of a checkpoint that are written to find out how long it takes."""
WORDY_ROWS = 200
"""Rows whose words are counted."""
MANY_TOKENS_PER_WORD = 2.5
"""From here on a tokenizer spells the user's words out: English is at 1.2 to 1.5 with a vocabulary made for it."""
FEW_ROWS = 50
_MIB = 2**20


@dataclass(frozen=True)
class Choice:
    """One way to train, and what it would take."""

    name: str
    trained: int
    memory_mb: float
    """Peak in MiB: the measured peak of the recipe's own way, moved by the difference in arithmetic."""
    work: float
    """Matrix products of a step, in those of plain LoRA."""
    fits: bool


@dataclass(frozen=True)
class Forecast:
    """Measured figures of a training that has not begun."""

    preview: Preview
    load_mb: float
    """Resident memory in MiB with the base loaded."""
    step_mb: float
    """Peak after the step with the most tokens."""
    validation_mb: float
    """Peak after the validation batch with the most tokens; `peak_memory_mb` of the whole training."""
    available_mb: float
    """Free for this process when it began, itself included."""
    step_seconds: float
    validation_seconds: float
    """One validation."""
    save_seconds: float
    """One checkpoint."""
    total_seconds: float
    """All steps, validations and checkpoints, if every validation is the best so far and no early stop ends them."""
    tokens_per_word: float
    licence: str | None
    choices: tuple[Choice, ...]

    @property
    def advice(self) -> tuple[str, ...]:
        """What to do, with the reason."""
        return tuple(_advice(self))

    def rows(self) -> list[tuple[str, str]]:
        """(what, how much) for printing."""
        steps = self.preview
        return [
            ("memory, base loaded", f"{self.load_mb:,.0f} MB"),
            ("memory, longest step", f"{self.step_mb:,.0f} MB"),
            ("memory, with validation", f"{self.validation_mb:,.0f} MB (free: {self.available_mb:,.0f} MB)"),
            ("one step", f"{self.step_seconds:.2f} s"),
            ("one epoch", f"{_clock(self.step_seconds * steps.steps_per_epoch)} ({steps.steps_per_epoch:,} steps)"),
            ("one validation", f"{self.validation_seconds:.1f} s"),
            ("one checkpoint", f"{self.save_seconds:.1f} s"),
            ("whole training", f"{_clock(self.total_seconds)} ({steps.total_steps:,} steps, no early stop)"),
            ("tokens per word", f"{self.tokens_per_word:.2f}"),
            ("licence of the base", self.licence or "its card states none; find out before you ship"),
        ]


def forecast(config: Config) -> Forecast:
    """Run a few real steps of the training that `config` describes, in memory, and say what all of it will take.

    The rate (seconds per token) is measured on steps from all over an epoch, the peak on its longest step and longest
    validation batch, the checkpoint on one in a temporary folder.

    Raises: as `finetune` before its first step. Nothing stays on the disk.
    """
    import psutil

    from oleaster.methods import get_method, trainable_parameters
    from oleaster.models.card import base_licence
    from oleaster.training.cluster import Cluster
    from oleaster.training.loop import default_loss, validation_loss
    from oleaster.training.order import Plan
    from oleaster.training.resources import ResourceMeter

    meter = ResourceMeter()
    available = psutil.virtual_memory().available / _MIB + meter().memory_mb
    use_threads(config)
    preview = plan(config)
    ready, method, cluster = preview.ready, get_method(config.method), Cluster.alone()
    loaded, _ = load_base(config, ready.base, ready.tokenizer, cluster.device, method.needs, ready.head)
    load_mb = meter().memory_mb
    model: Any = loaded.model
    loss = set_up(model, method, ready, ready.config, cluster) or default_loss(ready.config)
    rows, held = ready.data.train, ready.data.validation
    steps = Plan.of(ready.config, len(rows), len(held))
    probe = _probe(model, trainable_parameters(model), ready, steps, loss)
    step_mb, validation_seconds = peak_memory_mb(), 0.0
    if held:
        size = config.training.per_device_eval_batch_size
        longest = sorted(held, key=lambda row: -len(row.input_ids))[:size]
        begun = time.perf_counter()
        validation_loss(model, longest, loss, size, cluster)
        share = sum(len(row.input_ids) for row in held) / sum(len(row.input_ids) for row in longest)
        validation_seconds = (time.perf_counter() - begun) * share
    per_step = probe.token_seconds * sum(len(row.input_ids) for row in rows) / steps.steps_per_epoch
    validated, saved = _pauses(steps)
    pauses = validation_seconds * len(validated) + probe.save_seconds * len(saved)
    peak = peak_memory_mb()
    return Forecast(
        preview=preview,
        load_mb=load_mb,
        step_mb=step_mb,
        validation_mb=peak,
        available_mb=available,
        step_seconds=per_step,
        validation_seconds=validation_seconds,
        save_seconds=probe.save_seconds,
        total_seconds=probe.start_seconds + per_step * steps.total_steps + pauses,
        tokens_per_word=tokens_per_word(ready.tokenizer, ready.prepared.train[:WORDY_ROWS]),
        licence=base_licence(ready.base),
        choices=tuple(_choices(preview, ready, peak, available)),
    )


class _Probe(NamedTuple):
    """What a few steps and a checkpoint took."""

    token_seconds: float
    """Seconds of a step over its tokens."""
    start_seconds: float
    """What the first step took more than another of its length."""
    save_seconds: float


def _probe(model: Any, parameters: Mapping[str, Any], ready: Ready, steps: Plan, loss: Any) -> _Probe:
    """Train the longest step (it warms up, and sets the peak), then time some others and a checkpoint."""
    from torch import nn

    from oleaster.data.batch import pack
    from oleaster.training.cluster import Cluster
    from oleaster.training.driving import Demand, gradient
    from oleaster.training.optimizers import make_optimizer
    from oleaster.training.order import rows_of_step

    config = ready.config
    optimizer = make_optimizer(parameters.items(), config.training)

    def rows_in(step: int) -> list[list[Encoded]]:
        return [part for part in rows_of_step(ready.data.train, config, steps, step, Cluster.alone()) if part]

    def tokens(step: int) -> int:
        return sum(len(row.input_ids) for part in rows_in(step) for row in part)

    def run(step: int) -> float:
        begun = time.perf_counter()
        batches = [pack(part) for part in rows_in(step)]
        gradient(Demand(model, batches, sum(batch.units for batch in batches), loss))
        nn.utils.clip_grad_norm_(parameters.values(), config.training.max_grad_norm or float("inf"))
        optimizer.step()
        optimizer.zero_grad()
        return time.perf_counter() - begun

    epoch = range(min(steps.steps_per_epoch, steps.total_steps))
    longest = max(epoch, key=tokens)
    first, spent, done = run(longest), 0.0, 0
    for count, step in enumerate(random.Random(0).sample(epoch, min(MOST_STEPS, len(epoch)))):
        if count >= FEWEST_STEPS and spent > ENOUGH_SECONDS:
            break
        spent, done = spent + run(step), done + tokens(step)
    rate = spent / done
    return _Probe(rate, max(0.0, first - rate * tokens(longest)), _save_seconds(parameters, optimizer))


def _save_seconds(parameters: Mapping[str, Any], optimizer: Any) -> float:
    """What a checkpoint takes: one of as many parameters as come to `SAVED` bytes with their state, and the rest by
    its size."""
    from oleaster.training.checkpoint import Checkpoints, TrainState, capture_rng

    sizes = {name: _bytes([p, *optimizer.state[p].values()]) for name, p in parameters.items()}
    before = itertools.accumulate(sizes.values(), initial=0)
    written = {name: parameters[name] for name, size in zip(sizes, before, strict=False) if size < SAVED}
    state = {i: optimizer.state[p] for i, p in enumerate(written.values())}
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        Checkpoints(Path(folder)).save(TrainState(1, written, {"state": state}, {}, capture_rng()))
        seconds = time.perf_counter() - begun
    return seconds * sum(sizes.values()) / sum(sizes[name] for name in written)


def _bytes(values: Iterable[Any]) -> int:
    return sum(value.nbytes for value in values if hasattr(value, "nbytes"))


def _pauses(steps: Plan) -> tuple[set[int], set[int]]:
    """(steps after which the rows held out are scored, steps whose state is kept)"""

    def every(count: int) -> set[int]:
        return {*range(count, steps.total_steps + 1, count), steps.total_steps}

    validated = every(steps.eval_steps) if steps.eval_steps else set()
    return validated, validated | every(steps.save_steps)


def tokens_per_word(tokenizer: Any, examples: Sequence[Example]) -> float:
    """Tokens over words (parts between spaces) of the rows' own text, without templates. 0 when there is none."""
    texts = [text for example in examples for text in _texts(example)]
    words = sum(len(text.split()) for text in texts)
    if not words:
        return 0.0
    return sum(len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]) / words


def _texts(example: Example) -> Iterator[str]:
    yield from (text for text, _ in example.text_parts if text.strip())
    yield from (m["content"] for m in example.messages if isinstance(m.get("content"), str) and m["content"].strip())


def _choices(preview: Preview, ready: Ready, peak_mb: float, available_mb: float) -> Iterator[Choice]:
    """The recipe's own way first, then the others, each with and without gradient checkpointing."""
    from oleaster.config.methods import method_types
    from oleaster.methods import get_method
    from oleaster.models.sanity import read_shapes
    from oleaster.pipeline.tuning import estimated_memory

    shapes, _ = read_shapes(ready.base.folder)
    own = ready.config.method
    kinds = [own, *(section() for name, section in method_types().items() if name != own.type)]
    for kind in kinds:
        trained = get_method(kind).trained_numbers(shapes)
        for again in (False, True):
            training = ready.config.training.model_copy(update={"gradient_checkpointing": again})
            config = ready.config.model_copy(update={"method": kind, "training": training})
            memory = peak_mb + (estimated_memory(config, ready, shapes, trained) / _MIB - preview.peak_mb)
            whole = trained >= sum(math.prod(shape) for shape in shapes.values())
            name = f"{kind.type}{' + gradient_checkpointing' if again else ''}"
            yield Choice(name, trained, memory, (3 if whole else 2) / 2 + 0.5 * again, memory < available_mb)


def _advice(found: Forecast) -> Iterator[str]:
    own = found.choices[0]
    rows = len(found.preview.ready.data.train)
    better = next((c for c in found.choices if c.fits), None)
    if found.validation_mb > found.available_mb and better is not None:
        yield f"{own.name} does not fit; {better.name} does, with {better.memory_mb:,.0f} MB"
    elif found.validation_mb > found.available_mb:
        yield "nothing fits: a smaller per_device_train_batch_size, a shorter max_length, or a smaller base"
    elif own.name == "full" and rows < 5000:
        yield f"{rows:,} rows are few for {own.trained:,} trained numbers: LoRA forgets less of the base and is quicker"
    else:
        yield f"{own.name} fits, with {found.available_mb - found.validation_mb:,.0f} MB to spare"
    if rows < FEW_ROWS:
        yield f"{rows} rows are few: they are learned by heart before the task is; some hundreds are a start"
    if found.tokens_per_word > MANY_TOKENS_PER_WORD:
        yield (
            f"{found.tokens_per_word:.1f} tokens per word: this base hardly knows the language of your rows; "
            "one whose tokenizer does is quicker and better"
        )
    if found.licence is None:
        yield "the base states no licence: clear that before you ship"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
