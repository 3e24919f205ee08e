"""The limits that Linux control groups, versions 1 and 2, put on this process: CPU time and memory."""

from collections.abc import Iterator
from pathlib import Path

_UNLIMITED_BYTES = 1 << 60
"""Version 1 writes "no limit" as a number near 2**63."""


def cpu_quota(root: Path = Path("/")) -> float | None:
    """CPUs' worth of time that this process may use, the smallest of its control groups' quotas; None: no quota.

    Args:
        root: Folder that `proc` and `sys` are in.
    """
    quotas = []
    for folder in _folders(root, "cpu"):
        version_2 = _read(folder / "cpu.max").split()
        version_1 = [_read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")]
        quota, period = version_2 if len(version_2) == 2 else version_1
        if quota.isdecimal() and period.isdecimal():
            quotas.append(int(quota) / int(period))
    return min(quotas, default=None)


def memory_limit_bytes(root: Path = Path("/")) -> int | None:
    """Memory in bytes that this process may use, the smallest of its control groups' limits; None: no limit.

    Args:
        root: Folder that `proc` and `sys` are in.
    """
    texts = [
        _read(folder / name) for folder in _folders(root, "memory") for name in ("memory.max", "memory.limit_in_bytes")
    ]
    limits = [int(text) for text in texts if text.isdecimal() and int(text) < _UNLIMITED_BYTES]
    return min(limits, default=None)


def _folders(root: Path, controller: str) -> Iterator[Path]:
    """Folders of this process's control groups, from its own up to the outermost: every one of them limits it.

    Within a container the path in /proc may be the host's; then only the outermost folder exists, and it is the one.
    """
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", maxsplit=2)
        # Version 2 has one hierarchy without names; alongside version 1 it has no limits.
        if controllers and controller not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / (controller if controllers else "")
        own = mount / path.lstrip("/")
        yield own
        yield from (parent for parent in own.parents if parent.is_relative_to(mount))


def _read(file: Path) -> str:
    """The text of a file, empty when there is none."""
    try:
        return file.read_text().strip()
    except OSError:
        return ""
