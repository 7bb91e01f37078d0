"""The whole line on tiny models: what is written, what is refused, what is left after a fault."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("onnxruntime_genai")

from oleaster.config.schema import ExportConfig
from oleaster.core.artifact import Artifact
from oleaster.core.errors import DataError, FidelityError, ModelError
from oleaster.data.papers import Encoded, Example
from oleaster.exporting.export import Candidate, choose, export
from oleaster.exporting.ladder import Ladder, Limits
from oleaster.exporting.layouts.genai import Genai
from oleaster.exporting.layouts.layout import Material
from oleaster.exporting.rungs import torch_rung
from oleaster.inference.contract import PromptContract
from oleaster.inference.onnx_predictor import OnnxPredictor
from oleaster.inference.predictor import Sampling
from oleaster.models.tiny import make_tiny
from oleaster.models.tokenizer import load_tokenizer

LOOSE = {"max_drop": 1.0, "max_kl": 5.0, "verify_rows": 4}


def rows(folder: Path, count: int = 6) -> tuple[list[Example], list[Encoded]]:
    tokenizer = load_tokenizer(folder)
    examples, encoded = [], []
    for i in range(count):
        messages = [{"role": "user", "content": f"question {i}?"}]
        prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        before = tuple(tokenizer.encode(prompt))
        whole = before + tuple(tokenizer.encode(f"answer {i}<|im_end|>"))
        messages.append({"role": "assistant", "content": f"answer {i}"})
        examples.append(Example(f"test:{i}", messages=tuple(messages), target=f"answer {i}"))
        encoded.append(Encoded(whole, tuple(range(len(before), len(whole))), len(before), i))
    return examples, encoded


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny("llama", tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def artifact(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    examples, encoded = rows(base)
    options = ExportConfig.model_validate({**LOOSE, "precision": "int8"})
    return export(base, None, tmp_path_factory.mktemp("out") / "art", examples, encoded, options, max_new_tokens=4)


def test_an_artifact_is_complete_and_answers(artifact: Artifact) -> None:
    assert Artifact.open(artifact.folder, verify=True) == artifact
    assert (artifact.kind, artifact.precision) == ("onnx-genai", "int8")
    assert [rung["rung"] for rung in artifact.fidelity["ladder"]] == ["torch", "onnx-fp32", "int8", "genai"]
    assert artifact.fidelity["ladder"][-1]["same_ids"] == 1.0
    names = {file.path for file in artifact.files}
    assert {"model.onnx", "genai_config.json", "tokenizer.json", "prompt_contract.json", "README.md"} <= names
    predictor = OnnxPredictor(artifact.folder)
    assert len(predictor.generate([predictor.tokenizer.encode("hello")])) == 1


def test_the_context_ends_an_answer_and_what_does_not_fit_is_said(artifact: Artifact) -> None:
    predictor = OnnxPredictor(artifact.folder, stop_ids=[-1])
    context = json.loads((artifact.folder / "genai_config.json").read_text())["model"]["context_length"]
    (answer,) = predictor.generate([[5] * (context - 3)], Sampling(max_new_tokens=8))
    assert (len(answer.token_ids), answer.finish) == (3, "length")
    with pytest.raises(DataError) as error:
        predictor.generate([[5], [], [5] * context])
    assert "prompt 1: the prompt is empty" in str(error.value)
    assert f"prompt 2: {context} tokens leave no place" in str(error.value)


def test_a_dropped_stop_id_is_refused_at_load(artifact: Artifact, tmp_path: Path) -> None:
    folder = copied(artifact, tmp_path)
    config = json.loads((folder / "genai_config.json").read_text())
    config["model"]["eos_token_id"] = 3
    (folder / "genai_config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"stop ids \[2\] are missing"):
        OnnxPredictor(folder)


def test_another_template_is_refused_at_load(artifact: Artifact, tmp_path: Path) -> None:
    folder = copied(artifact, tmp_path)
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text().replace("<|im_start|>", "USER "))
    with pytest.raises(ModelError, match="chat template renders"):
        OnnxPredictor(folder)


def test_another_tokenizer_is_refused_at_load_with_every_difference(artifact: Artifact, tmp_path: Path) -> None:
    folder = copied(artifact, tmp_path)
    contract = PromptContract.read(folder)
    assert contract is not None
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["a"], vocabulary["e"] = vocabulary["e"], vocabulary["a"]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(ModelError) as caught:
        OnnxPredictor(folder)
    assert "not the file the model was exported with" in str(caught.value)
    assert "golden texts become other ids" in str(caught.value)


def test_a_fault_leaves_the_last_good_artifact(base: Path, artifact: Artifact) -> None:
    examples, encoded = rows(base)
    strict = ExportConfig(precision="int8", max_kl=1e-9, verify_rows=4)
    with pytest.raises(FidelityError, match="'quantised'"):
        export(base, None, artifact.folder, examples, encoded, strict, max_new_tokens=4)
    assert Artifact.open(artifact.folder, verify=True) == artifact
    assert [path.name for path in artifact.folder.parent.iterdir()] == [artifact.folder.name]


def test_auto_takes_the_smallest_that_holds(base: Path, tmp_path: Path) -> None:
    examples, encoded = rows(base)
    seen: list[object] = []
    options = ExportConfig(max_kl=1e-4, max_drop=1.0, verify_rows=4)
    made = export(base, None, tmp_path / "art", examples, encoded, options, max_new_tokens=4, on_progress=seen.append)
    table = [line for line in seen if isinstance(line, Candidate)]
    assert [line.precision for line in table] == ["int4", "int8", "fp32"]
    assert [line.verdict for line in table][-1] == "chosen"
    assert all("KL" in line.verdict for line in table[:-1])
    assert made.precision == "fp32"
    assert [line["precision"] for line in made.fidelity["table"]] == ["int4", "int8", "fp32"]


def test_an_artifact_that_needs_more_memory_than_allowed_is_refused(base: Path, tmp_path: Path) -> None:
    examples, encoded = rows(base)
    options = ExportConfig.model_validate({**LOOSE, "precision": "fp32", "memory": 1.0})
    with pytest.raises(FidelityError, match="allowed 1"):
        export(base, None, tmp_path / "art", examples, encoded, options, max_new_tokens=4)
    assert not (tmp_path / "art").exists()


def test_a_model_without_rows_is_compared_on_general_texts(base: Path, tmp_path: Path) -> None:
    made = export(base, None, tmp_path / "art", options=ExportConfig(precision="fp32"), max_new_tokens=4)
    assert made.fidelity["ladder"][0]["rows"] > 20


def test_a_family_whose_graph_would_be_wrong_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="GPT2LMHeadModel cannot be exported"):
        export(make_tiny("gpt2", tmp_path / "gpt2"), None, tmp_path / "art")


def test_a_precision_that_cannot_be_made_is_a_line_of_the_table(base: Path, tmp_path: Path) -> None:
    class Unable(Genai):
        """Cannot do 4 bits."""

        def make(self, material: Material, precision: str, folder: Path) -> None:
            if precision == "int4":
                raise ModelError("weights of the graph are not found", where="here")
            super().make(material, precision, folder)

    encoded = rows(base)[1]
    ladder = Ladder(encoded, None, Limits(max_kl=5.0), 4)
    ladder.measure(torch_rung(base, None))
    material = Material(base, None, tmp_path, (2,), [], encoded, ExportConfig())
    layout = Unable()
    layout.prepare(material)
    table = choose(layout, material, ladder, lambda _: None)
    assert [(line.precision, line.verdict) for line in table] == [
        ("int4", "weights of the graph are not found"),
        ("int8", "chosen"),
    ]
    assert table[0].size_mb is None
    only = Material(base, None, tmp_path, (2,), [], encoded, ExportConfig(precision="int4"))
    with pytest.raises(ModelError, match="are not found"):
        choose(layout, only, ladder, lambda _: None)


@pytest.mark.parametrize(("precision", "same"), [("fp32", True), ("bf16", False)])
def test_plain_transformers_loads_a_merged_folder_and_stops_where_it_should(
    base: Path, tmp_path: Path, precision: str, same: bool
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    examples, encoded = rows(base)
    options = ExportConfig.model_validate({**LOOSE, "output_format": "hf", "precision": precision})
    made = export(base, None, tmp_path / "art", examples, encoded, options, max_new_tokens=4)
    assert (made.kind, made.precision) == ("hf", precision)
    assert [rung["rung"] for rung in made.fidelity["ladder"]] == ["torch", precision, "transformers"]
    model = AutoModelForCausalLM.from_pretrained(made.folder)
    assert str(model.dtype) == {"fp32": "torch.float32", "bf16": "torch.bfloat16"}[precision]
    assert model.generation_config.eos_token_id == [2]
    given = AutoModelForCausalLM.from_pretrained(base)
    head, stored = given.lm_head.weight, model.lm_head.weight.float()
    assert bool((head == stored).all()) is same
    assert bool((head.bfloat16().float() == stored.bfloat16().float()).all())
    assert AutoTokenizer.from_pretrained(made.folder).chat_template == AutoTokenizer.from_pretrained(base).chat_template


def copied(artifact: Artifact, target: Path) -> Path:
    import shutil

    return shutil.copytree(artifact.folder, target / "art")
