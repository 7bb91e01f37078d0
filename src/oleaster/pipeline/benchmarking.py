"""A run, model or artifact in established benchmarks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from oleaster.config.schema import Config
from oleaster.core.line import run_of
from oleaster.pipeline.answering import load
from oleaster.pipeline.scoring import default_output

if TYPE_CHECKING:
    from oleaster.evaluation.benchmarks import BenchmarkPlan, BenchmarkReport


def benchmark(
    path: Path | str,
    plan: BenchmarkPlan,
    config: Config = Config(),
    output: Path | None = None,
    adapter: str | None = None,
) -> tuple[BenchmarkReport, Path]:
    """The figures, and the file that holds them.

    Args:
        config: for what the recipe of a run does not decide (threads, number type).
        output: folder for benchmarks.json; default: `predictions` of a run, else `evaluations/NAME`.
        adapter: name of one that an artifact of `generate_adapter` carries.

    Raises: MissingExtraError, ConfigError and DataError as `check_plan` and `run_benchmarks`.
    """
    from oleaster.evaluation.benchmarks import check_plan, run_benchmarks

    manager = check_plan(plan)  # before a model is read
    assistant = load(path, config, adapter)
    report = run_benchmarks(assistant.predictor, assistant.tokenizer, plan, manager)
    if output is None:
        output = run.predictions if (run := run_of(path)) is not None else default_output(path)
    return report, report.save(output)
