"""Fixtures of the whole suite."""

import shlex
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture
def fake_python(tmp_path: Path) -> Path:
    """An interpreter to name as `runtime.python`: its phases have no engine (`tests/fake_phase.py`)."""
    script = tmp_path / "fake_python"
    command = shlex.join([sys.executable, str(REPOSITORY / "tests" / "fake_phase.py")])
    script.write_text(f'#!/bin/sh\nPYTHONPATH={shlex.quote(str(REPOSITORY))} exec {command} "$@"\n')
    script.chmod(0o755)
    return script
