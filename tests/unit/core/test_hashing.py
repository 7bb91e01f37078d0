"""Digits of contents: equal for equal contents, others after any change."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from oleaster.core.hashing import hash_code, hash_folder, hash_value, known_hash


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLEASTER_CACHE", str(tmp_path / "cache"))


def test_a_file_that_is_written_anew_has_other_digits(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("one")
    first = known_hash(path)
    assert first == known_hash(path)
    path.write_text("two")
    os.utime(path, ns=(1, 1))
    assert known_hash(path) != first


def test_a_folder_is_its_names_and_contents(tmp_path: Path) -> None:
    for folder in ("x", "y"):
        (tmp_path / folder / "in").mkdir(parents=True)
        (tmp_path / folder / "in" / "a").write_text("one")
    assert hash_folder(tmp_path / "x") == hash_folder(tmp_path / "y")
    (tmp_path / "y" / "log").write_text("left out")
    (tmp_path / "y" / ".note").write_text("hidden")
    assert hash_folder(tmp_path / "x") == hash_folder(tmp_path / "y", ["log"]) != hash_folder(tmp_path / "y")
    (tmp_path / "y" / "in" / "a").rename(tmp_path / "y" / "in" / "b")
    assert hash_folder(tmp_path / "x") != hash_folder(tmp_path / "y", ["log"])


def test_values_and_code_have_digits() -> None:
    assert hash_value({"a": 1, "b": 2}) == hash_value({"b": 2, "a": 1}) != hash_value({"a": 1, "b": 3})
    assert len(hash_code()) == 16
