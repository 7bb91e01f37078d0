"""Every error Oleaster raises on purpose.

OleasterError                     base class; never raised itself
├── UserError                     the input is wrong: says where, what was found, what to write (exit code 2)
│   ├── ConfigError               a recipe, flag or setting
│   ├── DataError                 a data file, row or column
│   ├── ModelError                a model folder, file or hub id
│   └── MissingExtraError         a package of an optional extra is not installed
├── RunError                      work stopped half way; what was made is kept (exit code 1)
│   ├── NonFiniteError            loss or gradient became NaN or infinite
│   ├── CheckpointError           no usable checkpoint although one was asked for
│   └── StorageError              disk full, or a file could not be written
└── FidelityError                 an exported model lost more than allowed (exit code 3)

`cli/main.py` prints these without a traceback and exits with `exit_code`. Any other exception is a bug of ours and
keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class OleasterError(Exception):
    """Base of all errors raised on purpose."""

    exit_code = 1


class UserError(OleasterError):
    """The user's input cannot be used.

    Args:
        message: what was found, in one sentence.
        where: file, `file:line`, row, flag or setting; printed in front.
        remedy: what to write instead; printed behind.
    """

    exit_code = 2

    def __init__(self, message: str, *, where: str | None = None, remedy: str | None = None) -> None:
        self.message, self.where, self.remedy = message, where, remedy
        super().__init__(str(self))

    def __str__(self) -> str:
        head = f"{self.where}: {self.message}" if self.where else self.message
        return f"{head}\n  -> {self.remedy}" if self.remedy else head


class ConfigError(UserError):
    """A recipe, flag or setting is wrong."""


class DataError(UserError):
    """A data file, row or column is wrong."""


class ModelError(UserError):
    """A model folder, file or hub id is wrong."""


class MissingExtraError(UserError):
    """A package of an optional extra is not installed; `remedy` is the command that installs it."""


class RunError(OleasterError):
    """Work stopped half way; what was made so far is kept."""


class NonFiniteError(RunError):
    """Loss or gradient became NaN or infinite."""


class CheckpointError(RunError):
    """No usable checkpoint although one was asked for."""


class StorageError(RunError):
    """Disk full, or a file could not be written."""


class FidelityError(OleasterError):
    """An exported model lost more than allowed against the model that was trained."""

    exit_code = 3


def collect(problems: Sequence[UserError]) -> None:
    """Raise all `problems` as one error of their common type; do nothing when there are none."""
    if not problems:
        return
    if len(problems) == 1:
        raise problems[0]
    kinds = {type(p) for p in problems}
    kind = kinds.pop() if len(kinds) == 1 else UserError
    raise kind(f"{len(problems)} problems\n" + "\n".join(f"- {p}" for p in problems))


def near_names(name: str, known: Iterable[str]) -> str:
    """`did you mean 'a' or 'b'?` for the known names nearest to `name`, else the full list."""
    known = sorted(set(known))
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    if close:
        return "did you mean " + " or ".join(f"'{c}'" for c in close) + "?"
    return "known: " + ", ".join(known) if known else "nothing is registered"
