"""Several experiments on one page: a sweep, or folders that are compared by hand."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from urllib.parse import quote

from bi_experiments.records import ExperimentResult
from bi_experiments.report.settings import flatten
from bi_experiments.report.summary import Summary
from bi_experiments.wording import band, signed

IGNORED = frozenset({"tracking", "gate"})
"""Groups that change nothing of what is measured."""


@dataclass(frozen=True)
class Row:
    """One experiment of the page, finished or not."""

    label: str
    """Readable name."""
    settings: dict[str, str]
    """The swept or different keys alone, with their values as text; the same keys in every row."""
    status: str
    """`done`, `failed`, `cannot run`, `running` or `missing`."""
    reason: str | None
    """One line for everything but `done`."""
    folder: str
    """The experiment's output folder, relative to the page; its `report.html` is linked where there is a result."""
    result: Summary | None
    """`Summary.of` its record; None when it has none."""


def settings_that_differ(results: Sequence[ExperimentResult | Summary]) -> list[dict[str, str]]:
    """The settings in which these experiments are not all alike, one dictionary each, in the order of the results.

    Args:
        results: Records, or what was summed up of them.

    Returns:
        Dotted key to value as text; every dictionary has the same keys. A key that one of them lacks is `-` there.
    """
    flat = [flatten(result.configuration) for result in results]
    keys = dict.fromkeys(key for one in flat for key in one if key.partition(".")[0] not in IGNORED)
    different = [key for key in keys if len({one.get(key) for one in flat}) > 1]
    return [{key: one.get(key, "-") for key in different} for one in flat]


def render_html(title: str, rows: Sequence[Row], command: str | None) -> str:
    """The page: self-contained, no network, no script.

    Args:
        title: Heading of the page.
        rows: The experiments, in the order in which they are shown.
        command: The command line that makes all of it again, if there is one.
    """
    keys = list(dict.fromkeys(key for row in rows for key in row.settings))
    head = "".join(f"<th scope=col>{escape(key)}</th>" for key in ("experiment", "status", *keys, "overhead"))
    body = "".join(_table_row(row, keys) for row in rows)
    typed = f"<pre>{escape(command)}</pre>" if command else ""
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(title)}</title><h1>{escape(title)}</h1>"
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{typed}</html>\n"
    )


def draw(rows: Sequence[Row], folder: Path) -> tuple[Path, ...]:
    """Draw the figures of the page as PNG files.

    Args:
        rows: The experiments.
        folder: Where the files go; made if it does not exist.

    Returns:
        The files, in the order of the page; none where fewer than two experiments have a result.
    """
    return ()


def _table_row(row: Row, keys: Sequence[str]) -> str:
    metric = row.result.trial_time if row.result else None
    overhead = "" if metric is None or metric.change_pct is None else signed(metric.change_pct)
    if metric is not None and metric.low_pct is not None and metric.high_pct is not None:
        overhead += f" {band(metric.low_pct, metric.high_pct)}"
    label = escape(row.label)
    if row.result is not None:
        label = f'<a href="{quote(row.folder)}/report.html">{label}</a>'
    status = escape(f"{row.status}: {row.reason}" if row.reason else row.status)
    cells = (status, *(escape(row.settings.get(key, "")) for key in keys), overhead)
    return f"<tr><th scope=row>{label}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
