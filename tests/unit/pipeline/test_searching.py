"""A search in one process: broken off anywhere it ends as one left alone; trials that cannot be are no end of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from oleaster.config.load import load_config, replace
from oleaster.config.schema import Config
from oleaster.core.errors import ConfigError, RunError
from oleaster.core.run import Run
from oleaster.models.tiny import make_tiny
from oleaster.pipeline import finetune, run, run_search
from oleaster.search.papers import Findings, SearchEvent, TrialBegins, TrialEnds, TrialValidated

SPACE = {
    "learning_rate": {"type": "float", "low": 1e-4, "high": 3e-2, "log": True},
    "lora_r": {"type": "int", "low": 2, "high": 16},
}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    folder = tmp_path_factory.mktemp("task")
    tones = ("red", "blue", "green")
    rows = [{"prompt": f"what is {'very ' * (i % 4)}{i}", "completion": tones[i % 3]} for i in range(40)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    base = make_tiny("llama", folder / "base")
    given = {"model_name_or_path": str(base), "data_name": str(folder / "rows.jsonl"), "dtype": "float32"}
    training = {
        "max_steps": 8,
        "per_device_train_batch_size": 4,
        "num_threads": 1,
        "eval_steps": 2,
        "lora_dropout": 0.1,
    }
    return replace(Config(), **given, **training, max_new_tokens=4, search_space=SPACE, num_trials=4)


def told(findings: Findings) -> list[object]:
    return [(t.number, t.state, dict(t.settings), t.values.get("eval_loss"), t.course) for t in findings.trials]


def adapter(folder: Path) -> bytes:
    return (folder / "best" / "adapter" / "adapter_model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def whole(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Findings:
    return run_search(replace(config, output_path=tmp_path_factory.mktemp("whole") / "search"))


def test_the_best_trial_is_kept_with_a_recipe_that_makes_it_again(whole: Findings, tmp_path: Path) -> None:
    losses = {t.number: t.values["eval_loss"] for t in whole.trials}
    assert losses[whole.best[0].number] == min(losses.values())
    assert len(set(losses.values())) == 4
    recipe = load_config(whole.folder / "best" / "oleaster.yaml")
    assert {name: str(value) for name, value in whole.best[0].settings.items()} == {
        "learning_rate": str(recipe.training.learning_rate),
        "lora_r": str(recipe.method.lora_r),
    }
    again = finetune(replace(recipe, output_path=tmp_path / "again"))
    assert (again.adapter / "adapter_model.safetensors").read_bytes() == adapter(whole.folder)
    assert Run(whole.folder / "best").summary["eval_loss"] == min(losses.values())
    assert "report" in (whole.folder / "report.html").name
    assert not list(whole.folder.glob("trials/*/checkpoints"))


def breaks_at(kind: type[SearchEvent], number: int) -> Callable[[SearchEvent], None]:
    def watch(event: SearchEvent) -> None:
        if isinstance(event, kind) and (event.trial.number if isinstance(event, TrialEnds) else event.number) == number:
            raise KeyboardInterrupt

    return watch


def test_broken_off_anywhere_it_ends_as_one_left_alone(config: Config, whole: Findings, tmp_path: Path) -> None:
    config = replace(config, output_path=tmp_path / "search", resume=True)
    for kind, number in [(TrialBegins, 0), (TrialValidated, 1), (TrialEnds, 1), (TrialValidated, 2), (TrialBegins, 3)]:
        with pytest.raises(KeyboardInterrupt):
            run_search(config, breaks_at(kind, number))
    findings = run_search(config)
    assert told(findings) == told(whole)
    assert adapter(findings.folder) == adapter(whole.folder)


def test_a_trial_under_way_goes_on_from_its_checkpoint(config: Config, tmp_path: Path) -> None:
    config = replace(config, output_path=tmp_path / "search", resume=True, num_trials=1)
    seen: list[int] = []

    def stop_at_third(event: SearchEvent) -> None:
        if isinstance(event, TrialValidated):
            seen.append(event.validation)
            if event.validation == 3 and len(seen) == 3:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_search(config, stop_at_third)
    run_search(config, stop_at_third)
    assert seen == [1, 2, 3, 3, 4]  # the third was not kept yet when the process stopped


def test_a_trial_that_cannot_be_is_told_and_the_search_goes_on(config: Config, tmp_path: Path) -> None:
    space = {"learning_rate": [1e-2, 1e30], "warmup_steps": [2, 9], "max_steps": [8, 10]}
    config = replace(config, search_space=space, search_strategy="grid", num_trials=None, output_path=tmp_path / "s")
    findings = run_search(config)
    states = {tuple(t.settings.values()): (t.state, t.why) for t in findings.trials}
    assert [settings for settings, (state, _) in states.items() if state == "complete"] == [
        ("0.01", "2", "8"),
        ("0.01", "2", "10"),
        ("0.01", "9", "10"),
    ]
    assert states["1e+30", "2", "8"][1].startswith(("the loss became", "the gradient's norm"))
    assert "the warm-up (9 steps) is longer than the training (8 steps)" in states["0.01", "9", "8"][1]


def test_a_search_without_a_complete_trial_says_why(config: Config, tmp_path: Path) -> None:
    config = replace(config, search_space={"learning_rate": [1e30]}, start_with_recipe=False, num_trials=1)
    with pytest.raises(RunError, match=r"no trial could be completed\n- trial 0: the "):
        run_search(replace(config, output_path=tmp_path / "s"))
    with pytest.raises(RunError, match="a larger budget_minutes"):
        run_search(replace(config, output_path=tmp_path / "t", budget_minutes=1e-6))


def test_trials_trained_together_are_those_trained_one_by_one(config: Config, tmp_path: Path) -> None:
    config = replace(config, search_strategy="random", lora_dropout=0.0, num_trials=5)
    alone = run_search(replace(config, output_path=tmp_path / "alone"))
    config = replace(config, trials_together=3, output_path=tmp_path / "together", resume=True)
    with pytest.raises(KeyboardInterrupt):
        run_search(config, breaks_at(TrialValidated, 1))
    together = run_search(config)
    assert [(t.number, t.settings) for t in together.trials] == [(t.number, t.settings) for t in alone.trials]
    for one, other in zip(together.trials, alone.trials, strict=True):
        assert one.values["eval_loss"] == pytest.approx(other.values["eval_loss"], rel=1e-4)
        assert [number for number, _ in one.course] == [1, 2, 3, 4]


def test_of_trials_trained_together_a_bad_one_ends_alone(config: Config, tmp_path: Path) -> None:
    space = {"learning_rate": [1e-2, 1e30, 2e-2]}
    config = replace(config, search_space=space, search_strategy="grid", num_trials=None, trials_together=3)
    findings = run_search(replace(config, output_path=tmp_path / "s"))
    assert [t.state for t in findings.trials] == ["complete", "failed", "complete"]


def test_a_search_is_a_step_of_a_recipe_and_its_best_run_goes_on(config: Config, tmp_path: Path) -> None:
    config = replace(config, passes=["search", "evaluate"], num_trials=2, output_path=tmp_path / "line")
    first, second = (run(config).read_record() for _ in range(2))
    assert [step["reused"] for step in first + second] == [False, False, True, True]
    assert Path(first[0]["model"]) == tmp_path / "line/search/best"
    scored = json.loads((tmp_path / "line/evaluate/tuned/report.json").read_text(encoding="utf-8"))
    best = Run(tmp_path / "line/search/best").summary["eval_loss"]
    assert scored["metrics"]["loss"]["value"] == pytest.approx(best, abs=1e-4)


def test_several_aims_are_measured_on_the_answers(config: Config, tmp_path: Path) -> None:
    findings = run_search(
        replace(config, objectives="accuracy,size_mb,latency_ms", num_trials=3, output_path=tmp_path / "s")
    )
    for trial in findings.trials:
        assert 0 <= trial.values["accuracy"] <= 1
        assert trial.values["latency_ms"] > 0
        size = (trial.folder / "adapter" / "adapter_model.safetensors").stat().st_size
        assert trial.values["size_mb"] == pytest.approx(size / 1e6)
        assert trial.values["loss"] == pytest.approx(trial.values["eval_loss"], abs=1e-4)


def test_a_poor_trial_ends_early(config: Config, tmp_path: Path) -> None:
    space = {"learning_rate": [1e-2, 2e-2, 1e-5]}
    config = replace(config, search_space=space, search_strategy="grid", num_trials=None, pruning="median")
    findings = run_search(replace(config, num_startup_trials=2, output_path=tmp_path / "s"))
    assert [t.state for t in findings.trials] == ["complete", "complete", "pruned"]
    assert len(findings.trials[2].course) < 4
    assert "others did better" in findings.trials[2].why


def test_what_is_wrong_is_said_before_anything_is_written(config: Config, tmp_path: Path) -> None:
    for settings, said in [
        ({"search_space": {}}, "nothing is searched"),
        ({"search_space": {"target_modules": ["q", "all-linear"]}}, "the model has no linear layer 'q'"),
        ({"search_space": {"lora_r": [8.5]}}, "'8.5' is no whole number"),
        ({"objectives": "acuracy"}, "there is no measure 'acuracy'"),
        ({"validation_fraction": 0.0}, "trials are compared on held-out rows"),
    ]:
        with pytest.raises(ConfigError, match=said):
            run_search(replace(config, **settings, output_path=tmp_path / "s"))
        assert not (tmp_path / "s").exists()
