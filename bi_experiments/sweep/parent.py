"""The process of a launcher that runs experiments concurrently: it ends with the program that the user started."""

import multiprocessing
import os
import signal
import threading
import time

POLL_S = 1.0
"""How often the parent is checked, in seconds."""


def end_with_parent() -> None:
    """Kill this process, and so the phase it waits for, when it is a worker whose parent was killed.

    Does nothing in the program's own process, and none in one that a scheduler started.
    """
    if multiprocessing.parent_process() is None:
        return
    name = "end with parent"
    if name not in {thread.name for thread in threading.enumerate()}:
        threading.Thread(target=_watch, args=(os.getppid(),), daemon=True, name=name).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(POLL_S)
    os.kill(os.getpid(), signal.SIGKILL)
