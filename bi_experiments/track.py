"""`python -m bi_experiments.track FOLDER...`: log the output folders that MLflow missed, without duplicating runs."""

import sys
from collections.abc import Sequence
from pathlib import Path

from bi_experiments.analysis.invariance import judged_anew
from bi_experiments.claim import read_ended
from bi_experiments.config.credentials import without_credentials
from bi_experiments.errors import ConfigurationError, ExitCode, OneLineParser, complain, say
from bi_experiments.paths import folder_argument, with_results
from bi_experiments.signals import ends_in_order
from bi_experiments.sweep.command import record_of
from bi_experiments.sweep.folder import SweepFolder
from bi_experiments.tracking.log import log_experiment, tracking_of


def main(arguments: Sequence[str] | None = None) -> int:
    """Log every folder named on the command line and return the process's exit status."""
    parser = OneLineParser(prog="python -m bi_experiments.track", description=__doc__)
    parser.add_argument(
        "folders", nargs="+", type=folder_argument, metavar="FOLDER", help="output folder of an experiment"
    )
    parser.add_argument("--uri", help="MLflow tracking URI; default: the one that the experiment was run with")
    options = parser.parse_args(arguments)
    folders, skipped = with_results(options.folders)
    if skipped is not None:
        say(skipped)
    logged = [_track(folder, options.uri) for folder in folders]
    return ExitCode.DONE if all(logged) else ExitCode.CANNOT_RUN


def _track(folder: Path, uri: str | None) -> bool:
    try:
        result = judged_anew(read_ended(folder))
    except ConfigurationError as error:
        complain(str(error))
        return False
    tracking = tracking_of(result, uri)
    run_id = log_experiment(result, folder, tracking, parent_run_id=_sweep_run_id(folder, uri))
    if run_id is None:
        return False
    sys.stdout.write(f"{folder}: run {run_id} at {without_credentials(tracking.uri)}\n")
    return True


def _sweep_run_id(folder: Path, uri: str | None) -> str | None:
    """The run of the sweep that an experiment's folder is in, if it was logged; in another store it has none."""
    sweep = record_of(SweepFolder(folder.resolve().parent))
    return None if sweep is None or uri is not None else sweep.mlflow_run_id


if __name__ == "__main__":
    sys.exit(ends_in_order(lambda _: main()))
