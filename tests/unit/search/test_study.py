"""Nothing is lost, no trial is done twice, and a search that was broken off chooses as one left alone."""

from __future__ import annotations

from collections.abc import Callable

import optuna
import pytest
from valley import SPACE, loss_of

from oleaster.search.papers import Trial
from oleaster.search.study import MOST_STUCK, Study, Taken

Opened = Callable[..., Study]


def finish(study: Study, taken: Taken) -> Trial:
    loss = loss_of(taken.point)
    study.report(taken, 1, loss + 1)
    return study.tell(taken, {"eval_loss": loss, "size_mb": float(taken.point["lora_r"])}, 1.0)


def run(study: Study) -> list[dict[str, str]]:
    points = []
    while (taken := study.take()) is not None:
        points.append(taken.point)
        finish(study, taken)
    return points


@pytest.mark.parametrize("strategy", ["random", "tpe", "gp", "cma"])
@pytest.mark.parametrize("storage", ["journal", "sqlite"])
def test_a_search_broken_off_after_every_trial_chooses_as_one_left_alone(
    study: Opened, strategy: str, storage: str
) -> None:
    space = {name: SPACE[name] for name in ("learning_rate", "lora_r")}
    settings = {"search_strategy": strategy, "search_storage": storage, "search_space": space, "num_startup_trials": 3}
    whole = run(study("whole", **settings))
    parts = []
    for _ in range(6):
        again = study("parts", **settings)
        taken = again.take()
        assert taken is not None
        parts.append(taken.point)
        finish(again, taken)
    assert parts == whole
    assert study("parts", **settings).take() is None
    assert len({tuple(point.items()) for point in whole}) == 6


def test_the_recipe_itself_is_tried_first(study: Opened) -> None:
    taken = study().take()
    assert taken is not None
    assert taken.point == {"learning_rate": "0.0003", "lora_r": "16", "lr_scheduler_type": "cosine"}
    other = study("other", start_with_recipe=False).take()
    assert other is not None
    assert other.point != taken.point


def test_who_works_on_a_trial_keeps_it_and_who_is_gone_loses_it(study: Opened) -> None:
    first, second = study(), study()
    one, two = first.take(), second.take()
    assert one is not None
    assert two is not None
    assert (one.number, two.number) == (0, 1)
    one.let_go()  # what the system does when a process ends
    again = second.take()
    assert again is not None
    assert (again.number, again.point, again.continued) == (0, one.point, True)
    assert first.take().number == 2  # type: ignore[union-attr]


def test_a_trial_broken_off_while_it_chose_is_completed(study: Opened) -> None:
    broken = study(start_with_recipe=False)
    broken._study.sampler = broken._sampler(0)
    rate = broken._study.ask().suggest_float("learning_rate", 1e-5, 1e-1, log=True)
    taken = study(start_with_recipe=False).take()
    assert taken is not None
    assert taken.number == 0
    assert float(taken.point["learning_rate"]) == rate
    assert list(taken.point) == list(SPACE)


def test_more_trials_are_not_handed_out_than_are_wanted(study: Opened) -> None:
    studies = [study(num_trials=3) for _ in range(2)]
    taken = [studies[i % 2].take() for i in range(4)]
    assert [t.number if t else None for t in taken] == [0, 1, 2, None]
    assert study(num_trials=4).take() is not None


def test_a_trial_in_which_the_process_dies_again_and_again_at_one_step_is_given_up(study: Opened) -> None:
    first = study().take()
    assert first is not None
    (first.folder / "checkpoints" / "step-00000004").mkdir(parents=True)
    first.let_go()
    for _ in range(MOST_STUCK):
        taken = study().take()
        assert taken is not None
        assert taken.number == 0
        taken.let_go()
    last = study()
    taken = last.take()
    assert taken is not None
    assert taken.number == 1
    assert last.trial(0).state == "failed"
    assert "died 3 times" in last.trial(0).why


def test_deaths_with_progress_between_them_are_forgiven(study: Opened) -> None:
    for step in range(2 * MOST_STUCK):
        taken = study().take()
        assert taken is not None
        assert taken.number == 0
        (taken.folder / "checkpoints" / f"step-{step:08d}").mkdir(parents=True)
        taken.let_go()


def test_the_same_settings_are_known_again(study: Opened) -> None:
    few = study(search_space={"lora_r": [2, 4]}, search_strategy="random", start_with_recipe=False)
    seen: dict[str, int] = {}
    while (taken := few.take()) is not None:
        assert taken.twin == seen.get(taken.point["lora_r"])
        seen.setdefault(taken.point["lora_r"], taken.number)
        few.tell(taken, {"eval_loss": 1.0 + int(taken.point["lora_r"])}, 0.0)
    assert set(seen) == {"2", "4"}
    assert [trial.number for trial in few.best()] == [seen["2"]]


def test_a_grid_is_gone_through_once(study: Opened) -> None:
    waits = {"type": "float", "low": 0.0, "high": 0.1, "step": 0.05, "when": {"lr_scheduler_type": "cosine"}}
    space = {"lora_r": [2, 4], "lr_scheduler_type": ["cosine", "constant"], "warmup_ratio": waits}
    points = run(study(search_space=space, search_strategy="grid", num_trials=None))
    assert len(points) == 2 * (3 + 1)
    assert {"lora_r": "4", "lr_scheduler_type": "cosine", "warmup_ratio": "0.05"} in points
    assert {"lora_r": "2", "lr_scheduler_type": "constant"} in points


def test_of_two_objectives_those_are_kept_that_no_trial_beats_in_both(study: Opened) -> None:
    two = study(objectives="accuracy,size_mb")
    assert [o.maximize for o in two.objectives] == [True, False]
    for values in [(0.9, 8.0), (0.8, 2.0), (0.85, 9.0), (0.9, 4.0), (0.7, 2.0), (0.8, 2.0)]:
        taken = two.take()
        assert taken is not None
        two.report(taken, 1, 0.5)
        two.tell(taken, dict(zip(("accuracy", "size_mb"), values, strict=True)), 1.0)
    assert [trial.number for trial in two.best()] == [3, 1, 5]
    assert two.trial(0).course == ((1, 0.5),)


@pytest.mark.parametrize(("pruning", "objectives"), [("median", "eval_loss"), ("median", "accuracy"), ("asha", "loss")])
def test_a_poor_trial_is_pruned_and_a_good_one_is_not(study: Opened, pruning: str, objectives: str) -> None:
    pruned = study(pruning=pruning, objectives=objectives, num_trials=9, num_startup_trials=4)
    name = objectives

    def course(losses: list[float]) -> bool:
        taken = pruned.take()
        assert taken is not None
        if any(pruned.report(taken, number, loss) for number, loss in enumerate(losses, start=1)):
            pruned.tell_pruned(taken, 0.5, "others did better")
            return False
        pruned.tell(taken, {name: 0.5}, 1.0)
        return True

    for _ in range(4):
        assert course([2.0, 1.0, 0.9])
    assert not course([5.0, 4.0, 3.0])
    assert course([1.5, 0.8, 0.5])
    findings = pruned.findings()
    assert (findings.count("complete"), findings.count("pruned")) == (5, 1)
    assert findings.trials[4].course == ((1, 5.0),)


def test_what_mattered_is_told_when_there_are_trials_enough(study: Opened) -> None:
    space = {name: SPACE[name] for name in ("learning_rate", "lora_r")}
    many = study(search_space=space, search_strategy="random", num_trials=24)
    run(many)
    shares = many.findings().importance
    assert next(iter(shares)) == "learning_rate"
    assert sum(shares.values()) == pytest.approx(1.0)
    few = study("few", num_trials=3)
    run(few)
    assert few.findings().importance == {}


def test_a_torn_last_line_of_the_journal_does_no_harm(study: Opened) -> None:
    first = study()
    taken = first.take()
    assert taken is not None
    finish(first, taken)
    journal = first.folder / "study.journal"
    journal.write_bytes(journal.read_bytes() + b'{"op_code": 4, "worker')
    second = study()
    assert second.trial(0).state == "complete"
    assert [t.number for t in (second.take(), second.take()) if t] == [1, 2]
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(journal)))
    plain = optuna.load_study(study_name="oleaster", storage=storage)
    assert [trial.state.name for trial in plain.trials] == ["COMPLETE", "RUNNING", "RUNNING"]
