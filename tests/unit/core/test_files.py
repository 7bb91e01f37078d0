import errno
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oleaster.core.errors import StorageError
from oleaster.core.files import (
    atomic_write_bytes,
    atomic_write_json,
    atomic_write_text,
    hash_file,
    link_or_copy,
    remove_folder,
    require_space,
    staged_file,
    staged_folder,
    storage_errors,
    sweep,
    work_folder,
)


@pytest.fixture
def dead_pid() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    return process.pid


def replace_and_raise(target: Path, failure: type[BaseException]) -> None:
    with staged_folder(target, replace=True) as folder:
        (folder / "a").write_text("new")
        raise failure


@given(text=st.text())
def test_text_reads_back_to_the_byte(text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("text") / "new" / "file.txt"
    text = text.encode("utf-8", "ignore").decode("utf-8")  # lone surrogates are not text
    atomic_write_text(path, text)
    assert path.read_bytes() == text.encode("utf-8")
    assert [p.name for p in path.parent.iterdir()] == ["file.txt"]


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    atomic_write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        atomic_write_json(path, {"a": object()})
    path_as_folder = tmp_path / "folder"
    path_as_folder.mkdir()
    with pytest.raises(OSError, match="folder"):
        atomic_write_bytes(path_as_folder, b"x")
    assert path.read_text() == '{\n  "a": 1\n}\n'
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file.json", "folder"]


def test_a_staged_folder_appears_only_when_whole(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with staged_folder(target) as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "a").write_text("1")
        assert not target.exists()
    assert (target / "sub" / "a").read_text() == "1"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_staged_folder_that_fails_leaves_nothing_and_keeps_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with staged_folder(target) as folder:
        (folder / "a").write_text("old")
    for failure in (KeyboardInterrupt, ValueError):
        with pytest.raises(failure):
            replace_and_raise(target, failure)
    assert (target / "a").read_text() == "old"
    with staged_folder(target, replace=True) as folder:
        (folder / "a").write_text("new")
    assert (target / "a").read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_an_existing_folder_is_not_replaced_unasked(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(FileExistsError), staged_folder(tmp_path / "out"):
        pass


def test_leftovers_of_the_dead_are_swept_and_those_of_the_living_are_not(tmp_path: Path, dead_pid: int) -> None:
    (tmp_path / f".a.oleaster-tmp-{dead_pid}").mkdir()
    (tmp_path / f".b.json.oleaster-tmp-{dead_pid}").write_text("")
    (tmp_path / f".c.oleaster-tmp-{os.getppid()}").mkdir()
    (
        tmp_path / f".d.oleaster-tmp-{os.getpid()}"
    ).mkdir()  # ours by number, but not in work: an earlier start in a container
    (tmp_path / f".e.tmp-{dead_pid}").mkdir()  # of another program
    with staged_folder(tmp_path / "f"):
        sweep(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [f".c.oleaster-tmp-{os.getppid()}", f".e.tmp-{dead_pid}", "f"]


def test_a_folder_put_aside_by_a_swap_that_died_is_put_back(tmp_path: Path, dead_pid: int) -> None:
    (tmp_path / f".out.oleaster-old-{dead_pid}").mkdir()
    (tmp_path / f".out.oleaster-old-{dead_pid}" / "a").write_text("old")
    (tmp_path / f".out.oleaster-tmp-{dead_pid}").mkdir()
    (tmp_path / "there").mkdir()
    (tmp_path / f".there.oleaster-old-{dead_pid}").mkdir()
    sweep(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "there"]
    assert (tmp_path / "out" / "a").read_text() == "old"


def test_a_removed_folder_is_gone(tmp_path: Path) -> None:
    (tmp_path / "out" / "sub").mkdir(parents=True)
    remove_folder(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_kill_while_removing_leaves_no_part_under_the_name(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from oleaster.core.files import remove_folder\n"
        "folder = Path(sys.argv[1]); folder.mkdir()\n"
        "for i in range(3000): (folder / str(i)).touch()\n"
        "print('made', flush=True); remove_folder(folder)\n"
    )
    dice, died_inside = random.Random(0), 0
    for attempt in range(15):
        folder = tmp_path / str(attempt)
        with subprocess.Popen([sys.executable, "-c", code, folder], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(dice.uniform(0, 0.01))
            process.kill()
        died_inside += process.returncode != 0
        assert not folder.exists() or len(list(folder.iterdir())) == 3000
    assert died_inside


def test_hash_is_sha256(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    assert hash_file(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    path.write_bytes(b"x" * (1024 * 1024 + 1))
    import hashlib

    assert hash_file(path) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_link_shares_the_bytes_and_follows_symbolic_links(tmp_path: Path) -> None:
    (tmp_path / "blob").write_text("weights")
    (tmp_path / "snapshot").symlink_to("blob")
    link_or_copy(tmp_path / "snapshot", tmp_path / "model" / "weights")
    target = tmp_path / "model" / "weights"
    assert not target.is_symlink()
    assert target.stat().st_ino == (tmp_path / "blob").stat().st_ino
    with pytest.raises(FileExistsError):
        link_or_copy(tmp_path / "blob", target)


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="needs a second file system")
def test_across_file_systems_it_is_a_copy(tmp_path: Path) -> None:
    source = Path(f"/dev/shm/oleaster-test-{os.getpid()}")
    source.write_text("weights")
    try:
        link_or_copy(source, tmp_path / "weights")
    finally:
        source.unlink()
    assert (tmp_path / "weights").read_text() == "weights"
    assert [p.name for p in tmp_path.iterdir()] == ["weights"]


def test_missing_space_is_counted_before_the_work(tmp_path: Path) -> None:
    require_space(tmp_path / "not" / "yet" / "there", 1)
    with pytest.raises(StorageError, match=r"needs 1073741824\.0 MB, \d+\.\d MB are free: \d+\.\d MB are missing"):
        require_space(tmp_path, 2**50)


def test_errors_of_the_disk_are_named_and_others_pass(tmp_path: Path) -> None:
    full = pytest.raises(StorageError, match=r"x could not be written: the disk is full \(\d+ MB free\)")
    with full, storage_errors(tmp_path / "x"):
        raise OSError(errno.ENOSPC, "No space left on device")
    denied = pytest.raises(StorageError, match="permission is denied for /there")
    with denied, storage_errors(tmp_path / "x"):
        raise PermissionError(errno.EACCES, "denied", "/there")
    with pytest.raises(FileNotFoundError), storage_errors(tmp_path):
        raise FileNotFoundError(errno.ENOENT, "no")


def test_what_cannot_be_cleaned_up_does_not_hide_why(tmp_path: Path) -> None:
    """On a disk that became read-only the unfinished file cannot be deleted; here a folder of its name cannot."""

    def fail() -> None:
        with staged_file(tmp_path / "x") as part:
            part.mkdir()
            raise OSError(errno.EROFS, "read-only")

    with pytest.raises(StorageError, match="the file system is read-only"):
        fail()


def test_a_work_folder_is_gone_after_its_block_and_after_a_kill(tmp_path: Path) -> None:
    target = tmp_path / "artifact"
    with work_folder(target) as work:
        assert work.parent == tmp_path
        assert list(work.iterdir()) == []
    assert list(tmp_path.iterdir()) == []
    code = (
        "import os, sys; from pathlib import Path; from oleaster.core.files import work_folder\n"
        "with work_folder(Path(sys.argv[1])) as work: (work / 'big').write_bytes(b'x'); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(target)], check=False).returncode == 9
    assert len(list(tmp_path.iterdir())) == 1
    sweep(tmp_path)
    assert list(tmp_path.iterdir()) == []
