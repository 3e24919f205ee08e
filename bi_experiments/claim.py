"""An output folder belongs to one experiment: what keeps others out of it."""

import contextlib
from collections.abc import Iterator

from bi_experiments.config.compose import with_defaults
from bi_experiments.config.plain import changes, deciding, recorded_configuration
from bi_experiments.config.schema import ExperimentConfig
from bi_experiments.errors import ConfigurationError
from bi_experiments.files import try_lock
from bi_experiments.paths import OutputFolder, read_result


@contextlib.contextmanager
def claimed(folder: OutputFolder, config: ExperimentConfig) -> Iterator[None]:
    """Keep other programs out of an output folder, and this one out of a folder that has another experiment.

    Raises:
        ConfigurationError: One writes into it now, or has written into it.
    """
    with folder.running_lock.open("ab") as file:
        if not try_lock(file):
            raise _in_use(folder)
        _refuse_other(folder, config)
        yield


def refuse_claimed(folder: OutputFolder, config: ExperimentConfig) -> None:
    """Refuse a folder that `claimed` would refuse, before anything is written into it.

    Raises:
        ConfigurationError: It is such a folder.
    """
    # Open for writing, though nothing is written: flock(2) asks for that on NFS.
    with contextlib.suppress(FileNotFoundError), folder.running_lock.open("r+b") as file:
        if not try_lock(file):
            raise _in_use(folder)
    _refuse_other(folder, config)


def _in_use(folder: OutputFolder) -> ConfigurationError:
    return ConfigurationError(
        f"another experiment writes into {folder.root} now: wait for it, or set hydra.run.dir to another folder"
    )


def _refuse_other(folder: OutputFolder, config: ExperimentConfig) -> None:
    """Refuse to write over a record that is not of this experiment, or that is not to be resumed.

    Raises:
        ConfigurationError: It is such a record, or cannot be read.
    """
    if not folder.result.exists():
        return
    elsewhere = "set hydra.run.dir to another folder"
    if not config.sweep.resume:
        raise ConfigurationError(
            f"{folder.root} has an experiment already: {elsewhere}, or sweep.resume=true to resume it"
        )
    before = deciding(with_defaults(read_result(folder.root).configuration))
    if different := changes(before, deciding(recorded_configuration(config))):
        raise ConfigurationError(f"{folder.root} has another experiment ({'; '.join(different)}): {elsewhere}")
