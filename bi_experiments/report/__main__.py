"""`python -m bi_experiments.report FOLDER...`: regenerate reports from `result.json`; compare several."""

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from bi_experiments.analysis.invariance import judged_anew
from bi_experiments.claim import still_running
from bi_experiments.errors import ConfigurationError, ExitCode, OneLineParser, complain, say
from bi_experiments.files import write_atomically
from bi_experiments.paths import OutputFolder, folder_argument, read_result, with_results
from bi_experiments.records import ExperimentResult, PhaseStatus
from bi_experiments.report.labels import short_names
from bi_experiments.report.output import write_pages, write_text
from bi_experiments.report.rows import Row, Summary
from bi_experiments.report.several import render_html, settings_that_differ
from bi_experiments.signals import ends_in_order

COMPARISON = "comparison.html"


def main(arguments: Sequence[str] | None = None) -> ExitCode:
    """Write the reports of every folder named on the command line and return the process's exit status."""
    parser = OneLineParser(
        prog="python -m bi_experiments.report",
        description="Regenerate the reports, tables and figures from result.json.",
        epilog="Given several folders, it also writes a page that compares them.",
    )
    parser.add_argument(
        "folders", nargs="+", type=folder_argument, metavar="FOLDER", help="output folder of an experiment"
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE.html", help=f"the page that compares several folders ({COMPARISON})"
    )
    options = parser.parse_args(arguments)
    if options.output is not None and options.output.suffix != ".html":
        parser.error(f"--output {options.output} is not a page: name a file that ends in .html")
    folders, skipped = with_results(options.folders)
    try:
        if skipped is not None:
            say(skipped)
        folders = _that_ended(folders)
        results = [judged_anew(read_result(folder)) for folder in folders]  # all of them, before any is written
        if options.output is not None and len(set(map(os.path.realpath, options.folders))) == 1:
            raise ConfigurationError(f"--output {options.output} is for several folders: leave it out for one")
        for folder, result in zip(folders, results, strict=True):
            write_text(result, OutputFolder(folder))
            write_pages(result, OutputFolder(folder))
            sys.stdout.write(f"{OutputFolder(folder).report_html}\n")
        if len(folders) > 1:
            page = options.output or Path(COMPARISON)
            write_atomically(page, _compare(folders, results, page).encode())
            sys.stdout.write(f"{page}\n")
    except ConfigurationError as error:
        return complain(str(error))
    except OSError as error:
        return complain(f"{error.filename or 'a report'} cannot be written: {error.strerror}")
    return ExitCode.DONE


def _that_ended(folders: Sequence[Path]) -> list[Path]:
    """All but those in which an experiment runs: until it ends, its record says that the program was killed.

    Raises:
        ConfigurationError: There are no others.
    """
    still = [folder for folder in folders if still_running(folder)]
    if still and len(still) == len(folders):
        raise ConfigurationError(f"the experiment in {still[0]} is still running: its report is written when it ends")
    if still:
        say(f"skipped while still running: {', '.join(map(str, still))}")
    return [folder for folder in folders if folder not in still]


def _compare(folders: Sequence[Path], results: Sequence[ExperimentResult], page: Path) -> str:
    summaries = [Summary.of(result) for result in results]
    names, paths = [summary.name for summary in summaries], [str(folder) for folder in folders]
    labels = short_names(names if len(set(names)) == len(names) else paths, 32)
    rows = [
        Row(
            label=label,
            settings=settings,
            status=_status(result),
            reason=None if _status(result) == "interrupted" else result.stopped,
            page=os.path.relpath(OutputFolder(folder).report_html, page.parent),
            result=summary,
        )
        for label, folder, result, summary, settings in zip(
            labels, folders, results, summaries, settings_that_differ(summaries), strict=True
        )
    ]
    command = shlex.join(["python", "-m", "bi_experiments.report", *map(str, folders), "--output", str(page)])
    return render_html(f"{len(rows)} experiments compared", rows, command, sweep=False)


def _status(result: ExperimentResult) -> str:
    if result.interrupted:
        return "interrupted"
    return "done" if {phase.status for phase in result.phases} == {PhaseStatus.OK} else "failed"


if __name__ == "__main__":
    sys.exit(ends_in_order(lambda _: main()))
