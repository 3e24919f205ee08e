"""How many pairs would it take? From the spread of an experiment that was run.

    python -m bi_experiments.plan FOLDER [--tell 2] [--show 1]

`--tell 2`: pairs that distinguish a change of 2 % from none, in 80 % of experiments if the deviation is as estimated.
`--show 1`: pairs that show a change to be less than 1 % when there is none. Each may be given several times;
without either, the targets are the report's.
"""

import argparse
import sys
from collections.abc import Sequence

from bi_experiments.analysis.metrics import UNEQUAL_TOKENS
from bi_experiments.analysis.pairs import complete_pairs, equal_tokens
from bi_experiments.claim import read_ended
from bi_experiments.errors import ConfigurationError, ExitCode, ExperimentError, OneLineParser, complain
from bi_experiments.paths import folder_argument
from bi_experiments.report.planning import planning
from bi_experiments.signals import ends_in_order


def main(arguments: Sequence[str] | None = None) -> ExitCode:
    """Run the program; returns its exit status."""
    parser = OneLineParser(
        prog="python -m bi_experiments.plan", description="How many pairs would it take, from an experiment's spread?"
    )
    parser.add_argument(
        "folder",
        type=folder_argument,
        metavar="FOLDER",
        help="output folder of an experiment with two complete pairs or more",
    )
    parser.add_argument(
        "--tell",
        type=_per_cent,
        action="append",
        default=[],
        metavar="X",
        help="a change to tell from none, in per cent",
    )
    parser.add_argument(
        "--show", type=_per_cent, action="append", default=[], metavar="X", help="a bound to stay below, in per cent"
    )
    options = parser.parse_args(arguments)
    try:
        result = read_ended(options.folder)
        said = planning(result, options.tell, options.show)
        if not said and not equal_tokens(complete_pairs(result.phases)):
            raise ConfigurationError(
                f"{options.folder}: {UNEQUAL_TOKENS}, and no number of pairs makes up for it; run it with "
                "workload.ignore_eos=true"
            )
        if not said:
            raise ConfigurationError(f"{options.folder} has no two complete pairs that differ: run it with more pairs")
    except ExperimentError as error:
        return complain(str(error), error.exit_code)
    sys.stdout.write("\n".join(said) + "\n")
    return ExitCode.DONE


def _per_cent(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not possible: pass a number of per cent above 0")
    return value


if __name__ == "__main__":
    sys.exit(ends_in_order(lambda _: main()))
