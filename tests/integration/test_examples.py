"""What the README tells people to run, on the tiny model."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

from command_line import Program

EXAMPLES = Path(__file__).parents[2] / "examples"


def phrases(name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (EXAMPLES / "support" / name).read_text("utf-8").splitlines()]


def test_the_support_phrases_are_whole_and_kept_apart() -> None:
    train, test = phrases("train.jsonl"), phrases("test.jsonl")
    assert all(set(row) == {"phrase", "intent", "tone"} for row in train + test)
    every = [row["phrase"].casefold() for row in train + test]
    assert len(set(every)) == len(every)
    for field, kinds in (("intent", 12), ("tone", 5)):
        seen, asked = (Counter(row[field] for row in rows) for rows in (train, test))
        assert len(seen) == kinds
        assert seen.keys() == asked.keys()
        assert min(asked.values()) >= 8


def test_the_example_in_python_runs(program: Program, tiny: Path, tmp_path: Path) -> None:
    code = f"from python_api import main; main({str(tiny)!r}, 'run', max_steps=2, eval_max_samples=6)"
    environment = {**program.environment, "PYTHONPATH": f"{EXAMPLES}:{program.environment['PYTHONPATH']}"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "2 steps, validation loss" in done.stdout
    assert done.stdout.count(" of 6 test phrases") == 2
    assert (tmp_path / "run" / "DONE").is_file()


def test_the_recipe_of_the_quickstart_runs(program: Program, tiny: Path, tmp_path: Path) -> None:
    """Its paths are those of the repository's folder, so that is where it is started."""
    flags = ("--model_name_or_path", tiny, "--output_path", tmp_path / "run", "--max_steps", "2")
    recipe = EXAMPLES / "support" / "recipe.yaml"
    program("finetune", "--config", recipe, *flags, "--dry_run", cwd=EXAMPLES.parent)


def test_the_example_of_a_metric_of_ones_own_prices_mistakes() -> None:
    from oleaster.core.plugins import load_plugins
    from oleaster.evaluation.metrics import measure
    from oleaster.evaluation.tally import Tally

    load_plugins([EXAMPLES / "support" / "costs.py"])
    wanted = ["invoice", "invoice", "cancel_order", "cancel_order", "speak_to_human", "refund_status"]
    answered = [" invoice\n", "cancel_order", "track_order", "invoice", "refund_status", "nonsense"]
    found = measure("cost_per_request", answered, wanted)
    assert isinstance(found, Tally)
    assert found.rows[:, 0].tolist() == [0.0, 30.0, 9.0, 2.0, 12.0, 2.0]
    assert found.lower_is_better
    assert found.unit == "EUR"
