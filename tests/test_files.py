import os
from pathlib import Path

import pytest

from bi_experiments import files


def test_a_lock_that_is_held_is_waited_for_with_a_line_and_a_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(files, "SAY_AFTER_S", 0.0)
    monkeypatch.setattr(files, "LOCK_LIMIT_S", 0.2)
    path = tmp_path / "store.lock"
    with (
        files.locked(path),
        pytest.raises(TimeoutError, match=r"store\.lock is held by"),
        files.locked(path),
    ):
        pass
    assert capsys.readouterr().err.count(f"waiting for {path}, which ") == 1


def test_a_lock_is_free_again_after_its_block(tmp_path: Path) -> None:
    for _ in range(2):
        with files.locked(tmp_path / "lock"):
            pass


def test_a_file_that_cannot_be_written_is_named_as_it_would_be(tmp_path: Path) -> None:
    path = tmp_path / "report.txt"
    path.mkdir()
    with pytest.raises(IsADirectoryError) as caught:
        files.write_atomically(path, b"text")
    assert caught.value.filename == str(path)
    assert [one.name for one in tmp_path.iterdir()] == ["report.txt"]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_a_file_has_the_permissions_that_the_umask_allows(umask: int, mode: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        files.write_atomically(tmp_path / "result.json", b"{}")
    finally:
        os.umask(before)
    assert (tmp_path / "result.json").stat().st_mode & 0o777 == mode
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]
