"""Nothing that logs may take for ever."""

import signal
import threading
import time

import pytest

from bi_experiments.tracking import store


def test_what_never_ends_is_given_up_and_said_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "SAY_AFTER_S", 0.05)
    said: list[str] = []
    with pytest.raises(TimeoutError):
        store.within(0.2, threading.Event().wait, lambda: said.append("waiting"))
    assert said == ["waiting"]


def test_what_ends_is_returned_and_what_fails_is_raised() -> None:
    assert store.within(60, lambda: 7, pytest.fail) == 7
    with pytest.raises(ZeroDivisionError):
        store.within(60, lambda: 1 // 0, pytest.fail)


def test_an_interruption_lets_a_run_that_is_nearly_logged_be_closed() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    closed = []

    def log() -> None:
        time.sleep(0.3)  # now the main thread waits for this one
        signal.raise_signal(signal.SIGINT)
        time.sleep(0.3)
        closed.append(True)

    with pytest.raises(KeyboardInterrupt):
        store.within(60, log, pytest.fail)
    assert closed == [True]
