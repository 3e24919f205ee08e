"""A library that is not there would only be mentioned in a log, and something else measured than was asked for."""

import sys
from pathlib import Path

import pytest

from bi_experiments.config.compose import compose
from bi_experiments.errors import MachineError
from bi_experiments.machine.libraries import check_inherited, preloads


def found(prefix: Path, *entries: str) -> list[str]:
    return preloads(compose([f"runtime.python={prefix}/bin/python", f"backend.preload=[{','.join(entries)}]"]))


def library(folder: Path, name: str = "libone.so") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"\x7fELF and more")
    return folder / name


def test_a_library_is_found_by_a_pattern_below_the_prefix_or_by_its_whole_path(tmp_path: Path) -> None:
    one, other = library(tmp_path / "lib"), library(tmp_path / "elsewhere", "libother.so")
    assert found(tmp_path, "lib/libone.s*", str(other)) == [str(one), str(other)]


@pytest.mark.parametrize("entry", ["libnone.so", "/nowhere/libnone.so", "lib", "lib/text.so", "../../*/x", "'**'"])
def test_what_names_no_library_is_refused(entry: str, tmp_path: Path) -> None:
    library(tmp_path / "lib")
    (tmp_path / "lib" / "text.so").write_text("no library")
    with pytest.raises(MachineError, match=r"backend\.preload has .*, and there is no such library"):
        found(tmp_path, entry)


def test_a_path_that_the_variable_cannot_name_is_refused(tmp_path: Path) -> None:
    library(tmp_path / "two words")
    with pytest.raises(MachineError, match="a space or a :"):
        found(tmp_path, "two*/libone.so")


def test_an_exported_library_that_is_not_there_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = library(tmp_path / "lib")
    monkeypatch.setenv("LD_PRELOAD", f"{one} libfound-by-the-loader.so")
    check_inherited()
    monkeypatch.setenv("LD_PRELOAD", f"{one}:/nowhere/lib.so")
    with pytest.raises(MachineError, match=r"/nowhere/lib\.so is exported"):
        check_inherited()


def test_the_interpreter_of_this_program_is_the_default() -> None:
    assert preloads(compose([])) == []
    prefix = Path(sys.executable).parent.parent
    with pytest.raises(MachineError, match=str(prefix)):
        preloads(compose(["backend.preload=[lib/nothing.so]"]))
