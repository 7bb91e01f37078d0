"""What answers people: a run, a model or an artifact."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oleaster.config.schema import Config
from oleaster.core.artifact import Artifact
from oleaster.pipeline.constraints import Allowed, allowed_answers
from oleaster.pipeline.head_scoring import load_head
from oleaster.pipeline.heads import head_behind
from oleaster.pipeline.loading import load_artifact, load_tuned, recipe_of, refuse_adapter, use_threads

if TYPE_CHECKING:
    from oleaster.data.papers import Head, Message
    from oleaster.inference.predictor import Completion, Predictor, Sampling


@dataclass(frozen=True)
class Assistant:
    """A model that answers people: rendering, generation and decoding in one."""

    predictor: Predictor
    tokenizer: Any
    config: Config
    head: Head | None = None
    """What answers in the place of the vocabulary: an answer is then a label, entities or a vector, all at once."""
    allowed: Allowed | None = None
    """The answers that the recipe's kind of task leaves; None: any."""

    def answer(
        self,
        prompt: str | Sequence[Message] | Mapping[str, str],
        sampling: Sampling | None = None,
        on_text: Callable[[str], None] | None = None,
    ) -> Completion:
        """The answer to a text, to the columns of a template, or to a conversation.

        Args:
            on_text: called with each new piece of the answer as it comes.
        """
        from oleaster.inference.predictor import Sampling

        sampling = sampling or Sampling(self.config.evaluation.max_new_tokens)
        ids = self.prompt_ids(prompt)
        if self.head is not None:
            completion = self.predictor.generate([ids], sampling)[0]
            if on_text:
                on_text(completion.text)
            return completion
        if self.allowed is not None and not (sampling.choices or sampling.json_schema):
            sampling = replace(sampling, **asdict(self.allowed))
        stream = _stream(self.tokenizer, on_text) if on_text else None
        return self.predictor.generate([ids], sampling, stream)[0]

    def prompt_ids(self, prompt: str | Sequence[Message] | Mapping[str, str]) -> list[int]:
        """The tokens that `answer` reads. Raises: UserError when the prompt does not fit what was trained."""
        from oleaster.data.encode import encode_prompt
        from oleaster.data.encode_heads import encode_head_prompt

        if self.head is None:
            return encode_prompt(prompt, self.tokenizer, self.config.data)
        if not isinstance(prompt, (str, Mapping)):
            prompt = prompt[-1]["content"]  # a head reads a text, not what was said before it
        return encode_head_prompt(prompt, self.tokenizer, self.config.data, self.head)


def _stream(tokenizer: Any, on_text: Callable[[str], None]) -> Callable[[int, int], None]:
    """Decode token by token; a character that several tokens make up is held back until it is whole."""
    ids: list[int] = []
    shown = ""

    def on_token(_: int, token: int) -> None:
        nonlocal shown
        ids.append(token)
        text = tokenizer.decode(ids, skip_special_tokens=True)
        if not text.endswith("\ufffd") and len(text) > len(shown):
            on_text(text[len(shown) :])
            shown = text

    return on_token


def load(path: Path | str, config: Config = Config(), adapter: str | None = None) -> Assistant:
    """A run, model folder, hub id, .gguf file or artifact, ready to answer.

    Args:
        config: for what the recipe of a run or artifact does not decide (threads, number type, sampling length).
        adapter: name of one that an artifact of `generate_adapter` carries; None: its base answers.
    """
    recipe = recipe_of(path, adapter)
    if recipe is not None:
        config = _with_recipe(recipe, config)
    if (head := head_behind(path, adapter)) is not None:
        found = load_head(path, config, head)
        return Assistant(found, found.tokenizer, config, head)
    if Artifact.is_artifact(Path(path)):
        predictor, tokenizer = load_artifact(path, config, adapter)
        return Assistant(predictor, tokenizer, config, allowed=allowed_answers(config, recipe, tokenizer))
    refuse_adapter(path, adapter)
    from oleaster.inference.torch_predictor import TorchPredictor

    use_threads(config)
    loaded = load_tuned(path, config)
    allowed = allowed_answers(config, recipe, loaded.tokenizer)
    return Assistant(TorchPredictor(loaded, str(path)), loaded.tokenizer, config, allowed=allowed)


def load_all(path: Path | str, config: Config = Config()) -> dict[str, Assistant]:
    """`load(path)` under its folder's name, and every adapter that an artifact carries under its own, over one base."""
    from oleaster.inference.onnx_predictor import OnnxPredictor

    base = load(path, config)
    found = {Path(path).name: base}
    if isinstance(base.predictor, OnnxPredictor):
        for predictor in base.predictor.with_adapters():
            recipe = recipe_of(path, predictor.adapter)
            settled = _with_recipe(recipe, config) if recipe else config
            allowed = allowed_answers(settled, recipe, base.tokenizer)
            found[str(predictor.adapter)] = Assistant(predictor, base.tokenizer, settled, allowed=allowed)
    return found


def _with_recipe(path: Path, config: Config) -> Config:
    """`config` with what a recipe says of rows and task: prompt and answer have the form they had in training."""
    from oleaster.config.load import load_config

    recipe = load_config(path)
    named = config.data.system_prompt
    data = recipe.data if named is None else recipe.data.model_copy(update={"system_prompt": named})
    return config.model_copy(update={"data": data, "task": recipe.task})
