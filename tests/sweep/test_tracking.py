"""The MLflow run of a sweep: what becomes of its experiments where it cannot be made in time."""

from pathlib import Path

import pytest
from msgspec.structs import replace

from bi_experiments.config.schema import TrackingConfig
from bi_experiments.files import locked, write_atomically
from bi_experiments.records import Arm, to_json
from bi_experiments.sweep.folder import SweepFolder
from bi_experiments.sweep.tracking import log, run_id_of
from bi_experiments.tracking.runs import SweepContent
from tests.sweep.test_summary import OF, done


def test_a_sweep_whose_run_another_experiment_is_making_for_too_long_costs_no_experiment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("bi_experiments.files.LOCK_LIMIT_S", 0.1)
    sweep = SweepFolder(tmp_path)
    with locked(sweep.run_id_lock):
        assert run_id_of(sweep, TrackingConfig(enabled=True)) is None
    assert "this experiment's MLflow run is not nested" in capsys.readouterr().err


def test_two_baselines_are_not_in_the_range_of_what_the_mode_costs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: list[SweepContent] = []
    monkeypatch.setattr("bi_experiments.sweep.tracking.log_sweep", lambda content, *_: logged.append(content))
    sweep = SweepFolder(tmp_path)
    write_atomically(sweep.record, to_json(OF))
    for one in (done(0, 7.5), done(1, 9.0), replace(done(2, 0.1), second_arm=Arm.CONTROL)):
        sweep.append(one)
    log(sweep, TrackingConfig(enabled=True), None)
    (content,) = logged
    assert content.metrics["overhead/lowest_pct"] == 7.5
    assert content.metrics["experiments/done"] == 3
