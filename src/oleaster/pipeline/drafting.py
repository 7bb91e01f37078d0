"""A first recipe for rows that nobody has described: looked at, with the reason beside each setting."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oleaster.config.recipe import scalar
from oleaster.config.schema import DataConfig, ModelConfig
from oleaster.core.errors import DataError
from oleaster.data.faults import raise_faults
from oleaster.data.papers import Example
from oleaster.data.readers import Rows
from oleaster.data.shapes import build_examples, settle_shape
from oleaster.data.sources import Source, open_source, read_split
from oleaster.data.split import FEWEST_ROWS, Repeats, find_labels, find_repeats
from oleaster.pipeline.columns import guess_columns, is_language
from oleaster.tasks.classification import FEW, MOST_LABELS

DEFAULT_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
SUMMARY_NAMES = ("summary", "highlights", "tldr", "abstract", "headline")
"""Names of columns that say what a longer one says."""
REASONS = {
    "generation": "The answers are free text; docs/metrics.md has measures for it",
    "classification": "The answers are labels: every answer is one of them; accuracy and macro F1 are measured",
    "extraction": "Words with tags: the answer is JSON of a fixed form; entity F1 is measured",
    "summarization": "The answer says what a longer text says: ROUGE is measured",
    "translation": "The columns are languages: BLEU and chrF are measured",
    "embedding": "Pairs of texts: nothing is written; vectors are learned whose cosine says how alike texts are",
}
"""Kind of task -> what speaks for it, and what follows."""
LONGEST_ROW = 4000
"""Tokens; longer rows take more memory than they teach."""
TEMPLATE_TOKENS = 96
"""Room for turn marks, a system message and the instruction of a task."""
FEW_OVERLONG = 0.1
"""Up to this share of rows may be left out for their length; where there are more, they are cut."""
CHARACTERS_PER_TOKEN = 3.5
"""For an estimate where the tokenizer is not at hand: English is at 4, other languages below."""


@dataclass(frozen=True)
class Draft:
    """A recipe to begin with."""

    text: str
    """YAML with a reason for each setting."""
    notes: tuple[str, ...]
    """What the user should look at first."""


@dataclass(frozen=True)
class _Look:
    """What was seen in the rows."""

    examples: Sequence[Example]
    repeats: Repeats
    labels: Sequence[str] | None
    task: str
    tokens: Sequence[int]
    """Of each row, prompt and answers together."""
    longest_answer: int
    """Tokens that are written at one go."""
    measured: bool
    """Were the tokens counted by the model's own tokenizer?"""

    @property
    def longest(self) -> int:
        return max(self.tokens)

    @property
    def longest_kept(self) -> int:
        return max((tokens for tokens in self.tokens if tokens <= LONGEST_ROW), default=LONGEST_ROW)


def draft(rows: str, model: str | None = None) -> Draft:
    """Look at a file, folder or data set and write a recipe for it.

    Args:
        model: base model; default: a small one that runs everywhere. When it is on this machine its tokenizer counts.

    Raises: DataError when rows cannot be read, or hold nothing to learn.
    """
    source = open_source(rows, None)
    table = read_split(source, "train")
    raise_faults(table.faults)
    config, guess = _shape(rows, table)
    examples, faults = build_examples(table, config)
    raise_faults(faults)
    if not examples:
        raise DataError(
            "there are no rows", where=rows, remedy="one JSON object a line, with a question and its answer"
        )
    look = _look(examples, config, _counter(model))
    named = model or DEFAULT_MODEL
    parts = [
        _head(rows, named),
        _passes(),
        _model(named, model is None),
        _task(look),
        _data(rows, source, config, look, guess),
        _method(look),
        _training(look),
        *([_evaluation(look)] if look.task != "embedding" else []),
        _export(),
    ]
    return Draft("\n\n".join(parts) + "\n", tuple(_notes(look, guess)))


# --- looking ---


def _shape(rows: str, table: Rows) -> tuple[DataConfig, str]:
    """(settings of the rows' shape, why these columns); the columns' names decide, else what is in them."""
    plain = DataConfig(data_name=rows)
    try:
        settled = settle_shape(plain, table)
    except DataError:
        prompt, answer, why = guess_columns(table)
        guessed = plain.model_copy(update={"prompt_field": prompt, "completion_field": answer})
        return settle_shape(guessed, table), why
    return settled, f"the columns say that it is {settled.data_format}"


def _counter(model: str | None) -> Callable[[str], int] | None:
    """Counts the tokens of a text with the model's tokenizer; None when it is not on this machine."""
    from oleaster.pipeline.needs import is_here

    if model is None or not is_here(model):
        return None
    from oleaster.models.source import resolve
    from oleaster.models.tokenizer import load_tokenizer

    tokenizer: Any = load_tokenizer(resolve(ModelConfig(model_name_or_path=model)).folder)
    return lambda text: len(tokenizer(text, add_special_tokens=False)["input_ids"])


def _look(examples: Sequence[Example], config: DataConfig, count: Callable[[str], int] | None) -> _Look:
    counted = count or (lambda text: math.ceil(len(text) / CHARACTERS_PER_TOKEN))
    tokens = [counted("".join(_texts_of(example))) for example in examples]
    answers = [counted(max(_answers_of(example), key=len)) for example in examples]
    labels = find_labels(examples)
    task = _task_of(examples, config, labels)
    labels = labels if task == "classification" else None
    return _Look(examples, find_repeats(examples), labels, task, tokens, max(answers), count is not None)


def _texts_of(example: Example) -> Iterator[str]:
    yield from (text for text, _ in example.text_parts)
    yield from (str(message.get("content") or "") for message in example.messages)


def _answers_of(example: Example) -> Iterator[str]:
    """What is written at one go: the answer, in a chat each of them."""
    yield example.target
    yield from (str(m.get("content") or "") for m in example.messages if m["role"] == "assistant")


def _task_of(examples: Sequence[Example], config: DataConfig, labels: Sequence[str] | None) -> str:
    """The kind of task that rows of this shape are for."""
    if config.data_format in ("tagged", "pairs"):
        return {"tagged": "extraction", "pairs": "embedding"}[config.data_format]
    if config.data_format != "completion":
        return "generation"
    if labels and len(set(labels)) <= MOST_LABELS:
        return "classification"
    columns = [config.prompt_field or "", config.completion_field or ""]
    if all(map(is_language, columns)):
        return "translation"
    return "summarization" if columns[1].lower() in SUMMARY_NAMES else "generation"


# --- writing: each part is a section with its reasons ---


def _head(rows: str, model: str) -> str:
    name = Path(rows).stem or "first"
    return "\n".join(
        [
            f"# A recipe for {rows}, written by oleaster init.",
            "# Every line may be changed; docs/config.md has all settings.",
            "#   oleaster check THIS_FILE    says whether it can be done",
            "#   oleaster run THIS_FILE      does it; what has not changed since is not done again",
            f"output_path: {scalar(f'runs/{name}')}",
            f"task_name: {scalar(name)}",
        ]
    )


def _passes() -> str:
    return "\n".join(["passes:", "  - finetune", "  - evaluate", "  - onnx"])


def _model(name: str, chosen: bool) -> str:
    why = (
        "small, quick on any CPU, Apache-2.0; larger ones know more: Qwen/Qwen3-0.6B, meta-llama/Llama-3.2-1B-Instruct"
    )
    lines = ["model:", *([f"  # {why}."] if chosen else []), f"  model_name_or_path: {scalar(name)}"]
    return "\n".join(lines)


def _task(look: _Look) -> str:
    return "\n".join(["task:", f"  # {REASONS[look.task]}.", f"  type: {look.task}"])


def _data(rows: str, source: Source, config: DataConfig, look: _Look, guess: str) -> str:
    lines = ["data:", f"  # {len(look.examples):,} rows; {guess}.", f"  data_name: {scalar(rows)}"]
    if config.data_format == "completion":
        lines += [
            f"  prompt_field: {scalar(config.prompt_field)}",
            f"  completion_field: {scalar(config.completion_field)}",
        ]
    else:
        lines += [f"  data_format: {config.data_format}"]
    if len(set(look.labels or ())) > FEW:
        lines += [
            "  # What is common to all rows is computed once per batch; a task in words helps a small model:",
            f'  # system_prompt: "Name the {config.completion_field} of the {config.prompt_field}."',
        ]
    lines += _held_out(source, look)
    lines += _lengths(look)
    return "\n".join(lines)


def _held_out(source: Source, look: _Look) -> Iterator[str]:
    if "validation" in source.files:
        yield "  # The folder has validation rows of its own: they are used."
        return
    if len(look.repeats.groups) < FEWEST_ROWS:
        yield f"  # Fewer than {FEWEST_ROWS} different rows: none are held out, and nothing will show memorising."
        return
    kinds = f", the same share of each of {len(set(look.labels))} labels" if look.labels else ""
    share = 0.1 if len(look.examples) >= 200 else 0.2
    yield f"  # Held out to see when learning turns into memorising{kinds}."
    yield f"  validation_fraction: {share}"


def _lengths(look: _Look) -> Iterator[str]:
    how = "counted by the model's tokenizer" if look.measured else "estimated; with -m MODEL its tokenizer counts"
    wanted = max(64, 64 * math.ceil(1.25 * (look.longest + TEMPLATE_TOKENS) / 64))
    yield f"  # The longest row has {look.longest:,} tokens ({how}); template and instruction add some."
    if wanted <= 4096:
        yield f"  max_length: {wanted}"
        return
    over = sum(tokens > LONGEST_ROW for tokens in look.tokens)
    ways = {"drop": "they are left out", "truncate": "their prompts are cut"}
    way, other = ways if over <= FEW_OVERLONG * len(look.tokens) else reversed(ways)
    yield f"  # Rows longer than that: {over:,}; {ways[way]} (`{other}`: {ways[other]})."
    yield "  max_length: 4096"
    yield f"  overlong: {way}"


def _method(look: _Look) -> str:
    rank = 16 if len(look.examples) < 20_000 else 32
    return "\n".join(
        [
            "method:",
            "  # A small addition to frozen weights: quick, and many tasks can share one base.",
            "  type: lora",
            f"  lora_r: {rank}",
        ]
    )


def _training(look: _Look) -> str:
    rows = len(look.examples)
    epochs = 10 if rows < 200 else 5 if rows < 2_000 else 3 if rows < 20_000 else 1
    batch = 16 if look.longest_kept <= 512 else 4 if look.longest_kept <= 2048 else 1
    rate = "5e-4" if look.labels else "3e-4"
    why = (
        "Short answers take a higher rate than sentences" if look.labels else "Sentences take a lower rate than labels"
    )
    lines = [
        "training:",
        "  # At most so many passes: the state with the lowest validation loss is kept, and a plateau ends it.",
        f"  num_train_epochs: {epochs}",
        f"  per_device_train_batch_size: {batch}",
    ]
    if batch < 16:
        lines += [
            "  # Long rows take memory: several small batches make one step.",
            f"  gradient_accumulation_steps: {16 // batch}",
        ]
    return "\n".join([*lines, f"  # {why}; when the loss jumps, halve it.", f"  learning_rate: {rate}"])


def _evaluation(look: _Look) -> str:
    wanted = min(1024, max(8, math.ceil(1.25 * look.longest_answer) + 4))
    comment = f"  # The longest answer has {look.longest_answer:,} tokens."
    return "\n".join(["evaluation:", comment, f"  max_new_tokens: {wanted}"])


def _export() -> str:
    return "\n".join(
        [
            "export:",
            "  # The smallest weights whose answers on the held-out rows are as good as torch's.",
            "  precision: auto",
        ]
    )


def _notes(look: _Look, guess: str) -> Iterator[str]:
    yield guess
    if look.repeats.duplicated:
        yield f"{look.repeats.duplicated:,} rows repeat an earlier one exactly (oleaster data clean)"
    if look.repeats.conflicting:
        yield f"{look.repeats.conflicting:,} rows ask what another row answers otherwise (oleaster data report)"
    if look.labels:
        (most, many), *_, (least, few) = Counter(look.labels).most_common()
        yield f"{len(set(look.labels))} labels, from {many:,} rows ({most!r}) to {few:,} ({least!r})"
    if len(look.examples) < 100:
        yield "fewer than 100 rows: more of them, and more varied, will help more than any setting"
