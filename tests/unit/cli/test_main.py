"""Exit codes, messages and start of the program, seen from outside."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from oleaster.cli.finetune import kept
from oleaster.cli.main import COMMANDS, main

HEAVY = ("torch", "transformers", "datasets", "peft", "onnxruntime", "rich", "numpy")


def program(*words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "oleaster", *words]
    return subprocess.run(command, capture_output=True, text=True, input=stdin, timeout=60, check=False)


def test_alone_it_prints_its_commands() -> None:
    done = program()
    assert done.returncode == 0
    assert all(name in done.stdout for name in COMMANDS)


@pytest.mark.parametrize("words", [[], ["--help"], *([name, "--help"] for name in COMMANDS)])
def test_help_imports_nothing_heavy(words: list[str]) -> None:
    code = f"import sys; from oleaster.cli.main import main; main({words}); print(*sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert "usage: oleaster" in done.stdout
    assert set(HEAVY).isdisjoint(done.stdout.splitlines())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["finetun"], "oleaster: finetun: there is no such command\n  -> did you mean 'finetune'?"),
        (["finetune", "--max_stepss", "3"], "--max_stepss: there is no such flag"),
        (["finetune", "--max_steps", "ten"], "--max_steps: 'ten' is no whole number"),
        (["finetune", "--config", "no.yaml"], "no.yaml: there is no such recipe"),
        (
            ["finetune", "-o", "no/such/run", "--resume"],
            "no/such/run: no run lies here to go on with\n  -> there is no",
        ),
        (["evaluate"], "not given: the run or model to score\n  -> oleaster evaluate runs/first"),
        (["evaluate", "no/run"], "not given: the rows (--data_name or --data_files); there is no folder no/run"),
        (["generate"], "not given: the run or model"),
        (["generate", "x", "y", "--top_p", "3"], "0 < top_p <= 1 must hold"),
        (
            ["auto-opt"],
            "not given: the run or model to export, the folder to write\n  -> oleaster auto-opt runs/first -o",
        ),
        (["optimize", "runs/a"], "not given: the folder to write\n  -> oleaster auto-opt runs/a -o artifacts/first"),
        (["auto-opt", "runs/a", "-o", "b", "--precision", "int5"], "--precision: 'int5' is none of auto, fp32"),
        (
            ["generate-adapter"],
            "not given: the adapters, the folder to write\n  -> oleaster generate-adapter --adapter",
        ),
        (["compare", "runs/a"], "not given: the second model\n  -> oleaster compare runs/a runs/second -d test.jsonl"),
        (["data", "clean"], "-> oleaster data clean rows.jsonl -o cleaned.jsonl"),
        (["verify"], "not given: the artifact"),
        (["verify", "no/such"], "no/such: no such folder\n  -> export it again with `oleaster auto-opt`"),
        (["chat", "--temperature", "warm"], "--temperature: 'warm' is no number"),
    ],
)
def test_wrong_input_ends_with_code_2_and_no_traceback(words: list[str], said: str, capsys) -> None:
    assert main(words) == 2
    assert said in capsys.readouterr().err


def test_the_tutorials_fragments_say_what_they_lack(tmp_path: Path) -> None:
    fragments = {
        "S19": ["--method", "lora", "--task_name", "classification", "--output_path", str(tmp_path / "classifier")],
        "S25": ["--logging_steps", "10", "--eval_steps", "50", "--save_steps", "100", "--logging_dir", "./logs"],
        "S29": ["--gradient_checkpointing", "true", "--per_device_train_batch_size", "1"],
    }
    for words in fragments.values():
        done = program("finetune", *words)
        assert done.returncode == 2
        assert "not given: the base model (--model_name_or_path), the rows" in done.stderr
        assert (
            f"-> oleaster finetune {' '.join(words)} -m HuggingFaceTB/SmolLM2-135M-Instruct -d rows.jsonl"
            in done.stderr
        )


def test_a_recipe_that_nobody_named_is_announced(tmp_path: Path) -> None:
    (tmp_path / "oleaster.yaml").write_text("model: {model_name_or_path: owner/model}\n", encoding="utf-8")
    done = program("finetune", "-o", str(tmp_path))
    assert done.stderr.startswith(f"settings that are not given here come from {tmp_path / 'oleaster.yaml'}\n")
    assert "not given: the rows" in done.stderr


@pytest.mark.parametrize("words", [["help", "verify"], ["--help", "verify"], ["verify", "-h"]])
def test_help_of_a_command_in_the_ways_of_other_tools(words: list[str], capsys) -> None:
    assert main(words) == 0
    assert "usage: oleaster verify ARTIFACT" in capsys.readouterr().out


def test_what_is_proposed_can_be_typed_where_folders_have_blanks(tmp_path: Path) -> None:
    folder = tmp_path / "first run"
    (folder / "checkpoints" / "step-00000001").mkdir(parents=True)
    assert shlex.split(kept(folder).rpartition("-> ")[2]) == [
        "oleaster",
        "finetune",
        "--output_path",
        str(folder),
        "--resume",
    ]


def test_version_in_both_ways() -> None:
    assert program("version").stdout == program("--version").stdout == f"oleaster {version('oleaster')}\n"


@pytest.mark.parametrize(
    ("stdin", "said"),
    [
        (b"what is a c\xe4t?", "oleaster: prompt: character 12 is no UTF-8"),
        (b" \n", "oleaster: not given: the prompt\n  -> oleaster generate x 'What is a cat?'"),
    ],
)
@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_what_comes_in_by_a_pipe_and_is_no_prompt(stdin: bytes, said: str, locale: str) -> None:
    environment = {**os.environ, "LC_ALL": locale}
    command = [sys.executable, "-m", "oleaster", "generate", "x"]
    done = subprocess.run(command, capture_output=True, input=stdin, env=environment, timeout=60, check=False)
    assert (done.returncode, done.stderr.decode()[: len(said)]) == (2, said)


def test_a_stream_that_was_closed_is_the_end_of_it() -> None:
    command = f"{sys.executable} -m oleaster generate x <&- 2>&1; {sys.executable} -m oleaster version >&-; echo $?"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith("oleaster: not given: the prompt")
    assert done.stdout.splitlines()[-1] == "0"
    assert done.stderr == ""


def test_a_terminal_without_a_character_gets_an_escape() -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "oleaster", "zażółć"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)
    assert done.returncode == 2
    assert "za\\u017c" in done.stderr


def test_a_reader_that_leaves_is_no_error() -> None:
    command = f"{sys.executable} -m oleaster finetune --help | head -n 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "0"
    assert done.stderr == ""
