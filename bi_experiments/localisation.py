"""The operator behind a difference of a finished experiment, written into its record, pages and `repro.py`."""

from collections.abc import Mapping

import msgspec

from bi_experiments.analysis.pairs import second_arm
from bi_experiments.config.schema import ExperimentConfig
from bi_experiments.errors import ConfigurationError, ExperimentError, warn
from bi_experiments.files import write_atomically
from bi_experiments.launch import location as launching
from bi_experiments.launch.progress import NoProgress
from bi_experiments.launch.variables import set_variables
from bi_experiments.paths import OutputFolder, read_result
from bi_experiments.records import Arm, ExperimentResult, Invariance, Location, to_json
from bi_experiments.report import output, reproduction


def locate_violation(result: ExperimentResult, config: ExperimentConfig, folder: OutputFolder) -> ExperimentResult:
    """With `verify.locate`, locate what violates invariance in an experiment that has just ended.

    What keeps it from being located costs a warning: the experiment itself is whole.

    Args:
        result: The record, which is on disk.
        config: The experiment's configuration.
        folder: Its output folder.

    Returns:
        The record, with the location where there is one.
    """
    if not to_be_located(result, config):
        return result
    try:
        return locate(folder, Arm.BATCH_INVARIANT, of_the_batch=True)
    except ExperimentError as error:
        warn(f"what violates invariance was not located: {error}")
        return result


def to_be_located(result: ExperimentResult, config: ExperimentConfig) -> bool:
    """Whether `verify.locate` asks for something that is not in the record yet."""
    verdict = None if result.invariance is None else result.invariance.verdict(Arm.BATCH_INVARIANT)
    asked = config.verify.locate and verdict is Invariance.VIOLATED
    return asked and not result.interrupted and result.location is None


def locate(folder: OutputFolder, arm: Arm | None = None, *, of_the_batch: bool = False) -> ExperimentResult:
    """Locate a difference of a finished experiment, and write it into the experiment's record and pages.

    The caller holds the folder and the devices, of a machine that can run it.

    Args:
        folder: The experiment's output folder.
        arm: The arm whose differing probe is looked into; None: the one that is not the baseline.
        of_the_batch: Look only into what differs with the batch, and not into decode against prefill.

    Raises:
        ConfigurationError: The experiment cannot be read, or none of its probes differs.
        PhaseError: The phase failed.
    """
    result = read_result(folder.root)
    if not result.phases:
        raise ConfigurationError(f"{folder.result} has no phases: run the experiment again")
    phase, probe = launching.differing_probe(result, arm or second_arm(result.phases), of_the_batch)
    config = launching.recorded_config(result)
    found, engine = launching.locate(config, folder, phase, probe, NoProgress())
    variables = inherited(result.environment.variables) | set_variables(config, phase.arm)
    script = reproduction.render(found, engine, variables, f"vLLM {phase.versions.get('vllm', 'of unknown version')}")
    return keep(result, folder, found, script)


def inherited(variables: Mapping[str, str]) -> dict[str, str]:
    """What a phase inherited and a script that repeats it needs: switches of vLLM and the libraries, no paths.

    Args:
        variables: `Environment.variables`.
    """
    read = ("VLLM_", "NCCL_", "CUBLAS_")
    return {name: value for name, value in variables.items() if name.startswith(read) and "/" not in value}


def keep(result: ExperimentResult, folder: OutputFolder, found: Location, script: str | None) -> ExperimentResult:
    """Write what was found into the record, the pages and `repro.py`; returns the new record."""
    result = msgspec.structs.replace(result, location=found)
    if script is None:
        folder.reproduction.unlink(missing_ok=True)
    else:
        write_atomically(folder.reproduction, script.encode())
    write_atomically(folder.result, to_json(result))
    output.write_text(result, folder)
    output.try_write_pages(result, folder)
    return result
