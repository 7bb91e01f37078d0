"""How exact the engine is: per family, the largest relative difference of a gradient from transformers' plain code.

    python benchmarks/exactness.py [--quick]

Tiny random models of each family, float32; rows of mixed length, with and without a common beginning, packed and
prefix-shared here, padded there with eager attention; LoRA on every linear layer, and all weights trained. A relative
difference is |ours - theirs| / |theirs| (2-norms) of one parameter's gradient. The same comparison, with a bound, is in
tests/numerics/test_packed_equals_padded.py.

Ends with one JSON line: family -> the largest difference over all parameters and rows.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "numerics"))  # the very code of the tests

import torch
from plain_reference import (  # pyright: ignore[reportMissingImports]
    add_lora,
    both,
    largest_difference,
    our_backward,
    plain_loss,
    random_rows,
)
from transformers.utils import logging

from oleaster.models.tiny import FAMILIES, make_tiny


def main() -> None:
    """Measure each family, print a table, end with the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed instead of five")
    seeds = 1 if parser.parse_args().quick else 5
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    print(f"{'family':<13}{'loss':>10}{'LoRA':>10}{'full':>10}   worst parameter")
    found: dict[str, float] = {}
    for family in FAMILIES:
        with tempfile.TemporaryDirectory() as folder:
            make_tiny(family, folder)
            loss, lora, name = measure(Path(folder), seeds, whole=False)
            other_loss, full, other = measure(Path(folder), seeds, whole=True)
        found[family] = max(lora, full)
        worst = name if lora > full else other
        print(f"{family:<13}{max(loss, other_loss):>10.1e}{lora:>10.1e}{full:>10.1e}   {worst}", flush=True)
    print(json.dumps({family: float(f"{value:.2e}") for family, value in found.items()}))


def measure(folder: Path, seeds: int, whole: bool) -> tuple[float, float, str]:
    """(largest difference of the loss in nats, largest relative one of a gradient, its parameter)"""
    worst_loss, worst = 0.0, (0.0, "")
    for seed in range(seeds):
        for shared in (0, 7, 14):
            model, reference = both(folder)
            if whole:
                ours = dict(model.requires_grad_(True).hub_model.named_parameters())
                theirs = dict(reference.requires_grad_(True).named_parameters())
            else:
                ours, theirs = add_lora(model.hub_model), add_lora(reference)
            rows = random_rows(seed=100 * seed + shared, shared=shared)
            expected = plain_loss(reference, rows)
            expected.backward()
            worst_loss = max(worst_loss, abs(our_backward(model, rows) - expected.item()))
            worst = max(worst, largest_difference(ours, theirs))
    return worst_loss, worst[0], worst[1]


if __name__ == "__main__":
    main()
