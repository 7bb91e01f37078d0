"""`oleaster COMMAND ...`: finds the command, prints errors, sets exit codes. Nothing heavy is imported here."""

from __future__ import annotations

import gc
import importlib
import io
import os
import sys
import threading
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from oleaster.core.errors import ConfigError, OleasterError, near_names
from oleaster.core.interrupts import note_interrupts, was_interrupted

if TYPE_CHECKING:
    from oleaster.cli.words import Command

COMMANDS: dict[str, str] = {
    "finetune": "Fine-tune a model on your rows",
    "run": "Do all that a recipe says: train, evaluate, export, passes of your own",
    "plan": "Say before a training what it will take: a few real steps, then time, memory and which methods fit",
    "init": "Write a first recipe for rows, with a reason for each setting",
    "search": "Look for the best settings: many trainings, the best one kept",
    "submit": "Make a recipe's job for Azure ML, and send it when told",
    "check": "Say whether a recipe can be done, without loading a model",
    "evaluate": "Score a model or run on rows: loss, exact match, intervals, base beside tuned",
    "compare": "Say which of two models is better, or how many rows it would take to tell",
    "benchmark": "Score a model in established benchmarks (lm-evaluation-harness)",
    "sheet": "Make a blind sheet for people to judge two models by",
    "unblind": "Read the judges' sheets back: who was preferred, and do they agree",
    "generate": "Answer one prompt",
    "chat": "Talk to a model or run",
    "serve": "Answer over HTTP as OpenAI's API does: a run, a model, an artifact and its adapters",
    "auto-opt": "Export a model or run for ONNX Runtime, and prove that it answers the same (alias: optimize)",
    "generate-adapter": "Export one base model that carries several adapters",
    "verify": "Prove it again for an artifact that exists",
    "watch": "Show runs as they go, in the terminal or in a page on this machine",
    "diagnose": "Say why a run is not better: short trials, the likeliest cause first, a changed recipe for each",
    "report": "Tell a run or an artifact as one HTML file: scores, curves, mistakes, recipe",
    "data report": "Look at rows: what would harm training or make its figures wrong, by file and line",
    "data clean": "Write a cleaned copy, every change listed",
    "data undo": "Write the rows as they were before a cleaning",
    "data split": "Divide rows into training, validation and test",
    "data augment": "Make further training rows that keep their labels",
    "doctor": "Say what this machine and this installation can do",
    "version": "Print the version",
}
"""Command -> what it does; the module of the same name (`auto_opt`, `data.report`) in this room defines `command()`."""

_OTHER_NAMES = {
    "optimize": "auto-opt",
    "auto_opt": "auto-opt",
    "generate_adapter": "generate-adapter",
    "-V": "version",
    "--version": "version",
}

_ENVIRONMENT = {
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "ORT_DISABLE_TELEMETRY": "1",
    # Rows are encoded before any process is forked, so threads are safe; unset, the library warns at every fork.
    "TOKENIZERS_PARALLELISM": "true",
    # Looking for pydantic plug-ins reads the metadata of every installed package: 15 ms of each start.
    "PYDANTIC_DISABLE_PLUGINS": "1",
    # How long a thread of OpenMP waits turning before it sleeps: some microseconds. With GCC's own value a training
    # beside other programs burnt 98 CPU seconds for what takes 38; on an idle machine a step takes the same time.
    "GOMP_SPINCOUNT": "10000",
}
_COLLECT_AFTER = 100_000
"""New objects between two collections. Imports make a million that stay; looking through them every 700 new ones takes
a tenth of the time until the first step."""
INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it (128 + SIGINT)."""


def main(words: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit code (see `core.errors`)."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    gc.set_threshold(_COLLECT_AFTER)
    _settle_streams()
    if threading.current_thread() is threading.main_thread():
        note_interrupts()
    try:
        code = _dispatch(list(sys.argv[1:] if words is None else words))
        sys.stdout.flush()
        return code
    except OleasterError as error:
        print(f"oleaster: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt as stop:
        print(f"\noleaster: {str(stop) or 'stopped'}", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader (`| head`) has gone. Python would complain once more when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except BaseException:  # what a C module under import makes of Ctrl-C: ImportError, PanicException, ...
        if not was_interrupted():
            raise
        print("\noleaster: stopped", file=sys.stderr)
        return INTERRUPTED


def _settle_streams() -> None:
    """Make reading and printing safe whatever the caller's streams and locale are.

    Python has None for a stream that was closed (`<&-`, some schedulers): reading it is then the end. Bytes that are no
    text are kept for whoever reads them, to be named; characters that the terminal lacks are printed as escapes.
    """
    for name, mode, errors in (
        ("stdin", "r", "surrogateescape"),
        ("stdout", "w", "backslashreplace"),
        ("stderr", "w", "backslashreplace"),
    ):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115  it lives as long as we do
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=errors)


def help_text() -> str:
    """The answer to `oleaster` and `oleaster --help`."""
    return "\n".join(
        [
            "Oleaster adapts small language models to a task and takes them to production.",
            "",
            "usage: oleaster COMMAND [flags]",
            "",
            *_command_lines(COMMANDS),
            "",
            "oleaster COMMAND --help shows its flags. A first run:",
            "  oleaster finetune -m HuggingFaceTB/SmolLM2-135M-Instruct -d rows.jsonl -o runs/first",
            "  oleaster auto-opt runs/first -o artifacts/first",
            "  oleaster chat artifacts/first",
            "",
        ]
    )


def _command_lines(names: Iterable[str]) -> list[str]:
    width = max(map(len, COMMANDS)) + 1
    return [f"  {name:<{width}} {COMMANDS[name]}" for name in names]


def command_of(name: str) -> Command:
    """What the command of that name takes and does."""
    return importlib.import_module(f"oleaster.cli.{name.replace('-', '_').replace(' ', '.')}").command()


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        words = [*words[1:], "--help"]  # `help COMMAND` is `COMMAND --help`
    name = words[0]
    if name == "--help":
        print(help_text(), end="")
        return 0
    name = _OTHER_NAMES.get(name, name)
    group = [known for known in COMMANDS if known.startswith(f"{name} ")]
    if group:
        if len(words) < 2 or words[1] in ("-h", "--help"):
            print("\n".join(["usage: oleaster " + name + " COMMAND [flags]", "", *_command_lines(group)]))
            return 0
        name, words = f"{name} {words[1]}", words[1:]
    if name not in COMMANDS:
        raise ConfigError("there is no such command", where=name, remedy=near_names(name, group or COMMANDS))
    from oleaster.cli.words import HELP, parse
    from oleaster.cli.words import help_text as command_help

    command = command_of(name)
    if any(word in HELP for word in words[1:]):
        print(command_help(command), end="")
        return 0
    return command.run(parse(command, words[1:]))


if __name__ == "__main__":
    sys.exit(main())
