"""The report's files, as they are written into an experiment's output folder."""

import logging
import traceback
from pathlib import Path

from bi_experiments.errors import warn
from bi_experiments.files import write_atomically
from bi_experiments.paths import OutputFolder
from bi_experiments.records import ExperimentResult
from bi_experiments.report import exports, markdown, text

_LOGGER = logging.getLogger(__name__)


def write_text(result: ExperimentResult, folder: OutputFolder) -> None:
    """Write what needs no library: `report.txt`, and what other programs read, `trials.csv` and `benchmark.json`."""
    write_atomically(folder.report_text, text.render(result, folder.root).encode())
    write_atomically(folder.trials, exports.trials_csv(result).encode())
    write_atomically(folder.benchmark, exports.benchmark_json(result))


def write_pages(result: ExperimentResult, folder: OutputFolder) -> None:
    """Draw the figures and write them, `report.html` and `report.md`; figures of an earlier record are removed."""
    from bi_experiments.report import html
    from bi_experiments.report.figures import theme
    from bi_experiments.report.figures.drawing import Drawing
    from bi_experiments.report.figures.experiment import draw

    write_atomically(folder.report_markdown, markdown.render(result).encode())
    with theme.style():
        drawn = draw(result)
        figures = {folder.figure(one.name): one.figure for one in drawn if isinstance(one, Drawing)}
        for path, figure in figures.items():
            theme.lay_out(figure)
            write_atomically(path, theme.png(figure))
        write_atomically(folder.report_html, html.render(result, drawn).encode())
    for stale in set(folder.figures.glob("*.png")) - figures.keys():
        stale.unlink()


def try_write_pages(result: ExperimentResult, folder: OutputFolder) -> None:
    """The same for a result that has just been measured: a failure costs a warning that says how to draw it later.

    Args:
        result: The record, which is on disk.
        folder: Its output folder.
    """
    try:
        write_pages(result, folder)
    except Exception as error:  # noqa: BLE001  whatever a drawing library does, the result is on disk
        _LOGGER.info("%s", traceback.format_exc())
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        warn(
            f"the figures and pages could not be written: {reason}; {folder.result} is complete, so write them later: "
            f"python -m bi_experiments.report {Path(folder.root)}"
        )
