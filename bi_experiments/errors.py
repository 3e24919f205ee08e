"""Exit codes, and the errors that end the program with one of them and one line."""

import sys
from enum import IntEnum


class ExitCode(IntEnum):
    """What the process's exit status says."""

    DONE = 0
    PHASE_FAILED = 1
    CANNOT_RUN = 2
    """The configuration is invalid, or the machine cannot run it."""
    INVARIANCE_VIOLATED = 3
    """In the batch-invariant arm, with `verify.strict`."""
    OVER_GATE = 4
    GATE_UNDECIDED = 5
    INTERRUPTED = 130


class ExperimentError(Exception):
    """Base of the errors that a user is shown: one line that says what is wrong, what was found, what to do instead."""

    exit_code = ExitCode.PHASE_FAILED


class ConfigurationError(ExperimentError):
    """The configuration contradicts itself or names something that does not exist."""

    exit_code = ExitCode.CANNOT_RUN


class MachineError(ExperimentError):
    """The machine cannot run the configuration."""

    exit_code = ExitCode.CANNOT_RUN


class PhaseError(ExperimentError):
    """A phase failed, so that no complete pair exists."""


def complain(message: str, code: ExitCode = ExitCode.CANNOT_RUN) -> ExitCode:
    """Print on standard error, in one line, what is wrong; returns the exit code that goes with it."""
    sys.stderr.write(f"error: {message}\n")
    return code
