import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TORCH = next(line for line in (ROOT / "requirements.lock").read_text().splitlines() if line.startswith("torch=="))
TORCH_INDEX = "https://download.pytorch.org/whl/cpu"

# An interpreter that writes down what it is asked, makes an "environment" that holds itself, and whose pip may not
# find torch anywhere but at an index that is named.
INTERPRETER = """#!/bin/sh
echo "$@" >> {log}
case "$*" in
*" venv "*) for folder; do :; done; mkdir -p $folder/bin; cp $0 $folder/bin/python ;;
*--index-url*) ;;
*torch==*) exit {plain_torch} ;;
esac
"""


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    # The tests may themselves run under make.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(["make", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def install(folder: Path, *, plain_pip_finds_torch: bool) -> list[str]:
    """Run `make install` with an interpreter that only writes down; returns the arguments of its calls of pip."""
    log, interpreter = folder / "log", folder / "python"
    interpreter.write_text(INTERPRETER.format(log=log, plain_torch=0 if plain_pip_finds_torch else 1))
    interpreter.chmod(0o755)
    result = make("install", f"PYTHON={interpreter}", f"VENV={folder / 'venv'}")
    assert result.returncode == 0, result.stderr
    return [line for line in log.read_text().splitlines() if line.startswith("-m pip")]


def test_torch_comes_from_where_pip_looks_when_it_is_there(tmp_path: Path) -> None:
    calls = install(tmp_path, plain_pip_finds_torch=True)
    assert f"install --no-deps {TORCH}" in calls[0]
    assert not [call for call in calls if TORCH_INDEX in call]


def test_torch_comes_from_its_own_index_otherwise_and_nothing_else_does(tmp_path: Path) -> None:
    calls = install(tmp_path, plain_pip_finds_torch=False)
    assert [call for call in calls if TORCH_INDEX in call] == [calls[1]]
    assert calls[1].endswith(f"install --no-deps --index-url {TORCH_INDEX} {TORCH}")


def test_everything_is_installed_without_dependencies(tmp_path: Path) -> None:
    calls = install(tmp_path, plain_pip_finds_torch=True)
    assert all("--no-deps" in call for call in calls)
    assert any("--requirement requirements.lock" in call for call in calls)
    assert "--editable ." in calls[-1]


def test_a_second_time_nothing_is_installed(tmp_path: Path) -> None:
    first = install(tmp_path, plain_pip_finds_torch=True)
    assert install(tmp_path, plain_pip_finds_torch=True) == first


@pytest.mark.parametrize(
    ("interpreter", "expected"),
    [
        (
            '#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.1\nexit 1\n',
            "not Python 3.11 or newer (found: Python 3.9.1)",
        ),
        ('#!/bin/sh\ncase "$*" in *ensurepip*) exit 1 ;; esac\n', "has no venv module"),
    ],
)
def test_an_interpreter_that_does_not_do_is_refused_in_one_line(
    tmp_path: Path, interpreter: str, expected: str
) -> None:
    path = tmp_path / "python"
    path.write_text(interpreter)
    path.chmod(0o755)
    result = make("install", f"PYTHON={path}", f"VENV={tmp_path / 'venv'}")
    assert result.returncode != 0
    message, *rest = result.stderr.splitlines()
    assert expected in message
    assert all(line.startswith("make: ***") for line in rest)
    assert not (tmp_path / "venv").exists()


def test_help_explains_every_target() -> None:
    phony = re.search(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert phony is not None
    explained = {line.split()[0] for line in make().stdout.splitlines()}
    assert set(phony[1].split()) - explained == {"system-packages"}  # a step of test-all


def test_missing_system_packages_are_named_where_they_cannot_be_installed(tmp_path: Path) -> None:
    for tool in ("make", "sh", "dpkg"):
        if found := shutil.which(tool):
            (tmp_path / tool).symlink_to(found)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    result = subprocess.run(
        ["make", "system-packages", "SYSTEM_PACKAGES=no-such-package"],
        cwd=ROOT,
        env=environment | {"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.strip() == "There is no apt-get: tests that need these are skipped: no-such-package"
