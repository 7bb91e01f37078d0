"""How a metric is found, and how it gets what it asks for."""

from __future__ import annotations

import inspect

import pytest

from oleaster.core.errors import ConfigError, DataError, MissingExtraError
from oleaster.evaluation.figures import tallies
from oleaster.evaluation.metrics import check_metrics, full_name, measure, measure_rows, metrics
from oleaster.evaluation.metrics.registry import needs_library
from oleaster.evaluation.report import Row
from oleaster.evaluation.tally import Tally, mean, ratio

ASKED = Row("r:1", "Say yes", "yes", nll=2.0, targets=2, correct=1, learned_bytes=3, prediction="yes", finish="stop")
WHOLE = Row("r:2", "", "all of it", nll=4.0, targets=4, correct=4, learned_bytes=None)


@pytest.fixture(scope="module", autouse=True)
def plug_in():
    with metrics.restored():
        metrics.register("test_length")(lambda predictions: [float(len(p)) for p in predictions])
        metrics.register("test_single")(lambda predictions, references: 0.25)
        metrics.register("test_short")(lambda predictions, references: [1.0] * (len(predictions) - 1))
        metrics.register("test_nan")(lambda predictions: [float("nan") for _ in predictions])
        metrics.register("test_strange")(lambda predictions, gold: 0.0)
        metrics.register("test_foreign")(needs_library("no_such_library")(lambda predictions: 0.0))
        metrics.register("test_costs")(lambda prompts, predictions, price=2.0: [price * len(p) for p in prompts])
        yield


@pytest.mark.parametrize("name", [name for name in metrics if not name.startswith("test_")])
def test_every_metric_says_its_unit_and_when_it_misleads(name):
    text = inspect.getdoc(metrics.get(name)) or ""
    assert any(unit in text for unit in ("0 to 1", "Share", "nats per token", "Bits", "exp(loss)", "-1 to 1"))
    assert "mislead" in text.lower()


def test_numbers_per_row_become_a_mean_and_one_number_stays_one():
    found = measure("test_length", ["ab", "abcd"], ["", ""])
    assert isinstance(found, Tally)
    assert found.value == 3.0
    assert measure("test_single", ["ab"], [""]) == 0.25
    with pytest.raises(ConfigError, match=r"'test_short' returned 1 numbers for 2 rows"):
        measure("test_short", ["a", "b"], ["", ""])
    with pytest.raises(ConfigError, match="'test_nan' returned no number for row 0: nan"):
        measure("test_nan", ["a"], ["a"])


def test_a_metric_gets_the_columns_it_names_of_the_rows_that_have_them():
    found = measure_rows("test_costs", [ASKED, WHOLE])["test_costs"]
    assert isinstance(found, Tally)
    assert found.rows.tolist() == [[14.0, 1.0]]  # the second row has no answer
    assert measure_rows("loss", [ASKED, WHOLE])["loss"].value == 1.0  # type: ignore[union-attr]
    assert measure_rows("bits_per_byte", [WHOLE]) == {}


def test_further_references_count():
    row = Row(**{**vars(ASKED), "prediction": "aye", "also": ("aye",)})
    assert measure_rows("exact_match", [row])["exact_match"].value == 1.0  # type: ignore[union-attr]


def test_a_figure_of_parts_has_a_name_for_each():
    assert list(measure_rows("f1_per_label", [ASKED])) == ["f1_per_label[yes]"]


def test_what_rows_cannot_have_is_refused_when_asked_for_and_left_out_else():
    assert set(tallies([WHOLE], [])) == {"loss", "perplexity", "token_accuracy"}
    with pytest.raises(DataError, match="'bleu': no row has a prompt to be asked with"):
        tallies([WHOLE], [], ["bleu"])


def test_wrong_names_are_reported_together_and_usual_ones_understood():
    usual = ["F1", "BLEU", "ROUGE-L", "rouge", "ece", "Accuracy", "perplexity", "f1"]
    right = ["macro_f1", "bleu", "rouge_l", "calibration", "accuracy", "perplexity"]
    assert check_metrics(usual) == right
    assert full_name("nothing") == "nothing"
    with pytest.raises(ConfigError, match=r"(?s)2 problems.*did you mean 'exact_match'.*asks for gold"):
        check_metrics(["exactmatch", "test_strange", "bleu"])


def test_a_missing_library_is_told_before_any_answer_is_asked_for():
    with pytest.raises(MissingExtraError, match=r"needs no-such-library, which is not installed\n  -> pip install"):
        check_metrics(["test_foreign"])


def test_a_ratio_weighs_rows_by_their_counts():
    assert ratio([10, 1], [10, 1], "").value == 1.0
    assert ratio([10, 0], [10, 30], "").value == 0.25
    assert mean([1.0, 0.0], "").value == 0.5
