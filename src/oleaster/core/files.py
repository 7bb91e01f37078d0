"""Files that are either there whole or not there at all.

Everything is first written beside its target under a temporary name, `.<name>.oleaster-tmp-<pid>`, brought to the
disk (fsync), and then renamed. A process that dies half way leaves such a name behind; the next one that writes in the
same folder sweeps it. A folder that replaces another one puts the old one aside as `.<name>.oleaster-old-<pid>` for the
moment between the two renames; if the process dies in that moment, the sweep puts it back.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from oleaster.core.errors import StorageError

_MIB = 1024 * 1024
_LEFTOVER = re.compile(r"^\.(?P<name>.+)\.oleaster-(?P<kind>tmp|old)-(?P<pid>\d+)$")
_in_work: set[Path] = set()
"""Temporary paths of this process that are being written now: a process id alone does not tell, as a container gives
the same one to every start."""

_STORAGE_ERRNOS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file is larger than this system or its limits allow",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission is denied",
    errno.EIO: "the disk reports an input/output error",
}


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn errors of the disk (full, read-only, permissions, ...) under this block into StorageError; let others pass.

    Args:
        path: what is being written; named in the message together with the free space of its file system.
    """
    try:
        yield
    except OSError as error:
        reason = _STORAGE_ERRNOS.get(error.errno or 0)
        if reason is None:
            raise
        of = f" for {error.filename}" if error.errno == errno.EACCES and error.filename else ""
        raise StorageError(f"{path} could not be written: {reason}{of} ({free_mb(path):.0f} MB free)") from error


def free_mb(path: Path) -> float:
    """Free space in MiB on the file system that holds `path`, or its nearest parent that exists."""
    existing = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
    return shutil.disk_usage(existing).free / _MIB


def require_space(path: Path, needed_bytes: int) -> None:
    """Check before the work that `needed_bytes` fit on the file system of `path`.

    Raises: StorageError that says how many MB are needed, free and missing.
    """
    needed, free = needed_bytes / _MIB, free_mb(path)
    if needed > free:
        raise StorageError(
            f"{path} needs {needed:.1f} MB, {free:.1f} MB are free: {needed - free:.1f} MB are missing on this disk"
        )


def sync(path: Path) -> None:
    """Bring a file's contents, or a folder's list of names, to the disk."""
    if path.is_dir() and os.name == "nt":
        return  # Windows has no handle for that; NTFS journals its names
    descriptor = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def staged_file(target: Path) -> Iterator[Path]:
    """A path beside `target` for a file that another library writes; it takes the name when the block ends well.

    A reader or a crash sees the old file or the new one, never a part. Raises: StorageError when the disk is full.
    """
    part = _temporary(target, "tmp")
    _in_work.add(part)
    try:
        with storage_errors(target):
            _make_folder(part.parent)
            yield part
            sync(part)
            part.replace(target)
            sync(part.parent)
    finally:
        with suppress(OSError):  # on a read-only disk it cannot be deleted, and why is on its way up already
            part.unlink(missing_ok=True)
        _in_work.discard(part)


def atomic_write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path` by way of `staged_file`."""
    with staged_file(path) as part:
        part.write_bytes(content)


def atomic_write_text(path: Path, text: str) -> None:
    """`atomic_write_bytes` for text: UTF-8, line ends as given."""
    atomic_write_bytes(path, text.encode("utf-8"))


def atomic_write_json(path: Path, value: Any) -> None:
    """`atomic_write_bytes` for a JSON value: indented, keys in the order given, ends with a newline."""
    atomic_write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def atomic_write_json_lines(path: Path, values: Iterable[Any]) -> None:
    """`atomic_write_bytes` for one JSON value a line; what JSON does not know, such as a date, becomes its text."""
    lines = (json.dumps(value, ensure_ascii=False, default=str) for value in values)
    atomic_write_text(path, "".join(f"{line}\n" for line in lines))


@contextmanager
def staged_folder(target: Path, *, replace: bool = False) -> Iterator[Path]:
    """Build a folder that appears under its name only when it is complete and on the disk.

    Yields an empty folder beside `target`. When the block ends well, all of it is brought to the disk and renamed to
    `target`; when it raises, nothing is left behind and a former `target` stays as it was.

    Args:
        replace: put the new folder in place of an existing one.

    Raises: FileExistsError when `target` exists and `replace` is false; StorageError when the disk is full.
    """
    target = target.absolute()
    if target.exists() and not replace:
        raise FileExistsError(errno.EEXIST, "the folder exists already", str(target))
    with _temporary_folder(target) as part:
        yield part
        _sync_tree(part)
        _swap_in(part, target)


@contextmanager
def work_folder(target: Path) -> Iterator[Path]:
    """An empty folder beside `target` for what is made on the way to it; deleted when the block ends.

    It lies on the same file system, and what a killed process leaves of it is swept like any unfinished write.
    """
    with _temporary_folder(target.with_name(f"{target.name}.work")) as part:
        yield part


@contextmanager
def _temporary_folder(target: Path) -> Iterator[Path]:
    """An empty folder beside `target`, deleted when the block ends, if it is still there."""
    part = _temporary(target, "tmp")
    with storage_errors(target):
        _make_folder(part.parent)
        sweep(part.parent)
        part.mkdir()
        _in_work.add(part)
        try:
            yield part
        finally:
            _in_work.discard(part)
            shutil.rmtree(part, ignore_errors=True)


def remove_folder(folder: Path) -> None:
    """Delete a folder so that a crash cannot leave a part of it under its name."""
    with storage_errors(folder):
        part = _temporary(folder.absolute(), "tmp")
        shutil.rmtree(part, ignore_errors=True)
        folder.rename(part)
        sync(folder.absolute().parent)
        shutil.rmtree(part)


def sweep(folder: Path) -> None:
    """Clear what dead processes left in `folder`: unfinished writes are deleted, a folder put aside is put back."""
    if not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        match = _LEFTOVER.match(path.name)
        if match is None or path.absolute() in _in_work or _belongs_to_another(int(match["pid"])):
            continue
        target = folder / match["name"]
        if match["kind"] == "old" and not target.exists():
            path.rename(target)
        elif path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def hash_file(path: Path) -> str:
    """SHA-256 of a file's contents, in hex."""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(_MIB))
    with path.open("rb", buffering=0) as file:
        while size := file.readinto(buffer):
            digest.update(buffer[:size])
    return digest.hexdigest()


def link_or_copy(source: Path, target: Path) -> None:
    """Give `source` a second name `target` without a second copy of its bytes, if the file system can.

    Tries a hard link, then a clone that shares blocks until one side is written (Btrfs, XFS), then a copy. A hard
    link is one file under two names, so neither may be edited in place; files written as above never are.

    Raises: FileExistsError when `target` exists; StorageError when the disk is full.
    """
    source = source.resolve(strict=True)  # a hub cache holds symbolic links, which must not be linked themselves
    if target.exists() or target.is_symlink():
        raise FileExistsError(errno.EEXIST, "the file exists already", str(target))
    with storage_errors(target):
        _make_folder(target.parent)
        with suppress(OSError):
            os.link(source, target)
            return
    with staged_file(target) as part:
        if not _clone(source, part):
            require_space(target, source.stat().st_size)
            shutil.copyfile(source, part)


def _temporary(target: Path, kind: str) -> Path:
    target = target.absolute()
    return target.with_name(f".{target.name}.oleaster-{kind}-{os.getpid()}")


def _make_folder(folder: Path) -> None:
    """`mkdir -p` that brings each new name to the disk."""
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync(folder.parent)


def _belongs_to_another(pid: int) -> bool:
    import psutil  # os.kill(pid, 0), the usual test, ends the process on Windows

    return pid != os.getpid() and psutil.pid_exists(pid)


def _sync_tree(folder: Path) -> None:
    for root, _, names in os.walk(folder):
        for name in names:
            sync(Path(root, name))
        sync(Path(root))


def _swap_in(part: Path, target: Path) -> None:
    old = _temporary(target, "old")
    if target.exists():
        target.rename(old)
    part.rename(target)
    sync(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def _clone(source: Path, target: Path) -> bool:
    """Share the blocks of `source`; False where the file system cannot."""
    if sys.platform != "linux":
        return False
    import fcntl

    ficlone = 0x40049409  # FICLONE of linux/fs.h; Python has no name for it
    with source.open("rb") as reader, target.open("wb") as writer:
        try:
            fcntl.ioctl(writer.fileno(), ficlone, reader.fileno())
        except OSError:
            return False
    return True
