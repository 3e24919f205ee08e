"""The death of an engine's process, seen from the phase: in a process of its own, which it ends."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

PROGRAM = """
import multiprocessing, os, signal, sys, threading, time
from bi_experiments.phase import watch
watch.GRACE_S = 0.2
child = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(600,), name="EngineCore_DP0")
if __name__ == "__main__":
    child.start()
    guard = watch.EngineWatch(lambda event: print(event.error, flush=True))
    guard.start()
    if sys.argv[1] == "stopped":
        guard.stop()
    os.kill(child.pid, signal.SIGKILL)
    if sys.argv[1] == "stopped":
        time.sleep(1)
        print("went on")
    else:
        threading.Event().wait(60)  # as in a call to an engine that does not answer
"""


@pytest.mark.parametrize(
    ("how", "said", "code"),
    [
        ("running", "the engine's process ended while it was needed: EngineCore_DP0 (SIGKILL)\n", 1),
        ("stopped", "went on\n", 0),
    ],
)
def test_a_killed_engine_core_ends_the_phase_at_once(tmp_path: Path, how: str, said: str, code: int) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, str(program), how],
        env={"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.returncode) == (said, code), done.stderr
