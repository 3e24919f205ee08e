"""Sweeps whose phases have no engine, as they are typed."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.conftest import REPOSITORY

SMALL = (
    "experiment=cpu_demo",
    "workload.num_trials=2",
    "workload.max_batch_size=2",
    "protocol.pairs=2",
    "verify=off",
    "tracking=off",
    "hydra.sweep.dir=sweep",
)


class Sweep:
    """`python -m bi_experiments -m` in an empty folder, with lock files of its own.

    Args:
        folder: The folder.
        variables: Environment variables, besides those of the tests.
        arguments: What is typed.
    """

    def __init__(self, folder: Path, variables: Mapping[str, str], *arguments: str) -> None:
        self.root = folder / "sweep"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bi_experiments", "-m", *SMALL, *arguments],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY), "TMPDIR": str(folder), **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def end(self, limit_s: float = 120) -> str:
        """Wait for it, and return what it printed."""
        output, _ = self.process.communicate(timeout=limit_s)
        return output

    def rows(self) -> list[dict[str, Any]]:
        """What became of the experiments, by number."""
        last: dict[int, dict[str, Any]] = {}
        for line in (self.root / "experiments.jsonl").read_text().splitlines():
            row = json.loads(line)
            last[row["number"]] = row
        return [last[number] for number in sorted(last)]

    def phases(self, number: int = 0) -> dict[int, dict[str, Any]]:
        """The phases of an experiment that have ended, by their place in the schedule."""
        files = self.root.glob(f"{number}/phases/*/result.json")
        return {phase["index"]: phase for phase in (json.loads(path.read_text()) for path in files)}


def interpreter(path: Path, fake_python: Path, *commands: str) -> Path:
    """An interpreter without an engine that runs shell commands first.

    Args:
        path: Where it is put.
        fake_python: The one without them.
        commands: The commands; `$*` are the arguments of the interpreter.
    """
    path.write_text("\n".join(["#!/bin/sh", *commands, f'exec {fake_python} "$@"', ""]))
    path.chmod(0o755)
    return path
