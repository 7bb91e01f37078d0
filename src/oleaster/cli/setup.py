"""`--setup`: what a recipe needs is shown, and installed when the user agrees."""

from __future__ import annotations

import subprocess
import sys

from oleaster.config.schema import Config
from oleaster.core.errors import MissingExtraError


def set_up(config: Config, agreed: bool) -> None:
    """Install what the recipe needs; fetch its model.

    Args:
        agreed: do not ask. Without it, and without a terminal to ask on, nothing is installed.

    Raises: MissingExtraError when something is missing and may not or could not be installed.
    """
    from oleaster.pipeline.needs import needs_of

    needs = list(needs_of(config))
    if not needs:
        print("setup: all that the recipe needs is here")
        return
    print("setup: the recipe needs")
    for need in needs:
        print(f"  {need.what}")
    commands = [need.command for need in needs if need.packages]
    if commands and not agreed and not _asked():
        raise MissingExtraError("not installed", where="--setup", remedy="\n     ".join([*commands, "or add --yes"]))
    for need in needs:
        if need.packages:
            _install([*need.pip, *need.packages], need.command)
        else:
            _fetch(config)


def _asked() -> bool:
    if not sys.stdin.isatty():
        return False
    return input("Install? [y/N] ").strip().lower() in ("y", "yes")


def _install(words: list[str], command: str) -> None:
    import importlib

    done = subprocess.run([sys.executable, "-m", "pip", "install", "-q", *words], check=False)
    if done.returncode != 0:
        raise MissingExtraError("pip could not install it", where="--setup", remedy=command)
    importlib.invalidate_caches()


def _fetch(config: Config) -> None:
    from oleaster.models.source import resolve

    print(f"setup: fetching {config.model.model_name_or_path}", flush=True)
    resolve(config.model)
