"""From examples to token ids that training, evaluation and chat share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from oleaster.config.schema import DataConfig
from oleaster.core.errors import DataError, UserError
from oleaster.data.faults import raise_faults
from oleaster.data.ledger import Ledger, Part
from oleaster.data.papers import Encoded, Example, Message
from oleaster.data.prepare import Prepared
from oleaster.data.render import Rendered, Voice, render, render_prompt, split_space, voice_of
from oleaster.data.shorten import shorten
from oleaster.data.template import CONTROL, parse_template
from oleaster.data.tokens import Tokens, prompt_ids, tokenise


@dataclass(frozen=True)
class EncodedData:
    """Both sides as token ids. `Encoded.example` counts in `Prepared.train` or `Prepared.validation`."""

    train: list[Encoded]
    validation: list[Encoded]
    ledger: Ledger
    """Final: rows and tokens, balanced."""
    notes: tuple[str, ...]
    config: DataConfig
    """`Prepared.config` with the use of the chat template decided; save it in the run, give it to `encode_prompt`."""


def encode_all(prepared: Prepared, tokenizer: Any, config: DataConfig | None = None) -> EncodedData:
    """Render and tokenise both sides, and close the ledger.

    Args:
        tokenizer: a fast transformers.PreTrainedTokenizerBase.
        config: default `prepared.config`; another one must have the same shape and columns.
    Raises: DataError for rows that are too long (with `overlong="error"`) or have nothing to learn, ModelError for a
        tokenizer or chat template that cannot be trained with.
    """
    config = prompt_style(config or prepared.config, prepared, tokenizer)
    train, train_part = encode(prepared.train, tokenizer, config, prepared.ledger.train)
    validation, validation_part = encode(
        prepared.validation, tokenizer, config, prepared.ledger.validation, every_turn=False
    )
    ledger = replace(prepared.ledger, train=train_part, validation=validation_part)
    ledger.check()
    if not ledger.train.tokens_trained:
        raise DataError(
            f"no token is left to learn: {_losses(train_part.dropped)}",
            remedy=f"raise --max_length {config.max_length}, or shorten the rows",
        )
    return EncodedData(train, validation, ledger, tuple(_notes(config, ledger, voice_of(tokenizer, config))), config)


def prompt_style(config: DataConfig, prepared: Prepared, tokenizer: Any) -> DataConfig:
    """`config` with shape, columns and chat template decided: all that `encode_prompt` needs."""
    settled = {name: getattr(prepared.config, name) for name in ("data_format", "text_field", "prompt_field")}
    settled |= {name: getattr(prepared.config, name) for name in ("completion_field", "score_field")}
    if prepared.config.data_format not in ("template", "text"):
        settled["use_chat_template"] = voice_of(tokenizer, config).chat
    return config.model_copy(update=settled)


def encode(
    examples: Sequence[Example], tokenizer: Any, config: DataConfig, part: Part | None = None, every_turn: bool = True
) -> tuple[list[Encoded], Part]:
    """Token ids of `examples` and the ledger's part with their tokens.

    The stop token is always a target: the chat template's end of turn, else the tokenizer's eos. Longer sequences than
    `max_length` are refused, shortened (see `shorten`) or dropped, as `config.overlong` says.

    Args:
        part: the ledger's part as `prepare` left it; default: all examples used.
        every_turn: where a chat template rewrites earlier turns, make a sequence of every turn (training); else only
            of the last one, so that there is one sequence an example.
    Raises: DataError, ModelError as `encode_all`.
    """
    part = part or Part(rows=len(examples), used=len(examples))
    voice = voice_of(tokenizer, config)
    owners, sequences = _render_all(examples, voice, config, every_turn)
    found = list(tokenise(sequences, tokenizer, config.train_on))
    if config.overlong == "error":
        _refuse_overlong(found, owners, examples, config)
    encoded: list[Encoded] = []
    count: Counter[str] = Counter()
    reasons: dict[int, str] = {}
    truncated, cut = set[int](), set[int]()
    for owner, sequence, tokens in zip(owners, sequences, found, strict=True):
        count["read"] += len(tokens.ids)
        kept: Tokens | None = tokens
        if len(tokens.ids) > config.max_length:
            kept = None
            if config.overlong == "truncate":
                kept, whole_answer = shorten(examples[owner], sequence, tokens, voice, config)
                truncated.add(owner)
                if not whole_answer:
                    cut.add(owner)
        if kept is None or not kept.targets:
            reasons.setdefault(owner, "too long" if len(tokens.ids) > config.max_length else "nothing to learn")
            count["dropped"] += len(tokens.ids)
            continue
        count["truncated"] += len(tokens.ids) - len(kept.ids)
        count["trained"] += len(kept.targets)
        count["masked"] += len(kept.ids) - len(kept.targets)
        encoded.append(Encoded(tuple(kept.ids), tuple(kept.targets), kept.prompt_length, owner))
    empty = [i for i, reason in reasons.items() if reason == "nothing to learn"]
    raise_faults([DataError("the row has no token to learn", where=examples[i].source) for i in empty])
    used = {row.example for row in encoded}
    dropped = Counter(reason for owner, reason in reasons.items() if owner not in used)
    return encoded, replace(
        part,
        used=len(used),
        dropped={**part.dropped, **dropped},
        truncated=len(truncated & used),
        answers_cut=len(cut & used),
        escaped=len({owner for owner, s in zip(owners, sequences, strict=True) if s.marks} & used),
        sequences=len(encoded),
        tokens_read=count["read"],
        tokens_trained=count["trained"],
        tokens_masked=count["masked"],
        tokens_truncated=count["truncated"],
        tokens_dropped=count["dropped"],
    )


def _render_all(
    examples: Sequence[Example], voice: Voice, config: DataConfig, every_turn: bool
) -> tuple[list[int], list[Rendered]]:
    """All sequences with the number of the example each is made of."""
    owners: list[int] = []
    sequences: list[Rendered] = []
    faults: list[DataError] = []
    for i, example in enumerate(examples):
        try:
            made = render(example, voice, config, every_turn)
        except DataError as fault:
            faults.append(fault)
            continue
        owners += [i] * len(made)
        sequences += made
    raise_faults(faults)
    return owners, sequences


def _refuse_overlong(
    found: Sequence[Tokens], owners: Sequence[int], examples: Sequence[Example], config: DataConfig
) -> None:
    lengths: dict[int, int] = {}
    for owner, tokens in zip(owners, found, strict=True):
        if len(tokens.ids) > config.max_length:
            lengths[owner] = max(lengths.get(owner, 0), len(tokens.ids))
    if not lengths:
        return
    shown = "\n".join(f"- {examples[i].source}: {length} tokens" for i, length in list(lengths.items())[:10])
    more = f"\n- and {len(lengths) - 10} more" if len(lengths) > 10 else ""
    raise DataError(
        f"{len(lengths)} of {len(examples)} rows are longer than --max_length {config.max_length}\n{shown}{more}",
        remedy=f"add --max_length {max(lengths.values())}, --overlong truncate (shortens prompts) or --overlong drop",
    )


# --- prompts of users ---


def encode_prompt(
    prompt: str | Sequence[Message] | Mapping[str, str],
    tokenizer: Any,
    config: DataConfig,
    tools: Sequence[Mapping[str, Any]] = (),
) -> list[int]:
    """Token ids of a user's input, rendered as training rendered the prompts of its rows.

    Args:
        prompt: a text; a mapping column -> text for a template with several columns; or messages.
        config: the run's (`EncodedData.config`).
        tools: functions offered to the model (chat templates only).
    Raises: UserError when the input does not fit the shape the model was trained on.
    """
    voice = voice_of(tokenizer, config)
    if config.data_format == "template" or config.text_template is not None:
        return prompt_ids(fill_template(prompt, voice, config), tokenizer)
    if config.data_format == "text":
        return prompt_ids(Rendered(split_space(_only_text(prompt))[0], ""), tokenizer)
    messages = prompt if not isinstance(prompt, (str, Mapping)) else [{"role": "user", "content": _only_text(prompt)}]
    if not messages:
        raise UserError("the prompt has no messages")
    return prompt_ids(render_prompt(messages, tools, voice, config), tokenizer)


def _only_text(prompt: str | Sequence[Message] | Mapping[str, str]) -> str:
    """The text of a prompt that can only be one: a text itself, one column, or one user message."""
    if isinstance(prompt, str):
        return prompt
    values = list(prompt.values()) if isinstance(prompt, Mapping) else [m["content"] for m in prompt]
    if len(values) != 1:
        raise UserError("this model continues one text; it knows no conversation", remedy="give one text")
    return values[0]


def fill_template(prompt: str | Sequence[Message] | Mapping[str, str], voice: Voice, config: DataConfig) -> Rendered:
    """The template with a user's input, up to the answer. Raises: UserError that names the missing columns."""
    template = parse_template(config.text_template or "")
    needed = template.prompt_columns
    if isinstance(prompt, Mapping):
        values = dict(prompt)
    elif len(needed) == 1:
        values = {needed[0]: _only_text(prompt)}
    else:
        values = {}
    missing = [name for name in needed if name not in values]
    if missing:
        raise UserError(
            f"the template of this model needs {', '.join(needed)}; missing: {', '.join(missing)}",
            where="prompt",
            remedy="give each as COLUMN=TEXT",
        )
    example = Example("the prompt", text_parts=template.parts({template.columns[-1]: "", **values}))
    return replace(render(example, voice, config)[0], answer="")


# --- notes ---


def foreign_marks(config: DataConfig, voice: Voice) -> list[str]:
    """What looks like control tokens in the text template, and is none of the model's."""
    if config.text_template is None:
        return []
    known = {*voice.specials, *voice.tokenizer.get_added_vocab()}
    found = dict.fromkeys(CONTROL.findall("".join(parse_template(config.text_template).literals)))
    return [mark for mark in found if mark not in known]


def _notes(config: DataConfig, ledger: Ledger, voice: Voice) -> list[str]:
    notes = []
    if foreign := foreign_marks(config, voice):
        notes.append(
            f"the template's {', '.join(foreign)} are no control tokens of {voice.name}: it reads them as plain "
            "text. They are those of another model family"
        )
    if escaped := ledger.train.escaped + ledger.validation.escaped:
        notes.append(f"{escaped} rows contain a control token of the model as text; it was encoded as plain text")
    if cut := ledger.train.answers_cut:
        notes.append(f"{cut} answers are longer than --max_length alone; they were cut and do not learn to stop")
    if ledger.train.sequences > ledger.train.used:
        notes.append(
            "the chat template rewrites earlier turns, so every turn is trained as a sequence of its own: "
            f"{ledger.train.sequences} of {ledger.train.used} rows; validation looks at the last turn"
        )
    if voice.chat and "strftime_now" in str(voice.tokenizer.chat_template) and config.use_chat_template:
        notes.append("the chat template writes today's date: prompts of another day differ in it")
    return notes


def _losses(dropped: Mapping[str, int]) -> str:
    return ", ".join(f"{count} rows {reason}" for reason, count in dropped.items()) or "there are no rows"
