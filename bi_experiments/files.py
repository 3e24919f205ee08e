"""Files that several processes share, written whole and locked.

A lock is flock(2) on an open file: the kernel gives it back when the file is closed or its process ends, however that
ends. A file that says "locked" by existing would outlive the process that made it.
"""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from bi_experiments.errors import say
from bi_experiments.signals import held_back

POLL_S = 0.02
"""How often a lock that is held is asked for again, in seconds."""
SAY_AFTER_S = 10.0
"""After how long a wait, and the process that causes it, is reported, in seconds."""
LOCK_LIMIT_S = 600.0
"""Longest wait for a lock, in seconds: most are held for seconds, the longest during a call to a tracking server."""


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that a reader, or the next start after a crash, sees the old content or the new, never a part.

    Raises:
        OSError: It cannot be written; the error names it, and not the file that takes its place for a moment.
    """
    try:
        with held_back():
            _write_and_rename(path, data)
    except OSError as error:
        raise type(error)(error.errno, error.strerror, str(path)) from error


def _write_and_rename(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid4().hex[:8]}")
    try:
        with temporary.open("xb") as file:  # unlike mkstemp(3)'s, with the permissions that the umask allows
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file, which is made where it is missing and left there; waits until no other process holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        lock(file)
        yield


def lock(file: BinaryIO, limit_s: float | None = None) -> None:
    """Lock an open file for this process alone, until it is closed; waits for it, and says so when that takes long.

    Args:
        file: Open file; closing it gives the lock back.
        limit_s: Longest wait, in seconds; None: `LOCK_LIMIT_S`.

    Raises:
        TimeoutError: Another process held it for longer.
    """
    limit_s = LOCK_LIMIT_S if limit_s is None else limit_s
    started, said = time.monotonic(), False
    while not try_lock(file):
        waited_s = time.monotonic() - started
        if waited_s > limit_s:
            raise TimeoutError(f"{file.name} is held by {_holder(file)} for more than {limit_s:g} s: end it first")
        if waited_s > SAY_AFTER_S and not said:
            said = True
            say(f"waiting for {file.name}, which {_holder(file)} holds")
        time.sleep(POLL_S)


def _holder(file: BinaryIO) -> str:
    """The process that holds a lock on a file, from proc_locks(5)."""
    inode = os.fstat(file.fileno()).st_ino
    try:
        locks = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
        pids = [words[4] for words in locks if words[1] == "FLOCK" and words[5].endswith(f":{inode}")]
        return f"process {pids[0]}" if pids else "another process"
    except (OSError, IndexError):
        return "another process"


def try_lock(file: BinaryIO, *, shared: bool = False) -> bool:
    """Lock an open file without waiting.

    Args:
        file: Open file; closing it gives the lock back.
        shared: Whether other shared locks are allowed alongside this one.

    Returns:
        Whether it is locked now; False when another process holds it.
    """
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
