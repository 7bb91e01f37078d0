"""Steps in order: what is done, what is taken as it is, what is put aside, and why. Passes made of files, no model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from oleaster.config.load import replace
from oleaster.config.schema import Config
from oleaster.core.errors import ConfigError, UserError
from oleaster.core.line import Line
from oleaster.pipeline import foresee, run
from oleaster.pipeline.line import StepBegins
from oleaster.pipeline.passes import Work, passes, traits


@pytest.fixture(scope="module", autouse=True)
def _foreign_passes() -> Iterator[None]:
    """`add` writes a model with one more word, `stumble` dies at its first try, `look` only looks."""

    with passes.restored():

        @passes.register("test-add")
        @traits(reads=("data",))
        def add(work: Work, *, word: str = "and") -> Path:
            return write(work, read(work.given) + " " + word)

        @passes.register("test-stumble")
        @traits(reads=(), in_place=True)
        def stumble(work: Work) -> Path:
            half = work.output / "half"
            if not half.exists():
                half.write_text("done")
                raise KeyboardInterrupt
            return write(work, read(work.given) + " at last")

        @passes.register("test-look")
        @traits(reads=(), takes="given", makes="nothing", in_place=True)
        def look(work: Work) -> str:
            (work.output / "seen").write_text(read(work.given))
            return work.given

        @passes.register("test-lost")
        def lost(work: Work) -> Path:
            return work.output / "nowhere"

        yield


def read(folder: str) -> str:
    return (Path(folder) / "config.json").read_text()


def write(work: Work, text: str) -> Path:
    (work.output / "config.json").write_text(text)
    return work.output


@pytest.fixture
def recipe(tmp_path: Path) -> Config:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text("once")
    (tmp_path / "rows.jsonl").write_text("{}\n")
    return replace(
        Config(),
        model_name_or_path=str(tmp_path / "base"),
        data_files=[str(tmp_path / "rows.jsonl")],
        output_path=str(tmp_path / "work"),
        passes=[{"one": {"type": "test-add"}}, {"two": {"type": "test-add", "word": "twice"}}],
    )


def done(config: Config) -> dict[str, str]:
    """Step -> `taken`, or why it was done."""
    seen: list[Any] = []
    run(config, seen.append)
    return {e.name: "taken" if e.reused else e.why for e in seen if isinstance(e, StepBegins)}


def test_each_step_gets_what_the_one_before_left(recipe: Config) -> None:
    assert done(recipe) == {"one": "", "two": ""}
    line = Line(recipe.output_path or Path())
    assert read(str(line.step("two"))) == "once and twice"
    assert [Path(step["model"]).name for step in line.read_record()] == ["one", "two"]


def test_what_has_not_changed_is_taken_as_it_is(recipe: Config) -> None:
    done(recipe)
    assert done(recipe) == {"one": "taken", "two": "taken"}
    assert [said for _, said in foresee(recipe)] == ["is done and would be taken as it is"] * 2


def test_a_change_does_again_what_rests_on_it_and_the_old_comes_back(recipe: Config) -> None:
    done(recipe)
    other = replace(recipe, passes=[{"one": {"type": "test-add"}}, {"two": {"type": "test-add", "word": "again"}}])
    assert foresee(other) == [
        ("one", "is done and would be taken as it is"),
        ("two", "would be done: word was twice, is again"),
    ]
    assert done(other) == {"one": "taken", "two": "word was twice, is again"}
    assert done(recipe) == {"one": "taken", "two": "taken"}


def test_changed_rows_and_another_base_are_seen(recipe: Config, tmp_path: Path) -> None:
    done(recipe)
    (tmp_path / "rows.jsonl").write_text('{"a": 1}\n')
    rows = f"rows {tmp_path / 'rows.jsonl'} has changed"
    assert done(recipe) == {"one": rows, "two": rows}
    (tmp_path / "base" / "config.json").write_text("twice")
    assert done(recipe) == {"one": "model given has changed", "two": "model given has changed; model one has changed"}


def test_work_that_was_changed_by_hand_is_not_taken(recipe: Config) -> None:
    done(recipe)
    step = Line(recipe.output_path or Path()).step("one")
    (step / "config.json").write_text("forged")
    assert done(recipe) == {"one": "what it made was changed by hand", "two": "taken"}
    assert read(str(step)) == "once and"


def test_a_step_that_was_stopped_goes_on(recipe: Config) -> None:
    config = replace(recipe, passes=[{"one": {"type": "test-add"}}, {"slow": {"type": "test-stumble"}}])
    with pytest.raises(KeyboardInterrupt):
        run(config)
    assert done(config) == {"one": "taken", "slow": "goes on where it was stopped"}
    assert read(str(Line(config.output_path or Path()).step("slow"))) == "once and at last"


def test_a_step_that_only_looks_hands_the_model_on(recipe: Config) -> None:
    config = replace(recipe, passes=[{"see": {"type": "test-look"}}, {"one": {"type": "test-add"}}])
    assert done(config) == {"see": "", "one": ""}
    line = Line(config.output_path or Path())
    assert (line.step("see") / "seen").read_text() == "once"
    assert read(str(line.step("one"))) == "once and"


def test_nothing_begins_when_a_step_is_wrong(recipe: Config) -> None:
    config = replace(recipe, passes=["test-add", {"two": {"type": "test-add", "wrod": "x"}}])
    with pytest.raises(UserError, match="did you mean 'word'"):
        run(config)
    assert not (recipe.output_path or Path()).exists()


def test_a_pass_that_returns_nothing_that_is_there_is_named(recipe: Config) -> None:
    with pytest.raises(ConfigError, match=r"passes\.test-lost: the pass returned .*nowhere', which is not there"):
        run(replace(recipe, passes=["test-lost"]))
