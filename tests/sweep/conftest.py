"""Sweeps as they are run, of phases without an engine."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bi_experiments.sweep.folder import SweepFolder
from bi_experiments.sweep.records import ExperimentRecord
from tests.conftest import REPOSITORY


class Sweep:
    """`python -m bi_experiments -m` in an empty folder, with lock files of its own."""

    def __init__(self, folder: Path, fake_python: Path) -> None:
        self.working_folder = folder
        self.folder = SweepFolder(folder / "sweep")
        self.environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "TMPDIR": str(folder)}
        self.fake: tuple[str, ...] = (
            "experiment=cpu_demo",
            f"runtime.python={fake_python}",
            "workload.num_trials=2",
            "protocol.pairs=2",
            "protocol.interleave=launch",
            "verify=off",
            "tracking=off",
        )

    def command(self, *arguments: str, folder: bool = True) -> list[str]:
        place = ["hydra.sweep.dir=sweep"] if folder else []
        return [sys.executable, "-m", "bi_experiments", "-m", *self.fake, *place, *arguments]

    def __call__(self, *arguments: str, folder: bool = True, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments, folder=folder),
            cwd=self.working_folder,
            env={**self.environment, **variables},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def records(self) -> list[ExperimentRecord]:
        return self.folder.read()

    def statuses(self) -> list[str]:
        return [str(record.status) for record in self.records()]


@pytest.fixture
def sweep(tmp_path: Path, fake_python: Path) -> Sweep:
    folder = tmp_path / "work"
    folder.mkdir()
    return Sweep(folder, fake_python)
