"""An update against the rounding of its weight: the sums are right, the weakest comes first."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from oleaster.exporting.adapter_folder import Delta, LoraAdapter
from oleaster.exporting.quantize import Format, round_to_nearest
from oleaster.exporting.survival import survival, told

LOW = Format(4, 32)


def adapter(strength: dict[str, float]) -> LoraAdapter:
    torch.manual_seed(0)
    deltas = {name: Delta(torch.randn(4, 64), torch.randn(32, 4), by) for name, by in strength.items()}
    return LoraAdapter(Path("a"), deltas, {}, False)


def weights(names: list[str]) -> dict[str, np.ndarray]:
    return {name: np.random.default_rng(1).normal(size=(32, 64)).astype(np.float32) for name in names}


def test_update_and_rounding_are_root_mean_squares() -> None:
    made, given = adapter({"q": 0.5}), weights(["q"])
    (found,) = survival(made, given, LOW)
    full = made.deltas["q"].full().numpy()
    assert found.update == pytest.approx(math.sqrt(np.square(full).mean()), rel=1e-5)
    error = round_to_nearest(given["q"], LOW).dense() - given["q"]
    assert found.rounding == pytest.approx(math.sqrt(np.square(error).mean()), rel=0.05)


def test_the_weakest_comes_first_and_a_drowned_one_is_told() -> None:
    found = survival(adapter({"loud": 1.0, "faint": 1e-3}), weights(["loud", "faint"]), LOW)
    assert [each.module for each in found] == ["faint", "loud"]
    assert [each.drowns for each in found] == [True, False]
    assert "finer than the rounding in 1 of 2 modules, least in faint" in told(found)


def test_8_bits_keep_what_4_bits_drown() -> None:
    made, given = adapter({"q": 0.02}), weights(["q"])
    assert survival(made, given, LOW)[0].drowns
    assert not survival(made, given, Format(8, 32))[0].drowns


def test_a_weight_that_is_not_rounded_drowns_nothing() -> None:
    assert survival(adapter({"q": 1e-6}), {"q": np.ones((32, 48), np.float32)}, LOW) == []
