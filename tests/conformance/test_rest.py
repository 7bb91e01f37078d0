"""Rows whose rooms are being built."""

from __future__ import annotations

import pytest

MISSING = ("S9", "S12", "S16", "S17", "S20", "S21", "S22", "S23", "S24", "S30")
BLOCKS_MISSING = {"S20": 10, "S21": 11, "S24": 12}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.row(name, block=BLOCKS_MISSING.get(name))) for name in MISSING],
)
def test_a_row_that_is_not_there_yet(name: str) -> None:
    pytest.fail(f"{name} is not there yet")
