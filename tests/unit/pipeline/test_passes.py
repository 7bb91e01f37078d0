"""A pass's signature is the schema of its settings."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import pytest
from pydantic import Field

import oleaster.pipeline  # noqa: F401  its passes enter the registry
from oleaster.config.load import load_config, replace
from oleaster.config.rules import broken_rules
from oleaster.config.schema import Config
from oleaster.config.steps import Step
from oleaster.pipeline.passes import Work, check_step, passes, steps_fit, traits


@pytest.fixture(scope="module", autouse=True)
def _foreign_passes() -> Iterator[None]:
    with passes.restored():

        @passes.register("test-thin")
        def thin(work: Work, *, share: Annotated[float, Field(gt=0, lt=1)], parts: list[str] | None = None) -> str:
            return work.given

        @passes.register("test-look")
        @traits(reads=("data",), makes="nothing")
        def look(work: Work) -> str:
            return work.given

        yield


def problems(step: Step) -> dict[str, str]:
    return {problem.name: f"{problem.message} -> {problem.remedy}" for problem in check_step(step)[1]}


def step(type_: str, **settings: object) -> Step:
    return Step(name="it", type=type_, settings=settings)


def test_settings_are_typed_by_the_signature() -> None:
    checked, wrong = check_step(step("test-thin", share="0.3", parts="q_proj,v_proj"))
    assert not wrong
    assert checked is not None
    assert checked.arguments == {"share": 0.3, "parts": ["q_proj", "v_proj"]}


def test_settings_of_the_recipe_may_stand_in_a_step_that_reads_them() -> None:
    checked, wrong = check_step(step("finetune", r="8", learning_rate="1e-3"))
    assert not wrong
    assert checked is not None
    assert checked.leaves == {"lora_r": "8", "learning_rate": "1e-3"}


def test_everything_that_is_wrong_is_named_with_its_setting() -> None:
    assert problems(step("test-thin", share="2", parst="a")) == {
        "passes.it.share": "'2' must be less than 1 -> takes share (needed), parts (None)",
        "passes.it.parst": "the pass 'test-thin' has no setting 'parst' -> did you mean 'parts'?",
    }
    assert problems(step("test-thin")) == {
        "passes.it": "the pass 'test-thin' needs the setting 'share' -> takes share (needed), parts (None)"
    }
    means = "what learning_rate means: Peak learning rate. Default: 0.0003."
    assert problems(step("finetune", learning_rate="ten", lora_rr="1")) == {
        "passes.it.learning_rate": f"'ten' is no number -> {means}",
        "passes.it.lora_rr": "the pass 'finetune' has no setting 'lora_rr' -> did you mean 'lora_r' or 'lora_dropout'?",
    }


def test_a_step_cannot_have_what_its_pass_does_not_read() -> None:
    assert "passes.it.learning_rate" in problems(step("test-look", learning_rate="1e-3"))
    assert not problems(step("test-look", max_length="64"))
    assert "passes.it.output_path" in problems(step("finetune", output_path="x"))


def test_an_unknown_pass_is_answered_with_near_ones() -> None:
    assert problems(step("fintune"))["passes.it.type"].endswith("did you mean 'finetune'?")
    assert "a file in plugins: may register others" in problems(step("zzz"))["passes.it.type"]


def test_the_rule_names_lines_of_the_recipe(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("passes:\n  - finetune: {lora_rr: 3}\n  - earlier: {type: merge}\n")
    with pytest.raises(Exception) as error:  # noqa: PT011
        load_config(path, rules=[steps_fit])
    assert f"{path}:2: passes.finetune.lora_rr: the pass 'finetune' has no setting" in str(error.value)
    assert f"{path}:3: passes.earlier: no step can be called 'earlier'" in str(error.value)


def test_a_plug_in_that_fails_is_named(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("1 / 0\n")
    config = replace(Config(), plugins=[str(tmp_path / "mine.py")])
    (found,) = broken_rules(config, [steps_fit], {})
    assert "ZeroDivisionError" in str(found[1])
