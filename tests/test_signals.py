import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from bi_experiments.files import write_atomically
from bi_experiments.signals import SIGNALS, held_back
from tests.conftest import REPOSITORY


@pytest.fixture(autouse=True)
def interrupts(monkeypatch: pytest.MonkeyPatch) -> None:
    # A suite that was itself started in the background ignores SIGINT.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_a_signal_is_delivered_once_the_step_is_whole() -> None:
    steps = []
    with pytest.raises(KeyboardInterrupt), held_back():  # noqa: PT012  the steps around the signal are what is tested
        steps.append("before")
        signal.raise_signal(signal.SIGINT)
        with held_back():
            signal.raise_signal(signal.SIGINT)
        steps.append("after")
    assert steps == ["before", "after"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_what_was_ignored_stays_ignored_and_other_threads_hold_nothing_back() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with held_back():
            signal.raise_signal(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    entered = []

    def enter() -> None:
        with held_back():
            entered.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert entered == [signal.default_int_handler]


def test_a_write_is_not_cut_in_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsync = os.fsync

    def interrupted(descriptor: int) -> None:
        signal.raise_signal(signal.SIGINT)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "record", b"whole")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("record", b"whole")]


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("what", ["raise_signal(number)", "exec('raise_signal(number)')"])
def test_a_program_that_is_interrupted_says_so_by_its_exit_status(
    number: signal.Signals, what: str, tmp_path: Path
) -> None:
    (tmp_path / "program.py").write_text(
        "import sys\nfrom signal import SIG_DFL, raise_signal, signal\n"
        "from bi_experiments.signals import ends_in_order\n"
        f"number = {int(number)}\nsignal(number, SIG_DFL)\n"  # a suite in the background ignores some
        f"def program(_):\n    {what}\n    return 0\nsys.exit(ends_in_order(program))\n"
    )
    variables = {**os.environ, "PYTHONPATH": f"{REPOSITORY}{os.pathsep}{tmp_path}"}
    done = subprocess.run([sys.executable, "-m", "program"], env=variables, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "")
