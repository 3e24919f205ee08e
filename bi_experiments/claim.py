"""An output folder belongs to one experiment: what keeps others out of it."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from bi_experiments.config.compose import with_defaults
from bi_experiments.config.plain import changes, deciding, recorded_configuration
from bi_experiments.config.schema import ExperimentConfig
from bi_experiments.errors import ConfigurationError
from bi_experiments.files import lock, try_lock, write_atomically
from bi_experiments.identity import Identity, identity_of
from bi_experiments.paths import OutputFolder, read_result
from bi_experiments.records import ExperimentResult, RecordError, from_json, to_json

_READER_S = 0.5
"""How long a lock may be held by readers who ask whether an experiment runs, in seconds; they take microseconds."""


@contextlib.contextmanager
def claimed(folder: OutputFolder, config: ExperimentConfig) -> Iterator[None]:
    """Keep other programs out of an output folder, and this one out of a folder that has another experiment.

    Raises:
        ConfigurationError: One writes into it now, or has written into it.
        MachineError: The interpreter of the phases does not report its versions.
    """
    with held(folder, _WAIT_OR_ELSEWHERE):
        _refuse_other(folder, config)
        if complete(folder) is None:  # else it says what the experiment ran in
            write_atomically(folder.identity, to_json(identity_of(config)))
        yield


@contextlib.contextmanager
def held(folder: OutputFolder, remedy: str = "wait for it") -> Iterator[None]:
    """Keep other programs out of an output folder.

    Args:
        folder: The folder.
        remedy: What to do where one is in it.

    Raises:
        ConfigurationError: One writes into it now.
    """
    with folder.running_lock.open("ab") as file:
        try:
            lock(file, _READER_S)
        except TimeoutError:
            raise _in_use(folder, remedy) from None
        yield


def complete(folder: OutputFolder) -> ExperimentResult | None:
    """The experiment that a claimed folder has from an earlier start, if nothing of it is left to run."""
    result = read_result(folder.root) if folder.result.exists() else None
    return None if result is None or result.stopped is not None else result


def refuse_claimed(folder: OutputFolder, config: ExperimentConfig) -> None:
    """Refuse a folder that `claimed` would refuse, before anything is written into it.

    Raises:
        ConfigurationError: It is such a folder.
    """
    if running(folder):
        raise _in_use(folder, _WAIT_OR_ELSEWHERE)
    _refuse_other(folder, config)


def running(folder: OutputFolder) -> bool:
    """Whether a program writes into an output folder now.

    Raises:
        OSError: The folder has a lock that cannot be opened for writing.
    """
    # Open for writing, though nothing is written: flock(2) asks for that on NFS.
    with contextlib.suppress(FileNotFoundError), folder.running_lock.open("r+b") as file:
        return not try_lock(file, shared=True)  # readers do not take one another for a program that writes
    return False


def still_running(folder: Path) -> bool:
    """The same for a reader, to whom a folder that only allows reading is one in which nothing runs."""
    try:
        return running(OutputFolder(folder))
    except OSError:
        return False


def read_ended(folder: Path) -> ExperimentResult:
    """The experiment in a folder in which none runs: until one ends, its record has a part of its pairs.

    Raises:
        ConfigurationError: One runs in it now, or it has no record that can be read.
    """
    if still_running(folder):
        raise ConfigurationError(f"the experiment in {folder} is still running: wait until it has ended")
    return read_result(folder)


_ELSEWHERE = "set hydra.run.dir to another folder"
_WAIT_OR_ELSEWHERE = f"wait for it, or {_ELSEWHERE}"


def _in_use(folder: OutputFolder, remedy: str) -> ConfigurationError:
    return ConfigurationError(f"another experiment writes into {folder.root} now: {remedy}")


def _refuse_other(folder: OutputFolder, config: ExperimentConfig) -> None:
    """Refuse to write over a record that is not of this experiment, or that is not to be resumed.

    Raises:
        ConfigurationError: It is such a record, or cannot be read.
    """
    if not folder.result.exists():
        return
    if not config.sweep.resume:
        raise ConfigurationError(
            f"{folder.root} has an experiment already: {_ELSEWHERE}, or sweep.resume=true to resume it"
        )
    result = read_result(folder.root)
    before = deciding(with_defaults(result.configuration))
    if different := changes(before, deciding(recorded_configuration(config))):
        raise ConfigurationError(
            f"{folder.root} has another experiment ({'; '.join(different)}): {_ELSEWHERE}, or set back what differs"
        )
    if result.stopped is not None and (different := _changes_of_environment(folder, config)):
        raise ConfigurationError(
            f"{folder.root} has an experiment that began in another environment ({'; '.join(different)}): {_ELSEWHERE}"
        )


def _changes_of_environment(folder: OutputFolder, config: ExperimentConfig) -> list[str]:
    """What is not as it was when the experiment in the folder began: pairs of both would be of neither."""
    try:
        before = from_json(folder.identity.read_bytes(), Identity, folder.identity)
    except FileNotFoundError:  # older releases wrote none for a single run
        return []
    except RecordError as error:
        raise ConfigurationError(str(error)) from error
    return changes(before.environment, identity_of(config).environment)
