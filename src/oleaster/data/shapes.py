"""From a raw row to an `Example`: which columns are the prompt, which the answer, which a conversation."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from functools import partial
from shlex import quote
from typing import Any, NamedTuple

from oleaster.config.schema import DataConfig
from oleaster.core.errors import ConfigError, DataError, near_names
from oleaster.data.augmented import MARKS
from oleaster.data.cells import BadRowError, as_text
from oleaster.data.labelled import PAIRS, SCORES, TAGGED, pair_row, tagged_row
from oleaster.data.papers import Example, Message
from oleaster.data.readers import Rows
from oleaster.data.template import TextTemplate, parse_template

PROMPTS = ("prompt", "input", "question", "query", "instruction", "document", "article")
COMPLETIONS = ("completion", "output", "response", "answer", "summary", "highlights")
INPUTS = ("input", "context")
"""Alpaca's second column; databricks-dolly calls it context."""
ANSWERS = ("output", "response")
CHATS = ("messages", "conversations", "conversation")
BYSTANDERS = {"id", "idx", "index", "source", "url", "meta", "metadata", "timestamp", "language", "lang", *MARKS}
"""Columns that may stand beside `text` without making it doubtful that the text is all there is."""
LABELLED = ("text", "label")
"""Columns of a classification as the hub has them; beside others it may be meant otherwise."""
ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "chatgpt": "assistant",
    "system": "system",
    "developer": "developer",
    "tool": "tool",
    "observation": "tool",
    "function_response": "tool",
}
"""Who speaks: ShareGPT's names and OpenAI's."""


class UnclearError(ValueError):
    """Why the columns allow several readings, or none."""


class Shape(NamedTuple):
    """What a row must have, and how it becomes an example."""

    required: tuple[str, ...]
    build: Callable[[dict[str, Any], str], Example]


# --- which shape ---


def settle_shape(config: DataConfig, rows: Rows) -> DataConfig:
    """`config` with `data_format` and the columns decided: by the settings, else by the columns of the rows.

    Raises: ConfigError for settings that contradict each other; DataError when the columns allow several readings or
    none. Both name the choices.
    """
    config = _by_settings(config)
    columns = Counter(key for row in rows.rows for key in row)
    usual = {name for name, count in columns.items() if 2 * count >= len(rows.rows)}
    if config.data_format == "auto":
        try:
            config = _by_columns(config, usual)
        except UnclearError as error:
            raise _unclear(rows, [name for name in columns if name in usual], str(error)) from None
    if config.data_format == "completion":
        prompt = config.prompt_field or _pick("prompt", PROMPTS, usual - {config.completion_field or ""})
        completion = config.completion_field or _pick("answer", COMPLETIONS, usual - {prompt})
        return config.model_copy(update={"prompt_field": prompt, "completion_field": completion})
    if config.data_format == "text":
        return config.model_copy(update={"text_field": config.text_field or "text"})
    if config.data_format in ("tagged", "pairs"):
        return _two_columns(config, usual)
    return config


def _two_columns(config: DataConfig, columns: set[str]) -> DataConfig:
    """Words and tags, or the texts of a pair, and how alike these are."""
    known = TAGGED if config.data_format == "tagged" else PAIRS
    first, second = next((names for names in known if columns.issuperset(names)), ("", ""))
    first, second = config.prompt_field or first, config.completion_field or second
    if not (first and second):
        wanted = " or ".join(" and ".join(names) for names in known)
        message = f"{config.data_format} rows have the columns {wanted}; these have {', '.join(sorted(columns))}"
        raise DataError(message, where="data_format", remedy="write --prompt_field COLUMN --completion_field COLUMN")
    scores = config.score_field or (_first(SCORES, columns) if config.data_format == "pairs" else None)
    return config.model_copy(update={"prompt_field": first, "completion_field": second, "score_field": scores})


def _by_settings(config: DataConfig) -> DataConfig:
    """Decide from the settings alone, where they say it."""
    hints = {
        "template": "--text_template" if config.text_template is not None else "",
        "text": "--text_field" if config.text_field else "",
        "completion": " ".join(f"--{n}" for n in ("prompt_field", "completion_field") if getattr(config, n)),
    }
    hints = {shape: flag for shape, flag in hints.items() if flag}
    shape = config.data_format
    fitting = "completion" if shape in ("tagged", "pairs") else shape
    foreign = [flag for hinted, flag in hints.items() if fitting not in ("auto", hinted)]
    if foreign:
        raise ConfigError(f"--data_format {shape} has no use for {', '.join(foreign)}", remedy="leave one of them out")
    if len(hints) > 1:
        message = f"what a row looks like is said twice: {' and '.join(hints.values())}"
        raise ConfigError(message, remedy="leave one of them out")
    if shape == "template" and not hints:
        raise ConfigError(
            "--data_format template needs --text_template", remedy="add --text_template '{input}\\n{output}'"
        )
    if hints and fitting == shape:
        shape = next(iter(hints))
    if shape in ("template", "text"):
        for flag in ("system_prompt", "use_chat_template"):
            if getattr(config, flag):
                raise ConfigError(
                    f"--{flag} has no effect on {shape} rows: they are used as they stand",
                    remedy=f"leave --{flag} out, or name --prompt_field and --completion_field instead",
                )
    return config.model_copy(update={"data_format": shape})


def _by_columns(config: DataConfig, columns: set[str]) -> DataConfig:
    """Decide from the names of the columns. Raises: UnclearError."""
    if columns - BYSTANDERS == set(LABELLED):
        prompt, answer = LABELLED
        update = {"data_format": "completion", "prompt_field": prompt, "completion_field": answer}
        return config.model_copy(update=update)
    found: dict[str, str] = {}
    chats = [name for name in CHATS if name in columns]
    if chats:
        found["messages" if chats[0] == "messages" else "sharegpt"] = f"column {chats[0]}"
    pairs = [c for c in PROMPTS if c in columns], [c for c in COMPLETIONS if c in columns]
    if "instruction" in columns and _first(ANSWERS, columns) and _first(INPUTS, columns):
        found["alpaca"] = "columns instruction, " + ", ".join(c for c in (*INPUTS, *ANSWERS) if c in columns)
    elif len(pairs[0]) == 1 and len(pairs[1]) == 1:
        found["completion"] = f"columns {pairs[0][0]} and {pairs[1][0]}"
    elif all(pairs):
        found["completion"] = "columns " + ", ".join(pairs[0] + pairs[1])
        if "text" not in columns and not chats:
            raise UnclearError(f"{' or '.join(pairs[0])} may be the prompt, {' or '.join(pairs[1])} the answer")
    if "text" in columns:
        found["text"] = "column text"
    for shape, known in (("tagged", TAGGED), ("pairs", PAIRS)):
        if names := next((names for names in known if columns.issuperset(names)), None):
            found.setdefault(shape, f"columns {' and '.join(names)}")
    if len(found) > 1:
        raise UnclearError("; ".join(f"{why} would make it {shape}" for shape, why in found.items()))
    if not found:
        raise UnclearError("none of them is a known prompt, answer, text or conversation")
    if "text" in found and columns - {"text"} - BYSTANDERS:
        raise UnclearError("text may be all there is to learn, or the prompt for another column")
    return config.model_copy(update={"data_format": next(iter(found))})


def _unclear(rows: Rows, columns: Sequence[str], why: str) -> DataError:
    file = _file_of(rows)
    first, second, *_ = *(name for name in columns if name not in BYSTANDERS), "COLUMN", "COLUMN"
    return DataError(
        f"the columns {', '.join(columns)} do not say what is to be learned: {why}",
        where=file,
        remedy=f"write --prompt_field {quote(first)} --completion_field {quote(second)} (or others), "
        f"--text_template '{{{first}}} ... {{{second}}}', or --text_field COLUMN (whole text); "
        f"oleaster init {quote(file)} looks into the rows and proposes",
    )


def _file_of(rows: Rows) -> str:
    """Where the first row was read from, without its line."""
    return re.sub(r":\d+$|\[\d+\]$", "", rows.places[0])


def _pick(what: str, names: tuple[str, ...], columns: set[str]) -> str:
    found = [name for name in names if name in columns]
    if len(found) != 1:
        flag = "--prompt_field" if what == "prompt" else "--completion_field"
        seen = f"{' and '.join(found)} both could be" if found else f"none of {', '.join(sorted(columns))} is known as"
        raise DataError(f"{seen} the {what}", where="data_format", remedy=f"add {flag} COLUMN")
    return found[0]


def _first(names: tuple[str, ...], columns: Any) -> str | None:
    return next((name for name in names if name in columns), None)


# --- rows to examples ---


def build_examples(rows: Rows, config: DataConfig) -> tuple[list[Example], list[DataError]]:
    """Examples of all rows, and a fault for each row that cannot be one. `config` comes from `settle_shape`."""
    shape = _shape(config, rows)
    faults = missing_everywhere(rows, (*shape.required, *([config.label_field] if config.label_field else [])))
    if faults:
        return [], faults
    examples: list[Example] = []
    for row, place in zip(rows.rows, rows.places, strict=True):
        missing = [name for name in shape.required if name not in row]
        try:
            if missing:
                raise BadRowError(f"the row lacks {', '.join(missing)}; it has {', '.join(row)}")
            examples.append(shape.build(row, place))
        except BadRowError as error:
            faults.append(DataError(str(error), where=place))
    return examples, faults


def missing_everywhere(rows: Rows, required: tuple[str, ...]) -> list[DataError]:
    """A fault for the columns that no row has at all: rather a wrong name than a wrong row."""
    columns = {key for row in rows.rows for key in row}
    missing = [name for name in required if name not in columns]
    if not missing or not rows.rows:
        return []
    near = "; ".join(_column_like(name, columns) for name in missing)
    message = f"no row has the columns {{{', '.join(missing)}}}; the rows have {{{', '.join(sorted(columns))}}}"
    return [DataError(message, where=_file_of(rows), remedy=near)]


def _column_like(name: str, columns: Collection[str]) -> str:
    """What to write for a column that is not there."""
    advice = near_names(name, columns)
    if not advice.startswith("did you mean"):
        advice = f"name one of {', '.join(sorted(columns))}"
    return f"'{name}': {advice}"


def _shape(config: DataConfig, rows: Rows) -> Shape:
    columns = {key for row in rows.rows for key in row}
    if config.data_format == "template":
        template = parse_template(config.text_template or "")
        return Shape(tuple(dict.fromkeys(template.columns)), partial(_template_row, template, config.label_field))
    if config.data_format == "text":
        name = config.text_field or "text"
        return Shape((name,), partial(_text_row, name, config.label_field))
    if config.data_format == "completion":
        prompt, completion = config.prompt_field or PROMPTS[0], config.completion_field or COMPLETIONS[0]
        return Shape((prompt, completion), partial(_completion_row, prompt, completion, config.label_field))
    if config.data_format == "tagged":
        names = (config.prompt_field or "", config.completion_field or "")
        return Shape(names, partial(tagged_row, *names, config.label_field))
    if config.data_format == "pairs":
        names = tuple(n for n in (config.prompt_field, config.completion_field, config.score_field) if n)
        return Shape(names, partial(pair_row, names))
    if config.data_format == "alpaca":
        context, answer = _first(INPUTS, columns) or INPUTS[0], _first(ANSWERS, columns) or ANSWERS[0]
        return Shape(("instruction", answer), partial(_alpaca_row, context, answer, config.label_field))
    chat = _first(CHATS if config.data_format == "messages" else CHATS[1:] + CHATS[:1], columns) or CHATS[0]
    return Shape((chat,), partial(_chat_row, chat, config.label_field))


def _answer(value: Any, column: str) -> str:
    text = as_text(value, column)
    if not text.strip():
        raise BadRowError(f"the answer '{column}' is empty; drop the row, or write what the model shall say")
    return text


def _label(row: dict[str, Any], column: str | None) -> str | None:
    return None if column is None else as_text(row.get(column), column)


def _template_row(template: TextTemplate, label: str | None, row: dict[str, Any], place: str) -> Example:
    values = {name: as_text(row[name], name) for name in template.columns}
    answer = _answer(row[template.columns[-1]], template.columns[-1])
    return Example(place, text_parts=template.parts(values), target=answer, label=_label(row, label), row=row)


def _text_row(column: str, label: str | None, row: dict[str, Any], place: str) -> Example:
    text = _answer(row[column], column)
    return Example(place, text_parts=((text, True),), target=text, label=_label(row, label), row=row)


def _completion_row(prompt: str, completion: str, label: str | None, row: dict[str, Any], place: str) -> Example:
    question, answer = as_text(row[prompt], prompt), _answer(row[completion], completion)
    return Example(place, messages=_turn(question, answer), target=answer, label=_label(row, label), row=row)


def _turn(question: str, answer: str) -> tuple[Message, Message]:
    return {"role": "user", "content": question}, {"role": "assistant", "content": answer}


def _alpaca_row(context: str, answer: str, label: str | None, row: dict[str, Any], place: str) -> Example:
    question = as_text(row["instruction"], "instruction")
    if row.get(context) not in (None, ""):
        question = f"{question}\n\n{as_text(row[context], context)}"
    messages: list[Message] = []
    if row.get("system"):
        messages.append({"role": "system", "content": as_text(row["system"], "system")})
    for pair in row.get("history") or ():
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise BadRowError("'history' must be pairs of question and answer")
        messages += _turn(as_text(pair[0], "history"), as_text(pair[1], "history"))
    target = _answer(row[answer], answer)
    messages += _turn(question, target)
    return Example(place, messages=tuple(messages), target=target, label=_label(row, label), row=row)


# --- conversations ---


def _chat_row(column: str, label: str | None, row: dict[str, Any], place: str) -> Example:
    turns = row[column]
    if not isinstance(turns, (list, tuple)):
        raise BadRowError(f"'{column}' is not a list of messages")
    messages = [_message(turn, f"{column}[{i}]") for i, turn in enumerate(turns)]
    if isinstance(row.get("system"), str) and row["system"] and messages and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": row["system"]})
    while messages and messages[-1]["role"] != "assistant":
        messages.pop()  # nothing is learned behind the last answer
    if not messages:
        raise BadRowError(f"'{column}' has no assistant message: there is nothing to learn")
    last = messages[-1]
    target = last["content"] or json.dumps([call["function"] for call in last["tool_calls"]], ensure_ascii=False)
    return Example(
        place,
        messages=tuple(messages),
        tools=_tools(row.get("tools")),
        target=target,
        label=_label(row, label),
        row=row,
    )


def _message(turn: Any, where: str) -> Message:
    if not isinstance(turn, dict):
        raise BadRowError(f"{where} is not an object with role and content")
    speaker = turn.get("role", turn.get("from"))
    role = ROLES.get(speaker) if isinstance(speaker, str) else None
    if role is None:
        raise BadRowError(f"{where} is spoken by {speaker!r}; known are {', '.join(ROLES)}")
    content = turn.get("content", turn.get("value"))
    if isinstance(content, list):
        content = "".join(_text_piece(piece, where) for piece in content)
    # None instead of "" breaks templates that concatenate; both mean that only the calls were said.
    message: Message = {"role": role, "content": "" if content is None else as_text(content, f"{where}.content")}
    if turn.get("tool_calls"):
        message["tool_calls"] = [_tool_call(call, where) for call in turn["tool_calls"]]
    if role == "assistant" and not message["content"].strip() and "tool_calls" not in message:
        raise BadRowError(f"{where} is an empty answer")
    if content is None and role != "assistant":
        raise BadRowError(f"{where} has no content")
    message |= {key: turn[key] for key in ("tool_call_id", "name", "reasoning_content") if turn.get(key)}
    return message


def _text_piece(piece: Any, where: str) -> str:
    if isinstance(piece, dict) and piece.get("type", "text") == "text":
        return as_text(piece.get("text"), f"{where}.content")
    kind = piece.get("type") if isinstance(piece, dict) else type(piece).__name__
    raise BadRowError(f"{where} holds {kind}, only text can be learned")


def _tool_call(call: Any, where: str) -> dict[str, Any]:
    """OpenAI writes the arguments as JSON text; chat templates expect the object itself."""
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise BadRowError(f"{where} has a tool call without a function name")
    arguments = function.get("arguments") or {}
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError as error:
            raise BadRowError(f"{where}: the arguments of {function['name']} are not JSON ({error})") from error
    plain = {"type": "function", "function": {"name": function["name"], "arguments": arguments}}
    return plain | ({"id": call["id"]} if call.get("id") else {})


def _tools(value: Any) -> tuple[dict[str, Any], ...]:
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.strip() else []
        except ValueError as error:
            raise BadRowError(f"'tools' is not JSON ({error})") from error
    if not isinstance(value or [], (list, tuple)) or not all(isinstance(tool, dict) for tool in value or ()):
        raise BadRowError("'tools' is not a list of objects")
    return tuple(value or ())
