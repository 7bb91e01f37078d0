"""Asks a .gguf file through llama.cpp (package llama-cpp-python). Needs neither torch nor transformers."""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oleaster.core.errors import MissingExtraError, ModelError
from oleaster.core.machine import usable_cores
from oleaster.inference.choosing import Logits, score_of
from oleaster.inference.generation import BATCH_ROWS, BATCH_SLOTS, answer
from oleaster.inference.guides import guide_of
from oleaster.inference.predictor import Completion, Sampling, Score

FILE = "model.gguf"


def llama_cpp_is_there() -> bool:
    """Is llama-cpp-python installed?"""
    return importlib.util.find_spec("llama_cpp") is not None


class LlamaCppPredictor:
    """One exported .gguf file; see `inference.predictor.Predictor`.

    Args:
        folder: an exported folder, with model.gguf in it.
        name: shown in tables; default: the folder's name.
        threads: CPU threads; default: all cores this process may use.
        stop_ids: ids that end an answer instead of those that the file names.

    Raises: ModelError when llama.cpp does not load the file; MissingExtraError.
    """

    def __init__(
        self,
        folder: Path | str,
        name: str | None = None,
        threads: int | None = None,
        stop_ids: Sequence[int] | None = None,
    ) -> None:
        path = Path(folder) / FILE
        self.name = name or Path(folder).name
        self.tokenizer_file = Path(folder) / "tokenizer.json"
        self.backend = LlamaCppBackend(path, threads or usable_cores())
        self.tokenizer = LlamaCppTokenizer(self.backend)
        self.stop_ids = frozenset(stop_ids or self.backend.ends())

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling = Sampling(),
        on_token: Callable[[int, int], None] | None = None,
    ) -> list[Completion]:
        """See `Predictor.generate`."""
        guide = guide_of(sampling, partial(self.tokenizer_file.read_text, encoding="utf-8"), tuple(self.stop_ids))
        return answer(self.backend, prompts, sampling, self.stop_ids, self.tokenizer.decode, on_token, guide)

    def score(self, rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[Score]:
        """See `Predictor.score`."""
        asked = [row for row in rows if row[1]]
        found = (score_of(logits, *row) for row, logits in zip(asked, self.target_logits(asked), strict=True))
        return [next(found) if targets else Score(0.0, 0, 0) for _, targets in rows]

    def target_logits(self, rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> Iterator[np.ndarray]:
        """For each (input_ids, targets) the logits [targets, vocabulary] from which these positions are predicted."""
        for input_ids, targets in rows:
            yield self.backend.read(input_ids[: max(targets)], [target - 1 for target in targets])


class LlamaCppTokenizer:
    """llama.cpp's own tokenizer and the template in the file: what a deployment would use."""

    def __init__(self, backend: LlamaCppBackend) -> None:
        self._backend = backend  # whose end is the end of the vocabulary
        self._library, self._vocabulary = backend.library, backend.vocabulary
        template = self._library.llama_model_chat_template(backend.model, None)
        self._template = template.decode("utf-8") if template else None

    def encode(self, text: str) -> list[int]:
        """Ids of `text`; special tokens written in it are recognised."""
        raw = text.encode("utf-8")
        room = (self._library.llama_token * (len(raw) + 8))()
        count = self._library.llama_tokenize(self._vocabulary, raw, len(raw), room, len(room), False, True)
        return list(room[:count])

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of `token_ids` without special tokens."""
        if not token_ids:
            return ""
        ids = (self._library.llama_token * len(token_ids))(*token_ids)
        room = ctypes.create_string_buffer(256 * (len(token_ids) + 1))
        size = self._library.llama_detokenize(self._vocabulary, ids, len(ids), room, len(room), False, False)
        return room.raw[:size].decode("utf-8", errors="replace")

    def render(self, messages: list[dict[str, str]]) -> str:
        """The file's chat template applied to OpenAI messages, ending where the answer begins."""
        from llama_cpp.llama_chat_format import Jinja2ChatFormatter  # pyright: ignore[reportMissingImports]

        if self._template is None:
            raise ModelError("the file holds no chat template", where=FILE, remedy="export it again")
        formatter = Jinja2ChatFormatter(self._template, self._piece("eos"), self._piece("bos"))
        chat: Any = messages
        return formatter(messages=chat).prompt

    def _piece(self, which: str) -> str:
        token = getattr(self._library, f"llama_vocab_{which}")(self._vocabulary)
        text = self._library.llama_vocab_get_text(self._vocabulary, token) if token >= 0 else b""
        return text.decode("utf-8")


class LlamaCppBackend:
    """A `generation.Backend`: the rows of a batch are llama.cpp's sequences, its state their lengths by sequence id."""

    pads = True

    def __init__(self, path: Path, threads: int) -> None:
        self.library = library = _library()
        options = library.llama_model_default_params()
        options.n_gpu_layers = 0
        # Repacked weights crash in its AMX code (0.3.36).
        options.use_extra_bufts = False
        self.model = library.llama_model_load_from_file(str(path).encode(), options)
        if not self.model:
            raise ModelError("llama.cpp does not load this file", where=str(path), remedy="export it again")
        self.vocabulary = library.llama_model_get_vocab(self.model)
        self.words: int = library.llama_vocab_n_tokens(self.vocabulary)
        self.context: int | None = min(library.llama_model_n_ctx_train(self.model), BATCH_SLOTS)
        setup = library.llama_context_default_params()
        setup.n_ctx = setup.n_batch = BATCH_SLOTS
        setup.n_seq_max = BATCH_ROWS
        setup.kv_unified = True
        setup.n_threads = setup.n_threads_batch = threads
        self._context = library.llama_init_from_model(self.model, setup)
        self._memory = library.llama_get_memory(self._context)

    def ends(self) -> list[int]:
        """Ids that end an answer, as the file says."""
        is_end = self.library.llama_vocab_is_eog
        return [i for i in range(self.words) if is_end(self.vocabulary, i)]

    def prefill(self, prompts: Sequence[Sequence[int]], room: int) -> tuple[Logits, list[list[int]]]:
        """See `Backend.prefill`; the state is [sequence id, length] of each row."""
        self.library.llama_memory_clear(self._memory, False)
        tokens = [(token, at, row) for row, ids in enumerate(prompts) for at, token in enumerate(ids)]
        ends = np.cumsum([len(ids) for ids in prompts]) - 1
        return self._decode(tokens, ends.tolist()), [[row, len(ids)] for row, ids in enumerate(prompts)]

    def step(self, ids: NDArray[np.int64], state: list[list[int]]) -> Logits:
        """See `Backend.step`."""
        tokens = [(int(token), at, row) for token, (row, at) in zip(ids, state, strict=True)]
        for row in state:
            row[1] += 1
        return self._decode(tokens, list(range(len(tokens))))

    def keep(self, rows: Sequence[int], state: list[list[int]]) -> None:
        """See `Backend.keep`."""
        kept = [state[i] for i in rows]
        for row in state:
            if row not in kept:
                self.library.llama_memory_seq_rm(self._memory, row[0], -1, -1)
        state[:] = kept

    def read(self, ids: Sequence[int], places: Sequence[int]) -> np.ndarray:
        """Logits [places, vocabulary] at these places of one text."""
        self.library.llama_memory_clear(self._memory, False)
        return self._decode([(token, at, 0) for at, token in enumerate(ids)], places)

    def _decode(self, tokens: Sequence[tuple[int, int, int]], wanted: Sequence[int]) -> Logits:
        """Logits [wanted, vocabulary] behind the tokens of these indices; a token is (id, position, sequence)."""
        batch = self.library.llama_batch_init(len(tokens), 0, 1)
        try:
            batch.n_tokens = len(tokens)
            for i, (token, at, row) in enumerate(tokens):
                batch.token[i], batch.pos[i], batch.logits[i] = token, at, False
                batch.n_seq_id[i], batch.seq_id[i][0] = 1, row
            for i in wanted:
                batch.logits[i] = True
            if failed := self.library.llama_decode(self._context, batch):
                raise RuntimeError(f"llama_decode returned {failed}")
        finally:
            self.library.llama_batch_free(batch)
        rows = [self.library.llama_get_logits_ith(self._context, i) for i in wanted]
        return np.stack([np.ctypeslib.as_array(row, (self.words,)).copy() for row in rows])

    def __del__(self) -> None:
        if getattr(self, "_context", None):
            self.library.llama_free(self._context)
        if getattr(self, "model", None):
            self.library.llama_model_free(self.model)


def _library() -> Any:
    try:
        import llama_cpp  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise MissingExtraError("llama-cpp-python is not installed", remedy="pip install llama-cpp-python") from error
    library: Any = llama_cpp
    library.llama_log_set(_silent(library), ctypes.c_void_p(0))
    return library


_kept: list[Any] = []
"""The callback that C holds; it must outlive every call."""


def _silent(library: Any) -> Any:
    if not _kept:
        _kept.append(library.llama_log_callback(lambda *_: None))
    return _kept[0]
