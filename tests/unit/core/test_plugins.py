import sys
from pathlib import Path

import pytest

from oleaster.core.errors import ConfigError
from oleaster.core.plugins import load_plugins
from oleaster.core.registry import Registry

table: Registry[object] = Registry("metric")
"""What the plug-ins below register in; they import this module by its name."""

USE = f"from {__name__} import table\n"


@pytest.fixture(autouse=True)
def _this_module_can_be_imported() -> None:
    sys.modules.setdefault(__name__, sys.modules[test_a_file_registers_once.__module__])


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_a_file_registers_once(tmp_path: Path) -> None:
    path = write(tmp_path, "mine.py", USE + "@table.register('mine')\ndef mine(): return 7\n")
    load_plugins([path])
    load_plugins([path])
    assert table.get("mine")() == 7  # pyright: ignore


def test_duplicates_name_both_places(tmp_path: Path) -> None:
    first = write(tmp_path, "first.py", USE + "table.register('twice')(1)\n")
    second = write(tmp_path, "second.py", "\n" + USE + "table.register('twice')(2)\n")
    with pytest.raises(ConfigError, match=r"second\.py:3: .*'twice' is registered twice, first at .*first\.py:2"):
        load_plugins([first, second])


def test_all_problems_are_reported_with_file_and_line(tmp_path: Path) -> None:
    broken = write(tmp_path, "broken.py", "\n\nimport no_such_package\n")
    syntax = write(tmp_path, "syntax.py", "x = 1\ndef f(:\n")
    with pytest.raises(ConfigError) as caught:
        load_plugins([broken, syntax, tmp_path / "missing.py", write(tmp_path, "notes.txt", "")])
    text = str(caught.value)
    assert "broken.py:3: the plug-in cannot be imported: ModuleNotFoundError: No module named 'no_such_package'" in text
    assert "syntax.py:2: the plug-in cannot be imported: SyntaxError" in text
    assert "missing.py: plug-in: there is no such file" in text
    assert "notes.txt: plug-in: is not a Python file" in text


def test_an_installed_package_is_found_and_a_broken_one_is_named(tmp_path: Path) -> None:
    info = tmp_path / "oleaster_shout-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: oleaster-shout\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[oleaster]\nshout = oleaster_shout\n")
    write(tmp_path, "oleaster_shout.py", USE + "table.register('shout')(1)\n")
    sys.path.insert(0, str(tmp_path))
    try:
        load_plugins([])
        assert "shout" in table
        del sys.modules["oleaster_shout"]
        with pytest.raises(ConfigError, match=r"plug-in 'shout' of the package oleaster-shout cannot be imported"):
            load_plugins([])
    finally:
        sys.path.remove(str(tmp_path))
        sys.modules.pop("oleaster_shout", None)
