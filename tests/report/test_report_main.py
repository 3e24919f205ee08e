import subprocess
import sys
from pathlib import Path

import pytest
from msgspec.structs import replace

from bi_experiments.claim import held
from bi_experiments.errors import ExitCode
from bi_experiments.paths import OutputFolder
from bi_experiments.records import INTERRUPTED, PhaseResult, PhaseStatus, to_json
from bi_experiments.report.__main__ import main
from tests import factories
from tests.conftest import REPOSITORY


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    """Output folders of two experiments that differ in their batch size; nothing but their records."""
    made = []
    for size in (8, 32):
        folder = tmp_path / f"batch {size}"
        folder.mkdir()
        record = factories.whole_result(None, f"workload.max_batch_size={size}")
        (folder / "result.json").write_bytes(to_json(record))
        made.append(folder)
    return made


def test_one_folder_gets_its_reports_as_typed(folders: list[Path]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bi_experiments.report", folders[0].name],
        cwd=folders[0].parent,
        env={"PYTHONPATH": str(REPOSITORY), "MPLCONFIGDIR": str(folders[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "batch 8/report.html\n"
    assert {path.name for path in folders[0].iterdir()} == {
        "result.json",
        "report.txt",
        "trials.csv",
        "benchmark.json",
        "report.html",
        "report.md",
        "figures",
    }
    assert not (folders[0].parent / "comparison.html").exists()


def test_several_folders_get_a_comparison_too(folders: list[Path], tmp_path: Path) -> None:
    page = tmp_path / "pages" / "both.html"
    assert main([*map(str, folders), "--output", str(page)]) == ExitCode.DONE
    text = page.read_text()
    assert 'href="../batch%208/report.html"' in text
    assert "workload.max_batch_size" in text
    assert all((folder / "report.html").exists() for folder in folders)


def test_the_comparison_is_in_the_working_folder_by_default(
    folders: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folders[0].parent)
    assert main([folder.name for folder in folders]) == ExitCode.DONE
    assert Path("comparison.html").exists()


def test_folders_without_a_record_are_skipped_with_one_line(
    folders: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("refused", "killed"):
        (tmp_path / name).mkdir()
    assert main(["refused", str(folders[0]), "killed"]) == ExitCode.DONE
    assert capsys.readouterr().err == "skipped without a result.json: refused, killed\n"
    assert (folders[0] / "report.html").exists()
    assert not Path("comparison.html").exists()


def test_an_experiment_that_still_runs_is_not_reported_as_one_that_was_killed(
    folders: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    with held(OutputFolder(folders[0])):
        assert main([str(folders[0])]) == ExitCode.CANNOT_RUN
        error = f"error: the experiment in {folders[0]} is still running: its report is written when it ends\n"
        assert capsys.readouterr().err == error
        assert main([*map(str, folders[:2])]) == ExitCode.DONE
        assert capsys.readouterr().err == f"skipped while still running: {folders[0]}\n"
    assert not (folders[0] / "report.html").exists()
    assert (folders[1] / "report.html").exists()


def test_no_folder_with_a_record_is_an_error_of_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == ExitCode.CANNOT_RUN
    captured = capsys.readouterr().err
    assert captured == f"error: {tmp_path} has no result.json: pass the output folder of an experiment\n"


@pytest.mark.parametrize(("content", "said"), [(b"{}", "is not a record (ExperimentResult)"), (b"\xff", "result.json")])
def test_a_damaged_record_is_an_error_of_one_line_and_nothing_is_written(
    content: bytes, said: str, folders: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "result.json").write_bytes(content)
    assert main([str(folders[0]), str(bad)]) == ExitCode.CANNOT_RUN
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert said in captured.err
    assert captured.err.count("\n") == 1
    assert not (folders[0] / "report.html").exists()


def test_the_page_of_several_never_takes_the_place_of_a_record(
    folders: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    record = folders[0] / "result.json"
    before = record.read_bytes()
    with pytest.raises(SystemExit) as ended:
        main([*map(str, folders), "--output", str(record)])
    assert ended.value.code == 2
    assert "name a file that ends in .html" in capsys.readouterr().err
    assert record.read_bytes() == before


def test_one_experiment_by_two_names_is_reported_once(
    folders: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    link = tmp_path / "link"
    link.symlink_to(folders[0])
    assert main([str(folders[0]), str(link), str(folders[0] / ".." / folders[0].name)]) == ExitCode.DONE
    assert capsys.readouterr().out == f"{folders[0]}/report.html\n"


def test_a_loop_of_links_has_no_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    assert main([str(loop)]) == ExitCode.CANNOT_RUN
    assert capsys.readouterr().err.count("\n") == 1


def test_an_output_for_one_folder_is_refused(folders: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(folders[0]), "--output", "x.html"]) == ExitCode.CANNOT_RUN
    assert capsys.readouterr().err == "error: --output x.html is for several folders: leave it out for one\n"


def test_a_page_that_cannot_be_written_is_an_error_of_one_line(
    folders: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert main([*map(str, folders), "--output", str(tmp_path / "file" / "x.html")]) == ExitCode.CANNOT_RUN
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert "cannot be written" in error
    assert error.count("\n") == 1


def test_an_interrupted_experiment_is_called_so_once(folders: list[Path], tmp_path: Path) -> None:
    last = replace(factories.phases()[0], status=PhaseStatus.INTERRUPTED, error="interrupted")
    record = factories.whole_result([last], stopped="it was interrupted", comparison=None)
    (folders[0] / "result.json").write_bytes(to_json(record))
    page = tmp_path / "both.html"
    assert main([*map(str, folders), "--output", str(page)]) == ExitCode.DONE
    assert "1 interrupted" in page.read_text()
    assert "interrupted: it was" not in page.read_text()


@pytest.mark.parametrize("phases", [factories.phases(), []])
def test_an_experiment_that_was_interrupted_between_two_phases_is_not_done(
    phases: list[PhaseResult], folders: list[Path], tmp_path: Path
) -> None:
    record = factories.whole_result(phases, stopped=INTERRUPTED, comparison=None)
    (folders[0] / "result.json").write_bytes(to_json(record))
    page = tmp_path / "both.html"
    assert main([*map(str, folders), "--output", str(page)]) == ExitCode.DONE
    assert "1 interrupted" in page.read_text()
