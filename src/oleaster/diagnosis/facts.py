"""Causes that show in rows, tokens, log and answers; nothing is trained. One function each."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from oleaster.data.encode import foreign_marks
from oleaster.data.render import voice_of
from oleaster.data.template import CONTROL, parse_template
from oleaster.diagnosis.subject import Subject
from oleaster.reporting.causes import Finding

FEWEST_VALIDATION_ROWS = 50
"""Below, the 95 % interval of a share near one half is wider than 27 points."""
_MOST_HELD_OUT = 0.25
"""Of few rows the training needs the most."""
_CUT, _DROPPED, _SHORTENED = 0.05, 0.1, 0.3
"""Shares of the training rows from which cut answers, dropped and shortened rows matter."""
_MARKED = 0.2
_MARKS = re.compile(
    r"<\|im_start\|>(?:system|user|assistant)?\n?|<\|im_end\|>\n?|<\|(?:user|assistant|system|eot_id|endoftext|end)\|>\n?"
    r"|<\|start_header_id\|>.*?<\|end_header_id\|>\n*|\[/?INST\]|<</?SYS>>|</?s>|<(?:start|end)_of_turn>(?:user|model)?\n?"
    r"|^### (?:Instruction|Input|Response|User|Assistant):?\s*",
    re.MULTILINE,
)
"""What chat templates of the common families put around turns."""
_TOKENS_PER_WORD = 4.0
"""An own language takes 1.2 to 2.5 tokens a word; from 4 on, words fall apart into syllables or bytes."""
_TOKENS_PER_CHARACTER = 1.5
"""For scripts without spaces between words."""
_READ = 500
"""Rows that are tokenised to see how words come out."""
_MAJORITY, _SAME = 0.7, 0.95
_FEWEST_ANSWERS, _ENDED = 5, 0.8
_FEWEST_VALIDATIONS, _TURNED_BY, _RISE = 4, 0.6, 0.08
"""Validations that make a curve, the share of the steps by which its lowest point must have passed, and the share of
the last loss above it."""
_MULTILINGUAL = "Qwen/Qwen3-0.6B"

Fact = Callable[[Subject], Iterator[Finding]]


def truncation(subject: Subject) -> Iterator[Finding]:
    """Answers or rows were cut to `max_length`."""
    part = subject.ready.data.ledger.train
    cut, shortened = part.answers_cut / max(1, part.used), part.truncated / max(1, part.used)
    dropped = sum(part.dropped.values()) / max(1, part.rows)
    if cut < _CUT and dropped < _DROPPED and shortened < _SHORTENED:
        return
    limit = subject.config.data.max_length
    longest = _longest(subject)
    yield Finding(
        "truncation",
        max(cut, dropped, shortened),
        f"max_length {limit} shortened {shortened:.0%} of the training rows, cut into the answer of {cut:.0%} and "
        f"dropped {dropped:.0%}; the longest row has {longest:,} tokens. Cut answers never learn where to end.",
        f"max_length {longest}, or shorter rows",
        {"max_length": longest, "overlong": "error"},
    )


def template(subject: Subject) -> Iterator[Finding]:
    """The text template has another family's turn marks, or rows bring marks that the chat template wraps once more."""
    if not subject.config.data.use_chat_template:
        yield from _foreign_template(subject)
        return
    marked = [example for example in subject.train if _MARKS.search(_all_text(example.row))]
    share = len(marked) / max(1, len(subject.train))
    if share < _MARKED:
        return
    seen = Counter(_MARKS.findall(" ".join(_all_text(example.row) for example in marked[:50])))
    named = ", ".join(repr(mark.strip()) for mark, _ in seen.most_common(3))
    yield Finding(
        "template",
        share,
        f"{share:.0%} of the training rows contain turn marks ({named}) as text, and the chat template puts its own "
        "around them. The model meets a form at work that it was not trained on.",
        "rows with plain prompts and answers; the recipe takes a copy of the rows without the marks",
        rows=tuple(_without_marks(example.row) for example in subject.train),
    )


def _foreign_template(subject: Subject) -> Iterator[Finding]:
    tokenizer, data = subject.ready.tokenizer, subject.config.data
    marks = foreign_marks(data, voice_of(tokenizer, data))
    if not marks:
        return
    columns = parse_template(data.text_template or "").columns
    own = bool(tokenizer.chat_template) and len(columns) == 2
    fields = {"data_format": "completion", "prompt_field": columns[0], "completion_field": columns[-1]}
    yield Finding(
        "template",
        1.0,
        f"The text template has the turn marks of another model family ({', '.join(marks)}); the base reads them "
        "letter by letter, and "
        + ("was itself tuned with other ones." if tokenizer.chat_template else "knows no turns at all."),
        "the chat template of the base instead" if own else "a text template without them",
        {"text_template": None, **fields, "use_chat_template": True}
        if own
        else {"text_template": CONTROL.sub("", data.text_template or "")},
    )


def wrong_base(subject: Subject) -> Iterator[Finding]:
    """The base's tokenizer does not know the language: words fall apart."""
    texts = [f"{prompt} {answer}" for prompt, answer in subject.texts()[:_READ]]
    words, characters = sum(len(text.split()) for text in texts), sum(map(len, texts))
    if not words:
        return
    tokens = sum(map(len, subject.ready.tokenizer(texts, add_special_tokens=False)["input_ids"]))
    per_word, per_character = tokens / words, tokens / characters
    spaced = characters / words < 15
    if (per_word < _TOKENS_PER_WORD) if spaced else (per_character < _TOKENS_PER_CHARACTER):
        return
    yield Finding(
        "wrong_base",
        min(1.0, per_word / 8) if spaced else min(1.0, per_character / 2),
        f"The tokenizer of {subject.ready.base.source} takes {per_word:.1f} tokens a word ({per_character:.2f} a "
        "character) of these rows; a language it was made for takes 1.2 to 2.5 a word. The base has read little of it.",
        f"a base for this language, for instance {_MULTILINGUAL}",
        {"model_name_or_path": _MULTILINGUAL},
    )


def too_long(subject: Subject) -> Iterator[Finding]:
    """The validation loss turned round long before the end, the training loss did not: rows are learned by heart."""
    evals = [report for report in subject.history.evals if math.isfinite(report.eval_loss)]
    if len(evals) < _FEWEST_VALIDATIONS:
        return
    last, best = evals[-1], min(evals, key=lambda report: report.eval_loss)
    rise = 1 - best.eval_loss / last.eval_loss if last.eval_loss > 0 else 0.0
    # Losses of rows spread about as far as their mean: the mean of few of them rises by itself.
    chance = max(1, len(subject.ready.data.validation)) ** -0.5
    if best.step > _TURNED_BY * last.step or rise < max(_RISE, chance) or last.train_loss > best.eval_loss:
        return
    with_room = {"lora_dropout": 0.1} if subject.config.method.type == "lora" else {"weight_decay": 0.01}
    yield Finding(
        "too_long",
        rise,
        f"The validation loss was lowest ({best.eval_loss:.3f}) at step {best.step} and is {last.eval_loss:.3f} at "
        f"step {last.step}, while the training loss fell to {last.train_loss:.3f}: rows are learned by heart.",
        f"max_steps {best.step} with regularisation; more, and more varied, rows help most (oleaster data augment)",
        {"max_steps": best.step, **with_room},
    )


def constant_answer(subject: Subject) -> Iterator[Finding]:
    """One answer is so frequent that giving it always is nearly as good as reading."""
    report = subject.tuned
    if report is None:
        return
    answers = Counter(example.target.strip() for example in subject.train)
    most, count = answers.most_common(1)[0]
    share = count / len(subject.train)
    given = Counter((row.prediction or "").strip() for row in report.rows)
    same = given[most] / max(1, len(report.rows))
    if share < _MAJORITY or same < max(_SAME, share):
        return
    rightly = sum(row.reference.strip() == most for row in report.rows) / len(report.rows)
    yield Finding(
        "constant_answer",
        same,
        f"{share:.0%} of the training answers are {most!r}, and the tuned model says so to {same:.0%} of the "
        f"validation rows; always saying it is right in {rightly:.0%}.",
        "more rows of the other answers; the recipe repeats those there are until each answer has a quarter of "
        "the most frequent one's rows. Judge by macro_f1, not by accuracy",
        rows=tuple(_balanced(subject, answers)),
    )


def base_as_good(subject: Subject) -> Iterator[Finding]:
    """The base answers as well without tuning."""
    if len(subject.reports) != 2:
        return
    base, tuned = subject.reports
    if "exact_match" not in base.metrics or "loss" not in base.metrics:
        return
    before, after = base.metrics["exact_match"].value, tuned.metrics["exact_match"].value
    if before < 0.5 or after > before + 0.02:
        return
    yield Finding(
        "base_as_good",
        before,
        f"The base alone answers {before:.0%} of the rows exactly, the tuned model {after:.0%}: there is nothing left "
        "to learn from rows like these.",
        "harder rows, those that the base gets wrong; or the base as it is",
        rows=None,
    )


def no_stop(subject: Subject) -> Iterator[Finding]:
    """Answers do not end by themselves."""
    asked = subject.should_have_ended
    if len(asked) < _FEWEST_ANSWERS:
        return
    ended = sum(row.finish == "stop" for row in asked) / len(asked)
    if ended >= _ENDED:
        return
    longest = subject.longest_answer
    yield Finding(
        "no_stop",
        1 - ended,
        f"Only {ended:.0%} of {len(asked)} answers end by themselves where the reference would have; the longest "
        f"training answer has {longest} tokens.",
        "train longer, so that the stop token is learned; max_new_tokens as long as the longest answer",
        {"max_new_tokens": longest, "num_train_epochs": 2 * subject.config.training.num_train_epochs},
    )


def small_validation(subject: Subject) -> Iterator[Finding]:
    """Too few validation rows to tell anything."""
    rows, train = len(subject.ready.data.validation), len(subject.train)
    if rows >= FEWEST_VALIDATION_ROWS:
        return
    width = 196 / max(rows, 1) ** 0.5
    seen = (
        f"{rows} validation rows: a share measured on them is uncertain by up to {min(100, width):.0f} points from end "
        "to end of its 95 % interval, and the weights that are kept are chosen by chance."
        if rows
        else "No rows are held out: nothing shows whether it has learned or only remembers, or when to stop."
    )
    wanted = min(_MOST_HELD_OUT, max(0.1, 2 * FEWEST_VALIDATION_ROWS / (rows + train)))
    yield Finding(
        "small_validation",
        1 - rows / FEWEST_VALIDATION_ROWS,
        seen,
        f"hold out more ({wanted:.0%} of the rows), or collect a test set of at least {2 * FEWEST_VALIDATION_ROWS}",
        {"validation_fraction": round(wanted, 2), "eval_data_files": None, "eval_split": None},
    )


IN_THE_ROWS: tuple[Fact, ...] = (truncation, template, wrong_base)
"""What is broken before training begins: experiments on such rows would measure the breakage."""
IN_LOG_AND_ANSWERS: tuple[Fact, ...] = (too_long, constant_answer, base_as_good, no_stop, small_validation)


def _longest(subject: Subject) -> int:
    """Tokens of the longest training row when nothing is cut."""
    from oleaster.data.encode import encode

    whole = subject.config.data.model_copy(update={"max_length": 10**9, "overlong": "error"})
    return max(len(row.input_ids) for row in encode(subject.train, subject.ready.tokenizer, whole)[0])


def _all_text(value: Any) -> str:
    if isinstance(value, dict):
        return "\n".join(_all_text(part) for part in value.values())
    if isinstance(value, list):
        return "\n".join(_all_text(part) for part in value)
    return value if isinstance(value, str) else ""


def _without_marks(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_marks(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_without_marks(part) for part in value]
    return _MARKS.sub("", value).strip() if isinstance(value, str) else value


def _balanced(subject: Subject, answers: Counter[str]) -> Iterator[dict[str, Any]]:
    """Every row once, those of rare answers again and again."""
    most = max(answers.values())
    for example in subject.train:
        times = max(1, round(most / 4 / answers[example.target.strip()]))
        yield from [example.row] * times
