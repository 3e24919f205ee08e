from pathlib import Path

import pytest

from bi_experiments.files import write_atomically
from bi_experiments.paths import OutputFolder
from bi_experiments.records import Arm


def test_a_write_replaces_the_whole_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "result.json"
    write_atomically(path, b"first, and longer")
    write_atomically(path, b"second")
    assert path.read_bytes() == b"second"
    assert [entry.name for entry in path.parent.iterdir()] == ["result.json"]


def test_a_write_that_fails_leaves_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    write_atomically(path, b"old")
    with pytest.raises(TypeError):
        write_atomically(path, "not bytes")  # type: ignore[arg-type]
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["result.json"]


def test_phase_folders_sort_in_schedule_order(tmp_path: Path) -> None:
    folder = OutputFolder(tmp_path)
    names = [folder.phase(index, Arm.BASELINE).root.name for index in range(12)]
    assert names == sorted(names)
