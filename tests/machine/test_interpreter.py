"""What is asked of the phases' interpreter is answered in time, or the interpreter is refused."""

import re
import time
from pathlib import Path

import pytest

from bi_experiments.errors import MachineError
from bi_experiments.machine.interpreter import phase_versions


@pytest.mark.parametrize(
    ("does", "how"),
    [
        ("yes", "(SubprocessError)"),
        ("exit 3", "(CalledProcessError)"),
        ("printf '\\377'", "(UnicodeDecodeError)"),
        ("echo '[1]'", "(ValidationError)"),
        ("sleep 600", "within 1 s"),
        ("exec sleep 600 >&-", "within 1 s"),
        ("setsid sleep 20 &", "within 1 s"),  # it is gone, and a child of another session holds its output open
    ],
)
def test_what_is_not_an_interpreter_is_refused_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, does: str, how: str
) -> None:
    monkeypatch.setattr("bi_experiments.machine.interpreter.INTERPRETER_S", 1.0)
    script = tmp_path / "python"
    script.write_text(f"#!/bin/sh\n{does}\n")
    script.chmod(0o755)
    started = time.monotonic()
    with pytest.raises(MachineError, match=re.escape(f"does not report its versions {how}: set it to")) as refused:
        phase_versions(str(script))
    assert "\n" not in str(refused.value)
    assert time.monotonic() - started < 15
