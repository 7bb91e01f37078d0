"""`oleaster version`."""

from __future__ import annotations

from oleaster.cli.words import Command, Given


def command() -> Command:
    """`version` takes nothing."""
    return Command("version", "Print the version.", ("oleaster version",), run)


def run(given: Given) -> int:
    """Print name and version."""
    from importlib.metadata import version

    print(f"oleaster {version('oleaster')}")
    return 0
