"""The table of faults in the docs: every row names the tests that hold it, and these exist."""

import re

from tests.conftest import REPOSITORY


def test_every_row_names_tests_that_exist() -> None:
    rows = [line for line in (REPOSITORY / "docs" / "faults.md").read_text().splitlines() if line.startswith("| ")][1:]
    sources = "".join(path.read_text() for path in (REPOSITORY / "tests").rglob("test_*.py"))
    there = set(re.findall(r"def (test_\w+)\(", sources))
    assert len(rows) > 20
    for row in rows:
        named = re.findall(r"`(test_\w+)`", row)
        assert named, row
        assert set(named) <= there, row
