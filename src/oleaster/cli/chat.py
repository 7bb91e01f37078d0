"""`oleaster chat`: a conversation with the model's own template."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Any

from oleaster.cli.evaluate import ADAPTER, MODEL
from oleaster.cli.generate import SAMPLING, SETTINGS, model_settings, whole_text, write_piece
from oleaster.cli.words import Command, Given
from oleaster.config.flags import select
from oleaster.core.errors import DataError


def command() -> Command:
    """What `chat` takes."""
    return Command(
        name="chat",
        summary="Talk to a model or run. /new begins anew, /exit (or Ctrl-D) ends, Ctrl-C stops an answer.",
        usage=("oleaster chat RUN_OR_MODEL [flags]",),
        run=run,
        words=(MODEL,),
        own=(MODEL, ADAPTER, *SAMPLING),
        settings=tuple(select((), SETTINGS)),
        titles={"": "other", "model": "base model", "data": "prompt", "training": "speed", "evaluation": "answer"},
    )


def run(given: Given) -> int:
    """Question and answer until the user ends it."""
    config, sampling = model_settings(given, given.own["adapter"])

    from oleaster import pipeline

    assistant = pipeline.load(given.own["model_path"], config, given.own["adapter"])
    if sys.stdin.isatty():
        with suppress(ImportError):  # Windows has none
            import readline  # noqa: F401  importing it gives input() a history and line editing

        print("/new begins anew, /exit ends")
    system = config.data.system_prompt
    opening: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    messages = list(opening)
    while (question := _ask()) is not None:
        if question == "/new":
            messages = list(opening)
            continue
        try:
            asked = [*messages, {"role": "user", "content": whole_text(question)}]
            completion = assistant.answer(asked, sampling, on_text=write_piece)
        except KeyboardInterrupt:
            print(" [stopped]")
            continue
        except DataError as error:
            if not sys.stdin.isatty():
                raise
            print(f"{error}\n  -> /new begins anew")  # nobody wants to load the model again for a long question
            continue
        print("" if completion.finish == "stop" else " [cut: --max_new_tokens]")
        messages = [*asked, {"role": "assistant", "content": completion.text}]
    return 0


def _ask() -> str | None:
    """The next line that is not empty; None at the end."""
    while True:
        try:
            line = input("> " if sys.stdin.isatty() else "").strip()
        except EOFError:
            return None
        if line in ("/exit", "/quit"):
            return None
        if line:
            return line
