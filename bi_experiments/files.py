"""Files that several processes use: atomic writes, and locks.

A lock is flock(2) on an open file: the kernel gives it back when the file is closed or its process ends, however that
ends. A file that says "locked" by existing would outlive the process that made it.
"""

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that a reader, or the next start after a crash, sees the old content or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
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


def lock(file: BinaryIO) -> None:
    """Lock an open file for this process alone, until it is closed; waits for it."""
    fcntl.flock(file, fcntl.LOCK_EX)


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
