import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oleaster.training.reports import EvalReport, StepReport
from oleaster.training.watch import DivergenceWatch, EarlyStopping, OverfittingWatch, PlateauWatch, restore, state_of


def validation(step: int, eval_loss: float, train_loss: float) -> EvalReport:
    return EvalReport(step, 100, step / 100, eval_loss, train_loss, target_tokens=50, seconds=1.0, best=False)


def report(step: int, loss: float) -> StepReport:
    return StepReport(step, 100, step / 100, loss, 3e-4, 1.0, 10, 20, 2, 1.0, 100.0, 100.0, 100.0)


def test_it_stops_after_as_many_failures_as_the_patience() -> None:
    stopping = EarlyStopping(patience=2)
    seen = [(stopping.update(loss, step), stopping.should_stop) for step, loss in enumerate((3.0, 2.0, 2.0, 2.5), 1)]
    assert seen == [(True, False), (True, False), (False, False), (False, True)]
    assert (stopping.best_loss, stopping.best_step) == (2.0, 2)
    assert "2.0000 of step 2" in stopping.notice(4).text


def test_a_success_starts_the_count_again() -> None:
    stopping = EarlyStopping(patience=2)
    for step, loss in enumerate((3.0, 3.1, 2.9, 3.0), 1):
        stopping.update(loss, step)
    assert not stopping.should_stop


def test_falls_below_the_threshold_are_best_but_do_not_count_until_they_add_up() -> None:
    stopping = EarlyStopping(patience=3, threshold=0.1)
    stopping.update(1.0, 1)
    assert stopping.update(0.95, 2)
    assert stopping.failures == 1
    assert stopping.update(0.89, 3)
    assert stopping.failures == 0


def test_nan_is_never_better() -> None:
    stopping = EarlyStopping(patience=1)
    assert not stopping.update(math.nan, 1)
    assert stopping.should_stop


@given(losses=st.lists(st.floats(0, 10), max_size=30))
def test_without_patience_it_never_stops_and_best_is_the_minimum(losses: list[float]) -> None:
    stopping = EarlyStopping(patience=0)
    for step, loss in enumerate(losses):
        stopping.update(loss, step)
        assert not stopping.should_stop
    assert stopping.best_loss == min(losses, default=math.inf)


def test_overfitting_is_noticed_once_with_the_step_where_it_began() -> None:
    watch = OverfittingWatch()
    curve = [(10, 2.0, 2.0), (20, 1.5, 1.4), (30, 1.6, 1.0), (40, 1.7, 0.8), (50, 1.9, 0.5)]
    notices = [watch.update(validation(*point)) for point in curve]
    assert [n is not None for n in notices] == [False, False, False, True, False]
    assert notices[3] is not None
    assert notices[3].text.startswith("Overfitting since step 20: validation loss rose from 1.5000 to 1.7000")


@pytest.mark.parametrize(
    "curve",
    [
        [(10, 1.5, 1.4), (20, 1.6, 1.3), (30, 1.4, 1.2), (40, 1.5, 1.1)],  # single bad validations
        [(10, 1.5, 1.4), (20, 1.505, 1.3), (30, 1.51, 1.2), (40, 1.512, 1.1)],  # within the noise
        [(10, 1.5, 1.4), (20, 1.7, 1.6), (30, 1.9, 1.8), (40, 2.5, 2.0)],  # both rise: diverging
    ],
)
def test_what_is_not_overfitting_is_not_noticed(curve: list[tuple[int, float, float]]) -> None:
    watch = OverfittingWatch()
    assert [watch.update(validation(*point)) for point in curve] == [None] * len(curve)


def test_divergence_is_noticed_once_and_only_after_a_fall() -> None:
    watch = DivergenceWatch()
    notices = [watch.update(report(i, loss)) for i, loss in enumerate((2.0, 1.0, 2.1, 2.5, 9.0), 1)]
    assert [n is not None for n in notices] == [False, False, False, True, False]
    rising = DivergenceWatch()
    assert [rising.update(report(i, loss)) for i, loss in enumerate((1.0, 5.0), 1)] == [None, None]


@given(losses=st.lists(st.floats(0.1, 10), min_size=1, max_size=20), cut=st.integers(0, 20))
def test_a_watcher_carried_over_a_checkpoint_says_what_it_would_have_said(losses: list[float], cut: int) -> None:
    through, before = (EarlyStopping(2, 0.1), OverfittingWatch()), (EarlyStopping(2, 0.1), OverfittingWatch())
    after = (EarlyStopping(2, 0.1), OverfittingWatch())
    points = [validation(i, loss, 1 / (i + 1)) for i, loss in enumerate(losses)]

    def feed(watchers: tuple[EarlyStopping, OverfittingWatch], part: list[EvalReport]) -> list[object]:
        return [(watchers[0].update(p.eval_loss, p.step), watchers[0].should_stop, watchers[1].update(p)) for p in part]

    expected = feed(through, points)
    seen = feed(before, points[:cut])
    for old, new in zip(before, after, strict=True):
        restore(new, json.loads(json.dumps(state_of(old))))
    assert seen + feed(after, points[cut:]) == expected


def test_a_plateau_is_named_once_while_much_is_left() -> None:
    watch = PlateauWatch()
    said = [
        watch.update(validation(step, loss, 2.0)) for step, loss in enumerate((3.0, 2.0, 1.999, 1.998, 1.997, 1.996))
    ]
    assert [notice.step for notice in said if notice] == [4]
    assert said[4] is not None
    assert said[4].kind == "plateau"
    assert "learning_rate" in said[4].text


@pytest.mark.parametrize(
    ("eval_losses", "train_losses", "first"),
    [((2.0, 1.9, 1.8, 1.7), (2.0,) * 4, 1), ((2.0,) * 4, (2.0, 1.9, 1.8, 1.7), 1), ((2.0,) * 4, (2.0,) * 4, 90)],
    ids=["validation falls", "training falls", "nearly done"],
)
def test_what_still_moves_or_is_nearly_done_is_no_plateau(eval_losses, train_losses, first) -> None:
    watch = PlateauWatch()
    for step, (held, trained) in enumerate(zip(eval_losses, train_losses, strict=True), first):
        assert watch.update(validation(step, held, trained)) is None
