"""The tutorial's beginning: installation, its three examples."""

from __future__ import annotations

import json
import re
from importlib.metadata import metadata
from pathlib import Path

import pytest
from shell import Shell

from oleaster.core.extras import extras
from oleaster.core.run import Run
from tutorial import BLOCKS, DATASET_JSON, OLIVE_CONFIG

ROOT = Path(__file__).parents[2]
PHRASE = "where is my parcel"


@pytest.mark.row("S1", block=1)
def test_installation(shell: Shell, project: Path) -> None:
    """pip resolves the extra; what is installed already needs no index."""
    asked = "pip install -q --dry-run --no-index --no-build-isolation"
    shell(f'{asked} "{ROOT}[auto-opt]" && {asked} transformers onnxruntime-genai', project)


@pytest.mark.row("S1", block=2)
@pytest.mark.quick
def test_optional_dependencies() -> None:
    printed = {line.partition("[")[2].rstrip("]") for line in BLOCKS[2].ours.split()[2::3]}
    assert printed == {"cpu", "gpu", "directml", "azureml"}
    assert printed <= set(extras())
    assert printed <= set(metadata("oleaster").get_all("Provides-Extra") or ())


@pytest.mark.row("S1", block=3)
def test_verification(shell: Shell, project: Path) -> None:
    done = shell(BLOCKS[3].ours, project)
    assert "usage: oleaster COMMAND" in done.stdout
    assert done.stdout.endswith("Olive installed successfully\n")
    assert "so this machine can:" in shell("oleaster doctor", project).stdout


@pytest.mark.row("S1", block=4)
def test_environment(shell: Shell, project: Path) -> None:
    shell(BLOCKS[4].ours.replace("huggingface-cli login", "hf auth login --help"), project)
    assert (project / "fine-tuning-project").is_dir()


@pytest.mark.row("S2", block=5)
@pytest.mark.row("S3", block=6)
def test_example_1(shell: Shell, project: Path) -> None:
    done = shell(BLOCKS[5].ours, project)
    ft = project / "models" / "llama" / "ft"
    assert "step 100/100" in done.stdout or "Training ended early" in done.stdout or "stopped" in done.stdout
    assert (ft / "model" / "config.json").is_file()
    config = json.loads((ft / "adapter" / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA"
    assert "user<|end_header_id|>\n{phrase}" in json.dumps(_recipe(ft)).encode().decode("unicode_escape")
    tuned = _answers(shell, project, "models/llama/ft", "--dtype float32")

    shell(BLOCKS[6].ours, project)
    onnx = project / "models" / "llama" / "onnx"
    assert {"genai_config.json", "model.onnx", "tokenizer.json"} <= {path.name for path in onnx.iterdir()}
    loaded = (
        "import onnxruntime_genai as og; model = og.Model('models/llama/onnx'); og.Tokenizer(model); print('loaded')"
    )
    assert shell(f'python -c "{loaded}"', project).stdout == "loaded\n"
    # Rounded weights may end a tiny model's endless repetition a token sooner; what is allowed is the ladder's.
    shipped = _answers(shell, project, "models/llama/onnx")
    assert [answer[:16] for answer in shipped] == [answer[:16] for answer in tuned]
    assert shell("oleaster verify models/llama/onnx", project).stdout.endswith("every rung holds\n")


def _answers(shell: Shell, project: Path, model: str, flags: str = "") -> list[str]:
    phrases = (PHRASE, "thank you, dear team", "give me my money")
    return [shell(f'oleaster generate {model} "{text}" {flags}', project).stdout for text in phrases]


def _recipe(folder: Path) -> dict[str, object]:
    import yaml

    return yaml.safe_load((folder / "oleaster.yaml").read_text("utf-8"))


@pytest.mark.row("S4", block=7)
@pytest.mark.row("S5", block=7)
def test_example_2(shell: Shell, project: Path) -> None:
    data = project / "path" / "to" / "your"
    data.mkdir(parents=True)
    (data / "dataset.json").write_text(DATASET_JSON)
    (project / "olive-config.yaml").write_text(OLIVE_CONFIG)
    done = shell(BLOCKS[7].ours, project)
    assert "setup: all that the recipe needs is here" in done.stdout
    run = Run(project / "runs" / "olive-config" / "lora")
    assert run.is_done
    config = json.loads((run.adapter / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (16, 32)
    assert set(config["target_modules"]) == {"c_attn", "c_proj"}
    assert {"ln_f", "lm_head"} <= {name.rpartition(".")[2] for name in config["modules_to_save"]}
    assert json.loads(run.ledger.read_text())["train"]["rows"] == 2


@pytest.mark.row("S6", block=8)
def test_example_3(shell: Shell, project: Path) -> None:
    shell(BLOCKS[8].ours, project)
    run = Run(project / "adapters" / "tiny-codes")
    ledger = json.loads(run.ledger.read_text())
    assert (ledger["train"]["rows"], ledger["validation"]["rows"]) == (4096, 128)
    said = [event["text"] for event in run.read_log() if "linear layers in 4 bits" in event.get("text", "")]
    layers, held, plain = map(float, re.findall(r"[\d.]+(?= linear)|[\d.]+(?= MB)|[\d.]+$", said[0]))
    base = json.loads((project / "meta-llama" / "Meta-Llama-3-8B" / "config.json").read_text())
    assert layers == 7 * base["num_hidden_layers"]
    assert held < 0.3 * plain
    losses = [event["loss"] for event in run.read_log() if "grad_norm" in event]
    assert losses[-1] < losses[0]
    assert (run.adapter / "adapter_model.safetensors").is_file()
