"""Does `oleaster diagnose` name the right cause first? Twelve runs, each spoilt in one known way.

    python benchmarks/diagnosis.py [--quick] [--only CAUSE] [--keep FOLDER]

A tiny base is first trained to read (which topic a phrase has), so that adapters on it learn as on a real base. Then
twelve tasks are trained on it with one fault each and diagnosed. `--quick` does each once; without it each is done with
three seeds of the rows. Prints the confusion table and ends with one JSON line: causes (runs diagnosed), right_first
(those whose first finding is the fault that was planted), seconds (wall) and cpu_seconds.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

Rows = list[dict[str, str]]
TOPICS = {
    "money": ["invoice", "refund", "charge", "price"],
    "goods": ["parcel", "courier", "shipping", "late"],
    "access": ["password", "login", "email", "profile"],
    "joy": ["thanks", "lovely", "great", "happy"],
}
FILLING = [
    "please",
    "could",
    "you",
    "tell",
    "me",
    "about",
    "my",
    "the",
    "a",
    "now",
    "today",
    "again",
    "really",
    "still",
    "need",
    "help",
    "with",
    "it",
    "this",
    "was",
    "not",
]
CYRILLIC = dict(zip("abcdefghijklmnopqrstuvwxyz", "абцдефгхийклмнопярстувшэыю", strict=True))
WORKERS = 2
"""Processes; each computes on one thread."""
STEPS = 60
SETTINGS: dict[str, Any] = {
    "learning_rate": 1e-2,
    "max_steps": STEPS,
    "per_device_train_batch_size": 16,
    "eval_steps": 10,
    "early_stopping_patience": 0,
    "dtype": "float32",
    "num_threads": 1,
    "max_new_tokens": 8,
}


def rows(count: int, seed: int) -> Rows:
    """Phrases with one telling word, and their topic."""
    draw = random.Random(seed)
    made = []
    for _ in range(count):
        topic = draw.choice(list(TOPICS))
        words = [draw.choice(FILLING) for _ in range(4)]
        words.insert(draw.randrange(5), draw.choice(TOPICS[topic]))
        made.append({"prompt": " ".join(words), "completion": topic})
    return made


def wrong_labels(made: Rows, share: float, seed: int) -> Rows:
    """That share of the rows with another label."""
    draw = random.Random(seed)
    return [
        {**row, "completion": draw.choice([t for t in TOPICS if t != row["completion"]])}
        if draw.random() < share
        else row
        for row in made
    ]


def shuffled(made: Rows, seed: int) -> Rows:
    """The answers dealt out anew."""
    answers = [row["completion"] for row in made]
    random.Random(seed).shuffle(answers)
    return [{**row, "completion": answer} for row, answer in zip(made, answers, strict=True)]


def one_sided(made: Rows, seed: int) -> Rows:
    """Nine of ten rows about money, and phrases of the rest with their telling word worn off."""
    draw = random.Random(seed)
    kept = [row for row in made if row["completion"] == "money" or draw.random() < 0.04]
    return [{**row, "prompt": " ".join(w for w in row["prompt"].split() if w in FILLING)} for row in kept]


def marked(made: Rows) -> Rows:
    """Prompts that were put through a chat template already."""
    return [{**row, "prompt": f"<|im_start|>user\n{row['prompt']}<|im_end|>\n<|im_start|>assistant\n"} for row in made]


def foreign(made: Rows) -> Rows:
    """In letters that the base has hardly seen."""
    return [{key: "".join(CYRILLIC.get(c, c) for c in text) for key, text in row.items()} for row in made]


LONG = {"max_steps": 150, "eval_steps": 15, "lora_r": 64, "learning_rate": 5e-3, "lr_scheduler_type": "constant"}
Fault = Callable[[Rows, Rows, int], tuple[Rows, Rows, dict[str, Any]]]
FAULTS: dict[str, Fault] = {
    "truncation": lambda t, v, s: (t, v, {"max_length": 14, "overlong": "truncate"}),
    "template": lambda t, v, s: (marked(t), marked(v), {}),
    "wrong_base": lambda t, v, s: (foreign(t), foreign(v), {}),
    "constant_answer": lambda t, v, s: (one_sided(t + rows(900, s + 50), s), one_sided(v + rows(200, s + 60), s), {}),
    "cannot_fit": lambda t, v, s: (t, v, {"lora_r": 1, "target_modules": r".*layers\.0\.self_attn\.k_proj"}),
    "no_signal": lambda t, v, s: (shuffled(t, s), shuffled(v, s), {}),
    "label_noise": lambda t, v, s: (wrong_labels(t, 0.25, s), wrong_labels(v, 0.25, s + 1), {"max_steps": 90}),
    "learning_rate_low": lambda t, v, s: (t, v, {"learning_rate": 2e-4}),
    "learning_rate_high": lambda t, v, s: (t, v, {"learning_rate": 0.15}),
    "too_short": lambda t, v, s: (t, v, {"max_steps": 10, "eval_steps": 2}),
    "too_long": lambda t, v, s: (wrong_labels(t[:48], 0.3, s), v, LONG),
    "small_validation": lambda t, v, s: (t, v[:6], {"max_steps": 120}),
}
"""The fault that is planted -> the run with it, from good rows."""


def main() -> None:
    """Plant, diagnose, print the table, end with the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="each fault once")
    parser.add_argument("--only", choices=FAULTS, help="one fault, with all it shows")
    parser.add_argument("--keep", type=Path, help="folder for the runs, which stays")
    given = parser.parse_args()
    begun = time.perf_counter()
    faults = [given.only] if given.only else list(FAULTS)
    jobs = [(fault, seed) for seed in ((0,) if given.quick or given.only else (0, 1, 2)) for fault in faults]
    right, used = 0, 0.0
    with contextlib.ExitStack() as stack:
        folder = given.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        base = readable_base(folder)
        used = time.process_time()
        print(f"{'planted':<20}{'found first':<20}then")
        workers = stack.enter_context(ProcessPoolExecutor(WORKERS, multiprocessing.get_context("spawn")))
        asked = [workers.submit(diagnosed, folder, base, fault, seed, bool(given.only)) for fault, seed in jobs]
        for (fault, _), answer in zip(jobs, asked, strict=True):
            found, seconds = answer.result()
            first = found[0] if found else "nothing"
            right, used = right + (first == fault), used + seconds
            print(f"{fault:<20}{first:<20}{', '.join(found[1:])}{'' if first == fault else '   <- wrong'}", flush=True)
    seconds = {"seconds": time.perf_counter() - begun, "cpu_seconds": used}
    print(json.dumps({"causes": len(jobs), "right_first": right, **{k: round(v, 1) for k, v in seconds.items()}}))


def diagnosed(folder: Path, base: Path, fault: str, seed: int, tell: bool) -> tuple[list[str], float]:
    """Train the spoilt run and diagnose it. Returns: the causes found, likeliest first, and the processor's seconds."""
    from oleaster import Config, finetune, replace
    from oleaster.diagnosis.diagnose import diagnose

    begun = time.process_time()
    train, held, settings = FAULTS[fault](rows(320, 10 * seed + 1), rows(80, 10 * seed + 2), seed)
    place = folder / f"{fault}-{seed}"
    names = {"data_name": write(train, place / "train.jsonl"), "eval_data_files": write(held, place / "held.jsonl")}
    where = {"model_name_or_path": str(base), "output_path": str(place / "run")}
    run = finetune(replace(Config(), **{**SETTINGS, **names, **where, **settings}))
    diagnosis = diagnose(run.folder)
    for trial in diagnosis.trials if tell else ():
        print(f"    {trial.name:<40} {trial.loss:.3f} (last {trial.last_loss:.3f}, training {trial.train_loss:.3f})")
    for finding in diagnosis.findings if tell else ():
        print(f"    {finding.cause} {finding.severity:.2f}: {finding.evidence}")
    return [finding.cause for finding in diagnosis.findings], time.process_time() - begun


def readable_base(folder: Path) -> Path:
    """A tiny model with a tokenizer of these words, trained to tell a phrase's topic, by letter or by example."""
    from oleaster import Config, finetune, replace
    from oleaster.models.tiny import make_tiny

    draw = random.Random(5)
    made: Rows = []
    for row in rows(2000, 77):
        letter = "abcd"[list(TOPICS).index(row["completion"])]
        ask, answer = draw.choice([("same", draw.choice(TOPICS[row["completion"]])), ("letter", letter)])
        made.append({"prompt": f"{ask} {row['prompt']}", "completion": answer})
    base = make_tiny("llama", folder / "random", vocab_size=600)
    word_tokenizer(made).save_pretrained(base)
    settings = {"method": "full", "max_steps": 300, "per_device_train_batch_size": 32, "learning_rate": 5e-3}
    names = {"data_name": write(made, folder / "reading.jsonl"), "output_path": str(folder / "reading")}
    run = finetune(replace(Config(), model_name_or_path=str(base), num_threads=1, eval_steps=100, **settings, **names))
    return run.model


def word_tokenizer(made: Rows) -> Any:
    """BPE on the words of the benchmark: a token or two a word, bytes for everything else."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    from oleaster.models.tiny import BOS, CHATML, EOS, PAD, SPECIAL_TOKENS

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    words = " ".join(TOPICS)
    tokenizer.train_from_iterator([f"{row['prompt']} {words} user assistant\n" for row in made], trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, bos_token=BOS, eos_token=EOS, model_max_length=512
    )
    fast.chat_template = CHATML
    return fast


def write(made: Rows, path: Path) -> str:
    """JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in made), encoding="utf-8")
    return str(path)


if __name__ == "__main__":
    sys.exit(main())
