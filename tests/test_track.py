import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from mlflow import MlflowClient

from bi_experiments.claim import held
from bi_experiments.config.compose import compose
from bi_experiments.errors import ExitCode
from bi_experiments.paths import OutputFolder
from bi_experiments.records import ExperimentResult, to_json
from bi_experiments.sweep.folder import SweepFolder
from bi_experiments.sweep.records import SweepRecord
from bi_experiments.track import main
from bi_experiments.tracking.log import log_sweep, tracking_of
from bi_experiments.tracking.runs import PARENT, of_sweep
from tests import factories


def result(uri: str = "sqlite:///mlflow.db") -> ExperimentResult:
    configuration: dict[str, Any] = msgspec.to_builtins(compose(["experiment=cpu_demo", "tracking=off"]))
    configuration["tracking"]["uri"] = uri
    return factories.experiment_result(configuration=configuration)


def test_folders_that_mlflow_missed_are_logged_once(tmp_path: Path) -> None:
    """From a working folder without a store: two folders, one of them named twice."""
    for name, seconds in (("one", 0), ("two", 60)):
        record = msgspec.structs.replace(result(), started_at=factories.START + seconds)
        (tmp_path / name).mkdir()
        (tmp_path / name / "result.json").write_bytes(to_json(record))
    (tmp_path / "empty").mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "bi_experiments.track", "one", "empty", "two", "one"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("skipped without a result.json: empty\n")
    lines = done.stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == ["one", "two"]
    assert lines[0] != lines[1]
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("bi_experiments")
    assert len(client.search_runs([experiment.experiment_id])) == 2 * (1 + 6)
    assert len(list((tmp_path / "mlruns").glob("*/*/artifacts/result.json"))) == 2


def test_an_experiment_that_still_runs_is_not_logged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "result.json").write_bytes(to_json(result(f"sqlite:///{tmp_path}/mlflow.db")))
    with held(OutputFolder(tmp_path)):
        assert main([str(tmp_path)]) is ExitCode.CANNOT_RUN
    assert "is still running: wait until it has ended" in capsys.readouterr().err
    assert not (tmp_path / "mlflow.db").exists()


def test_an_experiment_of_a_sweep_is_put_under_the_sweeps_run_and_only_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{tmp_path}/mlflow.db"  # MLflow keeps a store by its address: no other test may have this one
    tracked = result(uri)
    sweep, tracking = SweepFolder(tmp_path / "sweep"), tracking_of(tracked, None)
    content = of_sweep("s", "s", 1.0, done=0, status=None, parameters={}, metrics={}, tags={}, note="")
    sweep_id = log_sweep(content, sweep.root, [], sweep.mlflow_lock, tracking)
    record = SweepRecord(
        command=(),
        started_at=1.0,
        session_started_at=1.0,
        pid=1,
        planned=1,
        skip_impossible=False,
        mlflow_run_id=sweep_id,
    )
    sweep.record.write_bytes(to_json(record))
    (sweep.root / "0").mkdir()
    (sweep.root / "0" / "result.json").write_bytes(to_json(tracked))
    assert [main(["sweep/0"]), main(["sweep/0"])] == [ExitCode.DONE, ExitCode.DONE]
    client = MlflowClient(tracking_uri=uri)
    runs = client.search_runs([client.get_experiment_by_name("bi_experiments").experiment_id])
    assert len(runs) == 1 + 1 + 6
    (experiment,) = [run for run in runs if run.data.tags["kind"] == "experiment"]
    assert experiment.data.tags[PARENT] == sweep_id


@pytest.mark.parametrize(
    ("content", "said"), [(None, "has no result.json"), (b"{}", "is not a record (ExperimentResult)")]
)
def test_a_folder_without_a_record_is_an_error_of_one_line(
    content: bytes | None, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        (tmp_path / "result.json").write_bytes(content)
    assert main([str(tmp_path)]) == ExitCode.CANNOT_RUN
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert said in captured.err
    assert captured.err.count("\n") == 1
