"""What an engine's log says of paths that are not tuned; `analysis/findings/untuned.py` has the messages."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from bi_experiments.analysis.findings.untuned import ANY

MOST_MESSAGES, MOST_CHARACTERS = 20, 300
"""Messages of one log that are kept, and characters of each."""

LONGEST_LINE = 4096
"""Characters of a line that are read."""

_FOLDERS = re.compile(r"(?:/[^\s/,'\"]+)+/(?=[^\s/,'\"])")


def untuned_messages(log: Path) -> tuple[str, ...]:
    """What an engine's log says of such paths, each once, without the folders of this machine.

    Args:
        log: The log of a phase; nothing where there is none.
    """
    found: dict[str, None] = {}
    try:
        with log.open(errors="replace") as lines:
            for line in _beginnings(lines):
                if (match := ANY.search(line)) is not None:
                    said = _FOLDERS.sub("", " ".join(line[match.start() :].split()))
                    found.setdefault(said if len(said) <= MOST_CHARACTERS else f"{said[: MOST_CHARACTERS - 3]}...")
                if len(found) == MOST_MESSAGES:
                    break
    except OSError:
        return ()
    return tuple(found)


def _beginnings(lines: TextIO) -> Iterator[str]:
    """The beginning of every line: a log may have one of many megabytes, which a search would take minutes for."""
    begins = True
    while line := lines.readline(LONGEST_LINE):
        if begins:
            yield line
        begins = line.endswith("\n")
