"""The file that Optuna keeps a study in, made so that a kill at any moment does no harm."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from filelock import FileLock
from optuna.storages import JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend

from oleaster.search.folder import STORES


class SystemLock:
    """The journal's lock as one of the system, which is free again the moment that its holder is gone.

    Optuna's own are files: after a kill the others wait until they are old enough to be ignored.
    """

    def __init__(self, path: Path) -> None:
        self._lock = FileLock(path)

    def acquire(self) -> bool:
        self._lock.acquire()
        return True

    def release(self) -> None:
        self._lock.release()


def open_storage(kind: str, folder: Path) -> Any:
    """An Optuna storage in `folder`; call it where no other process opens the same one."""
    path = folder / STORES[kind]
    if kind == "sqlite":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about features of SQLAlchemy that Optuna itself uses
            return RDBStorage(f"sqlite:///{path}", engine_kwargs={"connect_args": {"timeout": 120}})
    lock = SystemLock(folder / f".{path.name}.lock")
    _cut_torn_line(path, lock)
    return JournalStorage(JournalFileBackend(str(path), lock_obj=lock))  # type: ignore[arg-type]  # its interface is not public


def _cut_torn_line(path: Path, lock: SystemLock) -> None:
    """A power cut can leave half a line; what is appended to it would be lost with it."""
    if not path.exists():
        return
    lock.acquire()
    try:
        with path.open("rb+") as file:
            content = file.read()
            if content and not content.endswith(b"\n"):
                file.truncate(content.rfind(b"\n") + 1)
    finally:
        lock.release()
