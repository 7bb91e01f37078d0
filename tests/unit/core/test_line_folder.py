"""The folder of a recipe's work: what is put aside, what comes back, what is not ours."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from oleaster.core.errors import ConfigError
from oleaster.core.line import Line, StepNote, open_run
from oleaster.core.run import Run

OLD, NEW = StepNote({"recipe": {"seed": 1}}, done=True, model="./a"), StepNote({"recipe": {"seed": 2}}, done=True)


def made(line: Line, note: StepNote, text: str) -> None:
    line.write_note("a", note)
    (line.step("a") / "model.txt").write_text(text)


def test_a_key_stands_for_the_facts_alone() -> None:
    assert OLD.key == StepNote({"recipe": {"seed": 1}}, done=False, seconds=3.0).key
    assert OLD.key != NEW.key


def test_work_with_other_settings_is_put_aside_and_comes_back(tmp_path: Path) -> None:
    with Line.claim(tmp_path / "work", "seed: 1\n") as line:
        made(line, OLD, "old")
        line.make_way("a")
        assert not line.step("a").exists()
        made(line, NEW, "new")
        assert not line.bring_back("a", "no such key")
        assert line.bring_back("a", OLD.key)
        assert (line.step("a") / "model.txt").read_text() == "old"
        assert line.note("a") == OLD
        assert line.bring_back("a", NEW.key)
        assert (line.step("a") / "model.txt").read_text() == "new"


def test_a_folder_that_does_not_say_what_it_is_made_from_goes_away(tmp_path: Path) -> None:
    with Line.claim(tmp_path / "work", "") as line:
        made(line, OLD, "old")
        (line.step("a") / ".step.json").write_text("{torn")
        assert line.note("a") is None
        line.make_way("a")
        assert not line.step("a").exists()


def test_the_record_reads_back_equal(tmp_path: Path) -> None:
    with Line.claim(tmp_path / "work", "") as line:
        assert line.read_record() == []
        line.write_record([{"model": "one"}, {"model": "two"}])
    assert Line.is_line(tmp_path / "work")
    assert Line(tmp_path / "work").read_record() == [{"model": "one"}, {"model": "two"}]


def test_of_a_recipes_work_the_newest_training_is_meant_also_before_its_end(tmp_path: Path) -> None:
    with Line.claim(tmp_path, "passes: [a, b]\n") as line:
        with pytest.raises(ConfigError, match="is not a run's folder"):
            open_run(tmp_path)
        for name, begun in (("b", 1e9), ("a", 1e9 - 1)):
            with Run.claim(line.step(name), "seed: 1\n") as run:
                os.utime(run.recipe, (begun, begun))
        assert line.read_record() == []
        assert open_run(tmp_path) == Run(line.step("b"))
        assert open_run(line.step("a")) == Run(line.step("a"))


def test_foreign_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with (
        pytest.raises(ConfigError, match=r"files that are not of a recipe's work: thesis\.tex"),
        Line.claim(tmp_path, ""),
    ):
        pass
    with pytest.raises(ConfigError, match="a file is in the place"), Line.claim(tmp_path / "thesis.tex", ""):
        pass


def test_two_processes_do_not_work_in_one_folder(tmp_path: Path) -> None:
    with (
        Line.claim(tmp_path / "work", ""),
        pytest.raises(ConfigError, match="another process"),
        Line.claim(tmp_path / "work", ""),
    ):
        pass
