from pathlib import Path

import pytest

from bi_experiments.machine.cgroups import cpu_quota, memory_limit_bytes


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


def test_the_narrowest_of_nested_groups_binds(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            "proc/self/cgroup": "0::/job/step",
            "sys/fs/cgroup/job/memory.max": "4096",
            "sys/fs/cgroup/job/step/memory.max": "max",
            "sys/fs/cgroup/job/cpu.max": "max 100000",
            "sys/fs/cgroup/job/step/cpu.max": "250000 100000",
        },
    )
    assert memory_limit_bytes(root) == 4096
    assert cpu_quota(root) == 2.5


def test_version_1(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            "proc/self/cgroup": "4:memory:/job\n2:cpu,cpuacct:/job\n0::/",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
            "sys/fs/cgroup/memory/job/memory.limit_in_bytes": "8192",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            "sys/fs/cgroup/cpu/job/cpu.cfs_quota_us": "50000",
            "sys/fs/cgroup/cpu/job/cpu.cfs_period_us": "100000",
        },
    )
    assert memory_limit_bytes(root) == 8192
    assert cpu_quota(root) == 0.5


def test_a_container_that_does_not_show_its_own_path(tmp_path: Path) -> None:
    root = tree(tmp_path, {"proc/self/cgroup": "0::/host/path", "sys/fs/cgroup/memory.max": "1024"})
    assert memory_limit_bytes(root) == 1024


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"proc/self/cgroup": "0::/", "sys/fs/cgroup/memory.max": "max", "sys/fs/cgroup/cpu.max": "max 100000"},
        {"proc/self/cgroup": "4:memory:/", "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712"},
    ],
)
def test_no_limit(tmp_path: Path, files: dict[str, str]) -> None:
    root = tree(tmp_path, files)
    assert memory_limit_bytes(root) is None
    assert cpu_quota(root) is None
