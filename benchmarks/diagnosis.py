"""Does `oleaster diagnose` name the right cause first? Twelve runs, each spoilt in one known way.

    python benchmarks/diagnosis.py [--quick] [--seeds N] [--only CAUSE] [--keep FOLDER]

A tiny base is first trained to read (which topic a phrase has), so that adapters on it learn as on a real base. Then
twelve tasks are trained on it with one fault each and diagnosed. `--quick` does each once; without it each is done with
`--seeds` seeds of the rows, and with as many in another world: other words, another model family, faults of other
strengths. Prints the confusion table and ends with one JSON line: causes (runs diagnosed), right_first (those whose
first finding is the fault that was planted), seconds (wall) and cpu_seconds.
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

Rows = list[dict[str, str]]


@dataclass(frozen=True)
class World:
    """What the rows say, what base reads them, and how strong the faults are."""

    family: str
    topics: dict[str, list[str]]
    """Answer -> the words that tell it."""
    filling: str
    """Words that tell nothing."""
    length: int
    """Filling words of a phrase."""
    cut_at: int
    noise: float
    rate_low: float
    rate_high: float
    steps_few: int
    held_out_few: int


SHOP = World(
    family="llama",
    topics={
        "money": ["invoice", "refund", "charge", "price"],
        "goods": ["parcel", "courier", "shipping", "late"],
        "access": ["password", "login", "email", "profile"],
        "joy": ["thanks", "lovely", "great", "happy"],
    },
    filling="please could you tell me about my the a now today again really still need help with it this was not",
    length=4,
    cut_at=14,
    noise=0.25,
    rate_low=2e-4,
    rate_high=0.15,
    steps_few=10,
    held_out_few=6,
)
NEWS = World(
    family="qwen2",
    topics={
        "sport": ["match", "goal", "team", "coach"],
        "food": ["bread", "soup", "oven", "cook"],
        "law": ["court", "judge", "claim", "trial"],
        "music": ["song", "drum", "choir", "band"],
        "travel": ["train", "hotel", "visa", "flight"],
        "sky": ["moon", "star", "comet", "orbit"],
    },
    filling="we they went to see an old one near by long before and after lunch while some people were in rain",
    length=6,
    cut_at=16,
    noise=0.2,
    rate_low=4e-4,
    rate_high=0.1,
    steps_few=14,
    held_out_few=10,
)
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


def rows(world: World, count: int, seed: int) -> Rows:
    """Phrases with one telling word, and their topic."""
    draw, filling = random.Random(seed), world.filling.split()
    made = []
    for _ in range(count):
        topic = draw.choice(list(world.topics))
        words = [draw.choice(filling) for _ in range(world.length)]
        words.insert(draw.randrange(world.length + 1), draw.choice(world.topics[topic]))
        made.append({"prompt": " ".join(words), "completion": topic})
    return made


def wrong_labels(world: World, made: Rows, share: float, seed: int) -> Rows:
    """That share of the rows with another label."""
    draw = random.Random(seed)
    return [
        {**row, "completion": draw.choice([t for t in world.topics if t != row["completion"]])}
        if draw.random() < share
        else row
        for row in made
    ]


def shuffled(made: Rows, seed: int) -> Rows:
    """The answers dealt out anew."""
    answers = [row["completion"] for row in made]
    random.Random(seed).shuffle(answers)
    return [{**row, "completion": answer} for row, answer in zip(made, answers, strict=True)]


def one_sided(world: World, made: Rows, seed: int) -> Rows:
    """Nine of ten rows of the first topic, and all phrases with their telling word worn off."""
    draw, (first, *others) = random.Random(seed), world.topics
    kept = [row for row in made if row["completion"] == first or draw.random() < 0.12 / len(others)]
    return [{**row, "prompt": " ".join(w for w in row["prompt"].split() if w in world.filling.split())} for row in kept]


def marked(made: Rows) -> Rows:
    """Prompts that were put through a chat template already."""
    return [{**row, "prompt": f"<|im_start|>user\n{row['prompt']}<|im_end|>\n<|im_start|>assistant\n"} for row in made]


def foreign(made: Rows) -> Rows:
    """In letters that the base has hardly seen."""
    return [{key: "".join(CYRILLIC.get(c, c) for c in text) for key, text in row.items()} for row in made]


LONG = {"max_steps": 150, "eval_steps": 15, "lora_r": 64, "learning_rate": 5e-3, "lr_scheduler_type": "constant"}
Fault = Callable[[World, Rows, Rows, int], tuple[Rows, Rows, dict[str, Any]]]
FAULTS: dict[str, Fault] = {
    "truncation": lambda w, t, v, s: (t, v, {"max_length": w.cut_at, "overlong": "truncate"}),
    "template": lambda w, t, v, s: (marked(t), marked(v), {}),
    "wrong_base": lambda w, t, v, s: (foreign(t), foreign(v), {}),
    "constant_answer": lambda w, t, v, s: (
        one_sided(w, t + rows(w, 900, s + 50), s),
        one_sided(w, v + rows(w, 200, s + 60), s),
        {},
    ),
    "cannot_fit": lambda w, t, v, s: (t, v, {"lora_r": 1, "target_modules": r".*layers\.0\.self_attn\.k_proj"}),
    "no_signal": lambda w, t, v, s: (shuffled(t, s), shuffled(v, s), {}),
    "label_noise": lambda w, t, v, s: (
        wrong_labels(w, t, w.noise, s),
        wrong_labels(w, v, w.noise, s + 1),
        {"max_steps": 90},
    ),
    "learning_rate_low": lambda w, t, v, s: (t, v, {"learning_rate": w.rate_low}),
    "learning_rate_high": lambda w, t, v, s: (t, v, {"learning_rate": w.rate_high}),
    "too_short": lambda w, t, v, s: (t, v, {"max_steps": w.steps_few, "eval_steps": 2}),
    "too_long": lambda w, t, v, s: (wrong_labels(w, t[:48], 0.3, s), v, LONG),
    "small_validation": lambda w, t, v, s: (t, v[: w.held_out_few], {"max_steps": 120}),
}
"""The fault that is planted -> the run with it, from good training and validation rows and a seed."""


def main() -> None:
    """Plant, diagnose, print the table, end with the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="each fault once")
    parser.add_argument("--seeds", type=int, default=3, help="of the rows in each world [3]")
    parser.add_argument("--only", choices=FAULTS, help="one fault, with all it shows")
    parser.add_argument("--keep", type=Path, help="folder for the runs, which stays")
    given = parser.parse_args()
    begun = time.perf_counter()
    faults = [given.only] if given.only else list(FAULTS)
    quick = given.quick or given.only
    right, count, used = 0, 0, 0.0
    with contextlib.ExitStack() as stack:
        folder = given.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        workers = stack.enter_context(ProcessPoolExecutor(WORKERS, multiprocessing.get_context("spawn")))
        for world in (SHOP,) if quick else (SHOP, NEWS):
            place = folder / world.family
            base = readable_base(world, place)
            jobs = [(fault, seed) for seed in range(1 if quick else given.seeds) for fault in faults]
            print(f"\n{world.family}: planted    seed  found first         then")
            asked = [workers.submit(diagnosed, world, place, base, *job, bool(given.only)) for job in jobs]
            for (fault, seed), answer in zip(jobs, asked, strict=True):
                found, seconds = answer.result()
                first = found[0] if found else "nothing"
                right, count, used = right + (first == fault), count + 1, used + seconds
                wrong = "" if first == fault else "   <- wrong"
                print(f"{fault:<20}{seed:>4}  {first:<20}{', '.join(found[1:])}{wrong}", flush=True)
    used += time.process_time()
    seconds = {"seconds": time.perf_counter() - begun, "cpu_seconds": used}
    print(json.dumps({"causes": count, "right_first": right, **{k: round(v, 1) for k, v in seconds.items()}}))


def diagnosed(world: World, folder: Path, base: Path, fault: str, seed: int, tell: bool) -> tuple[list[str], float]:
    """Train the spoilt run and diagnose it. Returns: the causes found, likeliest first, and the processor's seconds."""
    from oleaster import Config, finetune, replace
    from oleaster.diagnosis.diagnose import diagnose

    begun = time.process_time()
    good = rows(world, 320, 10 * seed + 1), rows(world, 80, 10 * seed + 2)
    train, held, settings = FAULTS[fault](world, *good, seed)
    place = folder / f"{fault}-{seed}"
    names = {"data_name": write(train, place / "train.jsonl"), "eval_data_files": write(held, place / "held.jsonl")}
    where = {"model_name_or_path": str(base), "output_path": str(place / "run")}
    run = finetune(replace(Config(), **{**SETTINGS, **names, **where, **settings}))
    diagnosis = diagnose(run.folder)
    for trial in diagnosis.trials if tell else ():
        losses = f"{trial.loss:.3f} (last {trial.last_loss:.3f}, training {trial.train_loss:.3f})"
        print(f"    {trial.name:<40} {losses} {trial.steps} steps")
    for finding in diagnosis.findings if tell else ():
        print(f"    {finding.cause} {finding.severity:.2f}: {finding.evidence}")
    return [finding.cause for finding in diagnosis.findings], time.process_time() - begun


def readable_base(world: World, folder: Path) -> Path:
    """A tiny model with a tokenizer of these words, trained to tell a phrase's topic, by letter or by example."""
    from oleaster import Config, finetune, replace
    from oleaster.models.tiny import make_tiny

    draw = random.Random(5)
    made: Rows = []
    for row in rows(world, 2000, 77):
        letter = "abcdef"[list(world.topics).index(row["completion"])]
        ask, answer = draw.choice([("same", draw.choice(world.topics[row["completion"]])), ("letter", letter)])
        made.append({"prompt": f"{ask} {row['prompt']}", "completion": answer})
    base = make_tiny(world.family, folder / "random", vocab_size=600)
    word_tokenizer(world, made).save_pretrained(base)
    settings = {"method": "full", "max_steps": 300, "per_device_train_batch_size": 32, "learning_rate": 5e-3}
    names = {"data_name": write(made, folder / "reading.jsonl"), "output_path": str(folder / "reading")}
    run = finetune(replace(Config(), model_name_or_path=str(base), num_threads=1, eval_steps=100, **settings, **names))
    return run.model


def word_tokenizer(world: World, made: Rows) -> Any:
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
    words = " ".join(world.topics)
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
