import multiprocessing
import os
import re
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from mlflow import MlflowClient
from msgspec.structs import replace

from bi_experiments.config.compose import compose
from bi_experiments.config.credentials import refuse_credentials, refuse_secrets, without_credentials
from bi_experiments.config.schema import TrackingConfig
from bi_experiments.errors import ConfigurationError
from bi_experiments.paths import OutputFolder
from bi_experiments.records import INTERRUPTED, Environment, ExperimentResult, PhaseStatus, from_json, to_json
from bi_experiments.tracking.log import log_experiment, log_sweep, tracking_of
from bi_experiments.tracking.runs import IDENTITY, PARENT, RunStatus, SweepContent, identity, of_sweep
from tests import factories

CONFIGURATION: dict[str, Any] = msgspec.to_builtins(compose(["experiment=cpu_demo"]))


class Store:
    """A SQLite store that the tests of this module share, since making one is slow; each has its own experiment."""

    def __init__(self, root: Path, experiment: str) -> None:
        self.root = root
        self.tracking = TrackingConfig(enabled=True, uri=f"sqlite:///{root}/mlflow.db", experiment=experiment)
        self.client = MlflowClient(tracking_uri=self.tracking.uri)

    def runs(self) -> list[Any]:
        experiment = self.client.get_experiment_by_name(self.tracking.experiment)
        runs: list[Any] = self.client.search_runs([experiment.experiment_id])
        return runs

    def parents(self) -> list[Any]:
        return [run for run in self.runs() if PARENT not in run.data.tags]

    def children(self, parent_id: str) -> list[Any]:
        children = [run for run in self.runs() if run.data.tags.get(PARENT) == parent_id]
        return sorted(children, key=lambda run: run.info.start_time)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture
def store(root: Path, request: pytest.FixtureRequest) -> Store:
    return Store(root, request.node.name)


@pytest.fixture
def result() -> ExperimentResult:
    return factories.experiment_result(configuration=CONFIGURATION)


@pytest.fixture
def folder(tmp_path: Path, result: ExperimentResult) -> Path:
    """An output folder."""
    folder = tmp_path / "out"
    (folder / "phases" / "00-baseline").mkdir(parents=True)
    (folder / "phases" / "00-baseline" / "engine.log").write_text("INFO engine\n")
    (folder / "result.json").write_bytes(to_json(result))
    return folder


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@pytest.fixture
def silent_server() -> Iterator[int]:
    """The port of a server that takes connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_an_experiment_is_a_run_with_one_child_a_phase(store: Store, result: ExperimentResult, folder: Path) -> None:
    run_id = log_experiment(result, folder, store.tracking)
    assert run_id is not None
    parent = store.client.get_run(run_id)
    assert parent.info.run_name == "demo CPU_ATTN tp1 needle"
    assert parent.info.status == "FINISHED"
    assert parent.info.start_time == round(1000 * result.started_at)
    assert parent.info.end_time == round(1000 * (result.started_at + result.wall_time_s))
    assert parent.data.metrics["cost"] == 7.4
    (workload,) = [one.dataset for one in parent.inputs.dataset_inputs]
    assert (workload.name, workload.digest) == (result.workload_kind, result.workload_digest[:36])
    assert parent.data.params["model.dtype"] == "float32"
    assert "7.4 %" in parent.data.tags["mlflow.note.content"]
    children = store.children(run_id)
    assert [child.data.tags["arm"] for child in children] == [phase.arm for phase in result.phases]
    assert all(child.info.status == "FINISHED" for child in children)
    assert all(child.data.params == parent.data.params for child in children)
    series = store.client.get_metric_history(children[0].info.run_id, "trial_time")
    assert [(point.step, point.value) for point in series] == [(0, 2.0), (1, 3.0), (2, 2.5), (3, 3.5)]


def test_a_workload_that_another_process_has_just_logged_is_the_same_one(
    store: Store, result: ExperimentResult, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_inputs, lost = MlflowClient.log_inputs, [True]

    def lose_once(client: MlflowClient, *arguments: object) -> None:
        if lost.pop() if lost else False:
            raise RuntimeError("UNIQUE constraint failed: datasets.experiment_id, datasets.name, datasets.digest")
        log_inputs(client, *arguments)

    monkeypatch.setattr(MlflowClient, "log_inputs", lose_once)
    run_id = log_experiment(result, folder, store.tracking)
    assert run_id is not None
    assert len(store.client.get_run(run_id).inputs.dataset_inputs) == 1


def test_everything_in_the_folder_is_an_artifact_but_for_what_a_resumed_start_needs(
    store: Store, result: ExperimentResult, folder: Path
) -> None:
    files = OutputFolder(folder)
    files.running_lock.touch()
    for kept_for_later in (files.caches, files.replaced):
        kept_for_later.mkdir()
        (kept_for_later / "large.bin").touch()
    run_id = log_experiment(result, folder, store.tracking)
    assert run_id is not None
    assert {file.path for file in store.client.list_artifacts(run_id)} == {"environment.json", "phases", "result.json"}
    environment = Path(store.client.download_artifacts(run_id, "environment.json", str(folder.parent)))
    assert from_json(environment.read_bytes(), Environment, environment) == result.environment
    log = store.client.list_artifacts(run_id, "phases/00-baseline")
    assert [file.path for file in log] == ["phases/00-baseline/engine.log"]
    kept = list((store.root / "mlruns").glob(f"*/{run_id}/artifacts/result.json"))
    assert [path.read_bytes() for path in kept] == [to_json(result)]


def test_a_failed_phase_is_failed_in_mlflow_with_its_reason(store: Store, folder: Path) -> None:
    baseline, other = factories.phases([7.0])
    failed = replace(other, status=PhaseStatus.FAILED, error="it broke", trials=())
    record = factories.experiment_result([baseline, failed], configuration=CONFIGURATION, comparison=None)
    run_id = log_experiment(record, folder, store.tracking)
    assert run_id is not None
    runs = [store.client.get_run(run_id), *store.children(run_id)]
    assert [run.info.status for run in runs] == ["FAILED", "FINISHED", "FAILED"]
    assert [run.data.tags.get("reason") for run in runs] == ["it broke", None, "it broke"]


def test_logging_twice_makes_no_second_run(store: Store, result: ExperimentResult, folder: Path) -> None:
    first = log_experiment(result, folder, store.tracking)
    assert log_experiment(result, folder, store.tracking) == first
    assert len(store.parents()) == 1
    log_experiment(replace(result, started_at=result.started_at + 60), folder, store.tracking)
    assert len(store.parents()) == 2


def test_what_an_interrupted_experiment_logged_is_replaced_once_it_has_gone_on(
    store: Store, result: ExperimentResult, folder: Path
) -> None:
    interrupted = replace(result, stopped=INTERRUPTED, phases=result.phases[:2], wall_time_s=result.wall_time_s / 2)
    earlier = log_experiment(interrupted, folder, store.tracking)
    run_id = log_experiment(result, folder, store.tracking)
    assert run_id not in {None, earlier}
    (run,) = store.parents()
    assert (run.info.run_id, run.info.status) == (run_id, "FINISHED")
    assert len(store.runs()) == 1 + len(result.phases)


def test_a_run_that_was_cut_off_is_logged_anew(store: Store, result: ExperimentResult, folder: Path) -> None:
    experiment_id = store.client.create_experiment(store.tracking.experiment, (store.root / "cut_off").as_uri())
    cut_off = store.client.create_run(experiment_id, tags={IDENTITY: identity(result)}).info.run_id
    store.client.create_run(experiment_id, tags={PARENT: cut_off})
    run_id = log_experiment(result, folder, store.tracking)
    assert run_id not in {None, cut_off}
    assert [run.info.run_id for run in store.parents()] == [run_id]
    assert len(store.runs()) == 1 + len(result.phases)


def sweep(done: int = 0, status: RunStatus | None = None, swept: str = "workload.max_batch_size") -> SweepContent:
    return of_sweep(
        "batch sizes",
        "it's of this sweep",
        factories.START,
        done=done,
        status=status,
        parameters={"swept": swept},
        metrics={"experiments": 3.0, "experiments_done": float(done)},
        tags={},
        note=f"{done} of 3 experiments are done.",
    )


def test_runs_nest_in_a_sweep(store: Store, result: ExperimentResult, folder: Path, tmp_path: Path) -> None:
    sweep_id = log_sweep(sweep(), tmp_path, [], tmp_path / ".lock", store.tracking)
    run_id = log_experiment(result, folder, store.tracking, parent_run_id=sweep_id)
    assert run_id is not None
    assert [run.info.run_id for run in store.parents()] == [sweep_id]
    experiment = store.client.get_run(run_id)
    assert experiment.data.tags[PARENT] == sweep_id
    assert [run.data.tags["kind"] for run in (store.parents()[0], experiment)] == ["sweep", "experiment"]
    assert {child.data.tags["kind"] for child in store.children(run_id)} == {"phase"}


def test_an_experiment_that_was_logged_before_is_put_under_its_sweep(
    store: Store, result: ExperimentResult, folder: Path, tmp_path: Path
) -> None:
    run_id = log_experiment(result, folder, store.tracking)
    sweep_id = log_sweep(sweep(), tmp_path, [], tmp_path / ".lock", store.tracking)
    assert log_experiment(result, folder, store.tracking, parent_run_id=sweep_id) == run_id
    assert [run.info.run_id for run in store.parents()] == [sweep_id]
    # Logging it again without naming the sweep leaves it there.
    assert log_experiment(result, folder, store.tracking) == run_id
    assert len(store.runs()) == 1 + 1 + len(result.phases)


def test_a_sweeps_run_is_brought_up_to_date(store: Store, tmp_path: Path) -> None:
    (tmp_path / "figures").mkdir()
    summary, figure = tmp_path / "sweep.csv", tmp_path / "figures" / "overhead.png"
    run_id = log_sweep(sweep(), tmp_path, [summary, figure], tmp_path / ".lock", store.tracking)
    assert run_id is not None
    run = store.client.get_run(run_id)
    assert (run.info.status, run.info.run_name, run.info.start_time) == (
        "RUNNING",
        "batch sizes",
        1000 * factories.START,
    )
    assert store.client.list_artifacts(run_id) == []

    summary.write_text("a,b\n")
    figure.write_bytes(b"png")
    assert log_sweep(sweep(2), tmp_path, [summary, figure], tmp_path / ".lock", store.tracking) == run_id
    summary.write_text("a,b\n1,2\n")
    assert log_sweep(sweep(3, "FINISHED"), tmp_path, [summary, figure], tmp_path / ".lock", store.tracking) == run_id
    run = store.client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.info.end_time > run.info.start_time
    assert run.data.metrics == {"experiments": 3.0, "experiments_done": 3.0}
    assert run.data.params == {"swept": "workload.max_batch_size"}
    assert run.data.tags["mlflow.note.content"] == "3 of 3 experiments are done."
    steps = store.client.get_metric_history(run_id, "experiments_done")
    assert [(point.step, point.value) for point in steps] == [(0, 0.0), (2, 2.0), (3, 3.0)]
    (kept,) = (store.root / "mlruns").glob(f"*/{run_id}/artifacts/sweep.csv")
    assert kept.read_text() == "a,b\n1,2\n"
    assert [file.path for file in store.client.list_artifacts(run_id, "figures")] == ["figures/overhead.png"]

    # Resumed: it runs again, and a parameter that was logged stays.
    assert log_sweep(sweep(3, swept="tp"), tmp_path, [], tmp_path / ".lock", store.tracking) == run_id
    run = store.client.get_run(run_id)
    assert run.info.status == "RUNNING"
    assert run.data.params == {"swept": "workload.max_batch_size"}
    assert len(store.runs()) == 1


def log_a_part(uri: str, number: int, folder: Path, times: int, pairs: int) -> None:
    """What one process of a sweep does: its experiment and the sweep's run, several times."""
    tracking = TrackingConfig(enabled=True, uri=uri, experiment="at once")
    record = factories.experiment_result(
        factories.phases([7.0] * pairs), configuration=CONFIGURATION, started_at=factories.START + number
    )
    for done in range(times):
        sweep_id = log_sweep(sweep(done), folder, [folder / "result.json"], folder / ".lock", tracking)
        log_experiment(record, folder, tracking, sweep_id)


def test_several_processes_log_the_experiments_of_one_sweep_and_lose_nothing(tmp_path: Path, folder: Path) -> None:
    """Into a store that none of them has made yet."""
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=log_a_part, args=(uri, number, folder, 3, 3)) for number in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    check_that_nothing_was_lost(uri, experiments=3, phases=18)


def check_that_nothing_was_lost(uri: str, experiments: int, phases: int) -> None:
    client = MlflowClient(tracking_uri=uri)
    runs = client.search_runs([client.get_experiment_by_name("at once").experiment_id])
    kinds = Counter(run.data.tags["kind"] for run in runs)
    assert kinds == {"sweep": 1, "experiment": experiments, "phase": phases}
    for run in runs:
        kind = run.data.tags["kind"]
        if kind == "phase":
            assert run.info.status == "FINISHED"
            assert len(client.get_metric_history(run.info.run_id, "trial_time")) == 4
        else:
            assert "result.json" in {file.path for file in client.list_artifacts(run.info.run_id)}


def test_nothing_is_logged_when_tracking_is_off(
    result: ExperimentResult, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tracking = TrackingConfig(enabled=False, uri="http://127.0.0.1:1", experiment="x")
    assert log_experiment(result, folder, tracking) is None
    assert log_sweep(sweep(), folder, [], folder / ".lock", tracking) is None
    assert capsys.readouterr().err == ""


def test_a_server_that_is_down_costs_one_line(
    closed_port: int, result: ExperimentResult, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    uri = f"http://127.0.0.1:{closed_port}"
    tracking = TrackingConfig(enabled=True, uri=uri, experiment="x")
    recorded = replace(result, configuration={**result.configuration, "tracking": {"uri": uri}})
    for record, where in ((recorded, ""), (result, f" --uri {uri}")):  # the store of the record is the default
        assert log_experiment(record, folder, tracking) is None
        captured = capfd.readouterr()
        assert captured.out == ""
        assert captured.err == (
            f"warning: not logged to MLflow at {uri}: [Errno 111] Connection refused; "
            f"the results are in {folder}, to log them later: python -m bi_experiments.track {folder}{where}\n"
        )


def test_a_server_that_does_not_answer_is_given_up(
    silent_server: int,
    result: ExperimentResult,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")  # the user's own value wins
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    tracking = TrackingConfig(enabled=True, uri=f"http://127.0.0.1:{silent_server}", experiment="x")
    assert log_experiment(result, folder, tracking) is None
    assert ["timed out" in line for line in capsys.readouterr().err.splitlines()] == [True]


@pytest.mark.parametrize("uri", ["sqlite:////proc/nowhere/mlflow.db", "nonsense://x"])
def test_a_store_that_cannot_be_costs_one_line(
    uri: str, result: ExperimentResult, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tracking = TrackingConfig(enabled=True, uri=uri, experiment="x")
    assert log_experiment(result, folder, tracking) is None
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("scheme", ["http", "postgresql"])
def test_a_password_in_the_uri_is_in_no_warning_and_no_log(
    scheme: str,
    closed_port: int,
    result: ExperimentResult,
    folder: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tracking = TrackingConfig(
        enabled=True, uri=f"{scheme}://someone:hush-%2Fhush@127.0.0.1:{closed_port}/db", experiment="x"
    )
    with caplog.at_level("DEBUG"):
        assert log_experiment(result, folder, tracking) is None
    (warning,) = capsys.readouterr().err.splitlines()
    assert caplog.text
    assert "hush" not in warning + caplog.text


def test_a_password_in_the_uri_is_in_no_run(store: Store, result: ExperimentResult, folder: Path) -> None:
    # SQLite ignores what it does not know in the query, so that a real store can be asked.
    store.tracking.uri += "?password=hush"
    store.client = MlflowClient(tracking_uri=store.tracking.uri)
    run_id = log_experiment(result, folder, store.tracking)
    assert run_id is not None
    assert "hush" not in "".join(str(run.to_dictionary()) for run in store.runs())


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("sqlite:///mlflow.db", "sqlite:///mlflow.db"),
        ("sqlite:////home/a@b/mlflow.db", "sqlite:////home/a@b/mlflow.db"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("https://someone:hush@host:5000/path", "https://host:5000/path"),
        ("https://token@host", "https://host"),
        ("postgresql://someone:hu/s@h@host/db", "postgresql://host/db"),
        ("postgresql+psycopg2://host/db?user=someone&password=hush", "postgresql+psycopg2://host/db"),
        ("postgresql://host/db?password=hush&sslmode=require", "postgresql://host/db?sslmode=require"),
    ],
)
def test_a_uri_is_shown_without_credentials(uri: str, shown: str) -> None:
    assert without_credentials(uri) == shown


def test_typed_credentials_are_refused_and_those_of_the_environment_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    uri = "https://someone:hush@host:5000"
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    refuse_credentials("https://host:5000")
    with pytest.raises(ConfigurationError, match="MLFLOW_TRACKING_PASSWORD") as refused:
        refuse_credentials(uri)
    assert "hush" not in str(refused.value)
    with pytest.raises(ConfigurationError, match=f"^{re.escape(str(refused.value))}$"):
        refuse_secrets({"tracking": {"uri": uri}})
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    refuse_credentials(uri)


def test_nothing_global_is_left_behind(store: Store, result: ExperimentResult, folder: Path) -> None:
    import mlflow

    environment, uri = dict(os.environ), mlflow.get_tracking_uri()
    log_experiment(result, folder, store.tracking)
    assert dict(os.environ) == environment
    assert mlflow.get_tracking_uri() == uri
    assert mlflow.active_run() is None


def test_importing_it_does_not_import_mlflow() -> None:
    code = "import sys, bi_experiments.tracking, bi_experiments.track; print('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_the_record_says_where_to_and_the_variables_bring_the_password(monkeypatch: pytest.MonkeyPatch) -> None:
    tracking = {**CONFIGURATION["tracking"], "uri": "postgresql://host/db"}
    record = factories.experiment_result(configuration={**CONFIGURATION, "tracking": tracking})
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking_of(record, None).uri == "postgresql://host/db"
    assert tracking_of(record, "http://other").uri == "http://other"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://someone:hush@host/db")
    assert tracking_of(record, None).uri == "postgresql://someone:hush@host/db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://someone:hush@elsewhere/db")
    assert tracking_of(record, None).uri == "postgresql://host/db"
