"""What the program says when something is not as it should be: a line on standard error, and an exit code."""

import argparse
import difflib
import sys
from collections.abc import Iterable
from enum import IntEnum
from typing import NoReturn


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


MOST_CHARACTERS = 1000
"""Longest message; what is longer has a user's file or value in it."""


def printable(text: str, most: int = MOST_CHARACTERS) -> str:
    """A text as one line for a terminal: control characters are escaped, and what is over the limit is cut.

    Args:
        text: Any text, including one that a file or another program gave.
        most: Longest result, in characters.
    """
    shown = "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text[: most + 1])
    return shown if len(shown) <= most else f"{shown[: most - 3]}..."


class ExperimentError(Exception):
    """Base of the errors that a user is shown: one line that says what is wrong, what was found, what to do instead."""

    exit_code = ExitCode.PHASE_FAILED


class ConfigurationError(ExperimentError):
    """The configuration contradicts itself or names something that does not exist."""

    exit_code = ExitCode.CANNOT_RUN

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class MachineError(ExperimentError):
    """The machine cannot run the configuration."""

    exit_code = ExitCode.CANNOT_RUN

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class PhaseError(ExperimentError):
    """A phase failed, so that no complete pair exists."""


def say(message: str, kind: str = "") -> None:
    """Write one line on standard error, where the results are not.

    Args:
        message: The line.
        kind: What it begins with.
    """
    sys.stderr.write(f"{kind}{printable(message)}\n")


def warn(message: str) -> None:
    """Say what went wrong where the program goes on."""
    say(message, "warning: ")


def complain(message: str, code: ExitCode = ExitCode.CANNOT_RUN) -> ExitCode:
    """Say what is wrong where the program ends; returns the exit code that goes with it."""
    say(message, "error: ")
    return code


class OneLineParser(argparse.ArgumentParser):
    """A parser of a command line whose complaint is one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, with the option that was meant, and end the program."""
        unknown = message.removeprefix("unrecognized arguments: ")
        if unknown != message and unknown.startswith("-"):
            option = unknown.split()[0].partition("=")[0]
            message = f"{option} is not an option{did_you_mean(option, self._option_string_actions)}"
        raise SystemExit(complain(f"{message}; {self.prog} --help explains it"))


def did_you_mean(found: str, known: Iterable[str]) -> str:
    """`: did you mean X?` for the known word that is most like the one found; empty where none is alike.

    A key is also recognised by its last part alone, so that `num_trials` leads to `workload.num_trials`.
    """
    known = list(known)
    alike = difflib.get_close_matches(found, known, n=1, cutoff=0.7)
    last = found.rpartition(".")[2]
    ends = {key: key.rpartition(".")[2] for key in known}
    if not alike:
        alike = [key for key, end in ends.items() if end == last]
    if not alike and (close := difflib.get_close_matches(last, set(ends.values()), n=1, cutoff=0.8)):
        alike = [key for key, end in ends.items() if end == close[0]]
    return f": did you mean {alike[0]}?" if alike else ""


def os_error(error: BaseException) -> OSError | None:
    """The operating system's refusal that an error comes from; None where it comes from something else."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__cause__ or cause.__context__
    return cause


def file_problem(error: OSError, setting: str | None = "hydra.run.dir") -> str:
    """What is said of a file or folder that cannot be used.

    Args:
        error: The operating system's refusal.
        setting: The one that names the folder; None: no other can be used.
    """
    name = error.filename.decode(errors="replace") if isinstance(error.filename, bytes) else error.filename
    remedy = "make it writable" if setting is None else f"name another folder ({setting}=FOLDER)"
    return f"{name or 'a file'} cannot be used: {error.strerror or error}; {remedy}"
