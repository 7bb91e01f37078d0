"""Text templates: braces, columns, what is learned."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oleaster.core.errors import ConfigError
from oleaster.data.template import parse_template

names = st.text(st.characters(codec="ascii", categories=["L", "Nd"], include_characters="_ "), min_size=1).filter(
    lambda name: name.strip() == name
)


@given(literals=st.lists(st.text(max_size=8), min_size=2, max_size=5), data=st.data())
def test_parsing_undoes_writing(literals: list[str], data: st.DataObject) -> None:
    columns = [data.draw(names) for _ in literals[1:]]
    escaped = [text.replace("{", "{{").replace("}", "}}") for text in literals]
    text = escaped[0] + "".join(f"{{{c}}}{e}" for c, e in zip(columns, escaped[1:], strict=True))
    template = parse_template(text)
    assert (template.literals, template.columns) == (tuple(literals), tuple(columns))
    values = {column: data.draw(st.text(max_size=5)) for column in columns}
    parts = template.parts(values)
    assert "".join(part for part, _ in parts) == literals[0] + "".join(
        values[c] + e for c, e in zip(columns, literals[1:], strict=True)
    )
    assert [learn for _, learn in parts] == [False] * (len(parts) - 2) + [True, True]


def test_the_tutorials_template() -> None:
    template = parse_template("User: {input}\nAssistant: {output}")
    assert template.prompt_columns == ("input",)
    assert template.parts({"input": "hi", "output": "ho"}) == (
        ("User: ", False),
        ("hi", False),
        ("\nAssistant: ", False),
        ("ho", True),
        ("", True),
    )


@pytest.mark.parametrize("text", ["no column", "{", "}", "{}", "{a!r}", "{a:>5}", "{ }", "{a}{"])
def test_what_is_no_template(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_template(text)
