"""The table of an evaluation."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from oleaster.cli.tables import print_pairs, print_reports
from oleaster.evaluation.report import Confusion, Report, Row, Value


def evaluated(model: str, right: int, total: int = 60) -> Report:
    rows = tuple(Row(f"rows:{i}", "q", "yes", 1.0, 2, 1, 3, "yes" if i < right else "no", "stop") for i in range(total))
    share = right / total
    metrics = {
        "exact_match": Value(share, share - 0.05, share + 0.05, total, "share"),
        "perplexity": Value(12345.6, 1.0, 20000.0, total, "perplexity"),
        "generate_speed": Value(33.214, None, None, total, "tokens/s"),
    }
    return Report(model, metrics, confusions=(Confusion("[a]", "b", 3),), predictions=Path("p.jsonl"), rows=rows)


def printed(*reports: Report) -> list[str]:
    output = io.StringIO()
    print_reports(Console(file=output, width=200), reports)
    return [" ".join(line.split()) for line in output.getvalue().splitlines()]


def test_base_and_tuned_stand_side_by_side_with_a_verdict() -> None:
    lines = printed(evaluated("base", 3), evaluated("tuned", 54))
    assert lines[0] == "metric base tuned second against first"
    assert "exact match 5 % [0, 10] 90 % [85, 95] better" in lines
    assert any(line.startswith("perplexity 12,346 [1, 20,000] 12,346 [1, 20,000]") for line in lines)
    assert "generate speed 33.21 tokens/s 33.21 tokens/s" in lines
    assert "3 x '[a]' -> 'b'" in lines
    assert "answers: p.jsonl" in lines


def test_one_model_has_no_verdict() -> None:
    assert printed(evaluated("tuned", 54))[0] == "metric tuned"


def test_pairs_are_aligned_and_never_wrapped(capsys) -> None:
    print_pairs([("a", "x" * 300), ("long name", "y")], "things")
    assert capsys.readouterr().out == f"things:\n  a          {'x' * 300}\n  long name  y\n\n"
