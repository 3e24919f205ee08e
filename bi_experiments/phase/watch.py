"""The death of an engine's process, noticed at once.

A call to an engine core that was killed (SIGKILL, as the kernel does when memory runs out) may wait for its answer for
ever: vLLM (0.32, 0.33) wakes callers that wait for outputs, but not those that wait for `sleep`, `wake_up` or
`collective_rpc`.
"""

import multiprocessing
import os
import signal
import threading
import time
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess

from bi_experiments.phase.pipes import Emit
from bi_experiments.records import Failed

GRACE_S = 2.0
"""Time that the phase itself has to report an error that it got from the engine, which says more."""


class EngineWatch:
    """A watch over the processes that this one has started through `multiprocessing`, which are the engine's.

    Args:
        emit: Receives `Failed` when one of them ends; the phase's process ends with it.
    """

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._stopped = threading.Event()

    def start(self) -> None:
        """Watch the processes that there are now, in a thread that sleeps until one of them ends."""
        if processes := multiprocessing.active_children():
            threading.Thread(target=self._watch, args=(processes,), daemon=True, name="engine watch").start()

    def stop(self) -> None:
        """From now on they may end."""
        self._stopped.set()

    def _watch(self, processes: list[BaseProcess]) -> None:
        wait([process.sentinel for process in processes])
        if self._stopped.wait(GRACE_S):
            return
        ended = [process for process in processes if not process.is_alive()]
        how = ", ".join(f"{process.name} ({_how(process)})" for process in ended)
        self._emit(Failed(error=f"the engine's process ended while it was needed: {how or 'unknown'}"))
        time.sleep(0.1)  # for a last line in the log
        os._exit(1)


def _how(process: BaseProcess) -> str:
    code = process.exitcode
    if code is None:
        return "no exit status"
    return signal.Signals(-code).name if code < 0 else f"exit status {code}"
