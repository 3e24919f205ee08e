"""The program as it is started, with phases that have no engine."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.faults.aftermath import left_behind

Run = Callable[..., "subprocess.CompletedProcess[str]"]


class Program:
    """`python -m bi_experiments` in an empty folder, whose folder for temporary files is its own too.

    Attributes:
        damaged: Whether the test itself put records there that cannot be read.
    """

    def __init__(self, root: Path, fake_python: Path) -> None:
        self.folder = root / "work"
        self.temporary = root / "temporary"
        self.damaged = False
        self.folder.mkdir()
        self.temporary.mkdir()
        self.variables = {**os.environ, "PYTHONPATH": str(REPOSITORY), "TMPDIR": str(self.temporary)}
        self.fake = (
            "experiment=cpu_demo",
            f"runtime.python={fake_python}",
            "workload.num_trials=2",
            "workload.max_batch_size=2",
            "protocol.pairs=2",
            "verify=off",
            "tracking=off",
        )

    def command(self, *arguments: str, module: str = "bi_experiments") -> list[str]:
        return [sys.executable, "-m", module, *arguments]

    def __call__(
        self, *arguments: str, module: str = "bi_experiments", **variables: str
    ) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            self.command(*arguments, module=module),
            cwd=self.folder,
            env={**self.variables, **variables},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def left(self) -> list[str]:
        """Temporary files, but for the folder of the locks, which stays."""
        return [path.name for path in self.temporary.iterdir() if not path.name.startswith("bi_experiments-")]

    def files(self) -> list[Path]:
        return [path for path in self.folder.rglob("*") if path.is_file()]


@pytest.fixture
def program(tmp_path: Path, fake_python: Path) -> Iterator[Program]:
    """The program, and what must hold after every fault."""
    made = Program(tmp_path, fake_python)
    yield made
    left = left_behind(made.folder, made.temporary, made.folder / "mlflow.db")
    assert [line for line in left if "cannot be read" not in line or not made.damaged] == []


def is_one_line(done: "subprocess.CompletedProcess[str]", code: int = 2) -> bool:
    """Whether a program ended with that exit code and one line about an error."""
    lines = done.stderr.splitlines()
    return done.returncode == code and len(lines) == 1 and lines[0].startswith("error: ")
