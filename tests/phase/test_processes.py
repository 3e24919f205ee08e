"""What belongs to a phase ends with it, and nothing else does."""

import mmap
import time
from pathlib import Path

import pytest

from bi_experiments.phase import processes

HOST = {"ipc": "ipc:[4026531839]", "pid": "pid:[4026531836]"}
CONTAINER = {"ipc": "ipc:[4026532500]", "pid": "pid:[4026532501]"}


@pytest.fixture
def segments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(processes, "_SHARED_MEMORY", tmp_path)
    for name in ("psm_left", "torch_left", "other"):
        (tmp_path / name).write_bytes(bytes(mmap.PAGESIZE))
    return tmp_path


@pytest.mark.parametrize(
    ("namespaces", "left"),
    [
        (HOST, {"other"}),
        (CONTAINER, {"other"}),
        # docker run --ipc=host: another container's processes map it, and are not seen here
        ({**CONTAINER, "ipc": HOST["ipc"]}, {"other", "psm_left", "torch_left"}),
    ],
)
def test_shared_memory_that_no_process_maps_is_removed_where_all_of_them_are_seen(
    namespaces: dict[str, str], left: set[str], segments: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "_namespace", namespaces.__getitem__)
    processes.remove_shared_memory(0.0)
    assert {path.name for path in segments.iterdir()} == left


def test_shared_memory_that_is_older_or_mapped_stays(segments: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_namespace", HOST.__getitem__)
    processes.remove_shared_memory(time.time() + 3600)
    with (segments / "psm_left").open("r+b") as file, mmap.mmap(file.fileno(), 0):
        processes.remove_shared_memory(0.0)
        assert {path.name for path in segments.iterdir()} == {"other", "psm_left"}


def test_a_phase_is_over_when_its_processes_are_gone_however_long_they_take_to_die(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive = iter([True] * 40 + [False])
    monkeypatch.setattr(processes, "_pids", lambda: iter([123]))
    monkeypatch.setattr(processes, "_belongs", lambda *_: next(alive))
    monkeypatch.setattr("os.kill", lambda *_: None)
    processes.kill_phase(123, tmp_path)
    assert list(alive) == []


def test_a_process_that_does_not_die_is_not_waited_for_forever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_END_LIMIT_S", 0.05)
    monkeypatch.setattr(processes, "_pids", lambda: iter([123]))
    monkeypatch.setattr(processes, "_belongs", lambda *_: True)
    monkeypatch.setattr("os.kill", lambda *_: None)
    processes.kill_phase(123, tmp_path)
    assert not tmp_path.exists()
