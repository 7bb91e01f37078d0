"""Established benchmarks, through lm-evaluation-harness, with intervals that can be paired."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from oleaster.core.errors import ConfigError, DataError, MissingExtraError, UserError, collect, near_names
from oleaster.core.files import atomic_write_json
from oleaster.evaluation.figures import values
from oleaster.evaluation.report import Value
from oleaster.evaluation.tally import Tally, mean, ratio, share

if TYPE_CHECKING:
    from oleaster.inference.predictor import Predictor

FILE = "benchmarks.json"
_DEFAULT_CONTEXT = 2048


@dataclass(frozen=True)
class BenchmarkReport:
    """How a model did in benchmarks."""

    model: str
    figures: Mapping[str, Mapping[str, Value]]
    """Task -> metric (`acc`, `exact_match,strict-match`, ...) -> figure."""
    settings: Mapping[str, Any]
    """What else the figures depend on: version of the harness, shots, limit, chat template, versions of the tasks."""

    def save(self, folder: Path) -> Path:
        """Write benchmarks.json into `folder`; returns its path."""
        folder.mkdir(parents=True, exist_ok=True)
        atomic_write_json(folder / FILE, asdict(self))
        return folder / FILE


@dataclass(frozen=True)
class BenchmarkPlan:
    """Which tasks, and how they are asked; names are those of lm-eval."""

    tasks: tuple[str, ...]
    include_path: Path | None = None
    """Folder with task files of one's own."""
    num_fewshot: int | None = None
    """Examples before each question; None = as the task says."""
    limit: int | None = None
    """Only so many rows of each task, the first ones."""
    apply_chat_template: bool = False
    """Ask in the model's chat template."""
    confirm_run_unsafe_code: bool = False
    """Allow tasks that run the code which the model writes."""


def check_plan(plan: BenchmarkPlan) -> Any:
    """The harness's task manager, once every name is known.

    Raises: MissingExtraError without lm-eval; ConfigError for unknown tasks, all together.
    """
    try:
        from lm_eval.tasks import TaskManager
    except ModuleNotFoundError as error:
        raise MissingExtraError("lm-eval is not installed", remedy="pip install 'oleaster[bench]'") from error
    if plan.include_path is not None and not plan.include_path.is_dir():
        raise ConfigError("there is no such folder", where=str(plan.include_path), remedy="a folder with task files")
    if plan.include_path is not None:
        # The index of all tasks of the harness takes long; whoever asks for his own only does not need it.
        own = TaskManager(include_path=str(plan.include_path), include_defaults=False)
        if set(plan.tasks) <= set(own.all_subtasks):
            return own
    manager = TaskManager(include_path=plan.include_path and str(plan.include_path))
    known = set(manager.all_tasks)
    problems: list[UserError] = [
        ConfigError(f"there is no task '{name}'", where="--tasks", remedy=_remedy(name, known))
        for name in plan.tasks
        if name not in known
    ]
    collect(problems)
    return manager


def run_benchmarks(predictor: Predictor, tokenizer: Any, plan: BenchmarkPlan, manager: Any) -> BenchmarkReport:
    """Ask a model every row of the tasks.

    Args:
        tokenizer: the model's own (transformers.PreTrainedTokenizerBase).
        manager: from `check_plan`.

    Raises: DataError when the rows of a task cannot be had (no network, a wrong file).
    """
    import lm_eval
    from lm_eval.evaluator import simple_evaluate

    from oleaster.evaluation.harness import HarnessModel

    if plan.apply_chat_template and not tokenizer.chat_template:
        raise ConfigError("the model has no chat template", where="--apply_chat_template", remedy="leave it out")
    context = _context(predictor, tokenizer)
    try:
        found: Any = simple_evaluate(
            model=HarnessModel(predictor, tokenizer, context),
            tasks=list(plan.tasks),
            num_fewshot=plan.num_fewshot,
            limit=plan.limit,
            bootstrap_iters=0,
            task_manager=manager,
            apply_chat_template=plan.apply_chat_template,
            confirm_run_unsafe_code=plan.confirm_run_unsafe_code,
        )
    except OSError as error:  # datasets: no network, no such file, no such data set
        message = f"the rows of a task cannot be had: {str(error).splitlines()[0]}"
        remedy = "name tasks with local files (--include_path), or fetch them once with a network"
        raise DataError(message, where=", ".join(plan.tasks), remedy=remedy) from error
    figures = {task: _figures(found, task) for task in found["results"]}
    settings = {
        "lm_eval": getattr(lm_eval, "__version__", ""),
        "num_fewshot": dict(found["n-shot"]),
        "versions": dict(found["versions"]),
        "context": context,
        **{name: value for name, value in asdict(plan).items() if name in ("limit", "apply_chat_template")},
    }
    return BenchmarkReport(predictor.name, figures, json.loads(json.dumps(settings, default=str)))


def _figures(found: Mapping[str, Any], task: str) -> dict[str, Value]:
    """Each metric with the interval of its rows; where it is no known figure of them (the mean over a group of tasks),
    what the harness says alone."""
    rows = found["samples"].get(task, ())
    better = found["higher_is_better"].get(task, {})
    shown: dict[str, Value] = {}
    for key, value in found["results"][task].items():
        name, _, choice = key.partition(",")
        if not isinstance(value, int | float) or name.endswith("_stderr") or not choice:
            continue
        of = [row[name] for row in rows if row.get("filter", "none") == choice and name in row]
        tally = _tally(of, value, lower_is_better=better.get(name) is False)
        label = name if choice == "none" else key
        shown |= values({label: float(value) if tally is None else tally}, len(of) or len(rows))
    return shown


def _tally(of: Sequence[Any], value: float, *, lower_is_better: bool) -> Tally | None:
    """The form of figure that gives the harness's `value` from what it kept of the rows; None when none does."""
    forms: list[Tally] = []
    if of and all(isinstance(each, int | float) for each in of):
        numbers = [float(each) for each in of]
        if set(numbers) <= {0.0, 1.0}:
            forms = [share([number == 1.0 for number in numbers], lower_is_better=lower_is_better)]
        else:
            forms = [mean(numbers, "", lower_is_better=lower_is_better)]
    elif of and all(isinstance(each, Sequence) and len(each) == 2 for each in of):
        nats, sizes = [-float(each[0]) for each in of], [float(each[1]) for each in of]
        bits = [total / math.log(2) for total in nats]
        rate = ratio(nats, sizes, "", lower_is_better=True)
        perplexity = Tally(rate.rows, lambda sums: np.exp(sums[..., 0] / sums[..., 1]), "", lower_is_better=True)
        forms = [perplexity, ratio(bits, sizes, "bits/byte", lower_is_better=True)]
    return next((form for form in forms if math.isclose(form.value, value, rel_tol=1e-6, abs_tol=1e-9)), None)


def _context(predictor: Any, tokenizer: Any) -> int:
    for holder in (predictor, getattr(predictor, "backend", None)):
        if context := getattr(holder, "context", None):
            return context
    limit = tokenizer.model_max_length
    return limit if limit < 10**9 else _DEFAULT_CONTEXT  # transformers' word for "not known" is 10**30


def _remedy(name: str, known: set[str]) -> str:
    near = near_names(name, known)
    return (
        near if near.startswith("did you") else "lm-eval ls tasks lists them; --include_path adds a folder of one's own"
    )
