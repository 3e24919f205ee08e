"""The names of all kernels or operators that the profiled trials of an experiment ran, with their class.

    python -m bi_experiments.operations FOLDER

FOLDER is the output folder of an experiment with profile=true. Each line has the arm, the class, vLLM's operator that
called it (or -) and the name, separated by tabs, each once: the form of `tests/analysis/recorded_operations.tsv`, with
which the table of classes is tested. The exit code is 0, or 2 when there is no profile.
"""

import sys
from collections.abc import Iterator, Sequence

from bi_experiments.analysis.operation_classes import classify
from bi_experiments.errors import ConfigurationError, ExitCode, ExperimentError, OneLineParser, complain
from bi_experiments.paths import folder_argument, read_result
from bi_experiments.records import ExperimentResult
from bi_experiments.signals import ends_in_order


def main(arguments: Sequence[str] | None = None) -> ExitCode:
    """Run the program; returns its exit status."""
    parser = OneLineParser(
        prog="python -m bi_experiments.operations", description="List what the profiled trials of an experiment ran."
    )
    parser.add_argument(
        "folder", type=folder_argument, metavar="FOLDER", help="output folder of an experiment with profile=true"
    )
    folder = parser.parse_args(arguments).folder
    try:
        lines = list(operations(read_result(folder)))
        if not lines:
            raise ConfigurationError(f"{folder} has no profile: run the experiment with profile=true")
    except ExperimentError as error:
        return complain(str(error), error.exit_code)
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    return ExitCode.DONE


def operations(result: ExperimentResult) -> Iterator[str]:
    """One line for each operation of each arm, the longest first; the kinds of steps are not distinguished."""
    profiles = [(phase.arm, phase.profile) for phase in result.phases if phase.profile is not None]
    lines = (
        "\t".join((arm, classify(one.name, one.within), one.within or "-", one.name))
        for arm, profile in profiles
        for one in profile.operations
    )
    yield from dict.fromkeys(lines)


if __name__ == "__main__":
    sys.exit(ends_in_order(lambda _: main()))
