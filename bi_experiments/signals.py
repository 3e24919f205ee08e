"""The signals that ask the program to end: how it does so, and what they must not cut in two."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

from bi_experiments.errors import ExitCode

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Those that ask the program to end."""


class Interrupted(KeyboardInterrupt):
    """Raised by a signal that asks the program to end.

    Not `KeyboardInterrupt` itself: once that has left an `exec` of a string, as of `dataclasses`, Python ends itself by
    SIGINT whatever the exit status (`run_eval_code_obj` and `Py_RunMain` of CPython), though the program caught it.
    """


class Interruption:
    """The handler of those signals: raises `Interrupted` at the first of them.

    Attributes:
        came: Whether one came; an error after it may be its consequence, as of `finally` blocks that it left undone.
    """

    def __init__(self) -> None:
        self.came = False

    def __call__(self, *_: object) -> None:
        """Interrupt what runs, once.

        Raises:
            Interrupted: It is the first of them.
        """
        if self.came:
            return  # a second Ctrl-C or SIGTERM would end the clean-up and lose the record
        self.came = True
        raise Interrupted

    def let_through(self) -> None:
        """Go on with the interruption, if there was one, where an error is dealt with.

        Raises:
            Interrupted: There was one.
        """
        if self.came:
            raise Interrupted


def ends_in_order(program: Callable[[Interruption], int]) -> int:
    """Run a program that such a signal interrupts; returns its exit status."""
    try:
        try:
            interruption = Interruption()
            _handle(interruption)
            return program(interruption)
        finally:
            _handle(signal.SIG_IGN)  # all that is left is to end
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED


def _handle(handler: Interruption | signal.Handlers) -> None:
    """Handle these signals; one that was ignored at the start stays ignored."""
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)


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
