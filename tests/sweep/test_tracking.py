"""The MLflow run of a sweep: what becomes of its experiments where it cannot be made in time."""

from pathlib import Path

import pytest

from bi_experiments.config.schema import TrackingConfig
from bi_experiments.files import locked
from bi_experiments.sweep.folder import SweepFolder
from bi_experiments.sweep.tracking import run_id_of


def test_a_sweep_whose_run_another_experiment_is_making_for_too_long_costs_no_experiment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("bi_experiments.files.LOCK_LIMIT_S", 0.1)
    sweep = SweepFolder(tmp_path)
    with locked(sweep.run_id_lock):
        assert run_id_of(sweep, TrackingConfig(enabled=True)) is None
    assert "this experiment's MLflow run is not nested" in capsys.readouterr().err
