"""`oleaster generate`: one answer to one prompt."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from oleaster.cli.evaluate import ADAPTER, MODEL
from oleaster.cli.words import Command, Given
from oleaster.config.flags import Flag, select
from oleaster.config.rules import ALWAYS
from oleaster.core.errors import ConfigError, DataError

if TYPE_CHECKING:
    from oleaster.config.schema import Config
    from oleaster.inference.predictor import Sampling

PROMPT = Flag("prompt", "The question; without it, standard input is read.")
SAMPLING = (
    Flag("temperature", "0 = always the likeliest token; 1 = as the model weighs them.", "number", 0.0),
    Flag("top_k", "Choose among the k likeliest tokens only (0 = all).", "integer", 0),
    Flag("top_p", "Choose among the likeliest tokens that make up this share of the probability.", "number", 1.0),
)
"""Fields of `inference.predictor.Sampling`; max_new_tokens and seed are settings of the recipe."""
SETTINGS = ("max_new_tokens", "system_prompt", "dtype", "num_threads", "trust_remote_code", "seed", "log_level")


def command() -> Command:
    """What `generate` takes."""
    return Command(
        name="generate",
        summary="Answer one prompt; the answer is printed as it is made.",
        usage=("oleaster generate RUN_OR_MODEL PROMPT [flags]", "oleaster generate RUN_OR_MODEL < prompt.txt"),
        run=run,
        words=(MODEL, PROMPT),
        own=(MODEL, PROMPT, ADAPTER, *SAMPLING),
        settings=tuple(select((), SETTINGS)),
        titles={"": "other", "model": "base model", "data": "prompt", "training": "speed", "evaluation": "answer"},
    )


def run(given: Given) -> int:
    """Print one answer."""
    config, sampling = model_settings(given, given.own["adapter"])
    prompt = given.own["prompt"]
    if prompt is None and not sys.stdin.isatty():
        prompt = sys.stdin.read().strip()
    if not prompt:
        raise ConfigError("not given: the prompt", remedy=f"{given.command} 'What is a cat?'")
    prompt = whole_text(prompt)

    from oleaster import pipeline

    assistant = pipeline.load(given.own["model_path"], config, given.own["adapter"])
    assistant.answer(prompt, sampling, on_text=write_piece)
    print()
    return 0


def model_settings(given: Given, adapter: str | None = None) -> tuple[Config, Sampling]:
    """The settings of the run behind the model or its adapter, and how tokens are chosen.

    Raises: ConfigError without a model.
    """
    from oleaster.cli.settings import config_for
    from oleaster.inference.predictor import Sampling
    from oleaster.pipeline.loading import recipe_of

    given.require(model_path=("the run or model", "runs/first"))
    path, own = given.own["model_path"], given.own
    if own["temperature"] < 0 or not 0 < own["top_p"] <= 1 or own["top_k"] < 0:
        raise ConfigError("temperature >= 0, top_k >= 0 and 0 < top_p <= 1 must hold", where="sampling")
    config = config_for(given, recipe_of(path, adapter), ALWAYS)
    sampling = Sampling(
        max_new_tokens=config.evaluation.max_new_tokens,
        temperature=own["temperature"],
        top_k=own["top_k"],
        top_p=own["top_p"],
        seed=config.seed,
    )
    return config, sampling


def write_piece(text: str) -> None:
    """Show a piece of an answer at once."""
    print(text, end="", flush=True)


def whole_text(prompt: str) -> str:
    """The prompt itself. Raises: DataError when it came from bytes that are no UTF-8."""
    try:
        prompt.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"character {error.start + 1} is no UTF-8", where="prompt", remedy="write it as UTF-8"
        ) from None
    return prompt
