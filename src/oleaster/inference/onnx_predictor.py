"""Asks an exported model through ONNX Runtime. Needs neither torch nor transformers."""

from __future__ import annotations

import json
import os
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from oleaster.core.errors import MissingExtraError, ModelError, near_names
from oleaster.core.machine import usable_cores
from oleaster.data.prefix import SHARING_PAYS, common_prefix
from oleaster.inference.choosing import score_of
from oleaster.inference.contract import PromptContract
from oleaster.inference.generation import check_prompts
from oleaster.inference.guides import Guide, guide_of
from oleaster.inference.predictor import Completion, Sampling, Score

NormalForm = Literal["NFC", "NFD", "NFKC", "NFKD"]
NORMAL_FORMS: tuple[NormalForm, ...] = ("NFC", "NFD", "NFKC", "NFKD")
PAST, PRESENT = "past_key_values.", "present."
"""How the graph calls what it has read before and what it has read now, per layer."""
LOGITS_AT = "logits_at"
"""Input of our graphs: positions whose logits are wanted, [kept]; where it is not given, the last one."""
BATCH_TOKENS = 4096
"""Prompt tokens generated for at once; bounds the memory of logits and cache."""
BATCH_ROWS = 32
"""The most that ONNX Runtime GenAI takes."""


class OnnxPredictor:
    """One exported folder, with or without one of its adapters; see `inference.predictor.Predictor`.

    The generator (onnxruntime-genai) and the scorer (a plain session that gives logits at all positions) are made when
    they are first used; each maps the weights once.

    Args:
        folder: what `exporting` wrote: genai_config.json, model.onnx, tokenizer, prompt contract.
        adapter: name of a file `adapters/NAME.onnx_adapter` in the folder.
        name: shown in tables; default: the folder's name, and the adapter's.
        threads: CPU threads; default: all cores this process may use.
        stop_ids: ids that end an answer instead of those in genai_config.json; the prompt contract is then not checked.

    Raises: ModelError when the folder is no such export or its prompt contract is broken; MissingExtraError.
    """

    def __init__(
        self,
        folder: Path | str,
        adapter: str | None = None,
        name: str | None = None,
        threads: int | None = None,
        stop_ids: Sequence[int] | None = None,
    ) -> None:
        self.folder = Path(folder)
        path = self.folder / "genai_config.json"
        if not path.is_file():
            raise ModelError("there is no genai_config.json", where=str(folder), remedy="name an exported folder")
        self._config = json.loads(path.read_text(encoding="utf-8"))
        self._context: int = self._config["model"]["context_length"]
        self._threads = threads or usable_cores()
        self.adapter = adapter
        self._adapter_file = _adapter_file(self.folder, adapter) if adapter else None
        self.name = name or (f"{self.folder.name}:{adapter}" if adapter else self.folder.name)
        self.stop_ids = tuple(stop_ids) if stop_ids else _as_ids(self._config["model"]["eos_token_id"])
        if not stop_ids and (contract := PromptContract.read(self.folder)):
            contract.check(self.folder, self.tokenizer, self.stop_ids)

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling = Sampling(),
        on_token: Callable[[int, int], None] | None = None,
    ) -> list[Completion]:
        """One completion per prompt, in the order given; prompts of one length run together when greedy.

        Prompts of different lengths do not share a batch: the runtime tells padding from text by the id alone, and
        models whose pad id also ends a turn would lose that token. Raises: see `generation.answer`.
        """
        check_prompts(prompts, self._context)
        answers: dict[int, Completion] = {}
        tokenizer = partial((self.folder / "tokenizer.json").read_text, encoding="utf-8")
        guide = guide_of(sampling, tokenizer, self.stop_ids)
        for indices in _equal_length_batches(prompts, together=sampling.temperature == 0):
            rows = [prompts[i] for i in indices]
            for index, ids, finish in self._generate_batch(indices, rows, sampling, on_token, guide):
                answers[index] = Completion(tuple(ids), self.tokenizer.decode(ids), "stop" if finish else "length")
        return [answers[i] for i in range(len(prompts))]

    def score(self, rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[Score]:
        """Log-likelihood of the targets of each (input_ids, target positions), from float32 logits."""
        asked = [row for row in rows if row[1]]
        found = (score_of(logits, *row) for row, logits in zip(asked, self.target_logits(asked), strict=True))
        return [next(found) if targets else Score(0.0, 0, 0) for _, targets in rows]

    def target_logits(self, rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> Iterator[np.ndarray]:
        """For each (input_ids, targets) the logits [targets, vocabulary] from which these positions are predicted."""
        if not rows:
            return
        prefix = _shared_prefix(rows)
        shared = self._forward(rows[0][0][:prefix], {}, (prefix - 1,))[1] if prefix else {}
        for input_ids, targets in rows:
            # What stands at and after the last target has no influence on it.
            yield self._forward(input_ids[prefix : max(targets)], shared, np.asarray(targets) - 1 - prefix)[0]

    def _forward(
        self, ids: Sequence[int], cached: Mapping[str, np.ndarray], asked: ArrayLike
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """(logits [asked, vocabulary], keys and values for the next call) behind the tokens that `cached` holds.

        Args:
            asked: places in `ids` whose logits are wanted.
        """
        size = self._config["model"]["decoder"]["head_size"]
        feeds: dict[str, np.ndarray] = {}
        for node in self._session.get_inputs():
            if node.name.startswith(PAST):
                empty = np.zeros((1, node.shape[1], 0, size), dtype=np.float32)
                feeds[node.name] = cached.get(node.name, empty)
        before = next(iter(feeds.values())).shape[2]
        places = np.arange(before, before + len(ids), dtype=np.int64)[None]
        others = {"input_ids": np.asarray([ids], dtype=np.int64), "position_ids": places}
        others["attention_mask"] = np.ones((1, before + len(ids)), dtype=np.int64)
        feeds |= {node.name: others[node.name] for node in self._session.get_inputs() if node.name in others}
        if self._chooses:
            feeds[LOGITS_AT] = np.asarray(asked, dtype=np.int64)
        names = [node.name for node in self._session.get_outputs()]
        found = dict(zip(names, self._session.run(names, feeds, self._run_options), strict=True))
        logits = np.asarray(found.pop("logits"))[0]
        return logits if self._chooses else logits[np.asarray(asked)], {
            name.replace(PRESENT, PAST): np.asarray(value) for name, value in found.items()
        }

    def _generate_batch(
        self,
        indices: Sequence[int],
        rows: Sequence[Sequence[int]],
        sampling: Sampling,
        on_token: Callable[[int, int], None] | None,
        guide: Guide | None,
    ) -> Iterator[tuple[int, list[int], bool]]:
        """(prompt index, generated ids, ended by itself) of each row; all rows have one length."""
        og = _genai()
        params = og.GeneratorParams(self._model)
        longest = min(len(rows[0]) + sampling.max_new_tokens, self._context)  # of the answer and what it answers
        options: dict[str, Any] = {"batch_size": len(rows), "max_length": longest}
        if sampling.temperature > 0:
            # One row at a time here, so that a row's sample does not depend on the batch it sits in.
            options |= {"do_sample": True, "temperature": sampling.temperature, "top_k": sampling.top_k}
            options |= {"top_p": sampling.top_p, "random_seed": sampling.seed + indices[0]}
        else:
            options |= {"do_sample": False}
        params.set_search_options(**options)
        generator = og.Generator(self._model, params)
        if self.adapter:
            generator.set_active_adapter(self._adapters, self.adapter)
        generator.append_tokens(np.asarray(rows, dtype=np.int32))
        answers: list[list[int]] = [[] for _ in rows]
        ended = [False] * len(rows)
        while not generator.is_done() and not all(ended):
            if guide is not None:
                generator.set_logits(_held(guide, generator.get_logits(), indices, answers, ended))
            generator.generate_next_token()
            for row, token in enumerate(generator.get_next_tokens()):
                if ended[row]:
                    continue  # the runtime pads rows that are done
                if int(token) in self.stop_ids:
                    ended[row] = True
                else:
                    answers[row].append(int(token))
                    if on_token:
                        on_token(indices[row], int(token))
        return zip(indices, answers, ended, strict=True)

    def with_adapters(self) -> Iterator[OnnxPredictor]:
        """One for each adapter in the folder, over the weights and the tokenizer of this one."""
        for file in sorted((self.folder / "adapters").glob("*.onnx_adapter")):
            other = OnnxPredictor(self.folder, file.stem, threads=self._threads, stop_ids=self.stop_ids)
            other._model, other._tokenizer = self._model, self._tokenizer
            yield other

    @property
    def tokenizer(self) -> GenaiTokenizer:
        """The runtime's own, as a deployment would use it."""
        return self._tokenizer

    @cached_property
    def _tokenizer(self) -> GenaiTokenizer:
        return GenaiTokenizer(self._model, self.folder)

    @cached_property
    def _model(self) -> Any:
        og = _genai()
        config = og.Config(str(self.folder))
        # The runtime takes half the cores unless told.
        overlay = {"model": {"decoder": {"session_options": {"intra_op_num_threads": self._threads}}}}
        config.overlay(json.dumps(overlay))
        return og.Model(config)

    @cached_property
    def _adapters(self) -> Any:
        adapters = _genai().Adapters(self._model)
        adapters.load(str(self._adapter_file), self.adapter)
        return adapters

    @cached_property
    def _session(self) -> Any:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.log_severity_level = 3
        graph = self.folder / self._config["model"]["decoder"]["filename"]
        return ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])

    @cached_property
    def _chooses(self) -> bool:
        """Does the graph ask which logits are wanted? Those of earlier versions gave them all."""
        return any(node.name == LOGITS_AT for node in self._session.get_overridable_initializers())

    @cached_property
    def _run_options(self) -> Any:
        if not self._adapter_file:
            return None
        import onnxruntime as ort

        self._loaded_adapter = ort.LoraAdapter()  # the options do not keep it alive
        self._loaded_adapter.Load(str(self._adapter_file))
        options = ort.RunOptions()
        options.add_active_adapter(self._loaded_adapter)
        return options


class GenaiTokenizer:
    """The runtime's own tokenizer, read from the artifact: what a deployment without Python packages would use."""

    def __init__(self, model: Any, folder: Path) -> None:
        self._tokenizer = _genai().Tokenizer(model)
        self._form: NormalForm | None = _normal_form(folder / "tokenizer.json")

    def encode(self, text: str) -> list[int]:
        """Ids of `text`; special tokens written in it are recognised."""
        # The runtime leaves out the Unicode normal form that some tokenizers (Qwen) ask for.
        text = unicodedata.normalize(self._form, text) if self._form else text
        return [int(token) for token in self._tokenizer.encode(text)]

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of `token_ids` without special tokens."""
        return self._tokenizer.decode(np.asarray(token_ids, dtype=np.int32)) if len(token_ids) else ""

    def render(self, messages: list[dict[str, str]]) -> str:
        """The chat template applied to OpenAI messages, ending where the answer begins."""
        return self._tokenizer.apply_chat_template(json.dumps(messages), add_generation_prompt=True)

    def stream(self) -> Callable[[int], str]:
        """A function that takes ids one by one and gives the text that each completes."""
        return self._tokenizer.create_stream().decode


def _held(
    guide: Guide, logits: np.ndarray, indices: Sequence[int], answers: list[list[int]], ended: list[bool]
) -> np.ndarray:
    """The runtime's logits [rows, 1, vocabulary] with those of unfinished answers held to the guide."""
    held = np.array(logits, np.float32)
    going = [row for row, done in enumerate(ended) if not done]
    rows, begun = [indices[row] for row in going], [answers[row] for row in going]
    held[going, -1] = guide.restrict(held[going, -1], rows, begun)
    return held


def _normal_form(tokenizer_file: Path) -> NormalForm | None:
    """The Unicode form that tokenizer.json brings text into, if it names one."""
    normalizer = json.loads(tokenizer_file.read_text(encoding="utf-8")).get("normalizer") or {}
    kinds = [part["type"] for part in normalizer.get("normalizers", [normalizer]) if part]
    return next((form for form in NORMAL_FORMS if form in kinds), None)


def _genai() -> Any:
    # The official packages send usage data unless told not to before the first import.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime_genai
    except ImportError as error:
        raise MissingExtraError("onnxruntime-genai is not installed", remedy="pip install 'oleaster[cpu]'") from error
    return onnxruntime_genai


def _adapter_file(folder: Path, name: str) -> Path:
    path = folder / "adapters" / f"{name}.onnx_adapter"
    if not path.is_file():
        there = [p.stem for p in (folder / "adapters").glob("*.onnx_adapter")]
        raise ModelError(
            f"there is no adapter '{name}'", where=str(folder / "adapters"), remedy=near_names(name, there)
        )
    return path


def _as_ids(value: int | list[int]) -> tuple[int, ...]:
    return (value,) if isinstance(value, int) else tuple(value)


def _equal_length_batches(prompts: Sequence[Sequence[int]], together: bool) -> Iterator[list[int]]:
    """Indices of prompts that may share a batch: equal length, at most `BATCH_ROWS` of `BATCH_TOKENS` tokens."""
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    for length, group in groupby(order, key=lambda i: len(prompts[i])):
        members = list(group)
        size = min(BATCH_ROWS, max(1, BATCH_TOKENS // max(length, 1))) if together else 1
        yield from (members[i : i + size] for i in range(0, len(members), size))


def _shared_prefix(rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> int:
    """Tokens with which all rows begin, before anything is predicted; 0 where sharing them does not pay."""
    length = common_prefix([ids for ids, _ in rows], min(targets[0] for _, targets in rows) - 1)
    return length if length * (len(rows) - 1) >= SHARING_PAYS else 0
