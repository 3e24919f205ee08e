"""The phase's ends of the two pipes to its parent: events go out, turns come in."""

import os
import signal
import threading
from pathlib import Path
from typing import Protocol

from bi_experiments.phase.processes import MARK, kill_phase
from bi_experiments.records import Event, event_to_line

TURN = b"turn\n"


class Emit(Protocol):
    """Send one event to the parent."""

    def __call__(self, event: Event) -> None:
        """Send it."""


class ParentPipes:
    """Two inherited file descriptors; vLLM's own processes do not inherit them further.

    When the turn pipe closes, the parent is gone, and the phase kills all of its processes and itself: no engine
    outlives the program that started it, however that ended.

    Args:
        events_fd: Write end of the event pipe.
        turns_fd: Read end of the turn pipe.
    """

    def __init__(self, events_fd: int, turns_fd: int) -> None:
        self._events_fd = events_fd
        self._turns_fd = turns_fd
        self._turns = threading.Semaphore(0)
        self._emitting = threading.Lock()

    def listen(self) -> None:
        """From now on take in turns, and end with the parent; processes started later do not inherit the pipes."""
        os.set_inheritable(self._events_fd, False)
        os.set_inheritable(self._turns_fd, False)
        threading.Thread(target=self._listen, daemon=True, name="turns").start()

    def emit(self, event: Event) -> None:
        """Send one event to the parent."""
        data = event_to_line(event)
        with self._emitting:  # two threads have something to say when an engine dies
            while data:
                data = data[os.write(self._events_fd, data) :]

    def wait_for_turn(self) -> None:
        """Sleep until the parent gives the next turn."""
        self._turns.acquire()

    def _listen(self) -> None:
        while line := os.read(self._turns_fd, 4096):
            self._turns.release(line.count(TURN))
        temporary = os.environ.get(MARK)
        if temporary:
            kill_phase(os.getsid(0), Path(temporary))
        os.killpg(0, signal.SIGKILL)
