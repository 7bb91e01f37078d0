"""`oleaster finetune` from the outside: which files it leaves, what it says, how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import Program
from safetensors.torch import load_file

RUN_FILES = {
    "DONE",
    "README.md",
    "adapter",
    "checkpoints",
    "ledger.json",
    "log.jsonl",
    "logs",
    "model",
    "oleaster.yaml",
}
ADAPTER_FILES = {"adapter_config.json", "adapter_model.safetensors"}
TINY_FILES = {
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
}


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")}


def events(run: Path, kind: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (run / "log.jsonl").read_text("utf-8").splitlines()]
    return [event for event in found if event["event"] == kind]


def steps(run: Path) -> list[int]:
    return [event["step"] for event in events(run, "step")]


def recipe(run: Path) -> dict[str, Any]:
    return yaml.safe_load((run / "oleaster.yaml").read_text("utf-8"))


def test_the_guard_against_the_network_guards(program: Program, tmp_path: Path) -> None:
    """Else every other test here would prove less than it says."""
    done = program("finetune", "-m", "owner/model", "-d", "x.jsonl", "-o", "run", cwd=tmp_path, code=2)
    assert "x.jsonl" in done.stderr  # the rows come first; a hub id alone:
    (tmp_path / "x.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' * 20)
    done = program("finetune", "-m", "owner/model", "-d", "x.jsonl", "-o", "run", cwd=tmp_path, code=1)
    assert "wanted the network" in done.stderr


def test_a_finished_run_holds_exactly_these_files(trained: Path) -> None:
    assert names(trained) == RUN_FILES
    assert names(trained / "adapter") == ADAPTER_FILES
    assert names(trained / "model") == TINY_FILES
    kept = names(trained / "checkpoints")  # the two newest, and the best
    assert {"step-00000006", "step-00000004"} <= kept
    assert len(kept) <= 3


def test_the_log_has_every_step_once_and_the_summary_agrees(trained: Path) -> None:
    summary = json.loads((trained / "DONE").read_text("utf-8"))
    assert steps(trained) == [1, 2, 3, 4, 5, 6]
    assert [event["step"] for event in events(trained, "eval")] == [3, 6]
    assert summary["steps"] == 6
    assert summary["eval_loss"] == min(event["eval_loss"] for event in events(trained, "eval"))
    for field in ("memory_mb", "peak_memory_mb", "input_tokens", "seconds"):  # S27
        assert all(event[field] > 0 for event in events(trained, "step"))
    assert any(event["cpu_percent"] > 0 for event in events(trained, "step"))  # a step may be shorter than its tick


def test_the_ledger_balances(trained: Path) -> None:
    ledger = json.loads((trained / "ledger.json").read_text("utf-8"))
    train, held = ledger["train"], ledger["validation"]
    assert (ledger["read"], train["used"], held["used"]) == (60, 54, 6)
    assert train["tokens_read"] == train["tokens_trained"] + train["tokens_masked"]
    # An epoch is 14 steps of 4; six of them saw 24 of the 54 rows.
    assert sum(event["rows"] for event in events(trained, "step")) == 24


def test_the_bases_weights_have_a_second_name_not_a_second_copy(trained: Path, tiny: Path) -> None:
    weights = trained / "model" / "model.safetensors"
    assert weights.samefile(tiny / "model.safetensors")
    assert weights.stat().st_nlink >= 2
    assert not (trained / "model" / "config.json").samefile(tiny / "config.json")  # may be edited


def test_curves_are_there_for_tensorboard(trained: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    curves = EventAccumulator(str(trained / "logs"))
    curves.Reload()
    assert [point.step for point in curves.Scalars("train/loss")] == [1, 2, 3, 4, 5, 6]
    assert [point.step for point in curves.Scalars("eval/loss")] == [3, 6]


def test_a_finished_run_is_never_overwritten(program: Program, needed: tuple[str, ...], trained: Path) -> None:
    before = (trained / "adapter" / "adapter_model.safetensors").read_bytes()
    same = (*needed, "-o", str(trained), "--save_steps=2", "--report_to=tensorboard")
    done = program(*same, cwd=trained.parent, code=2)
    assert "the folder holds a finished run" in done.stderr
    program(*same, "--resume", cwd=trained.parent)  # nothing is left to do
    assert steps(trained) == [1, 2, 3, 4, 5, 6]
    done = program(*same, "--resume", "--lora_r=4", cwd=trained.parent, code=2)
    assert "method.lora_r: 16 in the folder, 4 now" in done.stderr
    assert (trained / "adapter" / "adapter_model.safetensors").read_bytes() == before


def test_a_dry_run_shows_the_plan_and_writes_nothing(program: Program, needed: tuple[str, ...], tmp_path: Path) -> None:
    done = program(*needed, "-o", "run", "--dry_run", cwd=tmp_path)
    for part in ("optimiser steps", "6 (", "memory, estimated", "trained numbers", "answer of the first row"):
        assert part in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_the_tutorials_command_as_printed(program: Program, tiny: Path, rows: Path, tmp_path: Path) -> None:
    """S2, with a folder and a file in the place of the hub's ids, and fewer steps."""
    # Backslash and n, as a shell hands it on.
    user, assistant = (f"<|start_header_id|>{role}<|end_header_id|>" for role in ("user", "assistant"))
    template = rf"{user}\n{{phrase}}<|eot_id|>{assistant}\n{{tone}}"
    done = program(
        *("finetune", "--model_name_or_path", tiny, "--trust_remote_code", "--output_path", "models/llama/ft"),
        *("--data_name", rows, "--text_template", template),
        *("--method", "lora", "--max_steps", "3", "--log_level", "1"),
        cwd=tmp_path,
    )
    run = tmp_path / "models" / "llama" / "ft"
    assert names(run / "adapter") == ADAPTER_FILES
    assert names(run / "model") == TINY_FILES
    assert recipe(run)["data"]["text_template"] == template.replace("\\n", "\n")
    assert "models/llama/ft/adapter" in done.stdout


def test_monitoring_flags_of_the_tutorial(program: Program, tiny: Path, rows: Path, tmp_path: Path) -> None:
    """S25: the fragment names no model and no rows; the recipe in the current folder does."""
    (tmp_path / "oleaster.yaml").write_text(
        f"output_path: out\nmodel:\n  model_name_or_path: {tiny}\n"
        f"data:\n  data_files: {rows}\n  prompt_field: phrase\n  completion_field: tone\n"
        "training:\n  max_steps: 4\n  per_device_train_batch_size: 4\n"
    )
    flags = ("--logging_steps", "2", "--eval_steps", "2", "--save_steps", "2", "--logging_dir", "./logs")
    done = program("finetune", *flags, "--report_to", "tensorboard", cwd=tmp_path)
    assert "oleaster.yaml" in done.stderr
    assert list((tmp_path / "logs" / "out").glob("events.out.tfevents.*"))
    assert steps(tmp_path / "out") == [1, 2, 4]
    assert [event["step"] for event in events(tmp_path / "out", "eval")] == [2, 4]


def test_settings_against_overfitting_and_for_memory_take_effect(
    program: Program, needed: tuple[str, ...], trained: Path, tmp_path: Path
) -> None:
    """S28 and S29: what is written in the run is what was asked for, and the weights come out otherwise."""
    few = [word for word in needed if "batch_size" not in word]
    program(
        *few,
        *("--lora_r", "4", "--lora_alpha", "8", "--lora_dropout", "0.3", "--weight_decay", "0.1"),
        *("--target_modules", "q_proj,v_proj", "--gradient_checkpointing", "true"),
        *("--per_device_train_batch_size", "1", "--gradient_accumulation_steps", "4", "-o", "run"),
        cwd=tmp_path,
    )
    adapter = json.loads((tmp_path / "run" / "adapter" / "adapter_config.json").read_text("utf-8"))
    assert (adapter["r"], adapter["lora_alpha"], adapter["lora_dropout"]) == (4, 8, 0.3)
    assert set(adapter["target_modules"]) == {"q_proj", "v_proj"}
    tensors = load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")
    assert {name.split(".")[-3] for name in tensors} == {"q_proj", "v_proj"}
    assert all(4 in tensor.shape for tensor in tensors.values())
    assert [event["rows"] for event in events(tmp_path / "run", "step")] == [4] * 6
    training = recipe(tmp_path / "run")["training"]
    assert (training["weight_decay"], training["gradient_checkpointing"]) == (0.1, True)


def test_a_recipe_reads_back_and_flags_go_before_it(program: Program, trained: Path, tmp_path: Path) -> None:
    program("finetune", "--config", trained / "oleaster.yaml", "-o", "again", "--seed=7", "--max_steps=2", cwd=tmp_path)
    before, after = recipe(trained), recipe(tmp_path / "again")
    assert (after["seed"], after["training"]["max_steps"]) == (7, 2)
    assert after["data"] == before["data"]
    assert after["method"] == before["method"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for another process")
def test_ctrl_c_keeps_a_checkpoint_and_resume_goes_on(
    program: Program, needed: tuple[str, ...], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    others = [word for word in needed if not word.startswith(("--max_steps", "--eval_steps"))]
    command = (*others, "-o", str(run), "--max_steps=200", "--eval_steps=200", "--save_steps=200")
    process = program.start(*command, cwd=tmp_path)
    deadline = time.monotonic() + 120
    while not (run / "log.jsonl").is_file() or len(steps(run)) < 2:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "is kept" in said
    assert f"oleaster finetune --output_path {run} --resume" in said
    assert "Traceback" not in said
    done = steps(run)[-1]
    assert done < 200
    assert not (run / "DONE").exists()
    refused = program(*command, cwd=tmp_path, code=2)
    assert "unfinished run" in refused.stderr
    unfinished = program("generate", run, "hello", cwd=tmp_path, code=2)
    assert "the run is not finished" in unfinished.stderr
    program("finetune", "-o", run, "--resume", cwd=tmp_path)
    assert steps(run) == list(range(1, 201))
    assert (run / "DONE").exists()


def test_ctrl_c_that_an_import_swallows_is_not_lost(program: Program, needed: tuple[str, ...], tmp_path: Path) -> None:
    """What C modules do with a KeyboardInterrupt while they are initialised."""
    code = (
        "import signal, sys\n"
        "from oleaster.cli.main import main\n"
        "from oleaster.core.interrupts import note_interrupts\n"
        "note_interrupts()\n"
        "try: signal.raise_signal(signal.SIGINT)\n"
        "except KeyboardInterrupt: pass\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, *needed, "-o", "run"]
    done = subprocess.run(
        command, cwd=tmp_path, env=program.environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 130, done.stderr
    assert len(steps(tmp_path / "run")) == 1
    assert "is kept" in done.stderr
