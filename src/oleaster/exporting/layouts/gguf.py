"""One .gguf file for llama.cpp, with the tokenizer beside it for our own commands."""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from torch import nn

from oleaster.core.errors import MissingExtraError
from oleaster.exporting.calibrate import Grades, calibrate
from oleaster.exporting.genai_files import make_contract
from oleaster.exporting.gguf_file import BLOCK, check_model, llama3_factors, write_gguf
from oleaster.exporting.gguf_words import read_words
from oleaster.exporting.ladder import Rung
from oleaster.exporting.layouts.layout import Material
from oleaster.exporting.lessons import Lesson, Linear, Piece
from oleaster.exporting.quantize import Format, Quantised
from oleaster.exporting.rungs import Questions, TorchModel, runtime_rung
from oleaster.inference.llama_cpp_predictor import FILE, LlamaCppPredictor, llama_cpp_is_there
from oleaster.models.gguf import unpack
from oleaster.models.load import load_plain
from oleaster.models.tokenizer import load_tokenizer

GRADES = Grades(Format(4, BLOCK, asymmetric=True), Format(8, BLOCK), low_bits=5.0, high_bits=8.5)
"""Q4_1 and Q8_0"""
READ_BY_TRANSFORMERS = ("LLAMA", "QWEN2", "QWEN3")
"""Families that the ladder can hold to torch without llama.cpp."""


class Gguf:
    """See `Layout`."""

    kind = "gguf"
    precisions = ("int4", "int8", "fp16", "fp32")

    def check(self, model_folder: Path) -> None:
        """Refuse a family or tokenizer that llama.cpp would read otherwise, and what only llama.cpp could check."""
        family = check_model(model_folder)
        config = json.loads((model_folder / "config.json").read_text(encoding="utf-8"))
        plain = family in READ_BY_TRANSFORMERS and llama3_factors(config) is None
        if not llama_cpp_is_there() and (not plain or read_words(model_folder).scores):
            found = "transformers does not read this model from GGUF as it is, so llama.cpp has to compare it"
            raise MissingExtraError(found, where=str(model_folder), remedy="pip install llama-cpp-python")

    def prepare(self, material: Material) -> None:
        """Nothing: the file is written from the merged folder."""

    def make(self, material: Material, precision: str, folder: Path) -> None:
        """Write the file; `int4` is calibrated on the task's rows."""
        folder.mkdir()
        ready = calibrated(material) if precision == "int4" else None
        write_gguf(material.merged, folder / FILE, precision, ready)
        tokenizer = load_tokenizer(material.merged)
        tokenizer.save_pretrained(folder)
        make_contract(folder, tokenizer, material.stops, material.prompts).write(folder)

    def weights(self, folder: Path) -> list[Path]:
        """The file."""
        return [folder / FILE]

    def memory_mb(self, folder: Path) -> None:
        """Not measured: llama.cpp maps the file."""

    def quantised_rung(self, folder: Path, precision: str, stops: Sequence[int], adapter: str | None = None) -> Rung:
        """The file in llama.cpp; where that is not installed, its numbers read by transformers."""
        load = partial(LlamaCppPredictor, folder, stop_ids=stops) if llama_cpp_is_there() else partial(unpacked, folder)
        return Rung(precision, "quantised", load, weights=str(folder))

    def runtime_rung(self, folder: Path, questions: Questions, adapter: str | None = None) -> Rung | None:
        """Loaded by llama.cpp, where llama-cpp-python is installed."""
        if not llama_cpp_is_there():
            return None
        return runtime_rung("llama.cpp", partial(LlamaCppPredictor, folder), questions, str(folder))


def calibrated(material: Material) -> dict[str, Quantised]:
    """4 and 8 bits by torch module path; see `calibrate`."""
    model = load_plain(material.merged).requires_grad_(False)
    modules = {path: module for path, module in model.named_modules() if isinstance(module, nn.Linear)}
    linears = [Linear(path, (Piece(module),)) for path, module in modules.items()]
    target = material.options.target_mb
    if target is not None:  # less what is no linear map: norms, an embedding of its own, the words
        mapped = {id(module.weight) for module in modules.values()}
        others = [parameter for parameter in model.parameters() if id(parameter) not in mapped]
        target -= sum(p.numel() * (4.0 if p.ndim == 1 else GRADES.high_bits / 8) for p in others) / 1e6
        names = 128 * len(list(model.parameters()))  # bytes of the file's own list of tensors, about
        target -= ((material.merged / "tokenizer.json").stat().st_size + names) / 1e6
    return calibrate(model, linears, [Lesson(material.calibration)], target, GRADES)[1]


def unpacked(folder: Path) -> TorchModel:
    """The file of an artifact, read by transformers."""
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as work,  # Windows keeps what is mapped
        contextlib.redirect_stderr(io.StringIO()),  # progress bars
    ):
        unpack(folder / FILE, Path(work) / "model")
        return TorchModel(Path(work) / "model")
