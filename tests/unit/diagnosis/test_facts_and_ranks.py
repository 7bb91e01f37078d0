"""What shows without training, and the order of findings."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import get_args

import pytest

from oleaster.config.load import replace
from oleaster.config.schema import Config
from oleaster.core.files import atomic_write_json
from oleaster.core.run import Run
from oleaster.diagnosis.experiments import _with_shuffled_answers
from oleaster.diagnosis.facts import (
    constant_answer,
    no_stop,
    small_validation,
    template,
    too_long,
    truncation,
    wrong_base,
)
from oleaster.diagnosis.subject import Subject
from oleaster.evaluation.figures import make_report
from oleaster.evaluation.report import Row
from oleaster.models.tiny import make_tiny
from oleaster.pipeline import get_ready
from oleaster.reporting.causes import DIAGNOSIS, Cause, Diagnosis, Finding, Trial, read_diagnosis
from oleaster.reporting.history import History


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return make_tiny("llama", tmp_path_factory.mktemp("base"))


@pytest.fixture
def subject_of(base: Path, tmp_path: Path):
    def make(rows: list[dict[str, str]], predictions: tuple[str, ...] = (), **settings: object) -> Subject:
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        config = replace(Config(), model_name_or_path=str(base), data_name=str(path), **settings)
        asked = [Row(f"r:{i}", "p", rows[i]["completion"], 1.0, 1, 0, 1, p, "stop") for i, p in enumerate(predictions)]
        reports = (make_report("base", asked), make_report("tuned", asked)) if asked else ()
        return Subject(Run(tmp_path), get_ready(config), History.of(tmp_path / "log.jsonl"), reports)

    return make


def rows(count: int, prompt: str = "where is parcel {}", answers: tuple[str, ...] = ("late", "lost")) -> list[dict]:
    return [{"prompt": prompt.format(i), "completion": answers[i % len(answers)]} for i in range(count)]


def test_cut_rows_are_found_with_the_length_they_need(subject_of) -> None:
    subject = subject_of(rows(40, "a long question " * 8 + "{}"), max_length=40, overlong="truncate")
    (finding,) = truncation(subject)
    assert finding.severity == 1.0
    whole = replace(subject.config, **finding.changes)
    assert get_ready(whole).data.ledger.train.truncated == 0


def test_whole_rows_are_no_finding(subject_of) -> None:
    subject = subject_of(rows(200))
    assert [*truncation(subject), *template(subject)] == []
    assert next(iter(small_validation(subject_of(rows(20))))).evidence.startswith("2 validation rows")


def test_marks_of_a_template_are_found_and_taken_out(subject_of) -> None:
    subject = subject_of(rows(40, "<|im_start|>user\nwhere is {}<|im_end|>\n<|im_start|>assistant\n"))
    (finding,) = template(subject)
    assert finding.rows is not None
    assert all(row["prompt"].startswith("where is") and "<|" not in row["prompt"] for row in finding.rows)
    assert {row["completion"] for row in finding.rows} == {"late", "lost"}


def test_a_tokenizer_of_bytes_is_foreign_to_every_language(subject_of) -> None:
    (finding,) = wrong_base(subject_of(rows(40)))
    assert "tokens a word" in finding.evidence


def test_a_text_template_of_another_family_becomes_the_bases_own(subject_of) -> None:
    subject = subject_of(rows(40), text_template="[INST] {prompt} [/INST] {completion}")
    (finding,) = template(subject)
    assert "[INST], [/INST]" in finding.evidence
    (first, *_) = get_ready(replace(subject.config, **finding.changes)).data.train
    assert subject.ready.tokenizer.decode(first.prompt_ids).startswith("<|im_start|>")
    own = subject_of(rows(40), text_template="<|im_start|>user\\n{prompt}<|im_end|>\\n{completion}")
    assert [*template(own)] == []


def test_long_answers_that_were_cut_while_asking_are_no_missing_stop(subject_of) -> None:
    def asked(answer: str) -> Subject:
        subject = subject_of([{"prompt": f"p {i}", "completion": answer} for i in range(40)])
        tokens = len(subject.ready.tokenizer(answer)["input_ids"]) + 1
        answers = [Row(f"r:{i}", "p", answer, 1.0, tokens, 0, 1, answer, "length") for i in range(10)]
        return dataclasses.replace(subject, reports=(make_report("base", answers), make_report("tuned", answers)))

    assert [finding.severity for finding in no_stop(asked("late"))] == [1.0]
    assert [*no_stop(asked("so very late " * 20))] == []


def log(path: Path, eval_losses: list[float], train_losses: list[float]) -> None:
    from oleaster.training.reports import EvalReport

    events = [
        EvalReport(10 * i, 100, 1.0, held, trained, 50, 0.1, held == min(eval_losses[:i]))
        for i, (held, trained) in enumerate(zip(eval_losses, train_losses, strict=True), 1)
    ]
    path.write_text("".join(json.dumps({"event": "eval", **asdict(event)}) + "\n" for event in events))


@pytest.mark.parametrize(
    ("eval_losses", "train_losses", "found"),
    [
        ([2.0, 1.0, 1.2, 1.6, 2.0], [2.0, 0.9, 0.5, 0.2, 0.1], True),
        ([2.0, 1.0, 0.9, 0.85, 0.84], [2.0, 0.9, 0.5, 0.2, 0.1], False),  # it never turned
        ([2.0, 1.0, 1.2, 1.6, 2.0], [2.0, 1.9, 2.0, 2.1, 2.2], False),  # nothing is learned by heart: it diverged
        ([2.0, 1.0, 1.05, 1.06, 1.07], [2.0, 0.9, 0.5, 0.2, 0.1], False),  # on 20 rows that may be chance
    ],
)
def test_a_validation_loss_that_turned_round_is_read_from_the_log(
    subject_of, tmp_path: Path, eval_losses: list[float], train_losses: list[float], found: bool
) -> None:
    log(tmp_path / "log.jsonl", eval_losses, train_losses)
    findings = list(too_long(subject_of(rows(200))))
    assert bool(findings) is found
    if found:
        assert findings[0].changes["max_steps"] == 20
        assert findings[0].severity == pytest.approx(0.5)


def test_a_diagnosis_reads_back_as_it_was_written(tmp_path: Path) -> None:
    trial = Trial("as it was", 0.5, math.inf, 0.4, 2.0, 10, 60)
    finding = Finding("too_long", 0.4, "seen", "do", {"max_steps": 10}, recipe=tmp_path / "1.yaml")
    written = Diagnosis((finding, Finding("no_signal", 1.0, "seen", "look")), (trial,), ("a note",))
    assert read_diagnosis(tmp_path) is None
    (tmp_path / DIAGNOSIS).parent.mkdir()
    atomic_write_json(tmp_path / DIAGNOSIS, written.to_json())
    assert read_diagnosis(tmp_path) == written


def test_one_answer_for_all_is_found_and_the_others_are_repeated(subject_of) -> None:
    made = rows(100, answers=("late",) * 9 + ("lost",))
    (finding,) = constant_answer(subject_of(made, ("late",) * 60))
    assert finding.rows is not None
    answers = [row["completion"] for row in finding.rows]
    assert answers.count("lost") >= answers.count("late") // 5
    assert list(constant_answer(subject_of(made, tuple(row["completion"] for row in made[:60])))) == []


def test_shuffled_answers_are_the_same_answers_behind_the_same_prompts(subject_of) -> None:
    encoded = subject_of(rows(60, answers=("late", "lost", "on its way"))).ready.data.train
    shuffled = _with_shuffled_answers(encoded, 0)
    assert [row.prompt_ids for row in shuffled] == [row.prompt_ids for row in encoded]
    endings = [sorted(row.input_ids[row.prompt_length :] for row in side) for side in (encoded, shuffled)]
    assert endings[0] == endings[1]
    assert [row.input_ids for row in shuffled] != [row.input_ids for row in encoded]
    for row in shuffled:
        assert row.targets == tuple(range(row.prompt_length, len(row.input_ids)))


def test_what_breaks_the_rows_comes_first_and_the_worse_of_equals() -> None:
    found = [Finding(cause, 0.5, "", "") for cause in reversed(get_args(Cause))]
    found.append(Finding("too_short", 0.9, "", ""))
    ordered = [finding.cause for finding in sorted(found, key=lambda finding: finding.rank)]
    assert ordered.index("template") < ordered.index("no_signal") < ordered.index("label_noise")
    assert ordered.index("label_noise") < ordered.index("too_short") < ordered.index("learning_rate_low")
    assert ordered[-1] == "small_validation"
