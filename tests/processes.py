"""Waiting for other processes."""

import signal
import time
from collections.abc import Callable, Iterator

import psutil
import pytest


def heed_signals() -> None:
    """For a process that is about to be started: what runs in the background, or by nohup, hands on what it ignores."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def wait_for(condition: Callable[[], bool], limit_s: float = 20) -> None:
    for _ in ticks(limit_s):
        if condition():
            return
    pytest.fail("it did not happen in time")


def gone(pid: int) -> bool:
    """Whether the process ends within seconds (a zombie has ended)."""
    for _ in ticks(10):
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
    return False


def ticks(limit_s: float) -> Iterator[None]:
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        yield
        time.sleep(0.05)
