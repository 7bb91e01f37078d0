"""Does `oleaster data report` find what is wrong, and nothing else?

    python benchmarks/data_report.py [--quick] [--data FOLDER] [--control]

Takes rows of CLINC150 (intents), GSM8K (free answers) and SGD (chats) where they are, writes others itself, and plants
defects into them in the ways of `PLANTINGS`, each in the place of a random row or behind all others. A plant is found
when a finding of the right kind names its file and line. A false alarm is a row that is named although nothing was
planted there and the same check did not name it before the planting, or a planted row that is named for something else.
What is named before the planting is printed by kind: in rows that this program writes itself nothing may be, and every
row counts as a false alarm; in real rows it is mostly right. At last whole parts are skewed, in labels, lengths and
language, and beside them parts are drawn fairly, which must pass.

Ends with one JSON line: planted, found, false_alarms (rows), false_alarms_clean (rows named of those written here),
rows_clean, control_found (plants that would count as found although nothing is planted yet: what the measurement itself
gets wrong), rows, seconds. Exit code 1 when less than 95 %
is found or a row in a thousand is a false alarm.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from oleaster.config.schema import DataConfig
from oleaster.models.tiny import byte_tokenizer
from oleaster.quality.findings import DataReport
from oleaster.quality.material import gather
from oleaster.quality.report import report

DATA = Path(os.environ.get("OLEASTER_DATA", Path(__file__).parents[2] / "shared/data"))
Row = dict[str, Any]
NAMES = ("jan.kowalski", "m.schmidt77", "info", "a_novak", "dupont.claire")
POLISH = (
    "Gdzie jest moja paczka, która miała przyjść w zeszłym tygodniu?",
    "Proszę o zwrot pieniędzy za uszkodzony czajnik elektryczny.",
    "Czy mogę zmienić adres dostawy zamówienia złożonego wczoraj?",
    "Nie działa mi karta płatnicza, co powinienem teraz zrobić?",
    "Jaka będzie jutro pogoda w Krakowie po południu?",
)
GERMAN = (
    "Wo bleibt meine Bestellung, die ich letzte Woche aufgegeben habe?",
    "Ich möchte bitte mein Geld für den kaputten Wasserkocher zurück.",
    "Wie wird morgen Nachmittag das Wetter in der Stadt?",
)


@dataclass(frozen=True)
class Plant:
    """A defect at one line."""

    way: str
    kinds: frozenset[str]
    """Findings that may name it."""
    part: str
    line: str | bytes
    """What stands in the file."""
    source: str
    """The line that it is made of."""
    added: bool
    """It stands beside that line, not in its place."""
    contradicts: bool = False
    """The defect is about the source as well."""


@dataclass
class Bed:
    """Rows to plant in."""

    name: str
    config: DataConfig
    parts: dict[str, list[Row]]
    prompt: str
    answer: str
    written_here: bool
    draw: random.Random
    plants: list[Plant] = field(default_factory=list)
    used: set[int] = field(default_factory=set)
    """Rows (by identity) that a plant is about already."""

    def pick(self, part: str = "train", shortest: int = 0) -> Row:
        """A row that no other plant is about."""
        free = [row for row in self.parts[part] if id(row) not in self.used]
        row = self.draw.choice([row for row in free if len(str(row.get(self.prompt, ""))) >= shortest])
        self.used.add(id(row))
        return row

    def add(
        self, way: str, kinds: str, source: Row, part: str = "train", contradicts: bool = False, **changed: Any
    ) -> None:
        """A line more: a row with some columns changed."""
        row = {**source, **changed}
        self.plants.append(Plant(way, frozenset(kinds.split()), part, _line(row), _line(source), True, contradicts))

    def spoil(self, way: str, kinds: str, change: Callable[[Row], Row | str | bytes], part: str = "train") -> None:
        """Another line in the place of one."""
        row = self.pick(part)
        spoiled = change(row)
        line = spoiled if isinstance(spoiled, (str, bytes)) else _line(spoiled)
        self.plants.append(Plant(way, frozenset(kinds.split()), part, line, _line(row), False))

    def reword(self, way: str, kinds: str, text: str, part: str = "train", **more: Any) -> None:
        """`spoil`: a text with {} where the prompt was."""
        self.spoil(
            way, kinds, lambda row: {**row, self.prompt: text.replace("{}", str(row[self.prompt])), **more}, part
        )


def _line(row: Row) -> str:
    return json.dumps(row, ensure_ascii=False)


Planting = Callable[[Bed, int], None]


# --- what is planted ---


def repeats(bed: Bed, count: int) -> None:
    """Copies; copies with one typing error (prompts of 45 letters and more), other capitals, a "please" more."""
    for _ in range(count):
        bed.add("exact copy", "duplicates", bed.pick())
        ways: dict[str, Callable[[str], str]] = {
            "typing error": lambda text: text[:12] + "q" + text[13:],
            "capitals, full stop": lambda text: text.upper() + " ...",
            "please": lambda text: f"{text} please",
        }
        for way, change in ways.items():
            row = bed.pick(shortest=45)
            bed.add(f"copy, {way}", "near_duplicates", row, **{bed.prompt: change(str(row[bed.prompt]))})


def leaks(bed: Bed, count: int) -> None:
    """Training rows in the validation file: as they are, with other capitals, with a letter lost."""
    for _ in range(count):
        bed.add("leak, exact", "leakage", bed.pick(), "validation")
        row = bed.pick(shortest=45)
        bed.add("leak, capitals", "leakage", row, "validation", **{bed.prompt: str(row[bed.prompt]).title() + "!"})
        row = bed.pick(shortest=45)
        text = str(row[bed.prompt])
        bed.add("leak, letter lost", "near_leakage", row, "validation", **{bed.prompt: text[:20] + text[21:]})


def broken_texts(bed: Bed, count: int) -> None:
    """Wrong encodings, lost characters, invisible characters, control tokens, HTML, empty fields, torn lines."""
    accented = " at the café très près Zürich"
    twice = accented.encode().decode("cp1252")
    for n in range(count):
        bed.spoil(
            "cp1252 bytes",
            "not_utf8",
            lambda row: _line({**row, bed.prompt: f"{row[bed.prompt]}{accented}"}).encode("cp1252", "replace"),
        )
        bed.reword("decoded twice", "mojibake", "{}" + twice)
        bed.reword("lost character", "mojibake", "{} at the caf\ufffd")
        bed.reword("invisible", "invisible", bed.draw.choice("\u200b\u202e\ufeff\x00\x1b") + "{}")
        bed.reword("control token", "control_tokens", "<|im_end|> {}" if n % 2 else "{} <|endoftext|>")
        bed.reword("HTML", "markup", ("{} &quot;", "{}<br/>", "<p>{}", '<a href="x">{}', "{} &amp;")[n % 5])
        blank = " " * (n % 3)
        bed.spoil("empty answer", "unusable", lambda row, blank=blank: {**row, bed.answer: blank})
        bed.spoil("no answer", "unusable columns", lambda row: {k: v for k, v in row.items() if k != bed.answer})
        bed.reword("empty prompt", "empty_prompts", blank)
        bed.spoil("torn line", "unreadable", lambda row: _line(row)[:-3])
        bed.reword("blank behind", "template", "{}  ")
        bed.reword("own column", "columns", "{}", remark="x")
    for _ in range(max(4, round(0.012 * len(bed.parts["train"])))):
        bed.reword("other template", "template", "Question: {}")


def personal(bed: Bed, count: int) -> None:
    """Addresses, numbers with right check digits, keys; none of them anybody's."""
    for n in range(count):
        d = "".join(str(bed.draw.randrange(10)) for _ in range(18))
        for kind, text in (
            ("e-mail", f"{bed.draw.choice(NAMES)}{n}@firma.example"),
            ("phone", f"+48 60{d[0]} {d[1:4]} {d[4:7]}" if n % 2 else f"(555) 23{d[0]}-{d[1:5]}"),
            ("card", _with_check_digit("4" + d[:14])),
            ("IBAN", _iban("PL", d + "000000")),
            ("PESEL", _pesel(f"8{d[0]}0{1 + int(d[1]) % 9}1{d[2]}{d[3:7]}")),
            ("IP address", f"10.{d[0]}.{1 + int(d[1])}.{d[3]}"),
            ("key", f"sk-{d}abcdefgh{n}"),
        ):
            bed.reword(f"personal, {kind}", "personal_data", "{}, mine is " + text + " as you know")


def foreign(bed: Bed, count: int) -> None:
    """Polish and German prompts among English ones."""
    for name, texts in (("Polish", POLISH), ("German", GERMAN)):
        for text in texts[:count]:
            bed.reword(name, "foreign_prompts", text)


def wrong_labels(bed: Bed, count: int) -> None:
    """The same prompt with another label, spellings of a label, labels that occur once, labels only in validation."""
    labels = sorted({str(row[bed.answer]) for row in bed.parts["train"]})
    spellings = (str.upper, str.capitalize, "{} ".format, "{}.".format)
    for n in range(count):
        row = bed.pick(shortest=10)
        other = bed.draw.choice([label for label in labels if label != row[bed.answer]])
        bed.add("other label", "conflicts", row, contradicts=True, **{bed.answer: other})
        respell = spellings[n % 4]
        bed.spoil("label spelled", "label_spellings", lambda row, to=respell: {**row, bed.answer: to(row[bed.answer])})
        bed.reword("rare label", "rare_labels", "{}", **{bed.answer: f"typo{n}"})
        bed.reword("unseen label", "unseen_labels", "{}", "validation", **{bed.answer: f"new{n}"})
        marks = {"augmented_by": "typos", "augmented_from": "0"}
        bed.reword("augmented, held out", "augmented_held_out", "{}", "validation", **marks)


def cut_answers(bed: Bed, count: int) -> None:
    """Answers that end inside a word, behind a comma, behind a whole word; prompts repeated until they are too long."""

    def half(row: Row) -> str:
        words = str(row[bed.answer]).split()
        return " ".join(words[: max(10, len(words) // 2)])

    for _ in range(count):
        bed.spoil(
            "cut in a word", "truncated open_ends", lambda row: {**row, bed.answer: _cut_in_word(row[bed.answer])}
        )
        bed.spoil("cut at a comma", "truncated", lambda row: {**row, bed.answer: f"{half(row)} so,"})
        bed.spoil("cut behind a word", "open_ends", lambda row: {**row, bed.answer: f"{half(row)} each day"})
        bed.spoil("too long", "overlong", lambda row: {**row, bed.prompt: " ".join([row[bed.prompt]] * 40)})


def _cut_in_word(answer: str) -> str:
    words = answer.split()
    long = next((i for i, word in enumerate(words) if i >= 9 and word.isalpha() and len(word) >= 5), None)
    return " ".join([*words[:long], words[long][:-1]]) if long else f"{' '.join(words[:9])} becaus"


def chats_out_of_order(bed: Bed, count: int) -> None:
    """No system message where all have one, the assistant first, two users in a row."""
    for _ in range(count):
        bed.spoil("no system message", "template", lambda row: {"messages": row["messages"][1:]})
        bed.spoil("assistant first", "roles", lambda row: {"messages": [row["messages"][0], *row["messages"][2:]]})
        bed.spoil("two users", "roles", lambda row: {"messages": [*row["messages"][:2], *row["messages"][1:]]})


PLANTINGS: dict[str, tuple[Planting, ...]] = {
    "intents": (repeats, leaks, broken_texts, personal, foreign, wrong_labels),
    "free answers": (repeats, leaks, broken_texts, personal, foreign, cut_answers),
    "chats": (chats_out_of_order,),
}


def _with_check_digit(digits: str) -> str:
    total = sum(d if i % 2 else d * 2 - 9 * (d > 4) for i, d in enumerate(int(c) for c in reversed(digits)))
    return digits + str(-total % 10)


def _iban(country: str, account: str) -> str:
    rest = int(account + "".join(str(int(c, 36)) for c in country) + "00") % 97
    return f"{country}{98 - rest:02d}{account}"


def _pesel(ten: str) -> str:
    return ten + str(-sum(int(d) * w for d, w in zip(ten, (1, 3, 7, 9) * 3, strict=False)) % 10)


# --- rows to plant in ---


def beds(data: Path, quick: bool, draw: random.Random) -> list[Bed]:
    """Real rows where they are; the rows written here always, as nothing is wrong with them."""
    rows, held = (500, 100) if quick else (3000, 600)
    answers = DataConfig(max_length=3000)
    made = [Bed("intents, written here", DataConfig(), _written_intents(draw), "prompt", "completion", True, draw)]
    if (path := data / "classification_clinc150").is_dir():
        config = DataConfig(prompt_field="text", completion_field="intent")
        made.append(Bed("intents, CLINC150", config, _read(path, rows, held, 15), "text", "intent", False, draw))
    if (path := data / "maths_gsm8k").is_dir():
        config = answers.model_copy(update={"prompt_field": "question", "completion_field": "answer"})
        parts = {part: [_plain_answer(row) for row in found] for part, found in _read(path, rows // 2, held).items()}
        made.append(Bed("free answers, GSM8K", config, parts, "question", "answer", False, draw))
    if (path := data / "chat_sgd").is_dir():
        parts = {
            p: [{"messages": r["messages"]} for r in found] for p, found in _read(path, rows // 5, held // 5).items()
        }
        made.append(Bed("chats, SGD", DataConfig(), parts, "messages", "messages", False, draw))
    return made


def _read(folder: Path, rows: int, held: int, labels: int | None = None) -> dict[str, list[Row]]:
    """The first rows of two parts; of the commonest labels only, so that few rows hold whole labels."""
    found = {
        part: [json.loads(line) for line in (folder / f"{part}.jsonl").read_text(encoding="utf-8").split("\n") if line]
        for part in ("train", "validation")
    }
    if labels is not None:
        usual = {name for name, _ in Counter(row["intent"] for row in found["train"]).most_common(labels)}
        if rows < 1000:
            found = {part: [row for row in all_rows if row["intent"] in usual] for part, all_rows in found.items()}
    return {"train": found["train"][:rows], "validation": found["validation"][:held]}


def _plain_answer(row: Row) -> Row:
    """GSM8K's worked answer as a sentence: without the calculator marks, the result in words at the end."""
    text = "".join(piece.partition(">>")[2] if ">>" in piece else piece for piece in row["answer"].split("<<"))
    worked, _, result = text.partition("\n#### ")
    return {
        "question": row["question"],
        "answer": f"{worked.replace(chr(10), ' ').rstrip('. ')}. The answer is {result}.",
    }


def _written_intents(draw: random.Random) -> dict[str, list[Row]]:
    """Phrases made of four words each, no two of which share more than one of them: nothing is wrong with them."""
    columns = (
        "kettle sofa mirror blanket ladder toaster wardrobe bicycle umbrella guitar freezer drill curtain pillow",
        "folding electric second-hand expensive children's portable unusual antique plastic lightweight adjustable",
        "Gdansk Lisbon Dublin Copenhagen Vienna Turin Antwerp Leipzig Bristol Tampere Valencia Rotterdam Salzburg",
        "september october christmas easter thursday wednesday afternoon midnight breakfast holidays springtime",
    )
    asked = {
        "delivery": "can the {1} {0} be brought to {2} at {3} or not before",
        "refund": "i sent the {1} {0} back from {2} and want my money before {3}",
        "repair": "who around {2} mends a {1} {0}, it stopped at {3}",
        "price": "how much for one {0} of the {1} kind with freight to {2} until {3}",
    }
    words = [column.split() for column in columns]
    seen: list[Row] = []
    for label, text in asked.items():
        taken: list[tuple[str, ...]] = []
        while len(taken) < 70:
            chosen = tuple(draw.choice(column) for column in words)
            if all(sum(a == b for a, b in zip(chosen, other, strict=True)) <= 1 for other in taken):
                taken.append(chosen)
        seen += [{"prompt": text.format(*chosen), "completion": label} for chosen in taken]
    draw.shuffle(seen)
    return {"train": seen[:230], "validation": seen[230:]}


# --- measuring ---


@dataclass
class Tally:
    planted: int = 0
    found: int = 0
    control: int = 0
    alarms: int = 0
    clean_alarms: int = 0
    clean_rows: int = 0
    rows: int = 0
    missed: Counter[str] = field(default_factory=Counter)
    ways: Counter[str] = field(default_factory=Counter)


Seen = dict[tuple[str, str | bytes], set[str]]
"""(part, what stands in the line) -> kinds that name it."""


def measure(bed: Bed, plants: list[Plant], folder: Path) -> tuple[Seen, DataReport]:
    """Write the rows with the plants among them and look; what each line is named for."""
    lines: dict[str, list[str | bytes]] = {}
    instead = {(plant.part, plant.source): plant.line for plant in plants if not plant.added}
    for part, rows in bed.parts.items():
        mixed = [instead.get((part, _line(row)), _line(row)) for row in rows]
        # An added row stands behind the one that it is about: of two equal rows the later one is named.
        mixed += [plant.line for plant in plants if plant.part == part and plant.added]
        lines[part] = mixed
        data = b"\n".join(line if isinstance(line, bytes) else line.encode() for line in mixed)
        (folder / f"{part}.jsonl").write_bytes(data + b"\n")
    tokenizer = byte_tokenizer() if bed.name.startswith("free") else None
    seen = report(gather([str(folder / f"{part}.jsonl") for part in lines], bed.config, tokenizer))
    named: Seen = defaultdict(set)
    for finding in seen.findings:
        for row in finding.rows:
            path, _, number = row.place.rpartition(":")
            part = Path(path).stem
            named[part, lines[part][int(number) - 1]].add(finding.kind)
    return named, seen


def run(bed: Bed, count: int, tally: Tally) -> None:
    """Plant, look, compare with what was named before."""
    for planting in PLANTINGS[bed.name.partition(",")[0]]:
        planting(bed, count)
    with tempfile.TemporaryDirectory() as folder:
        before, _ = measure(bed, [], Path(folder))
        after, _ = measure(bed, bed.plants, Path(folder))
    size = sum(map(len, bed.parts.values()))
    named_before = Counter(kind for kinds in before.values() for kind in kinds)
    tally.rows += size
    if bed.written_here:
        tally.clean_rows += size
        tally.clean_alarms += len(before)
    at = {(plant.part, plant.line): plant for plant in bed.plants}
    sources = {line: kinds for (_, line), kinds in before.items()}
    contradicted = {(plant.part, plant.source) for plant in bed.plants if plant.contradicts}
    found = alarms = 0
    for place, plant in at.items():
        tally.ways[plant.way] += 1
        tally.control += bool(sources.get(plant.source, set()) & plant.kinds)
        hit = bool(after.get(place, set()) & plant.kinds)
        found += hit
        tally.missed[plant.way] += not hit
    for place, kinds in after.items():
        expected = before.get(place, set()) | ({"conflicts"} if place in contradicted else set())
        if place in at:
            expected = expected | at[place].kinds | sources.get(at[place].source, set())
        if strange := kinds - expected:
            alarms += 1
            what = f"planted: {at[place].way}" if place in at else "nothing planted"
            print(f"  false alarm: {sorted(strange)} ({what}): {str(place[1])[:140]}")
    tally.planted, tally.found, tally.alarms = tally.planted + len(at), tally.found + found, tally.alarms + alarms
    print(f"{bed.name}: {size:,} rows, {found} of {len(at)} plants found, {alarms} false alarms; named before: "
          f"{dict(named_before) or 'nothing'}")  # fmt: skip


def run_skews(bed: Bed, tally: Tally) -> None:
    """Validation parts that are no sample of the training part, and as many that are."""
    rows = [*bed.parts["train"], *bed.parts["validation"]]
    size = len(rows) // 5
    labels = Counter(str(row[bed.answer]) for row in rows)
    half = set(list(labels)[: len(labels) // 2])
    by_length = sorted(rows, key=lambda row: len(str(row[bed.prompt])))
    translated = [{**row, bed.prompt: f"{n}: {(POLISH + GERMAN)[n % 8]}"} for n, row in enumerate(rows[:size])]
    skewed = {
        "labels": [row for row in rows if row[bed.answer] in half][:size],
        "lengths": by_length[-size:],
        "language": [*translated[: size // 2], *rows[-(size // 2) :]],
    }
    fair = {f"fair {n}": bed.draw.sample(rows, size) for n in range(len(skewed))}
    for name, held in (skewed | fair).items():
        inside = {id(row) for row in held}
        parts = {"train": [row for row in rows if id(row) not in inside], "validation": held}
        with tempfile.TemporaryDirectory() as folder:
            _, seen = measure(replace(bed, parts=parts), [], Path(folder))
        told = any(finding.kind == "unlike_parts" for finding in seen.findings)
        if name in fair:
            tally.control += told
            tally.alarms += told
        else:
            tally.planted, tally.found = tally.planted + 1, tally.found + told
            tally.ways[f"skewed {name}"] += 1
            tally.missed[f"skewed {name}"] += not told


def main() -> int:
    """Run all beds, print what was missed, end with the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few rows, two plants of each way")
    parser.add_argument("--data", type=Path, default=DATA, help="folder with the data sets")
    asked = parser.parse_args()
    began, draw, tally = time.monotonic(), random.Random(20), Tally()
    for bed in beds(asked.data, asked.quick, draw):
        untouched = replace(bed, plants=[], used=set())
        run(bed, 2 if asked.quick else 5, tally)
        if "intents" in bed.name:
            run_skews(untouched, tally)
    print("\nways: " + ", ".join(f"{way} {n - tally.missed[way]}/{n}" for way, n in tally.ways.items()))
    figures = {
        "planted": tally.planted,
        "found": tally.found,
        "false_alarms": tally.alarms,
        "false_alarms_clean": tally.clean_alarms,
        "rows_clean": tally.clean_rows,
        "control_found": tally.control,
        "rows": tally.rows,
        "seconds": round(time.monotonic() - began, 1),
    }
    print(json.dumps(figures))
    wrong = tally.alarms + tally.clean_alarms
    return int(tally.found < 0.95 * tally.planted or wrong > 0.001 * (tally.rows + tally.planted))


if __name__ == "__main__":
    sys.exit(main())
