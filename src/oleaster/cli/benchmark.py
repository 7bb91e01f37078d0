"""`oleaster benchmark`: established benchmarks."""

from __future__ import annotations

from oleaster.cli.evaluate import ADAPTER, MODEL
from oleaster.cli.words import Command, Given
from oleaster.config.flags import Flag, select

SETTINGS = ("dtype", "num_threads", "trust_remote_code", "log_level")


def command() -> Command:
    """What `benchmark` takes."""
    return Command(
        name="benchmark",
        summary=(
            "Score a model, run or artifact in established benchmarks, through lm-evaluation-harness\n"
            "(pip install 'oleaster[bench]'). Names of flags are the harness's own."
        ),
        usage=("oleaster benchmark MODEL --tasks arc_easy,hellaswag [flags]",),
        run=run,
        words=(MODEL,),
        own=(
            MODEL,
            ADAPTER,
            Flag("tasks", "Names of tasks.", "list"),
            Flag("include_path", "Folder with task files of one's own; their rows may be local files.", "path"),
            Flag("num_fewshot", "Examples before each question. [as the task says]", "integer"),
            Flag("limit", "Only the first N rows of each task.", "integer"),
            Flag("apply_chat_template", "Ask in the model's chat template.", "switch", False),
            Flag("confirm_run_unsafe_code", "Allow tasks that run the code which the model writes.", "switch", False),
            Flag(
                "output", "Folder for benchmarks.json. [RUN/predictions, of others evaluations/NAME]", "path", short="o"
            ),
        ),
        settings=tuple(select((), SETTINGS)),
        titles={"": "other", "model": "base model", "training": "speed"},
    )


def run(given: Given) -> int:
    """Ask, print the table, say where it is kept."""
    own = given.own
    given.require(model_path=("the run or model", "runs/first"), tasks=("the benchmarks", "--tasks arc_easy"))

    from rich.console import Console
    from rich.table import Table

    from oleaster import pipeline
    from oleaster.cli.settings import config_for
    from oleaster.config.rules import ALWAYS
    from oleaster.evaluation.benchmarks import BenchmarkPlan

    names = ("include_path", "num_fewshot", "limit", "apply_chat_template", "confirm_run_unsafe_code")
    plan = BenchmarkPlan(tuple(own["tasks"]), **{name: own[name] for name in names})
    config = config_for(given, None, ALWAYS)
    report, file = pipeline.benchmark(own["model_path"], plan, config, own["output"], own["adapter"])
    table = Table("task", "metric", report.model, "rows", box=None, pad_edge=False)
    for task, figures in report.figures.items():
        for name, value in figures.items():
            table.add_row(task, name, value.beside(name), f"{value.count:,}")
    console = Console()
    console.print(table, markup=False)
    console.print("[...] = 95 % interval", markup=False, highlight=False)
    console.print(f"\nkept: {file}", markup=False, soft_wrap=True)
    return 0
