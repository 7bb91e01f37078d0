"""The whole evaluation over a predictor that answers from a script."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oleaster.config.schema import EvaluationConfig
from oleaster.core.errors import ConfigError, DataError, NonFiniteError
from oleaster.data.papers import Encoded, Example, Head
from oleaster.evaluation.compare import compare
from oleaster.evaluation.evaluate import evaluate, prompt_text
from oleaster.evaluation.figures import find_labels, make_report
from oleaster.evaluation.report import Report, Row, Value, load_report
from oleaster.inference.head_predictor import HeadPredictor
from oleaster.inference.predictor import Completion, Score


class Scripted:
    """Answers by the first prompt token; every learned token costs `nats`."""

    def __init__(self, answers: dict[int, str], nats: float = 0.5, name: str = "scripted") -> None:
        self.answers, self.nats, self.name = answers, nats, name

    def generate(self, prompts, sampling=None, on_token=None):
        found = [self.answers[prompt[0]] for prompt in prompts]
        return [Completion((1,) * len(text), text, "length" if text == "never ends" else "stop") for text in found]

    def score(self, rows):
        return [Score(-self.nats * ids[0] * len(targets), len(targets), len(targets) - 1) for ids, targets in rows]


INTENTS = ["pay", "pay", "stop", "stop", "stop", "call"]
"""Reference of row i, whose prompt begins with token i + 1."""
RIGHT = {i + 1: intent for i, intent in enumerate(INTENTS)}
EXAMPLES = [
    Example(f"rows.jsonl:{i + 1}", text_parts=((f"phrase {i}: ", False), (intent, True)), target=intent)
    for i, intent in enumerate(INTENTS)
]
ENCODED = [Encoded((i + 1, 7, 8, 9), (2, 3), 2, i) for i in range(len(INTENTS))]
CONFIG = EvaluationConfig()


def run(answers: dict[int, str], nats: float = 0.5, name: str = "scripted", **options) -> Report:
    return evaluate(Scripted(answers, nats, name), EXAMPLES, ENCODED, CONFIG, **options)


def test_figures_of_a_label_task():
    report = run({**RIGHT, 1: "stop", 2: "stop", 6: "never ends"})
    value = {name: found.value for name, found in report.metrics.items()}
    assert value["exact_match"] == value["accuracy"] == 0.5
    assert value["macro_f1"] == pytest.approx((0 + 2 * 3 / (5 + 3) + 0) / 3)
    assert value["outside_labels"] == pytest.approx(1 / 6)
    assert value["natural_stop"] == pytest.approx(5 / 6)
    assert value["loss"] == pytest.approx(0.5 * 3.5)
    assert value["perplexity"] == pytest.approx(math.exp(0.5 * 3.5))
    assert value["token_accuracy"] == 0.5
    assert value["bits_per_byte"] == pytest.approx(0.5 * 2 * 21 / math.log(2) / sum(map(len, INTENTS)))
    assert report.labels == ("call", "pay", "stop")
    assert report.metrics["accuracy"].low == pytest.approx(0.188, abs=1e-3)
    assert all(v.low is None or v.low <= v.value <= v.high for v in report.metrics.values())


def test_the_worst_mistakes_come_first():
    report = run({**RIGHT, 1: "stop", 2: "stop ", 6: "pay"})
    assert [(c.reference, c.prediction, c.count) for c in report.confusions] == [("pay", "stop", 2), ("call", "pay", 1)]
    assert [row.source for row in report.worst] == [f"rows.jsonl:{i}" for i in (6, 5, 4, 3, 2)]
    assert report.worst[0].prompt == "phrase 5: "


def test_saved_and_read_back_is_equal(tmp_path):
    report = run(RIGHT, output=tmp_path / "base")
    assert load_report(tmp_path / "base") == report
    lines = (tmp_path / "base" / "predictions.jsonl").read_text().splitlines()
    assert json.loads(lines[2])["prediction"] == "stop"
    assert {"source", "prompt", "reference", "prediction", "finish", "nll"} <= json.loads(lines[2]).keys()
    assert json.loads((tmp_path / "base" / "report.json").read_text())["predictions"] == "predictions.jsonl"


@settings(max_examples=30)
@given(
    st.lists(
        st.builds(
            Row,
            source=st.text(),
            prompt=st.text(),
            reference=st.text(),
            nll=st.floats(0, 1e9),
            targets=st.integers(1, 99),
            correct=st.integers(0, 99),
            learned_bytes=st.none() | st.integers(1, 99),
            prediction=st.none() | st.text(),
            finish=st.sampled_from([None, "stop", "length"]),
        ),
        max_size=5,
    ),
    st.dictionaries(st.text(), st.builds(Value, st.floats(0, 1), st.none(), st.floats(0, 1), st.integers(), st.text())),
)
def test_any_report_survives_the_way_to_disk(tmp_path_factory, rows, values):
    report = Report("m", values, ("a",), (), tuple(rows), rows=tuple(rows)).save(tmp_path_factory.mktemp("r"))
    assert report.predictions is not None
    assert load_report(report.predictions.parent) == report


def test_a_damaged_or_missing_report_is_named(tmp_path):
    with pytest.raises(DataError, match=r"there is no report\.json"):
        load_report(tmp_path)
    run(RIGHT, output=tmp_path)
    predictions = tmp_path / "predictions.jsonl"
    whole = predictions.read_text()
    for damaged in ('{"source": 1', whole[:-10], whole[: whole.index("\n") + 1], whole.replace("nll", "loss")):
        predictions.write_text(damaged)
        with pytest.raises(DataError, match="the report is damaged"):
            load_report(tmp_path)


def test_comparison_pairs_rows_whatever_their_order():
    first = run(dict.fromkeys(RIGHT, "stop"), nats=1.0, name="base")
    second = replace(run(RIGHT, nats=0.5), rows=tuple(reversed(run(RIGHT, nats=0.5).rows)))
    found = compare(first, second)
    assert found["loss"].verdict == "better"
    assert (found["accuracy"].first, found["accuracy"].second) == (0.5, 1.0)
    assert found["accuracy"].verdict == "not distinguishable"  # three rows changed: p = 0.25
    assert "score_seconds" not in found


def test_comparison_refuses_other_rows_and_leaves_out_figures_of_another_tokenizer():
    first = run(RIGHT)
    other = replace(first, rows=(replace(first.rows[0], source="other.jsonl:1"), *first.rows[1:]))
    with pytest.raises(DataError, match="6 rows against 6, 5 of them the same"):
        compare(first, other)
    with pytest.raises(DataError, match="without its rows"):
        compare(first, replace(first, rows=()))
    recut = replace(first, rows=tuple(replace(row, targets=row.targets + 1) for row in first.rows))
    assert compare(first, recut).keys() == {
        "bits_per_byte", "exact_match", "accuracy", "macro_f1", "outside_labels", "natural_stop",
    }  # fmt: skip


def test_rows_without_a_prompt_are_scored_but_not_asked():
    whole = Example("text.txt:1", text_parts=(("all of it is learned", True),), target="all of it is learned")
    report = evaluate(Scripted({}), [whole], [Encoded((3, 4, 5), (1, 2), 1, 0)], CONFIG)
    assert report.metrics["loss"].value == pytest.approx(1.5)
    assert "exact_match" not in report.metrics
    assert report.rows[0].prediction is None


def test_conversations_are_asked_for_their_last_turn_and_shown_as_people_read_them():
    turns = (
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "Bye"},
        {"role": "assistant", "content": "Goodbye"},
    )
    chat = Example("chat.jsonl:1", messages=turns, target="Goodbye")
    assert prompt_text(chat) == "user: Hi\nassistant: Hello\nuser: Bye"
    assert prompt_text(Example("x:1", messages=turns[:2], target="Hello")) == "Hi"
    report = evaluate(Scripted({5: "Goodbye"}), [chat], [Encoded((5, 6, 7), (1, 2), 2, 0)], CONFIG)
    assert report.metrics["exact_match"].value == 1.0
    assert report.rows[0].learned_bytes == len("HelloGoodbye")


def test_a_limit_takes_the_same_rows_from_all_over_the_set_each_time():
    examples = [replace(EXAMPLES[0], source=f"rows:{i}") for i in range(1000)]
    encoded = [Encoded((1, 7), (1,), 1, i) for i in range(1000)]
    chosen = [
        [int(row.source.split(":")[1]) for row in evaluate(Scripted(RIGHT), examples, encoded, limited).rows]
        for limited in [EvaluationConfig(eval_max_samples=50)] * 2
    ]
    assert chosen[0] == chosen[1] == sorted(chosen[0])
    assert len(chosen[0]) == 50
    assert max(chosen[0]) > 800


def test_labels_are_short_repeated_answers():
    assert find_labels(["yes", "no", " yes", "no"]) == ["no", "yes"]
    assert find_labels(["yes"] * 9) == []
    assert find_labels(["one", "two", "three", "one"]) == []
    assert find_labels(["first line\nsecond line", "no"] * 5) == []


def test_nothing_to_evaluate_unknown_metric_and_broken_model_are_refused():
    with pytest.raises(DataError, match="no rows to evaluate"):
        evaluate(Scripted({}), EXAMPLES, [], CONFIG)
    with pytest.raises(ConfigError, match="did you mean 'rouge_"):
        run(RIGHT, metrics=["rouge_3"])
    with pytest.raises(NonFiniteError, match=r"6 of 6 rows: rows\.jsonl:1, .*, \.\.\."):
        run(RIGHT, nats=math.nan)


def test_answers_are_scored_again_for_their_confidence_where_a_metric_asks_for_it():
    answers = {**RIGHT, 6: "never ends"}
    report = run(answers, nats=0.01, metrics=["ece"])
    # The stop token counts where the model wrote it: "pay" is three tokens of 0.01 nats each for row 1, and a stop.
    assert report.rows[0].confidence == pytest.approx(math.exp(-0.01 * 4))
    assert report.rows[5].confidence == pytest.approx(math.exp(-0.06 * len("never ends")))
    assert report["calibration"].unit == "share"
    assert run(answers).rows[0].confidence is None


def test_further_references_come_from_a_column(tmp_path):
    examples = [replace(e, row={"others": ["pay", "halt"], "n": 1}) for e in EXAMPLES]
    answers = dict.fromkeys(RIGHT, "halt")

    def scored(column: str) -> Report:
        config = EvaluationConfig(references_field=column)
        return evaluate(Scripted(answers), examples, ENCODED, config, tmp_path, labels=["pay", "stop", "call", "halt"])

    report = scored("others")
    assert report["exact_match"].value == 1.0
    assert report.rows[0].also == ("halt",)
    assert load_report(tmp_path) == report
    assert report.confusions == ()
    with pytest.raises(DataError, match=r"rows.jsonl:1: no column 'other'\n  -> --references_field one of: others, n"):
        scored("other")
    with pytest.raises(DataError, match="the column 'n' is no list of texts"):
        scored("n")


def test_a_figure_is_asked_for_by_name():
    report = run({**RIGHT, 1: "stop"})
    assert float(report["accuracy"]) == pytest.approx(5 / 6)
    assert str(report["accuracy"]) == "83.33 % [43.65, 96.99]"
    assert str(report["loss"]).startswith("1.75 nats/token [")
    with pytest.raises(KeyError, match="there are loss, perplexity"):
        _ = report["bleu"]


def test_notes_of_metrics_reach_the_report(tmp_path):
    examples = [replace(e, target="gęś") for e in EXAMPLES]
    report = evaluate(Scripted(RIGHT), examples, ENCODED, CONFIG, tmp_path, metrics=["rouge_1"])
    assert report.notes[0].startswith("rouge_1: the original tokenizer would drop 67% of the letters")
    assert load_report(tmp_path).notes == report.notes


def test_further_metrics_are_reported_with_their_intervals():
    report = run({**RIGHT, 1: "p"}, metrics=["rouge_l"])
    assert report.metrics["rouge_l"].value == pytest.approx(5 / 6)
    assert report.metrics["rouge_l"].high is not None
    assert make_report("again", report.rows, report.labels, ["rouge_l"]).metrics["rouge_l"] == report.metrics["rouge_l"]


class Reader:
    """A head's backend: the logits of a text stand in its first token's place of a table."""

    context = None

    def __init__(self, logits: dict[int, list[float]]) -> None:
        self.logits = logits

    def read(self, texts, places):
        return [np.array([self.logits[text[0]]] * len(at), np.float32) for text, at in zip(texts, places, strict=True)]


def test_a_heads_confidence_is_the_probability_of_the_label_it_chose():
    head = Head("sequence", ("call", "pay", "stop"))
    encoded = [Encoded((i + 1, 7, ("call", "pay", "stop").index(INTENTS[i])), (2,), 2, i) for i in range(6)]
    logits = {i + 1: [0.0, 2.0, 0.5] for i in range(6)}  # always `pay`
    predictor = HeadPredictor(Reader(logits), head, None, "head")
    report = evaluate(predictor, EXAMPLES, encoded, CONFIG, labels=head.labels, metrics=["calibration"])
    sure = math.exp(2.0) / (1 + math.exp(2.0) + math.exp(0.5))
    assert [row.confidence for row in report.rows] == pytest.approx([sure] * 6)
    assert report["calibration"].value == pytest.approx(sure - 2 / 6)  # two of six are `pay`
