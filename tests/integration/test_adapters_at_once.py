"""`oleaster finetune --adapters`: several adapters over one base, each as if trained alone."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from command_line import Program
from safetensors.torch import load_file

STEPS = (3, 6)


def losses(run: Path) -> list[float]:
    events = [json.loads(line) for line in (run / "log.jsonl").read_text("utf-8").splitlines()]
    return [event.get("loss", event.get("eval_loss")) for event in events if event["event"] in ("step", "eval")]


def test_two_recipes_two_runs(program: Program, needed: tuple[str, ...], tmp_path: Path) -> None:
    for name, steps in zip(("tone", "second"), STEPS, strict=True):
        text = f"task_name: {name}\ntraining:\n  max_steps: {steps}\nmethod:\n  lora_r: {steps}\n"
        (tmp_path / f"{name}.yaml").write_text(text)
    common = [word for word in needed if not word.startswith("--max_steps")]
    done = program(*common, "-o", "both", "--adapters", "tone.yaml", "second.yaml", cwd=tmp_path)
    assert "second: step 6/6" in done.stdout
    for name, steps in zip(("tone", "second"), STEPS, strict=True):
        program(*common, "-o", f"{name}_alone", "--config", f"{name}.yaml", cwd=tmp_path)
        together, alone = tmp_path / "both" / name, tmp_path / f"{name}_alone"
        assert (together / "DONE").is_file()
        weights, expected = (load_file(run / "adapter/adapter_model.safetensors") for run in (together, alone))
        assert {n: w.shape for n, w in weights.items()} == {n: w.shape for n, w in expected.items()}
        assert torch.allclose(torch.tensor(losses(together)), torch.tensor(losses(alone)), rtol=1e-3)
        assert len(losses(together)) == steps + steps // 3
    again = program(*common, "-o", "both", "--adapters", "tone.yaml", "second.yaml", cwd=tmp_path, code=2)
    assert "finished run" in again.stderr


def test_what_cannot_share_a_base_is_refused_before_anything_is_made(
    program: Program, needed: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "a.yaml").write_text("model:\n  dtype: bfloat16\n")
    (tmp_path / "b.yaml").write_text("training:\n  gradient_checkpointing: true\n")
    (tmp_path / "c.yaml").write_text("task_name: a\nmethod:\n  lorar: 3\n")
    done = program(*needed, "-o", "both", "--adapters", "a.yaml", "b.yaml", cwd=tmp_path, code=2)
    assert "b: model_name_or_path" in done.stderr
    assert "b: gradient_checkpointing" in done.stderr
    done = program(*needed, "-o", "both", "--adapters", "a.yaml", "c.yaml", cwd=tmp_path, code=2)
    assert "c.yaml:3" in done.stderr
    assert not (tmp_path / "both").exists()
