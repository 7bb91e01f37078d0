"""Text templates: `User: {input}\\nAssistant: {output}`.

Columns stand in braces, a brace itself is written twice. The answer, which is what is learned, is the last column and
whatever literal text follows it; everything before is the prompt.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from string import Formatter

from oleaster.core.errors import ConfigError

CONTROL = re.compile(r"<\|[^|<>\s]{1,40}\|>|<(?:start|end)_of_turn>|</?s>|\[/?INST\]")
"""Text that looks like a control token of some model family."""


@dataclass(frozen=True)
class TextTemplate:
    """A parsed template: literal 0, column 0, literal 1, ..., column n-1, literal n."""

    literals: tuple[str, ...]
    columns: tuple[str, ...]

    @property
    def prompt_columns(self) -> tuple[str, ...]:
        """The distinct columns that a user must give to get an answer."""
        return tuple(dict.fromkeys(self.columns[:-1]))

    def parts(self, values: Mapping[str, str]) -> tuple[tuple[str, bool], ...]:
        """(text, learn), literals and values in turn: an odd index is always a value of a row."""
        last = len(self.columns) - 1
        parts: list[tuple[str, bool]] = []
        for i, column in enumerate(self.columns):
            parts += [(self.literals[i], False), (values[column], i == last)]
        return (*parts, (self.literals[-1], True))


def parse_template(text: str) -> TextTemplate:
    """Split `text` into literals and columns.

    Raises: ConfigError when braces do not match, a column has no name, or there is no column at all.
    """
    where = "--text_template"
    literals, columns = [""], []
    try:
        for literal, column, spec, conversion in Formatter().parse(text):
            literals[-1] += literal
            if column is None:
                continue
            if spec or conversion:
                raise ValueError(f"'{{{column}...}}' has a format behind the column name")
            if not column.strip():
                raise ValueError("a column has no name")
            columns.append(column.strip())
            literals.append("")
    except ValueError as error:
        raise ConfigError(
            f"{text!r} cannot be read: {error}",
            where=where,
            remedy="write columns as {name}, a brace itself as {{ or }}",
        ) from error
    if not columns:
        raise ConfigError(
            f"{text!r} has no {{column}}",
            where=where,
            remedy="write for instance 'Question: {question}\\nAnswer: {answer}'",
        )
    return TextTemplate(tuple(literals), tuple(columns))
