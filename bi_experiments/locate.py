"""Which operator makes an output depend on its batch? For an experiment in which a probe differs.

    python -m bi_experiments.locate FOLDER [--arm baseline]

FOLDER is the output folder of a finished experiment. One phase runs the differing probe alone and in the batch that
changed it, without torch.compile and graphs, and compares the bits of what every module of the model computes for the
probe's own tokens. It names the first one that differs, finds the fewest neighbours and the shortest prompts that still
change the probe, and writes `repro.py`, a script for an issue of vLLM. The report of the experiment then says so too.

The exit code is 0 when an operator was named, or the level of compiling that brings the difference, 1 when a phase
failed or neither could be named, and 2 when there is nothing to locate or it cannot run here.
"""

import sys
from collections.abc import Sequence

from bi_experiments.analysis.location import describe
from bi_experiments.analysis.pairs import second_arm
from bi_experiments.claim import held
from bi_experiments.errors import ExitCode, ExperimentError, OneLineParser, complain, file_problem, say
from bi_experiments.launch.location import differing_probe, recorded_config
from bi_experiments.localisation import locate
from bi_experiments.machine.placement import own_devices
from bi_experiments.machine.preflight import check_machine
from bi_experiments.paths import OutputFolder, folder_argument, read_result
from bi_experiments.records import Arm, Location
from bi_experiments.signals import ends_in_order
from bi_experiments.tracking.log import log_again, tracking_of


def main(arguments: Sequence[str] | None = None) -> ExitCode:
    """Run the program; returns its exit status."""
    parser = OneLineParser(
        prog="python -m bi_experiments.locate", description="Name the first operator whose output depends on the batch."
    )
    parser.add_argument("folder", type=folder_argument, metavar="FOLDER", help="output folder of a finished experiment")
    parser.add_argument(
        "--arm",
        choices=[arm.value for arm in Arm],
        help="the arm whose differing probe is looked into (the one that is not the baseline)",
    )
    options = parser.parse_args(arguments)
    folder, arm = OutputFolder(options.folder), Arm(options.arm) if options.arm else None
    try:
        recorded = read_result(folder.root)
        config = recorded_config(recorded)
        differing_probe(recorded, arm or second_arm(recorded.phases))  # before a machine is asked for
        check_machine(config)
        with held(folder), own_devices(config, f"locating in {folder.root}", say):
            result = locate(folder, arm)
    except ExperimentError as error:
        return complain(str(error), error.exit_code)
    except OSError as error:
        return complain(file_problem(error, None), ExitCode.CANNOT_RUN)
    found = result.location
    assert found is not None
    log_again(result, folder.root, tracking_of(result, None, result.configuration["tracking"]["enabled"]))
    sys.stdout.write("\n".join(describe(found)) + "\n")
    if found.smallest is not None:
        sys.stdout.write(f"Reproduction: {folder.reproduction}\n")
    return ExitCode.DONE if found.first is not None or _by_its_level(found) else ExitCode.PHASE_FAILED


def _by_its_level(found: Location) -> bool:
    """Whether it is the compiled kernels or graphs that bring the difference: eager has none."""
    return found.level != "eager" and found.first_difference is not None and found.stopped is None


if __name__ == "__main__":
    sys.exit(ends_in_order(lambda _: main()))
