import logging
from pathlib import Path

import pytest

from bi_experiments.paths import OutputFolder
from bi_experiments.report import output
from bi_experiments.report.figures import experiment
from tests import factories


def test_everything_is_written(tmp_path: Path) -> None:
    folder = OutputFolder(tmp_path)
    output.write_text(factories.whole_result(), folder)
    output.write_pages(factories.whole_result(), folder)
    assert {path.name for path in tmp_path.iterdir()} == {
        "report.txt",
        "report.html",
        "report.md",
        "trials.csv",
        "benchmark.json",
        "figures",
    }
    figures = sorted(folder.figures.iterdir())
    assert [path.stem for path in figures] == [
        "drift",
        "init_time",
        "invariance",
        "latency",
        "overhead",
        "trial_costs",
        "trial_times",
    ]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in figures)


def test_a_figure_that_the_record_no_longer_has_is_removed(tmp_path: Path) -> None:
    folder = OutputFolder(tmp_path)
    output.write_pages(factories.whole_result(), folder)
    output.write_pages(factories.whole_result(factories.phases([7.0])), folder)
    assert not folder.figure("drift").exists()
    assert folder.figure("trial_times").exists()


def test_a_failure_to_draw_is_one_line_and_a_traceback_in_the_log(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def broken(_: object) -> None:
        raise RuntimeError("no\nfonts")

    monkeypatch.setattr(experiment, "draw", broken)
    with caplog.at_level(logging.INFO):
        output.try_write_pages(factories.whole_result(), OutputFolder(tmp_path))
    (warning,) = capsys.readouterr().err.splitlines()
    assert "RuntimeError: no fonts" in warning
    assert warning.endswith(f"python -m bi_experiments.report {tmp_path}")
    assert "Traceback" in caplog.text
    assert "broken" in caplog.text


def test_an_interruption_is_not_swallowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(experiment, "draw", interrupted)
    with pytest.raises(KeyboardInterrupt):
        output.try_write_pages(factories.whole_result(), OutputFolder(tmp_path))
