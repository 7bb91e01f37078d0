"""How fast an exported model answers, against the memory bandwidth of this machine, and what an export costs.

    python benchmarks/deploy_speed.py [--quick] --model FOLDER

Exports the model as int8 and 4 bits (rounded: the speed does not depend on the codes), decodes greedily at batch 1 with
all cores, takes the median pass. Ends with one JSON line: decode_int8, decode_4bit, decode_llamacpp_q8 (tokens/s; null:
not measured yet), bandwidth_share_int8 (weight bytes per token x tokens/s over the measured read bandwidth), export_s
(int8 graph and weights, without merging and ladder), export_peak_mb (peak resident, MB of 1,000,000 bytes).
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from oleaster.exporting.export import graph_mb
from oleaster.exporting.genai_files import finish_folder
from oleaster.exporting.graph import build_graph
from oleaster.exporting.quantize import HEAD, INT8, Format, quantise_graph, weight_shapes
from oleaster.inference.onnx_predictor import OnnxPredictor
from oleaster.inference.predictor import Sampling

PROMPT = tuple(int(i) for i in np.random.default_rng(0).integers(10, 5000, 64))
NEVER = (-1,)
"""A stop id that never comes, so that every pass has the same length."""


def main() -> None:
    """Measure, print, end with the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="3 passes of 48 tokens instead of 5 of 128")
    parser.add_argument("--model", type=Path, required=True, help="full-precision folder in the hub's layout")
    given = parser.parse_args()
    passes, tokens = (3, 48) if given.quick else (5, 128)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        began = time.perf_counter()
        build_graph(given.model, work / "fp32")
        finish_folder(given.model, work / "fp32", [])
        shapes = weight_shapes(work / "fp32" / "model.onnx")
        quantised(work, "int8", dict.fromkeys(shapes, INT8))
        seconds = time.perf_counter() - began
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
        low = Format(4, 32, asymmetric=True)
        quantised(work, "4bit", {name: INT8 if name == HEAD else low for name in shapes})
        bandwidth = read_gb_per_s()
        speed = {name: decode(work / name, passes, tokens) for name in ("int8", "4bit")}
        share = graph_mb(work / "int8") / 1e3 * speed["int8"] / bandwidth
    print(f"int8 {speed['int8']:.0f} tok/s, 4 bits {speed['4bit']:.0f} tok/s, read bandwidth {bandwidth:.1f} GB/s")
    figures = {
        "decode_int8": round(speed["int8"], 1),
        "decode_4bit": round(speed["4bit"], 1),
        "decode_llamacpp_q8": None,
        "bandwidth_share_int8": round(share, 3),
        "export_s": round(seconds, 1),
        "export_peak_mb": round(peak),
    }
    print(json.dumps(figures))


def quantised(work: Path, name: str, plan: dict[str, Format]) -> None:
    """Make `work/name` from `work/fp32`."""
    (work / name).mkdir()
    for path in (work / "fp32").iterdir():
        if not path.name.startswith("model.onnx"):
            (work / name / path.name).write_bytes(path.read_bytes())
    quantise_graph(work / "fp32" / "model.onnx", work / name / "model.onnx", plan)


def decode(folder: Path, passes: int, tokens: int) -> float:
    """Tokens per second after the prompt, median of `passes`."""
    predictor = OnnxPredictor(folder, stop_ids=NEVER)
    predictor.generate([PROMPT], Sampling(max_new_tokens=4))
    rates = []
    for _ in range(passes):
        times: list[float] = []

        def note(_row: int, _token: int, times: list[float] = times) -> None:
            times.append(time.perf_counter())

        predictor.generate([PROMPT], Sampling(max_new_tokens=tokens), note)
        rates.append((len(times) - 1) / (times[-1] - times[0]))
    return statistics.median(rates)


def read_gb_per_s() -> float:
    """Read bandwidth with all cores, GB/s: the best of five sums over 256 MB."""
    import torch

    values = torch.ones(64 * 2**20)
    best = 0.0
    for _ in range(5):
        began = time.perf_counter()
        values.sum()
        best = max(best, values.numel() * 4 / 1e9 / (time.perf_counter() - began))
    return best


if __name__ == "__main__":
    main()
