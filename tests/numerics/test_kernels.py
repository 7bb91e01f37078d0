"""The compiled kernels compute what the reference in plain torch defines: both types, odd shapes, NaN and infinity."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from oleaster.data.batch import Bucket
from oleaster.models.kernels import compiled, reference

pytestmark = pytest.mark.skipif(
    compiled.library().functions is None, reason=f"no compiled kernels here: {compiled.library().reason}"
)

TYPES = st.sampled_from([torch.float32, torch.bfloat16])
CLOSE = {torch.float32: {"rtol": 2e-5, "atol": 1e-5}, torch.bfloat16: {"rtol": 2e-2, "atol": 2e-2}}
"""bfloat16 has 8 bits; the reference rounds between its steps, the kernels once at the end."""
SEEDS = st.integers(0, 10_000)
few = settings(max_examples=40, deadline=None)


def draw(seed: int, dtype: torch.dtype, *shape: int, spread: float = 1.0) -> torch.Tensor:
    return (torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * spread).to(dtype)


def agree(a: torch.Tensor | None, b: torch.Tensor | None, dtype: torch.dtype) -> None:
    if a is None or b is None:
        assert a is b
    else:
        assert a.dtype == b.dtype
        torch.testing.assert_close(a, b, equal_nan=True, **CLOSE[dtype])


def on_both(name: str, dtype: torch.dtype, *arguments) -> None:
    """Call the function of either module on arguments of its own, compare results and what was written in place."""
    copies = [[a.clone() if isinstance(a, torch.Tensor) else a for a in arguments] for _ in range(2)]
    results = [getattr(m, name)(*c) for m, c in zip((compiled, reference), copies, strict=True)]
    ours, defined = (r if isinstance(r, tuple) else (r,) for r in results)
    for a, b in zip(ours, defined, strict=True):
        agree(a, b, dtype)
    for a, b in zip(*copies, strict=True):
        if isinstance(a, torch.Tensor):
            agree(a, b, dtype)


@few
@given(TYPES, SEEDS, st.integers(1, 9), st.integers(1, 70), st.booleans(), st.sampled_from([1e-3, 1.0, 300.0]))
def test_rms_norm(dtype, seed, rows, width, added, spread):
    x, scale = draw(seed, dtype, rows, width, spread=spread), draw(seed + 1, torch.float32, width)
    delta = draw(seed + 2, dtype, rows, width) if added else None
    on_both("rms_norm", dtype, x, delta, scale, 1e-5)
    _, total, inverse = reference.rms_norm(x, delta, scale, 1e-5)
    dy, dtotal = draw(seed + 3, dtype, rows, width), draw(seed + 4, dtype, rows, width) if added else None
    # the gradient is as large as inverse makes it: compare it in its own unit
    unit = total / total.float().abs().amax().clamp(min=1.0).to(dtype)
    on_both("rms_norm_backward", dtype, dy, dtotal, unit, scale, inverse.clamp(max=1.0))


@few
@given(TYPES, SEEDS, st.integers(1, 7), st.integers(1, 65), st.sampled_from(["silu", "gelu_tanh"]))
def test_gated(dtype, seed, rows, width, activation):
    gate, up, dy = (draw(seed + i, dtype, rows, width, spread=3.0) for i in range(3))
    wide = [tensor.double() for tensor in (dy, gate, up)]  # torch's own float32 gelu is 0 where the slope is -1e-6
    exact = (reference.gated(*wide[1:], activation), *reference.gated_backward(*wide, activation))
    found = (compiled.gated(gate, up, activation), *compiled.gated_backward(dy, gate, up, activation))
    for a, b in zip(found, exact, strict=True):
        agree(a, b.to(dtype), dtype)


@few
@given(TYPES, SEEDS, st.integers(1, 9), st.integers(1, 70), st.floats(0.0, 0.99), st.integers(0, 2**31 - 1))
def test_dropped(dtype, seed, rows, width, share, key):
    on_both("dropped", dtype, draw(seed, dtype, rows, width), share, key)


@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
def test_which_are_dropped_looks_like_chance(share):
    """Shares, and what neighbours in place and in seed have in common, within 4 standard deviations of chance."""
    ones, kept = torch.ones(300, 1000), []
    for seed in (0, 1, 2**31 - 1):
        kept.append((reference.dropped(ones, share, seed) > 0).double())
        for axis in (0, 1):
            spread = 4 * (share * (1 - share) / ones.shape[1 - axis]) ** 0.5
            assert ((kept[-1].mean(1 - axis) - (1 - share)).abs() < spread).double().mean() > 0.995
    deviation = [k - (1 - share) for k in kept]
    unit = share * (1 - share) * 4 / ones.numel() ** 0.5
    assert abs((deviation[0] * deviation[1]).mean()) < unit
    for axis in (0, 1):
        assert abs((deviation[0] * deviation[0].roll(1, axis)).mean()) < unit


LENGTHS = st.lists(st.integers(1, 9), min_size=1, max_size=5).map(lambda found: tuple(sorted(found, reverse=True)))


@few
@given(TYPES, SEEDS, LENGTHS, st.integers(0, 5), st.integers(1, 3), st.sampled_from([2, 6, 8, 18]), st.booleans())
def test_blocks(dtype, seed, lengths, prefix, heads, width, turned):
    """There and back, with and without rotation, also where only a part of the head turns."""
    before, behind = prefix + 2, 3
    bucket = Bucket(before, lengths, prefix)
    tokens = before + sum(lengths) + behind
    angle = draw(seed + 1, torch.float32, tokens, (width + 2) // 4, spread=2.0)
    angles = (angle.cos(), angle.sin()) if turned else None
    line = draw(seed, dtype, tokens, heads, width)
    on_both("to_block", dtype, line, bucket, prefix, angles)
    block = draw(seed + 2, dtype, len(lengths), heads, prefix + lengths[0], width)
    on_both("from_block", dtype, block, line, bucket, prefix, angles)


@few
@given(TYPES, SEEDS, st.integers(1, 4), st.integers(1, 20), st.integers(0, 6), st.sampled_from([None, 1, 3, 8]))
def test_softmax(dtype, seed, blocks, length, prefix, window):
    scores = draw(seed, dtype, blocks, length, prefix + length, spread=4.0)
    on_both("softmax", dtype, scores, prefix, window, 0.7)
    share = reference.softmax(scores.clone(), prefix, window, 0.7)
    on_both("softmax_backward", dtype, share, draw(seed + 1, dtype, *scores.shape), 0.7)


@few
@given(TYPES, SEEDS, st.integers(1, 6), st.integers(2, 90), st.sampled_from([0.0, 0.1]), st.booleans())
def test_cross_entropy(dtype, seed, rows, vocab, smoothing, gradient):
    logits = draw(seed, dtype, rows, vocab, spread=5.0)
    targets = torch.randint(vocab, (rows,), generator=torch.Generator().manual_seed(seed))
    on_both("cross_entropy", dtype, logits, targets, smoothing, gradient)


BAD = [float("nan"), float("inf"), float("-inf")]


def not_finite(module: ModuleType, name: str, dtype: torch.dtype, arguments: list) -> bool:
    result = getattr(module, name)(*[a.clone() if isinstance(a, torch.Tensor) else a for a in arguments])
    parts = result if isinstance(result, tuple) else (result,)
    return any(not p.isfinite().all() for p in parts if p is not None)


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_bad_number_is_never_hidden(dtype, bad):
    """A sum that turned NaN must reach the loop, which stops there. Where the reference shows it, the kernel does."""
    bucket = Bucket(0, (4, 3), 0)
    x, y = draw(0, dtype, 7, 1, 8), draw(1, dtype, 7, 1, 8)
    square = draw(4, dtype, 2, 5, 5)
    x[3, 0, 2] = square[0, 4, 1] = bad
    flat, plain, scale = x.flatten(1), y.flatten(1), torch.ones(8)
    targets, inverse = torch.zeros(7, dtype=torch.long), torch.ones(7)
    calls = [
        ("rms_norm", [flat, None, scale, 1e-5]),
        ("rms_norm", [plain, flat, scale, 1e-5]),
        ("rms_norm_backward", [flat, None, plain, scale, inverse]),
        ("rms_norm_backward", [plain, flat, plain, scale, inverse]),
        ("rms_norm_backward", [plain, None, flat, scale, inverse]),
        *[("gated", [a, b, act]) for a, b in ((flat, plain), (plain, flat)) for act in ("silu", "gelu_tanh")],
        *[("gated_backward", [flat, plain, plain, act]) for act in ("silu", "gelu_tanh")],
        *[("gated_backward", [plain, flat, plain, act]) for act in ("silu", "gelu_tanh")],
        *[("gated_backward", [plain, plain, flat, act]) for act in ("silu", "gelu_tanh")],
        ("to_block", [x, bucket, 0, None]),
        ("softmax", [square, 0, None, 1.0]),
        ("softmax_backward", [square, draw(5, dtype, 2, 5, 5), 1.0]),
        ("softmax_backward", [draw(5, dtype, 2, 5, 5).abs(), square, 1.0]),
        ("cross_entropy", [flat, targets, 0.0, False]),
        ("cross_entropy", [flat, targets, 0.1, True]),
    ]  # fmt: skip
    for name, arguments in calls:
        shown = not_finite(reference, name, dtype, arguments)
        assert not_finite(compiled, name, dtype, arguments) >= shown, (name, arguments)


def test_the_same_threads_give_the_same_bits():
    x, scale = draw(0, torch.float32, 301, 97), draw(1, torch.float32, 97)
    first = compiled.rms_norm(x, None, scale, 1e-5)
    for _ in range(5):
        assert all(torch.equal(a, b) for a, b in zip(first, compiled.rms_norm(x, None, scale, 1e-5), strict=True))


def test_why_there_are_no_compiled_kernels_is_said(tmp_path, monkeypatch):
    """None of these may end a training: torch does the work."""
    broken = tmp_path / "cc"
    broken.write_text("#!/bin/sh\necho cc: cannot compile today >&2\nexit 4\n")
    broken.chmod(0o755)
    look_again = compiled.library.__wrapped__
    monkeypatch.setenv("OLEASTER_CACHE", str(tmp_path))
    monkeypatch.setenv("OLEASTER_KERNELS", "off")
    assert look_again() == compiled.Library(None, "OLEASTER_KERNELS=off")
    monkeypatch.delenv("OLEASTER_KERNELS")
    monkeypatch.setenv("CC", str(broken))
    assert "cc: cannot compile today" in look_again().reason
    monkeypatch.setenv("CC", str(tmp_path / "gone"))
    assert "no C compiler" in look_again().reason
    monkeypatch.delenv("CC")
    monkeypatch.setenv("PATH", "/nowhere")
    assert "no C compiler" in look_again().reason


def test_a_compiler_with_words_behind_it_works(tmp_path, monkeypatch):
    """CC="ccache gcc" and CC="gcc -m64" are in use."""
    monkeypatch.setenv("OLEASTER_CACHE", str(tmp_path))
    monkeypatch.setenv("CC", "cc -m64")
    assert compiled.library.__wrapped__().functions is not None


@few
@given(TYPES, SEEDS, st.integers(1, 40))
def test_nf4_numbers(dtype, seed, blocks):
    draws = torch.Generator().manual_seed(seed)
    codes = torch.randint(256, (blocks * 32,), generator=draws, dtype=torch.uint8)
    on_both("nf4_numbers", dtype, codes, draw(seed, torch.float32, blocks).abs(), torch.empty(64 * blocks, dtype=dtype))


@few
@given(TYPES, SEEDS, st.integers(1, 300))
def test_nf4_codes(dtype, seed, numbers):
    flat = draw(seed, dtype, numbers)
    flat[numbers // 2] = 0.0
    for ours, defined in zip(compiled.nf4_codes(flat, 64), reference.nf4_codes(flat, 64), strict=True):
        assert torch.equal(ours, defined)
    zeros = torch.zeros(numbers, dtype=dtype)
    assert torch.equal(compiled.nf4_codes(zeros, 64)[0], reference.nf4_codes(zeros, 64)[0])


def test_no_place_for_the_compiled_library_leaves_torch(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("OLEASTER_CACHE", str(tmp_path / "file"))
    found = compiled.library.__wrapped__()
    assert found.functions is None
    assert "run in torch" in (found.reason or "")
