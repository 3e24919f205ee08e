"""Signals, and terminals that go away, at random moments of an experiment: what becomes of it."""

import os
import random
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from bi_experiments.paths import read_result
from tests.faults.aftermath import left_behind
from tests.faults.conftest import Program
from tests.processes import heed_signals

SOON_S = 0.05
"""Longest time between two signals, in seconds."""


class Kind(NamedTuple):
    """A way to interrupt."""

    name: str
    signals: tuple[signal.Signals, ...] = ()
    """Sent one after the other."""
    terminal: str = ""
    """What becomes of standard output and error: `/dev/full` from the start, or `closed` at the moment."""


KINDS = (
    Kind("SIGINT", (signal.SIGINT,)),
    Kind("SIGTERM", (signal.SIGTERM,)),
    Kind("SIGHUP", (signal.SIGHUP,)),
    Kind("SIGINT twice", (signal.SIGINT, signal.SIGINT)),
    Kind("SIGINT, SIGTERM", (signal.SIGINT, signal.SIGTERM)),
    Kind("/dev/full", (), "/dev/full"),
    Kind("closed pipe", (), "closed"),
)


@dataclass
class Interrupted:
    """One experiment that was interrupted.

    Attributes:
        after_s: Time from the start of the program to the interruption, in seconds.
        in_time: Whether the program still ran then.
        exit_code: Its exit status.
        said: What stood on standard error.
        problems: What is not as it should be, a line each.
    """

    after_s: float
    in_time: bool
    exit_code: int
    said: str
    problems: list[str]


def interrupt(program: Program, kind: Kind, chance: random.Random, longest_s: float, *settings: str) -> Interrupted:
    """Run an experiment, interrupt it at a random moment, and look at what is left.

    Args:
        program: The program; its folders hold nothing else.
        kind: How.
        chance: Draws the moment.
        longest_s: Latest moment, in seconds after the start.
        settings: Of the experiment, beside those of `program.fake`.
    """
    after_s = chance.uniform(0, longest_s)
    process = _start(program, kind, settings)
    time.sleep(after_s)
    in_time = process.poll() is None
    for number in kind.signals:
        process.send_signal(number)
        time.sleep(chance.uniform(0, SOON_S) if len(kind.signals) > 1 else 0)
    if kind.terminal == "closed" and process.stdout is not None:
        process.stdout.close()
    said = process.stderr.read().decode() if process.stderr is not None else ""
    code = process.wait(timeout=120)
    problems = left_behind(program.folder, program.temporary, program.folder / "mlflow.db")
    problems += _wrong_end(program, kind, code, in_time)
    if "Traceback" in said and code >= 0:  # while Python itself starts, SIGINT makes one
        problems.append(f"a traceback: {said.strip().splitlines()[-1]}")
    return Interrupted(after_s, in_time, code, said, problems)


def _start(program: Program, kind: Kind, settings: Sequence[str]) -> "subprocess.Popen[bytes]":
    command = program.command(*program.fake, "hydra.run.dir=out", *settings)
    out = os.open(kind.terminal if kind.terminal == "/dev/full" else os.devnull, os.O_WRONLY)
    try:
        return subprocess.Popen(
            command,
            cwd=program.folder,
            env=program.variables,
            stdout=subprocess.PIPE if kind.terminal == "closed" else out,
            stderr=subprocess.PIPE,
            preexec_fn=heed_signals,  # noqa: PLW1509
        )
    finally:
        os.close(out)


def _wrong_end(program: Program, kind: Kind, code: int, in_time: bool) -> list[str]:
    """What the exit status and the record do not agree on."""
    folder = program.folder / "out"
    stopped = read_result(folder).stopped if (folder / "result.json").exists() else "there is no record"
    if code == 0 and stopped is not None:
        return [f"exit code 0, but {stopped}"]
    if kind.signals and code == -kind.signals[0]:  # before the program had begun
        return ["files of a program that had not begun"] if folder.exists() else []
    if code == 0 or (code == 130 and kind.signals and in_time):
        return ["caches are left"] if (folder / "caches").exists() else []
    return [f"exit code {code}"]
