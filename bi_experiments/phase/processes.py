"""What belongs to a phase, and ends with it: its processes, its folder for temporary files, its shared memory.

A phase leads a session, and whatever it starts inherits an environment variable. What has called setsid(2) has left the
session and still has the variable; what has cleared its environment is still in the session. Control groups would catch
both, but few containers let a program make one.
"""

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

MARK = "BI_EXPERIMENTS_PHASE"
"""Variable of a phase and all that it starts; its value is the phase's folder for temporary files."""

_END_LIMIT_S = 10.0
"""Longest wait for killed processes to end, in seconds; one that held gigabytes takes half a second."""

_POLL_S = 0.01
"""How often the processes are listed until none is left, in seconds; one that forks meanwhile is seen the next time."""

_SHARED_MEMORY = Path("/dev/shm")
_HOST_IPC, _HOST_PID = "ipc:[4026531839]", "pid:[4026531836]"
"""The host's own namespaces: constants of the kernel (include/linux/proc_ns.h)."""


def kill_phase(leader: int, temporary: Path) -> None:
    """Kill every process of a phase, wait until none is left, and remove its temporary files.

    This process itself is left out.

    Args:
        leader: Process id of the phase, which leads its session.
        temporary: The phase's folder for temporary files, the value of `MARK`.
    """
    until = time.monotonic() + _END_LIMIT_S
    while time.monotonic() < until:
        found = [pid for pid in _pids() if pid != os.getpid() and _belongs(pid, leader, temporary)]
        if not found:
            break
        for pid in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(_POLL_S)
    shutil.rmtree(temporary, ignore_errors=True)


def remove_shared_memory(since: float) -> None:
    """Remove the shared memory that killed processes of this user left behind: made since then, and mapped by none.

    Nothing in a container that has the host's (`docker run --ipc=host`), where processes that map it are not seen.

    Args:
        since: Unix time in seconds.
    """
    if _namespace("ipc") == _HOST_IPC and _namespace("pid") != _HOST_PID:
        return
    left = [path for path in (*_SHARED_MEMORY.glob("psm_*"), *_SHARED_MEMORY.glob("torch_*")) if _is_new(path, since)]
    if not left:
        return
    maps = [text for pid in _pids() if (text := _read(pid, "maps"))]
    for path in left:
        if not any(os.fsencode(path) in text for text in maps):
            path.unlink(missing_ok=True)


def _namespace(kind: str) -> str:
    try:
        return str(Path(f"/proc/self/ns/{kind}").readlink())
    except OSError:
        return ""


def _is_new(path: Path, since: float) -> bool:
    try:
        state = path.stat()
    except OSError:
        return False
    return state.st_uid == os.getuid() and state.st_ctime >= since


def _pids() -> Iterator[int]:
    return (int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal())


def _belongs(pid: int, leader: int, temporary: Path) -> bool:
    """Whether a process that is not dead yet is one of the phase's."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        marked = os.fsencode(f"{MARK}={temporary}") in _read(pid, "environ").split(b"\0")
        return (marked or os.getsid(pid) == leader) and not _is_zombie(pid)
    return False


def _is_zombie(pid: int) -> bool:
    """Whether only its parent's look at its exit status is missing; stat(5): the state follows the name in brackets."""
    return _read(pid, "stat").rpartition(b")")[2].split()[:1] in ([b"Z"], [b"X"], [])


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""
