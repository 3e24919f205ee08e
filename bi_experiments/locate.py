"""Which operator makes an output depend on its batch? For an experiment in which a probe differs.

    python -m bi_experiments.locate FOLDER [--arm baseline]

FOLDER is the output folder of a finished experiment. One phase runs the differing probe alone and in the batch that
changed it, without torch.compile and graphs, and compares the bits of what every module of the model computes for the
probe's own tokens. It names the first one that differs, finds the fewest neighbours and the shortest prompts that still
change the probe, and writes `repro.py`, a script for an issue of vLLM. The report of the experiment then says so too.

The exit code is 0 when an operator was named, 1 when a phase failed or none could be named, and 2 when there is nothing
to locate or it cannot run here.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from bi_experiments.analysis.location import describe
from bi_experiments.analysis.pairs import second_arm
from bi_experiments.config.schema import ExperimentConfig
from bi_experiments.errors import ConfigurationError, ExitCode, ExperimentError, complain
from bi_experiments.files import write_atomically
from bi_experiments.launch import location as launching
from bi_experiments.launch.progress import NoProgress
from bi_experiments.machine.preflight import check_machine
from bi_experiments.paths import OutputFolder, read_result
from bi_experiments.records import Arm, ExperimentResult, Location, to_json
from bi_experiments.report import output, reproduction


def main(arguments: Sequence[str] | None = None) -> ExitCode:
    """Run the program; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m bi_experiments.locate", description="Name the first operator whose output depends on the batch."
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="output folder of a finished experiment")
    parser.add_argument(
        "--arm",
        type=Arm,
        choices=list(Arm),
        help="the arm whose differing probe is looked into (the one that is not the baseline)",
    )
    options = parser.parse_args(arguments)
    try:
        result = locate(OutputFolder(options.folder), options.arm)
    except ExperimentError as error:
        return complain(str(error), error.exit_code)
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    found = result.location
    assert found is not None
    sys.stdout.write("\n".join(describe(found)) + "\n")
    if found.smallest is not None:
        sys.stdout.write(f"Reproduction: {OutputFolder(options.folder).reproduction}\n")
    return ExitCode.DONE if found.first is not None or found.level != "eager" else ExitCode.PHASE_FAILED


def locate(folder: OutputFolder, arm: Arm | None = None) -> ExperimentResult:
    """Locate a difference of a finished experiment, and write it into the experiment's record and pages.

    Args:
        folder: The experiment's output folder.
        arm: The arm whose differing probe is looked into; None: the one that is not the baseline.

    Raises:
        ConfigurationError: The experiment cannot be read, or none of its probes differs.
        MachineError: The machine cannot run it.
        PhaseError: The phase failed.
    """
    result = read_result(folder.root)
    if not result.phases:
        raise ConfigurationError(f"{folder.result} has no phases: run the experiment again")
    phase, probe = launching.differing_probe(result, arm or second_arm(result.phases))
    config = launching.recorded_config(result)
    check_machine(config)
    found, engine = launching.locate(config, folder, phase, probe, NoProgress())
    variables = vllm_variables(config, phase.arm)
    script = reproduction.render(found, engine, variables, f"vLLM {phase.versions.get('vllm', 'of unknown version')}")
    return keep(result, folder, found, script)


def vllm_variables(config: ExperimentConfig, arm: Arm) -> Mapping[str, str]:
    """The environment variables of a phase that are not the caller's own."""
    return {**config.backend.environment, "VLLM_BATCH_INVARIANT": str(int(arm.batch_invariant))}


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


if __name__ == "__main__":
    sys.exit(main())
