"""`auto-opt`, `verify`, `generate-adapter` from the outside; the folders they make, and what becomes of wrong ones."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import numpy as np
import pytest
from command_line import PHRASES, Program

from oleaster.core.artifact import Artifact

QUESTIONS = [phrase for phrase, _ in PHRASES[:3]]
FILES = {
    "README.md",
    "chat_template.jinja",
    "genai_config.json",
    "manifest.json",
    "model.onnx",
    "model.onnx.data",
    "oleaster.yaml",
    "prompt_contract.json",
    "tokenizer.json",
    "tokenizer_config.json",
}


@dataclass(frozen=True)
class Export:
    """A finished export."""

    folder: Path
    printed: str
    seconds: float


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def climbed(printed: str) -> list[str]:
    """The rungs of the printed ladder that hold."""
    return [line.split()[0] for line in printed.splitlines() if line.endswith("  holds")]


def answers(program: Program, path: Path, *flags: str) -> list[str]:
    return [program("generate", path, question, *flags, cwd=path).stdout for question in QUESTIONS]


@pytest.fixture(scope="module")
def printed(program: Program, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Export:
    """The tutorial's command with its flags spelt as there."""
    output = tmp_path_factory.mktemp("artifacts") / "printed"
    words = ("--model_name_or_path", trained / "model", "--adapter_path", trained / "adapter", "--device", "cpu")
    more = ("--provider", "CPUExecutionProvider", "--use_ort_genai", "--output_path", output, "--log_level", "1")
    began = time.monotonic()
    done = program("auto-opt", *words, *more, cwd=output.parent)
    return Export(output, done.stdout, time.monotonic() - began)


@pytest.fixture(scope="module")
def exact(program: Program, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Export:
    """The run itself, in float32: the same answers as torch, token by token."""
    output = tmp_path_factory.mktemp("artifacts") / "exact"
    began = time.monotonic()
    done = program("optimize", trained, "-o", output, "--precision=fp32", cwd=output.parent)
    return Export(output, done.stdout, time.monotonic() - began)


def test_the_tutorials_command_makes_a_whole_artifact(printed: Export, trained: Path) -> None:
    assert names(printed.folder) == FILES
    artifact = Artifact.open(printed.folder, verify=True)
    assert artifact.kind == "onnx-genai"
    rungs = [rung["rung"] for rung in artifact.fidelity["ladder"]]
    assert rungs == ["torch", "merged", "onnx-fp32", artifact.precision, "genai"]
    assert all(rung["fault"] is None for rung in artifact.fidelity["ladder"])
    assert artifact.fidelity["ladder"][0]["rows"] == 6  # those that the run held out
    assert names(printed.folder.parent) == {"printed"}


def test_the_ladder_and_the_choice_are_printed(printed: Export) -> None:
    precision = Artifact.open(printed.folder).precision
    for part in ("fidelity ladder, 6 rows", "precision, smallest first", "chosen", f"oleaster chat {printed.folder}"):
        assert part in printed.printed
    rungs = climbed(printed.printed)
    assert rungs[:3] == ["torch", "merged", "onnx-fp32"]
    assert rungs[-2:] == [precision, "genai"]


def test_plain_genai_loads_the_folder_and_answers_as_the_tuned_model(
    program: Program, trained: Path, exact: Export
) -> None:
    import onnxruntime_genai as og

    model = og.Model(str(exact.folder))
    tokenizer = og.Tokenizer(model)
    found = []
    for question in QUESTIONS:
        messages = json.dumps([{"role": "user", "content": question}])
        ids = tokenizer.encode(tokenizer.apply_chat_template(messages, add_generation_prompt=True))
        params = og.GeneratorParams(model)
        params.set_search_options(max_length=len(ids) + 8, do_sample=False)
        generator = og.Generator(model, params)
        generator.append_tokens(np.asarray([ids], dtype=np.int32))
        made: list[int] = []
        while not generator.is_done():
            generator.generate_next_token()
            made.append(int(generator.get_next_tokens()[0]))
        text = tokenizer.decode(np.asarray(made, dtype=np.int32))
        for mark in ("<|im_end|>", "<|endoftext|>"):
            text = text.removesuffix(mark)
        found.append(text + "\n")
    assert found == answers(program, trained, "--dtype=float32", "--max_new_tokens=8")


def test_an_artifact_answers_and_is_scored_without_torch(
    program: Program, exact: Export, trained: Path, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['torch'] = None\n")
    paths = f"{tmp_path}{os.pathsep}{program.environment['PYTHONPATH']}"
    bare = Program({**program.environment, "PYTHONPATH": paths})
    with pytest.raises(AssertionError, match="torch"):  # the guard guards
        bare("generate", trained, "hello", cwd=tmp_path)
    moved = shutil.copytree(exact.folder, tmp_path / "moved")  # far from its run: the template goes with it
    said = answers(bare, moved)
    assert said == answers(program, trained, "--dtype=float32")
    chat = bare("chat", moved, cwd=tmp_path, stdin=QUESTIONS[0] + "\n")
    assert chat.stdout.startswith(said[0].rstrip("\n"))
    scored = bare("evaluate", moved, "--output", tmp_path / "scores", cwd=tmp_path)
    assert "exact match" in scored.stdout
    report = json.loads((tmp_path / "scores/artifact/report.json").read_text("utf-8"))
    program("evaluate", trained, "--dtype=float32", "--base=false", "-o", tmp_path / "torch", cwd=tmp_path)
    torch = json.loads((tmp_path / "torch/tuned/report.json").read_text("utf-8"))
    assert report["metrics"]["loss"]["value"] == pytest.approx(torch["metrics"]["loss"]["value"], rel=1e-4)


@pytest.mark.parametrize("form", ["labels", "json"])
def test_answers_are_held_to_a_form_as_in_torch(
    form: str, program: Program, exact: Export, trained: Path, tmp_path: Path
) -> None:
    told = ("--answer_with", form, "--max_new_tokens=24")
    program("evaluate", exact.folder, *told, "-o", tmp_path / "onnx", cwd=tmp_path)
    program("evaluate", trained, *told, "--dtype=float32", "--base=false", "-o", tmp_path / "torch", cwd=tmp_path)
    onnx, torch = (predicted(tmp_path / place) for place in ("onnx/artifact", "torch/tuned"))
    assert onnx == torch
    if form == "labels":
        assert set(onnx) <= {tone for _, tone in PHRASES}
    else:
        assert all(answer.startswith("{") for answer in onnx)


def predicted(folder: Path) -> list[str]:
    lines = (folder / "predictions.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line)["prediction"] for line in lines]


def test_an_export_that_loses_too_much_ends_with_3_and_leaves_the_last_good_one(
    program: Program, trained: Path, exact: Export, tmp_path: Path
) -> None:
    output = shutil.copytree(exact.folder, tmp_path / "onnx")
    words = ("auto-opt", trained, "-o", output, "--precision=int4", "--max_kl=1e-9")
    done = program(*words, cwd=tmp_path, code=3)
    assert "int4" in done.stderr
    assert "KL" in done.stderr
    assert "Likely cause: too few bits" in done.stderr
    assert "lost" in done.stdout  # the ladder up to the rung that broke
    assert Artifact.open(output, verify=True) == Artifact.open(exact.folder)
    assert names(tmp_path) == {"onnx"}


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--provider=CUDAExecutionProvider"], "CUDAExecutionProvider runs on a gpu, not on a cpu"),
        (["--provider=CUDAExecutionProvider", "--device=gpu"], "pip install 'oleaster[gpu]'"),
        (["--provider=CudaExecutionProvider"], "there is no execution provider 'CudaExecutionProvider'"),
        (["--use_ort_genai=false"], "generating models are written for ONNX Runtime GenAI"),
    ],
)
def test_what_this_machine_cannot_prove_is_refused_before_any_work(
    program: Program, trained: Path, tmp_path: Path, flags: list[str], said: str
) -> None:
    done = program("auto-opt", trained, "-o", tmp_path / "onnx", *flags, cwd=tmp_path, code=2)
    assert said in done.stderr
    assert names(tmp_path) == set()


def test_the_base_of_a_run_alone_is_exported_with_a_word(program: Program, trained: Path, tmp_path: Path) -> None:
    words = ("auto-opt", trained / "model", "-o", tmp_path / "onnx", "--precision=fp32")
    done = program(*words, cwd=tmp_path)
    assert f"its adapter is left out (--adapter_path {trained / 'adapter'} adds it)" in done.stdout
    assert Artifact.open(tmp_path / "onnx").run_id is None


def test_a_merged_folder_for_plain_transformers_answers_as_the_run(
    program: Program, trained: Path, tmp_path: Path
) -> None:
    words = ("auto-opt", trained, "-o", tmp_path / "merged", "--output_format=hf", "--precision=fp32")
    done = program(*words, cwd=tmp_path)
    assert climbed(done.stdout) == ["torch", "merged", "fp32", "transformers"]
    asked = ("--dtype=float32", "--max_new_tokens=8")
    assert answers(program, tmp_path / "merged", *asked) == answers(program, trained, *asked)
    assert program("verify", tmp_path / "merged", cwd=tmp_path).stdout.endswith("every rung holds\n")
    refused = program("auto-opt", trained, "-o", tmp_path / "g", "--output_format=gguf", cwd=tmp_path, code=2)
    assert "the tokenizer is neither byte-level BPE nor SentencePiece's" in refused.stderr
    refused = program(*words[:-1], "--precision=int8", cwd=tmp_path, code=2)
    assert "hf is not written in int8" in refused.stderr


def test_verify_climbs_again_from_torch(program: Program, exact: Export, tmp_path: Path) -> None:
    done = program("verify", exact.folder, cwd=tmp_path)
    assert done.stdout.endswith("every rung holds\n")
    assert climbed(done.stdout) == ["torch", "fp32", "genai"]


def test_verify_names_a_changed_file_and_a_foreign_run(
    program: Program, exact: Export, trained: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(exact.folder, tmp_path / "onnx")
    other = shutil.copytree(trained, tmp_path / "run")
    recipe = (other / "oleaster.yaml").read_text("utf-8")
    (other / "oleaster.yaml").write_text(recipe + "# edited\n", encoding="utf-8")
    done = program("verify", folder, "--run", other, cwd=tmp_path, code=2)
    assert "the artifact was exported from the run" in done.stderr
    weights = bytearray((folder / "model.onnx.data").read_bytes())
    weights[len(weights) // 2] ^= 1
    (folder / "model.onnx.data").write_bytes(weights)
    done = program("verify", folder, cwd=tmp_path, code=2)
    assert "model.onnx.data: has other contents than were exported" in done.stderr


def test_a_stop_id_that_was_lost_is_found_when_the_artifact_is_loaded(
    program: Program, exact: Export, tmp_path: Path
) -> None:
    folder = shutil.copytree(exact.folder, tmp_path / "onnx")
    config: dict[str, Any] = json.loads((folder / "genai_config.json").read_text("utf-8"))
    config["model"]["eos_token_id"] = 3
    (folder / "genai_config.json").write_text(json.dumps(config), encoding="utf-8")
    done = program("generate", folder, "hello", cwd=tmp_path, code=2)
    assert "are missing from genai_config.json: answers would not end" in done.stderr


def test_several_runs_on_one_base_answer_each_as_alone(
    program: Program, trained: Path, needed: tuple[str, ...], tmp_path: Path
) -> None:
    tone, shared = tmp_path / "tone", tmp_path / "shared"
    program(*needed, "-o", tone, "--task_name=tone", "--seed=7", "--lora_r=4", cwd=tmp_path)
    paths = ("--base_model_path", trained / "model", "--adapter_paths", f"{trained},{tone}")
    done = program("generate-adapter", *paths, "--output_path", shared, "--precision=fp32", cwd=tmp_path)
    assert "fidelity ladder, adapter trained, 6 rows" in done.stdout
    assert "fidelity ladder, adapter tone, 6 rows" in done.stdout
    alone = {name: answers(program, run, "--dtype=float32") for name, run in (("trained", trained), ("tone", tone))}
    assert alone["trained"] != alone["tone"]
    for name, expected in alone.items():
        assert answers(program, shared, "--adapter", name) == expected
    base = answers(program, trained / "model", "--dtype=float32", "--max_new_tokens=8")
    assert answers(program, shared, "--max_new_tokens=8") == base
    assert program("verify", shared, "--adapter=tone", cwd=tmp_path).stdout.endswith("every rung holds\n")
    unknown = program("generate", shared, "hello", "--adapter=tony", cwd=tmp_path, code=2)
    assert "did you mean 'tone'?" in unknown.stderr
    with served(program, shared) as (address, names):
        assert names == ["shared", "tone", "trained"]
        for name, expected in alone.items():  # `generate` does not show a character that was cut in the middle
            assert [asked(address, name, question).rstrip("\ufffd") + "\n" for question in QUESTIONS] == expected


@contextmanager
def served(program: Program, folder: Path) -> Iterator[tuple[str, list[str]]]:
    """(address, names of what answers there) while the block lasts; Ctrl-C ends it well."""
    process = program.start("serve", folder, "--port=0", cwd=folder)
    try:
        assert process.stdout is not None
        names, _, rest = process.stdout.readline().partition(" at ")
        yield rest.split()[0], names.split(", ")
    finally:
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")


def asked(address: str, model: str, question: str) -> str:
    """The answer over HTTP."""
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": question}]}).encode()
    request = Request(f"{address}/chat/completions", body, {"content-type": "application/json"})
    with urlopen(request, timeout=60) as reply:
        return json.load(reply)["choices"][0]["message"]["content"]


def test_a_killed_export_never_leaves_a_half_artifact(
    program: Program, trained: Path, exact: Export, tmp_path: Path
) -> None:
    """Ten moments over the whole length of an export, then one to the end."""
    output = tmp_path / "onnx"
    words = ("auto-opt", trained, "-o", output, "--precision=fp32")
    for moment in range(1, 11):
        process = program.start(*words, cwd=tmp_path)
        try:
            process.wait(exact.seconds * moment / 10)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
        process.communicate()
        if output.exists():
            Artifact.open(output, verify=True)
        visible = {name for name in names(tmp_path) if not name.startswith(".")}
        assert visible <= {"onnx"}
    program(*words, cwd=tmp_path)
    assert names(tmp_path) == {"onnx"}
    assert names(output) == FILES
