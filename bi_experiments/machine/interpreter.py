"""The Python interpreter of the phases, and what it says of its environment."""

import contextlib
import functools
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

import msgspec

from bi_experiments.config.schema import ExperimentConfig
from bi_experiments.errors import MachineError
from bi_experiments.phase import arguments
from bi_experiments.phase.architectures import architectures as known_architectures

INTERPRETER_S = 20.0
"""Time that an interpreter has to answer and to end, in seconds."""
MOST_ANSWER_BYTES = 1 << 20
"""Most that it may say."""


def interpreter(config: ExperimentConfig) -> str:
    """The Python interpreter of the phases."""
    return config.runtime.python or sys.executable


@functools.cache
def phase_versions(python: str) -> Mapping[str, str]:
    """Versions of what the numbers depend on, in the environment of an interpreter; asked once a process.

    Raises:
        MachineError: It is not an interpreter, or this project is not installed there.
    """
    if shutil.which(python) is None:
        raise MachineError(
            f"runtime.python={python} is not an executable on this machine: set it to the path of a Python interpreter"
        )
    try:
        versions: dict[str, str] = msgspec.json.decode(_asked(python, "versions"), type=dict[str, str])
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        late = isinstance(error, subprocess.TimeoutExpired)
        how = f"within {INTERPRETER_S:g} s" if late else f"({type(error).__name__})"
        raise MachineError(
            f"runtime.python={python} does not report its versions {how}: set it to a Python interpreter, and install "
            "this project there (pip install --no-deps)"
        ) from error
    return versions


EngineArguments = Mapping[str, arguments.Argument]
"""vLLM's engine arguments by name."""


@functools.cache
def engine_arguments(python: str | None) -> EngineArguments:
    """The engine arguments of the vLLM that the phases use; empty where they are not known. Asked once a process.

    Args:
        python: The phases' interpreter; None: this one.
    """
    if python is None:
        return arguments.engine_arguments()
    try:
        return msgspec.json.decode(_asked(python, "arguments"), type=dict[str, arguments.Argument])
    except (OSError, subprocess.SubprocessError, ValueError):
        return {}


@functools.cache
def architectures(python: str | None) -> Sequence[str]:
    """The architectures of seeded checkpoints in the phases' environment; empty where they are not known.

    Args:
        python: The phases' interpreter; None: this one.
    """
    if python is None:
        return known_architectures()
    try:
        return msgspec.json.decode(_asked(python, "architectures"), type=list[str])
    except (OSError, subprocess.SubprocessError, ValueError):
        return []


def _asked(python: str, module: str) -> str:
    """What a module of `bi_experiments.phase` prints in another environment.

    Raises:
        OSError: It cannot be started.
        subprocess.SubprocessError: It fails, says too much, or says it too slowly.
    """
    command = [python, "-m", f"bi_experiments.phase.{module}"]
    deadline = time.monotonic() + INTERPRETER_S
    nowhere = subprocess.DEVNULL
    started = subprocess.Popen(command, stdin=nowhere, stdout=subprocess.PIPE, stderr=nowhere, start_new_session=True)
    with started as process:
        try:
            assert process.stdout is not None
            said = _read(process.stdout.fileno(), deadline)
            code = process.wait(max(0.0, deadline - time.monotonic()))
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
    if code:
        raise subprocess.CalledProcessError(code, command)
    return said.decode()


def _read(pipe: int, deadline: float) -> bytes:
    """All that is written to a pipe, whose end a process that was left behind may hold open for ever.

    Raises:
        subprocess.SubprocessError: It is too much, or has no end before the deadline, a time of the monotonic clock.
    """
    said = bytearray()
    while len(said) < MOST_ANSWER_BYTES:
        if not select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))[0]:
            raise subprocess.TimeoutExpired("the interpreter", INTERPRETER_S)
        if not (data := os.read(pipe, 1 << 16)):
            return bytes(said)
        said += data
    raise subprocess.SubprocessError("its answer has no end")
