"""Plain text: headings, wrapped paragraphs, tables."""

import re
import textwrap
from collections.abc import Sequence

RULE = "=" * 75
WIDTH = 79
"""Of prose, in characters; tables may be wider, up to 100."""
_BEFORE_UNIT = re.compile(r"(?<=\d) (?=(?:%|°C|[KMG]i?B|min|m?s)(?!\w))")
NO_BREAK = "\u00a0"
"""A space at which textwrap does not break a line."""


def heading(title: str) -> list[str]:
    """A title between two rules."""
    return [RULE, title, RULE]


def paragraph(text: str, indent: str = "", first: str | None = None) -> list[str]:
    """Prose wrapped to the report's width.

    Args:
        text: The prose.
        indent: In front of every line.
        first: In front of the first line instead.
    """
    lines = textwrap.wrap(
        _BEFORE_UNIT.sub(NO_BREAK, text),
        WIDTH,
        initial_indent=indent if first is None else first,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [line.replace(NO_BREAK, " ") for line in lines]


def table(header: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[int] = (0,)) -> list[str]:
    """Columns as wide as their widest cell, two spaces apart, right-aligned.

    Args:
        header: Titles of the columns.
        rows: Cells, one for each title.
        left: Indices of the columns that are left-aligned.
    """
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    ruled = (header, ["-" * width for width in widths], *rows)
    return [
        "  ".join(
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in ruled
    ]
