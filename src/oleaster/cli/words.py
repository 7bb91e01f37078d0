"""The words of a command line -> settings, and flags -> help text.

One way for all commands: `--x y`, `--x=y`; `-` and `_` are the same; `--flag`, `--flag true`, `--flag=false`; no
abbreviations; a name that is unknown or given twice is an error, not a guess.
"""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from oleaster.config.flags import Flag
from oleaster.core.errors import ConfigError, UserError, collect, near_names

_SWITCH_WORDS = {
    "true": True,
    "false": False,
    "yes": True,
    "no": False,
    "on": True,
    "off": False,
    "1": True,
    "0": False,
}
_METAVARS = {"switch": "", "integer": "N", "number": "X", "text": "TEXT", "path": "PATH", "list": "A,B"}
_COLUMN, _WIDTH = 34, 110
HELP = ("-h", "--help")


@dataclass(frozen=True)
class Given:
    """What the user typed."""

    command: str
    """The whole command line, to be shown with what it lacks."""
    own: Mapping[str, Any]
    """The command's own flags and words, typed, with their defaults."""
    settings: Mapping[str, object]
    """Flag name -> value as text, for `load_config`; only what was typed."""

    def require(self, **wanted: tuple[str, str]) -> None:
        """Of the command's own flags and words, what it cannot do without: name = (what it is, what could be typed).

        Raises: ConfigError that names all that are missing, with a command line that has them.
        """
        missing = [wanted[name] for name in wanted if not self.own[name]]
        if missing:
            names, examples = zip(*missing, strict=True)
            raise ConfigError(f"not given: {', '.join(names)}", remedy=" ".join([self.command, *examples]))


@dataclass(frozen=True)
class Command:
    """What a command takes and does."""

    name: str
    summary: str
    usage: tuple[str, ...]
    run: Callable[[Given], int]
    """Does the work and returns the exit code."""
    own: tuple[Flag, ...] = ()
    """Flags that are no part of a recipe."""
    settings: tuple[Flag, ...] = ()
    """Flags that are leaves of `Config`."""
    words: tuple[Flag, ...] = ()
    """What may be given without a flag, in this order; the last may be a list."""
    titles: Mapping[str, str] = field(default_factory=dict)
    """Section -> heading in the help."""


def parse(command: Command, words: Sequence[str]) -> Given:
    """Raises: ConfigError for unknown flags, surplus words, missing and double values, all together."""
    flags = {flag.name: flag for flag in (*command.own, *command.settings)}
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for flag in flags.values():
        names = [f"--{name}" for name in (flag.name, *flag.aliases)] + ([f"-{flag.short}"] if flag.short else [])
        many: dict[str, Any] = {"nargs": "+", "action": "extend"} if flag.kind == "list" else {"action": "append"}
        parser.add_argument(*names, dest=flag.name, default=argparse.SUPPRESS, **many)
    single = [word for word in command.words if word.kind != "list"]
    for word in single:
        parser.add_argument(f"word_{word.name}", nargs="?", default=argparse.SUPPRESS)
    try:
        found, rest = parser.parse_known_args(_normalised(words, flags.values()))
    except argparse.ArgumentError as error:
        name = next((n for n in (error.argument_name or "").split("/") if n.startswith("--")), None)
        raise ConfigError(error.message.replace("expected", "this flag takes"), where=name) from None
    values = {name: found.__dict__[name] for name in flags if name in found}
    listed = next((word for word in command.words if word.kind == "list"), None)
    if listed is not None and not any(word.startswith("-") for word in rest):
        values.setdefault(listed.name, []).extend(rest)  # argparse takes such words in one place only
        rest = []
    collect(_surplus(command, rest, flags.values()))
    for word in single:
        if (text := getattr(found, f"word_{word.name}", None)) is not None:
            values.setdefault(word.name, []).append(text)
    return _given(command, words, values)


def help_text(command: Command) -> str:
    """The answer to `oleaster COMMAND --help`. The same on every terminal, as the documentation is made of it."""
    first = "\n       ".join(command.usage)
    parts = [f"{command.summary}\n\nusage: {first}"]
    shown = (*command.words, *(flag for flag in command.own if flag.name not in {w.name for w in command.words}))
    if shown:
        parts.append("\n".join(_flag_lines(flag, bare=flag in command.words) for flag in shown))
    for section in dict.fromkeys(flag.section for flag in command.settings):
        title = command.titles.get(section, section or "run")
        lines = [_flag_lines(flag) for flag in command.settings if flag.section == section]
        parts.append(f"{title}:\n" + "\n".join(lines))
    if command.settings:
        parts.append(
            "--x y and --x=y, - and _ in names are the same; --x null sets a default back. Names of other tools\n"
            "(--batch_size, --max_seq_length, --lora_rank, --output_dir, ...) are understood; docs/config.md has them."
        )
    return "\n\n".join(parts) + "\n"


def _normalised(words: Sequence[str], flags: Any) -> list[str]:
    """Flag names with `_`, and every switch with its value behind `=`."""
    switches = {name for flag in flags if flag.kind == "switch" for name in (flag.name, *flag.aliases)}
    alone = {name: flag.alone for flag in flags for name in (flag.name, *flag.aliases) if flag.alone is not None}
    result: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word == "--":
            return [*result, word, *rest]
        name, equals, value = word.partition("=")
        if not name.startswith("--"):
            result.append(word)
            continue
        name = "--" + name[2:].replace("-", "_")
        if name[2:] in switches and not equals:
            equals, value = "=", rest.pop(0) if rest and rest[0].lower() in _SWITCH_WORDS else "true"
        elif name[2:] in alone and not equals and (not rest or rest[0].startswith("-")):
            equals, value = "=", alone[name[2:]]
        result.append(name + equals + value)
    return result


def _surplus(command: Command, rest: Sequence[str], flags: Any) -> list[UserError]:
    """Errors for unknown flags; words that follow one are its values. Without any: for words too many."""
    names = [name for flag in flags for name in (flag.name, *flag.aliases)]
    unknown = [word.partition("=")[0] for word in rest if word.startswith("-") and word != "--"]
    advice = f"oleaster {command.name} --help lists all"
    problems: list[UserError] = []
    for word in unknown:
        near = near_names(word.lstrip("-"), names)
        if near.startswith("did you mean"):
            near = near.replace("'", "--", 1).replace("or '", "or --").replace("'", "")
        else:
            near = advice
        problems.append(ConfigError("there is no such flag", where=word, remedy=near))
    if rest and not unknown:
        problems.append(ConfigError("this word belongs to no flag", where=f"'{rest[0]}'", remedy=advice))
    return problems


def _given(command: Command, words: Sequence[str], values: Mapping[str, list[str]]) -> Given:
    import shlex

    own, settings = {flag.name: flag.default for flag in (*command.words, *command.own)}, {}
    flags = {flag.name: flag for flag in (*command.words, *command.own, *command.settings)}
    problems: list[UserError] = []
    for name, texts in values.items():
        flag = flags[name]
        if flag.kind != "list" and len(set(texts)) > 1:
            problems.append(ConfigError(f"given twice: {' and '.join(texts)}", where=f"--{name}", remedy="keep one"))
        text = ",".join(texts)
        if name not in own:
            settings[name] = None if text == "null" else text
            continue
        try:
            own[name] = _typed(flag, text if flag.kind == "list" else texts[-1])
        except ValueError:
            problems.append(ConfigError(f"'{text}' is no {flag.kind}", where=f"--{name}", remedy=flag.help))
    collect(problems)
    return Given(shlex.join(["oleaster", *command.name.split(), *words]), own, settings)


def _typed(flag: Flag, word: str) -> Any:
    if flag.kind == "switch":
        if word.lower() not in _SWITCH_WORDS:
            raise ValueError(word)
        return _SWITCH_WORDS[word.lower()]
    if flag.kind == "list":
        return [part.strip() for part in word.split(",") if part.strip()]
    types: dict[str, Callable[[str], Any]] = {"integer": int, "number": float, "path": Path}
    return types.get(flag.kind, str)(word)


def _flag_lines(flag: Flag, bare: bool = False) -> str:
    """`  -m, --name TEXT   help [default]`, wrapped."""
    metavar = "NAME" if flag.choices and flag.kind == "text" else _METAVARS[flag.kind]
    short = f"-{flag.short}, " if flag.short else ""
    head = flag.name.upper() if bare else f"{short}--{flag.name} {metavar}".rstrip()
    text = flag.help
    if flag.choices:
        text += f" One of: {', '.join(flag.choices)}."
    if flag.only:
        text += f" ({', '.join(flag.only)})"
    if shown := _default(flag):
        text += f" [{shown}]"
    lines = textwrap.wrap(text, _WIDTH - _COLUMN, break_long_words=False, break_on_hyphens=False) or [""]
    first = f"  {head:<{_COLUMN - 3}} {lines[0]}"
    return "\n".join([first, *(" " * _COLUMN + line for line in lines[1:])]).rstrip()


def _default(flag: Flag) -> str:
    """`3`, or `3; loha, lokr: 8` where methods have defaults of their own."""
    values: dict[str, list[str]] = {_shown(default): [] for default in flag.defaults.values()}
    for method, default in flag.defaults.items():
        values[_shown(default)].append(method)
    own = [f"{', '.join(methods)}: {shown}" for shown, methods in values.items() if shown]
    return "; ".join(part for part in (_shown(flag.default), *own) if part)


def _shown(default: Any) -> str:
    if default is None or default == [] or default is False:
        return ""
    if isinstance(default, list):
        return ",".join(map(str, default))
    if isinstance(default, float):
        return f"{default:g}"
    return str(default).lower() if default is True else str(default)
