"""Which labels are mistaken, and which rows are shown."""

from __future__ import annotations

from oleaster.evaluation.figures import make_report
from oleaster.evaluation.report import Report, Row
from oleaster.reporting.answers import OTHER, WHOLE_MATRIX, class_lines, confusion_matrix, examples


def report(model: str, answers: list[tuple[str, str]], nll: float = 1.0, labels: tuple[str, ...] = ()) -> Report:
    """From (reference, prediction)."""
    rows = [Row(f"f:{i}", f"row {i}", r, nll + i / 100, 1, 0, 1, p, "stop") for i, (r, p) in enumerate(answers)]
    return make_report(model, rows, labels)


def test_a_matrix_counts_every_answer_once() -> None:
    answers = [("cat", "cat"), ("cat", "dog"), ("dog", "dog"), ("dog", "a dog")]
    matrix = confusion_matrix(report("tuned", answers, labels=("cat", "dog")))
    assert matrix is not None
    assert matrix.expected == ("cat", "dog")
    assert matrix.answered == ("cat", "dog", OTHER)
    assert matrix.counts == ((1, 1, 0), (0, 1, 1))
    assert matrix.most == 1


def test_of_many_labels_the_mixed_up_ones_are_shown_and_no_row_is_lost() -> None:
    labels = tuple(f"label{i:03}" for i in range(100))
    answers = [(label, label) for label in labels] + [("label007", "label050")] * 3 + [("label007", "label099")]
    matrix = confusion_matrix(report("tuned", answers, labels=labels))
    assert matrix is not None
    assert {"label007", "label050"} <= set(matrix.expected)
    assert len(matrix.expected) <= WHOLE_MATRIX
    assert matrix.labels == 100
    assert sum(matrix.counts[matrix.expected.index("label007")]) == 5


def test_free_text_has_no_matrix() -> None:
    assert confusion_matrix(report("tuned", [("a long answer", "another")])) is None


def test_classes_are_listed_worst_first() -> None:
    found = class_lines(report("t", [("a", "a"), ("a", "b"), ("b", "b"), ("c", "b")], labels=("a", "b", "c")))
    assert [(line.label, line.recall) for line in found] == [("c", 0.0), ("a", 0.5), ("b", 1.0)]
    assert found[0].precision is None
    assert found[2].precision == 1 / 3


def test_rows_are_told_apart_by_what_tuning_did_to_them() -> None:
    base = report("base", [("a", "x"), ("a", "a"), ("a", "x"), ("a", "a")], nll=3.0)
    tuned = report("tuned", [("a", "a"), ("a", "y"), ("a", "y"), ("a", "a")])
    found = {kind.title: [pair.tuned.source for pair in kind.rows] for kind in examples(tuned, base)}
    assert found == {
        "Still wrong": ["f:2"],
        "Made worse": ["f:1"],
        "Learned": ["f:0"],
        "Right before and after": ["f:3"],
    }
    assert [kind.title for kind in examples(tuned, None)] == ["Wrong", "Right"]
