"""What users read and type changes only on purpose: help, settings, recipe schema, public names.

`make docs` (python -m oleaster.cli.reference) writes the pages anew.
"""

from __future__ import annotations

from pathlib import Path

import pytest

import oleaster
from oleaster.cli.reference import pages

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", pages())
def test_the_page_is_what_the_code_says(name: str) -> None:
    assert (ROOT / name).read_text(encoding="utf-8") == pages()[name], "run: make docs"


def test_the_public_names_are_sorted_and_as_agreed() -> None:
    agreed = (Path(__file__).parent / "public_names.txt").read_text(encoding="utf-8").split()
    assert list(oleaster.__all__) == sorted(oleaster.__all__) == agreed


@pytest.mark.parametrize("name", oleaster.__all__)
def test_every_public_name_can_be_had(name: str) -> None:
    assert getattr(oleaster, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = oleaster.nothing
