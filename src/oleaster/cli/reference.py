"""The reference pages, made from the same tables as the help: `python -m oleaster.cli.reference` writes them."""

from __future__ import annotations

import inspect
import json
import sys
from pathlib import Path

from oleaster.cli.finetune import TITLES
from oleaster.cli.main import COMMANDS, command_of
from oleaster.cli.main import help_text as main_help
from oleaster.cli.words import help_text
from oleaster.config.flags import ALIASES, Flag, config_flags, sections
from oleaster.config.schema import Config

_MADE = "<!-- Made by `make docs` from the code; do not edit. -->\n"

_CONFIG_INTRODUCTION = """\
# Settings

A recipe is a YAML file with the sections below; every setting is also a flag of the same name, and a leaf of
`oleaster.Config` in Python. Flags go before the recipe, the recipe before the defaults.

```yaml
output_path: runs/first
model:
  model_name_or_path: HuggingFaceTB/SmolLM2-135M-Instruct
data:
  data_files: rows.jsonl
training:
  learning_rate: 1e-4
```

- Values are read by the type of their setting: `1e-4` is a number, `no` in a text is the word no, `a,b` and `[a, b]`
  are the same list. Backslash and n in a template or system prompt is a newline.
- Settings stand in their section. An unknown, misplaced or doubled key is an error with its line.
- `--x null` on the command line sets the default back.
- A run writes what it used to `output_path/oleaster.yaml`; that file is a recipe too.
- A `finetune` command that names no model or no rows takes what it lacks from `--config`, else from the
  `oleaster.yaml` in `--output_path`, else from the one in the current folder, and says so. A command that names both
  takes nothing from there.
"""


_METRICS_INTRODUCTION = """\
# Metrics

Each is asked for by name: `oleaster evaluate RUN --metrics bleu,chrf`, `metrics:` in the `evaluation` section of a
recipe, or `evaluate_model(path, rows, "bleu")`. Capitals and usual other names (`F1`, `ROUGE-L`, `ECE`) are understood.
Loss, perplexity, bits per byte, token accuracy, exact match and natural stop are part of every evaluation; accuracy,
macro F1 and outside labels of every one where answers are labels. How sure a figure is:
[evaluation.md](evaluation.md).

A metric of your own is a function in a file named by `--plugins`; by the names of its parameters it says what it
needs, one value per row each:
"""


def cli_page() -> str:
    """docs/cli.md: the help of every command."""
    parts = [f"{_MADE}\n# Commands\n\n```\n{main_help()}```"]
    for name in COMMANDS:
        parts.append(f"## {name}\n\n```\n{help_text(command_of(name))}```")
    return "\n\n".join(parts) + "\n"


def config_page() -> str:
    """docs/config.md: every setting by section, and the names of other tools."""
    parts = [_MADE, _CONFIG_INTRODUCTION]
    for section in ("", *sections()):
        flags = [flag for flag in config_flags().values() if flag.section == section]
        parts.append(f"## {section or 'Top level'}: {TITLES[section]}\n")
        parts += ["| setting | default | |", "|---|---|---|", *map(_row, flags), ""]
    parts += ["## Names of other tools\n", "Understood as flags. In a recipe the names above are the only ones.\n"]
    parts += ["| flag | means |", "|---|---|", *(f"| `--{alias}` | `--{name}` |" for alias, name in ALIASES.items())]
    return "\n".join(parts) + "\n"


def schema_json() -> str:
    """JSON schema of a recipe, for editors."""
    return json.dumps(Config.model_json_schema(), indent=2) + "\n"


def metrics_page() -> str:
    """docs/metrics.md: what each metric means, its unit, and when it misleads, as its function says."""
    from oleaster.evaluation.metrics import BUILT_IN, COLUMNS, metrics
    from oleaster.evaluation.metrics.registry import LABELS

    parts = [_MADE, _METRICS_INTRODUCTION, f"`{'`, `'.join([*COLUMNS, LABELS])}`.\n"]
    for module in BUILT_IN:
        parts.append(f"## {(module.__doc__ or '').splitlines()[0].rstrip('.')}\n")
        for name in metrics:
            if (function := metrics.get(name)).__module__ == module.__name__:
                parts.append(f"### {name}\n\n{inspect.getdoc(function)}\n")
    return "\n".join(parts)


def pages() -> dict[str, str]:
    """Path in the repository -> text."""
    return {
        "docs/cli.md": cli_page(),
        "docs/config.md": config_page(),
        "docs/metrics.md": metrics_page(),
        "docs/recipe.schema.json": schema_json(),
    }


def _row(flag: Flag) -> str:
    name = f"`{flag.key}`" + (f" (`--{flag.name}`)" if flag.name != flag.key else "")
    choices = f" One of: {', '.join(flag.choices)}." if flag.choices else ""
    default = "" if flag.default is None else f"`{json.dumps(flag.default)}`"
    own = "".join(f"; {method}: `{json.dumps(value)}`" for method, value in flag.defaults.items())
    only = f" ({', '.join(flag.only)})" if flag.only else ""
    return f"| {name} | {default}{own} | {flag.help}{choices}{only} |".replace("\\", "\\\\")


if __name__ == "__main__":
    root = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    for name, text in pages().items():
        (root / name).write_text(text, encoding="utf-8")
