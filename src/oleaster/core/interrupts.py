"""Ctrl-C that cannot be lost.

While a C module is initialised (the first seconds of a command are hardly anything else), the KeyboardInterrupt that
Python's own handler raises may be swallowed, or come out as another error of the import. So it is noted as well:
what is about to begin for hours asks first.
"""

from __future__ import annotations

import signal
from typing import Any

_noted = False


def note_interrupts() -> None:
    """From now on Ctrl-C is noted beside raising KeyboardInterrupt; a process that was told to ignore it goes on to."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _note)


def was_interrupted() -> bool:
    """Has somebody pressed Ctrl-C since `note_interrupts`?"""
    return _noted


def _note(number: int, frame: Any) -> None:
    global _noted
    _noted = True
    raise KeyboardInterrupt
