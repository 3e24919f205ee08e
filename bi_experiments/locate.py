"""Which operator makes an output depend on its batch? For an experiment in which a probe differs.

    python -m bi_experiments.locate FOLDER [--arm baseline]

FOLDER is the output folder of a finished experiment. One phase runs the differing probe alone and in the batch that
changed it, without torch.compile and graphs, and compares the bits of what every module of the model computes for the
probe's own tokens. It names the first one that differs, finds the fewest neighbours and the shortest prompts that still
change the probe, and writes `repro.py`, a script for an issue of vLLM. The report of the experiment then says so too.

The exit code is 0 when an operator was named, 1 when a phase failed or none could be named, and 2 when there is nothing
to locate or it cannot run here.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from bi_experiments.analysis.location import describe
from bi_experiments.errors import ExitCode, ExperimentError, OneLineParser, complain
from bi_experiments.localisation import locate
from bi_experiments.paths import OutputFolder
from bi_experiments.records import Arm
from bi_experiments.signals import ends_in_order
from bi_experiments.tracking.log import log_again, tracking_of


def main(arguments: Sequence[str] | None = None) -> ExitCode:
    """Run the program; returns its exit status."""
    parser = OneLineParser(
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
    found = result.location
    assert found is not None
    log_again(result, options.folder, tracking_of(result, None, result.configuration["tracking"]["enabled"]))
    sys.stdout.write("\n".join(describe(found)) + "\n")
    if found.smallest is not None:
        sys.stdout.write(f"Reproduction: {OutputFolder(options.folder).reproduction}\n")
    return ExitCode.DONE if found.first is not None or found.level != "eager" else ExitCode.PHASE_FAILED


if __name__ == "__main__":
    sys.exit(ends_in_order(lambda _: main()))
