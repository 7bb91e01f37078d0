"""Methods, tasks, several adapters, searches, losses, watching: the tutorial's middle and end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from shell import PHRASES, SHORT, Shell

from oleaster.core.artifact import Artifact
from oleaster.core.run import Run
from oleaster.models.tiny import make_tiny
from tutorial import BLOCKS, PERFORMANCE, REGULARIZATION, SEARCH

PRUNE = Path(__file__).parents[2] / "examples" / "passes" / "prune.py"


@pytest.mark.row("S7")
def test_full_fine_tuning(shell: Shell, project: Path) -> None:
    from safetensors.torch import load_file

    shell(f"oleaster finetune -m models/base {PHRASES} {SHORT} --method full -o runs/full", project)
    before, after = ({}, {})
    for found, folder in ((before, project / "models" / "base"), (after, project / "runs" / "full" / "model")):
        for path in folder.glob("*.safetensors"):
            found |= load_file(path)
    assert before.keys() == after.keys()
    assert [name for name in before if before[name].float().equal(after[name].float())] == []


@pytest.mark.row("S8")
def test_methods_and_switching(shell: Shell, project: Path) -> None:
    for method in ("lora", "qlora", "adapter"):
        shell(f"oleaster finetune -m models/base {PHRASES} {SHORT} --method {method} -o runs/{method}", project)
        assert Run(project / "runs" / method).is_done
    shell(f"oleaster finetune -m models/base {PHRASES} {SHORT} --seed 7 -o runs/other", project)
    shell("oleaster generate-adapter --adapter_paths runs/lora,runs/other -o models/both --precision fp32", project)
    answers = {
        name: shell(f"oleaster generate models/both 'hello' --adapter {name}", project) for name in ("lora", "other")
    }
    assert all(done.returncode == 0 for done in answers.values())


@pytest.mark.row("S10")
def test_hardware_formats_and_families(shell: Shell, project: Path) -> None:
    said = shell("oleaster doctor", project).stdout
    assert all(word in said for word in ("processor", "GPU", "providers", "export"))
    for family in ("llama", "phi3", "qwen2", "qwen3", "gemma2", "gemma3_text"):
        make_tiny(family, project / family)
        done = shell(f"oleaster finetune -m ./{family} {PHRASES} --max_steps 2 -o runs/{family}", project)
        assert "transformers' code" not in done.stdout
    shell("oleaster auto-opt runs/llama -o onnx --precision fp32", project)
    assert Artifact.open(project / "onnx", verify=True).kind.startswith("onnx")


@pytest.mark.row("S11")
def test_automatic_workflow_and_a_pass_of_ones_own(shell: Shell, with_recipe: Path) -> None:
    passes = f"plugins: [{PRUNE}]\npasses: [finetune, merge, {{prune: {{sparsity: 0.1}}}}, evaluate, onnx]\n"
    (with_recipe / "line.yaml").write_text(passes)
    done = shell("oleaster run line.yaml", with_recipe)
    assert "weights are zero now" in done.stdout
    assert Artifact.open(with_recipe / "runs" / "line" / "onnx", verify=True)
    again = shell("oleaster run line.yaml", with_recipe)
    assert again.stdout.count("is done, nothing it is made from has changed") == 5
    done = shell("oleaster submit line.yaml --azureml", with_recipe)
    assert "not sent" in done.stdout
    job = with_recipe / "jobs" / "line" / "code"  # all that Azure would be given, run here as it would be there
    base = (with_recipe / "models" / "base").resolve()
    done = shell(f"oleaster run recipe.yaml --output_path outputs/line --model_name_or_path {base} --dry_run", job)
    assert done.stdout.count("would be done") == 5


@pytest.mark.row("S13")
def test_a_tenth_is_held_out_evenly(shell: Shell, project: Path) -> None:
    done = shell(f"oleaster finetune -m models/base {PHRASES} -o runs/x --dry_run", project)
    assert "40 of 405 rows held out for validation (seed 42, evenly over 5 labels)" in done.stdout
    done = shell(f"oleaster finetune -m models/base {PHRASES} -o runs/x --validation_fraction 0.2 --dry_run", project)
    assert "81 of 405 rows held out" in done.stdout


@pytest.mark.row("S14")
def test_learning_rate_schedule_and_accumulation(shell: Shell, project: Path) -> None:
    flags = f"{PHRASES} --max_steps 8 --logging_steps 1 --learning_rate 1e-4 --dtype float32 --eval_steps 8"
    shell(f"oleaster finetune -m models/base {flags} --per_device_train_batch_size 8 -o runs/whole", project)
    accumulated = "--per_device_train_batch_size 2 --gradient_accumulation_steps 4"
    shell(f"oleaster finetune -m models/base {flags} {accumulated} -o runs/parts", project)
    whole, parts = ([e for e in Run(project / "runs" / n).read_log() if "grad_norm" in e] for n in ("whole", "parts"))
    assert [e["loss"] for e in whole] == pytest.approx([e["loss"] for e in parts], rel=1e-4)
    rates = [e["learning_rate"] for e in whole]
    assert max(rates) <= 1e-4
    assert rates[-1] < max(rates) / 2


@pytest.mark.row("S15")
@pytest.mark.row("S26")
def test_validation_early_stopping_checkpoints(shell: Shell, project: Path) -> None:
    pace = "--eval_steps 10 --save_steps 10 --early_stopping_patience 5 --num_train_epochs 100"
    flags = f"--max_samples 60 --validation_fraction 0.3 --learning_rate 1e-2 --dtype float32 {pace}"
    flags += " --per_device_train_batch_size 8"
    done = shell(f"oleaster finetune -m models/base {PHRASES} {flags} -o runs/x", project)
    assert "validation loss" in done.stdout
    assert "(training " in done.stdout
    run = Run(project / "runs" / "x")
    assert run.summary["steps"] < run.summary["total_steps"]
    assert any(path.name.startswith("step-") for path in run.checkpoints.iterdir())
    assert any("overfit" in str(event).lower() for event in run.read_log())


@pytest.mark.row("S18")
def test_memory(shell: Shell, project: Path) -> None:
    flags = f"{PHRASES} {SHORT} --gradient_checkpointing --bf16"
    done = shell(f"oleaster finetune -m models/base {flags} -o runs/x --dry_run", project)
    assert "memory, estimated" in done.stdout
    shell(f"oleaster finetune -m models/base {flags} -o runs/x", project)
    run = Run(project / "runs" / "x")
    assert run.summary["dtype"] == "bfloat16"
    assert all(event["peak_memory_mb"] > 0 for event in run.read_log() if "grad_norm" in event)


@pytest.mark.row("S19", block=9)
def test_multi_adapter(shell: Shell, with_recipe: Path) -> None:
    shell(BLOCKS[9].ours, with_recipe)
    artifact = Artifact.open(with_recipe / "models" / "multi-adapter", verify=True)
    assert {Path(f.path).stem for f in artifact.files if f.path.endswith(".onnx_adapter")} == {
        "classification",
        "generation",
    }
    for name in ("classification", "generation"):
        shell(f"oleaster generate models/multi-adapter 'hello' --adapter {name}", with_recipe)


@pytest.mark.row("S20", block=10)
def test_the_printed_search(shell: Shell, with_recipe: Path) -> None:
    (with_recipe / "hyperparameter-search.yaml").write_text(SEARCH)
    shell(BLOCKS[10].ours, with_recipe)
    folder = with_recipe / "runs" / "first"
    assert len(list((folder / "trials").glob("[0-9]*"))) == 20
    assert (folder / "best" / "DONE").is_file()
    assert (folder / "report.html").is_file()


@pytest.mark.row("S25", block=13)
@pytest.mark.row("S27", block=13)
def test_monitoring(shell: Shell, with_recipe: Path) -> None:
    shell(BLOCKS[13].ours, with_recipe)
    assert list((with_recipe / "logs").rglob("events.out.tfevents.*"))
    steps = [event for event in Run(with_recipe / "runs" / "first").read_log() if "grad_norm" in event]
    assert all(event["cpu_percent"] > 0 and event["memory_mb"] > 0 and event["input_tokens"] > 0 for event in steps)


@pytest.mark.row("S25")
@pytest.mark.row("S29")
def test_fragments_without_a_recipe_say_what_is_missing(shell: Shell, project: Path) -> None:
    for number in (13, 15):
        done = shell(BLOCKS[number].ours, project, code=2)
        assert "not given: the base model (--model_name_or_path), the rows" in done.stderr
        assert "-m HuggingFaceTB/SmolLM2-135M-Instruct -d rows.jsonl" in done.stderr


@pytest.mark.row("S28", block=14)
def test_regularisation(shell: Shell, with_recipe: Path) -> None:
    (with_recipe / "regularization.yaml").write_text(REGULARIZATION)
    shell(BLOCKS[14].ours, with_recipe)
    run = Run(with_recipe / "runs" / "regularization" / "lora")
    config = json.loads((run.adapter / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["lora_dropout"]) == (16, 16, 0.1)
    assert "weight_decay: 0.01" in run.recipe.read_text()


@pytest.mark.row("S29", block=15)
def test_memory_flags(shell: Shell, with_recipe: Path) -> None:
    shell(BLOCKS[15].ours, with_recipe)
    recipe = Run(with_recipe / "runs" / "first").recipe.read_text()
    for line in ("type: qlora", "gradient_checkpointing: true", "gradient_accumulation_steps: 16"):
        assert line in recipe


@pytest.mark.row("S29", block=16)
def test_performance(shell: Shell, with_recipe: Path) -> None:
    (with_recipe / "performance.yaml").write_text(PERFORMANCE)
    done = shell(BLOCKS[16].ours, with_recipe)
    run = Run(with_recipe / "runs" / "first")
    assert run.is_done
    assert "lr_scheduler_type: cosine" in run.recipe.read_text()
    assert "fp16: true" in run.recipe.read_text() or "computes in float16" in done.stderr
