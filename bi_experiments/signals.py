"""The signals that ask the program to end, held back from what they must not cut in two."""

import contextlib
import signal
import threading
from collections.abc import Iterator

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Those that ask the program to end."""


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Hold these signals back inside the context: the first of them is delivered at its end.

    For steps of seconds at most that would leave something behind if they were cut in two: a process that nobody ends,
    half a file. Python delivers signals to the main thread alone, so in other threads there is nothing to hold back.
    """
    arrived: list[int] = []
    before = {}
    try:
        if threading.current_thread() is threading.main_thread():
            with _blocked():
                for number in SIGNALS:
                    handler = signal.getsignal(number)
                    if handler is not None and handler is not signal.SIG_IGN:  # None: not Python's, cannot be restored
                        before[number] = handler
                        signal.signal(number, lambda found, _: arrived.append(found))
        yield
    finally:
        if before:
            with _blocked():
                for number, handler in before.items():
                    signal.signal(number, handler)
        if arrived:
            signal.raise_signal(arrived[0])


@contextlib.contextmanager
def _blocked() -> Iterator[None]:
    """No handler is called while the handlers are replaced, all of them or none."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
