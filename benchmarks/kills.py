"""Kill a training again and again, at random moments, until it is done: is the result that of a training left alone?

    python benchmarks/kills.py [--kills 50] [--quick] [--seed 0] [--folder FOLDER]

`oleaster finetune ... --resume` on a tiny random model is ended with SIGKILL: while it starts, between and during
steps, inside saves (most of the time goes there), and once after its last step. Then it is left to end. Its adapter
must have the bytes of an uninterrupted run's, its log each step exactly once with the same loss.

Ends with one JSON line: kills, inside_save (kills that left an unfinished checkpoint behind), while_starting (kills
before the first new step), equal_weights, equal_log. Exit code 1 where one of the last two is false.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oleaster.core.run import Run

WORDS = ["red", "green", "blue", "small", "large", "old", "new", "fast", "slow", "warm", "cold", "soft", "hard"]
STEPS_PER_KILL = 4
"""A kill comes after up to this many new steps; the run is longer than all of them, so that none finds it done."""
SETTINGS = shlex.split(
    "--dtype float32 --num_threads 1 --per_device_train_batch_size 4 --lora_dropout 0.1 --learning_rate 1e-3 "
    "--logging_steps 1 --save_steps 2 --eval_steps 5 --early_stopping_patience 0"
)
ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def main() -> int:
    """Train alone, train under fire, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--quick", action="store_true", help="6 kills")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--folder", type=Path, help="keep everything here")
    given = parser.parse_args()
    kills = 6 if given.quick else given.kills
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        command = [*make_task(folder), "--max_steps", str((STEPS_PER_KILL + 2) * kills + 6)]
        alone, hunted = Run(folder / "alone"), Run(folder / "hunted")
        subprocess.run([*command, "-o", str(alone.folder)], check=True, env=ENVIRONMENT, stdout=subprocess.DEVNULL)
        hunt = Hunt([*command, "-o", str(hunted.folder), "--resume"], hunted, random.Random(given.seed))
        for number in range(kills):
            hunt.kill_once(at_the_end=number == kills - 1)
            print(f"kill {number + 1}: {hunt.told}", flush=True)
        hunt.let_it_end()
        weights = [run.adapter / "adapter_model.safetensors" for run in (alone, hunted)]
        found = {
            "kills": hunt.kills,
            "inside_save": hunt.inside_save,
            "while_starting": hunt.while_starting,
            "equal_weights": weights[0].read_bytes() == weights[1].read_bytes(),
            "equal_log": losses(alone) == losses(hunted),
        }
    print(json.dumps(found))
    return 0 if found["equal_weights"] and found["equal_log"] else 1


def make_task(folder: Path) -> list[str]:
    """A tiny model, forty rows; the command that trains on them."""
    from oleaster.models.tiny import make_tiny

    draw = random.Random(0)
    rows = [
        {"prompt": " ".join(draw.choices(WORDS, k=draw.randint(1, 6))), "completion": draw.choice(WORDS)}
        for _ in range(40)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    model = make_tiny("llama", folder / "base")
    program = [sys.executable, "-m", "oleaster", "finetune"]
    return [*program, "-m", str(model), "-d", str(folder / "rows.jsonl"), *SETTINGS]


def losses(run: Run) -> list[tuple[Any, ...]]:
    """(event, step, loss, gradient norm or training loss) of each line of the log, in its order."""
    events = [event for event in run.read_log() if event["event"] in ("step", "eval")]
    return [
        (e["event"], e["step"], e.get("loss", e.get("eval_loss")), e.get("grad_norm", e.get("train_loss")))
        for e in events
    ]


@dataclass
class Hunt:
    """Starts the command, waits for a random moment, kills."""

    command: list[str]
    run: Run
    draw: random.Random
    startup: float = 3.0
    """Seconds from the start of the program to its log, the last time that was seen."""
    kills: int = 0
    inside_save: int = 0
    while_starting: int = 0
    told: str = ""

    def kill_once(self, at_the_end: bool) -> None:
        before = self.last_step()
        process = self.start()
        if at_the_end:
            self.wait_for_step(process, sys.maxsize)
        elif self.draw.random() < 0.15:
            time.sleep(self.draw.uniform(0.0, self.startup))
        else:
            self.wait_for_step(process, before + self.draw.randint(0, STEPS_PER_KILL))
            time.sleep(self.draw.uniform(0.0, 0.1))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        errors = process.communicate()[1]
        if process.returncode not in (0, -signal.SIGKILL):
            sys.exit(f"the program ended by itself with code {process.returncode}:\n{errors.decode()}")
        after, torn = self.last_step(), list(self.run.checkpoints.glob(".step-*"))
        killed = process.returncode == -signal.SIGKILL
        self.kills += killed
        self.inside_save += bool(torn)
        self.while_starting += killed and after <= before
        self.told = f"log at step {after}" + (f", an unfinished {torn[0].name}" if torn else "")

    def start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self.command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def wait_for_step(self, process: subprocess.Popen[bytes], step: int) -> None:
        """Until `step` stands in the log as a new line (or the last step does), or the program has ended."""
        seen, begun, started = self.log_file(), time.monotonic(), False
        while process.poll() is None:
            if self.log_file() != seen:
                if not started:
                    self.startup, started = time.monotonic() - begun, True
                last = self.last()
                if last is not None and (last["step"] >= step or last["step"] == last.get("total_steps")):
                    return
            time.sleep(0.01)

    def log_file(self) -> int:
        """Which file the log is now: a start replaces it when it has found its checkpoint."""
        return self.run.log.stat().st_ino if self.run.log.exists() else 0

    def last(self) -> dict | None:
        return next((e for e in reversed(self.run.read_log()) if e["event"] in ("step", "eval")), None)

    def last_step(self) -> int:
        last = self.last()
        return last["step"] if last else 0

    def let_it_end(self) -> None:
        process = self.start()
        errors = process.communicate()[1]
        if process.returncode != 0 or not self.run.is_done:
            sys.exit(f"the last start ended with code {process.returncode}:\n{errors.decode()}")


if __name__ == "__main__":
    sys.exit(main())
