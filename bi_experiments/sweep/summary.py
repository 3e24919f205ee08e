"""The summary of a sweep, made from what its experiments have written: table, `sweep.csv`, `sweep.html`, figures.

Each process that finishes an experiment rewrites it. Writing takes longer the more experiments there are, so it is
skipped while it would take more than a fiftieth of the time, but never at the end of the sweep.
"""

import csv
import io
import logging
import sys
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec

from bi_experiments.analysis.agreement import Alike, outputs_alike
from bi_experiments.analysis.engines import changed_sentence
from bi_experiments.errors import ExitCode, warn
from bi_experiments.files import locked, write_atomically
from bi_experiments.paths import OutputFolder
from bi_experiments.report.layout import paragraph, table
from bi_experiments.report.rows import Row, Summary
from bi_experiments.report.several import draw, render_html
from bi_experiments.sweep import confirmation
from bi_experiments.sweep.command import labels, record_of, settings_of, that_differ, typed_sweep
from bi_experiments.sweep.confirmation import measured_once
from bi_experiments.sweep.folder import SweepFolder
from bi_experiments.sweep.records import ExperimentRecord, Status, SweepRecord
from bi_experiments.wording import AA, band, change_text, count, invariance_word, shortened, signed

_LOGGER = logging.getLogger(__name__)

SHARE_OF_TIME = 0.02
"""Largest part of a sweep's time that goes into writing its summary."""

MOST_SEVERE_FIRST = (
    ExitCode.INTERRUPTED,
    ExitCode.PHASE_FAILED,
    ExitCode.INVARIANCE_VIOLATED,
    ExitCode.OVER_GATE,
    ExitCode.GATE_UNDECIDED,
    ExitCode.CANNOT_RUN,
)
"""The exit codes of experiments, in the order in which one of them becomes the sweep's."""

ALL_ROWS = 40
"""Experiments of which the terminal shows every one."""
SOME_ROWS = 10
"""Of more experiments, how many of each kind it shows."""


class Stamp(msgspec.Struct, frozen=True):
    """When the summary was last written."""

    at: float
    """Unix time in seconds."""
    took_s: float


def write(sweep: SweepFolder, at_any_rate: bool = False) -> bool:
    """Write the summary's files from what is on disk, one process at a time.

    Args:
        sweep: The sweep's folder.
        at_any_rate: Even if that takes a large part of the time since it was last written.

    Returns:
        Whether they were written.
    """
    with locked(sweep.summary_lock):
        stamp = _stamp(sweep)
        if not at_any_rate and stamp is not None and time.time() - stamp.at < stamp.took_s / SHARE_OF_TIME:
            return False
        started = time.time()
        records, sweep_record = sweep.read(), record_of(sweep)
        write_atomically(sweep.csv, to_csv(records, sweep_record).encode())
        try:
            _write_page(sweep, records, sweep_record)
        except Exception as error:  # noqa: BLE001  whatever a drawing library does, the sweep continues
            _LOGGER.info("%s", traceback.format_exc())
            warn(f"{sweep.html} could not be written: {type(error).__name__}: {error}")
        now = time.time()
        write_atomically(sweep.summary_stamp, msgspec.json.encode(Stamp(now, now - started)))
    return True


def _write_page(sweep: SweepFolder, records: Sequence[ExperimentRecord], sweep_record: SweepRecord | None) -> None:
    rows = to_rows(sweep, measured_once(records), sweep_record)
    title = f"Sweep of {count(len(rows), 'experiment')}"
    draw(rows, sweep.figures)
    write_atomically(
        sweep.html,
        render_html(
            title,
            rows,
            typed_sweep(sweep_record.command) if sweep_record else None,
            confirmation.said(records, sweep_record),
        ).encode(),
    )


def finish(sweep: SweepFolder) -> ExitCode:
    """Write the summary, show it on the terminal, and return the sweep's exit code."""
    write(sweep, at_any_rate=True)
    records, sweep_record = sweep.read(), record_of(sweep)
    sys.stdout.write("\n" + "\n".join([*to_text(records, sweep_record), "", f"Summary: {sweep.html}"]) + "\n")
    sys.stdout.flush()
    return exit_code(records, skip_impossible=sweep_record is not None and sweep_record.skip_impossible)


def exit_code(records: Sequence[ExperimentRecord], skip_impossible: bool) -> ExitCode:
    """The most severe exit code of the experiments.

    Args:
        records: All experiments of the sweep.
        skip_impossible: Whether those that cannot run here are ignored; if none could run, that is still reported.
    """
    codes = {record.exit_code for record in records}
    if skip_impossible and any(record.status is not Status.CANNOT_RUN for record in records):
        codes.discard(ExitCode.CANNOT_RUN)
    return next((code for code in MOST_SEVERE_FIRST if code in codes), ExitCode.DONE)


def first_failure(sweep: SweepFolder) -> ExperimentRecord | None:
    """The first experiment that failed, or could not run, since the sweep was last started."""
    sweep_record = record_of(sweep)
    bad = {Status.FAILED, Status.INTERRUPTED}
    if sweep_record is None or not sweep_record.skip_impossible:
        bad.add(Status.CANNOT_RUN)
    since = sweep_record.session_started_at if sweep_record else 0.0
    return next((record for record in sweep.read() if record.status in bad and record.at >= since), None)


# --- One experiment ---------------------------------------------------------------------------------------------------


def outcome(record: ExperimentRecord) -> str:
    """What became of an experiment, in a few words: overhead and verdict, or why it has no result."""
    if record.status is not Status.DONE:
        return f"{record.status}: {record.reason}" if record.reason else record.status.value
    parts = [] if record.change_pct is None else [signed(record.change_pct)]
    if record.low_pct is not None and record.high_pct is not None:
        parts.append(band(record.low_pct, record.high_pct))
    if record.invariance is not None and not record.control:
        parts.append(f"invariance {invariance_word(record.invariance)}")
    said = " ".join(parts) or "no complete pair"
    return f"{AA} {said}" if record.control else said


# --- All of them ------------------------------------------------------------------------------------------------------


def to_text(records: Sequence[ExperimentRecord], sweep_record: SweepRecord | None) -> list[str]:
    """The summary for the terminal; of many experiments, the failures and the extremes."""
    said, records = confirmation.said(records, sweep_record), measured_once(records)
    counts = Counter(str(record.status) for record in records)
    planned = f" of {sweep_record.planned}" if sweep_record and sweep_record.planned else ""
    lines = [f"Sweep{planned}: {', '.join(f'{number} {status}' for status, number in counts.items())}."]
    for title, some in _parts(records):
        lines += ["", *([title] if title else []), *_table(some, sweep_record)]
    lines += ["", *paragraph(said)] if said is not None else []
    alike = [one.sentence for one in alike_in(records, sweep_record)]
    return [*lines, *(["", *alike] if alike else [])]


def alike_in(records: Sequence[ExperimentRecord], sweep_record: SweepRecord | None) -> list[Alike]:
    """Whether the second arm's outputs of the probes alone are the same in all experiments of a sweep."""
    names = labels(records, sweep_record)
    return outputs_alike(
        [(names[one.number], one.alone) for one in records if one.alone is not None and not one.control]
    )


def _parts(records: Sequence[ExperimentRecord]) -> list[tuple[str, Sequence[ExperimentRecord]]]:
    if len(records) <= ALL_ROWS:
        return [("", records)] if records else []
    costs = [one for one in records if one.change_pct is not None and not one.control]
    measured = sorted(costs, key=lambda one: one.change_pct or 0.0)
    controls = [one for one in records if one.change_pct is not None and one.control]
    others = [one for one in records if one.status is not Status.DONE]
    parts = [
        ("The lowest costs:", measured[:SOME_ROWS]),
        ("The highest costs:", measured[SOME_ROWS:][-SOME_ROWS:]),
        (f"{AA} (two baselines), the first of {len(controls)}:", controls[:SOME_ROWS]),
        (f"Not done, the first of {len(others)}:", others[:SOME_ROWS]),
    ]
    return [(title, some) for title, some in parts if some]


def _table(records: Sequence[ExperimentRecord], sweep_record: SweepRecord | None) -> list[str]:
    settings = [settings_of(record, sweep_record) for record in records]
    keys = list(dict.fromkeys(key for one in settings for key in one))
    rows = [
        (str(record.number), *(shortened(one.get(key, "-"), 24) for key in keys), *_cells(record))
        for record, one in zip(records, settings, strict=True)
    ]
    header = ("#", *keys, "change %", "95 % interval", "invariance", "status")
    reasons = [f"{record.number}: {record.reason}" for record in records if record.reason]
    for differs in dict.fromkeys(record.differs for record in records if record.differs):
        rows_of = ", ".join(str(record.number) for record in records if record.differs == differs)
        reasons += paragraph(f"{rows_of}: {changed_sentence(differs)}")
    return [*table(header, rows, left=(*range(1, 1 + len(keys)), len(keys) + 3, len(keys) + 4)), *reasons]


def _cells(record: ExperimentRecord) -> tuple[str, str, str, str]:
    change = "-" if record.change_pct is None else change_text(record.change_pct)
    interval = "-"
    if record.low_pct is not None and record.high_pct is not None:
        interval = f"{change_text(record.low_pct)} .. {change_text(record.high_pct)}"
    verdict = AA if record.control else invariance_word(record.invariance) if record.invariance else "-"
    return change, interval, verdict, str(record.status)


def to_csv(records: Sequence[ExperimentRecord], sweep_record: SweepRecord | None) -> str:
    """The summary as a table for programs: one row an experiment, empty where nothing is known."""
    settings = [settings_of(record, sweep_record) for record in records]
    keys = list(dict.fromkeys(key for one in settings for key in one))
    columns = {
        field.encode_name: field.name
        for field in msgspec.structs.fields(ExperimentRecord)
        if field.name not in {"overrides", "identity", "at"}
    }
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*keys, *columns])
    for record, one in zip(records, settings, strict=True):
        values = (getattr(record, name) for name in columns.values())
        writer.writerow([*(one.get(key, "") for key in keys), *("" if value is None else value for value in values)])
    return text.getvalue()


def to_rows(sweep: SweepFolder, records: Sequence[ExperimentRecord], sweep_record: SweepRecord | None) -> list[Row]:
    """The rows of the page, named by what differs between them."""
    settings = that_differ([settings_of(record, sweep_record) for record in records])
    keys = list(dict.fromkeys(key for one in settings for key in one))
    names = labels(records, sweep_record)
    return [
        Row(
            label=names[record.number],
            settings={key: one.get(key, "-") for key in keys},
            status=str(record.status),
            reason=record.reason,
            page=_page(sweep, record),
            result=_summed_up(sweep.root / record.folder) if record.change_pct is not None else None,
        )
        for record, one in zip(records, settings, strict=True)
    ]


def _page(sweep: SweepFolder, record: ExperimentRecord) -> str | None:
    """Where the experiment's report is, if it was written: short ones have a text alone."""
    report = OutputFolder(sweep.root / record.folder).written_report()
    return None if report is None else str(report.relative_to(sweep.root))


def sum_up(summary: Summary, folder: Path) -> None:
    """Keep what a page shows of an experiment next to its record, which may be a hundred times as large."""
    write_atomically(folder / "summary.json", msgspec.json.encode(summary))


def _summed_up(folder: Path) -> Summary | None:
    try:
        return msgspec.json.decode((folder / "summary.json").read_bytes(), type=Summary)
    except (OSError, msgspec.DecodeError):
        return None


def _stamp(sweep: SweepFolder) -> Stamp | None:
    try:
        return msgspec.json.decode(sweep.summary_stamp.read_bytes(), type=Stamp)
    except (OSError, msgspec.DecodeError):
        return None
