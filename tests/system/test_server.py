"""`tracking=server` against a real MLflow server, over HTTP, with PostgreSQL, user names and passwords."""

import multiprocessing
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from mlflow import MlflowClient

from bi_experiments.records import to_json
from bi_experiments.tracking.runs import PARENT
from tests import factories
from tests.conftest import REPOSITORY
from tests.system.servers import mlflow_server, postgresql
from tests.tracking.test_log import CONFIGURATION, check_that_nothing_was_lost, log_a_part

pytestmark = pytest.mark.system


@dataclass(frozen=True)
class Server:
    """An MLflow server that asks for a name and a password."""

    uri: str
    artifacts: Path
    user: str
    password: str

    @property
    def variables(self) -> dict[str, str]:
        return {"MLFLOW_TRACKING_USERNAME": self.user, "MLFLOW_TRACKING_PASSWORD": self.password}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    pytest.importorskip("flask_wtf", reason="MLflow's user names need Flask-WTF")
    folder = tmp_path_factory.mktemp("server")
    artifacts = folder / "artifacts"
    user, password = f"ann-{secrets.token_hex(8)}", secrets.token_hex(16)
    settings = folder / "auth.ini"
    settings.write_text(
        "[mlflow]\n"
        "default_permission = READ\n"
        f"database_uri = sqlite:///{folder}/auth.db\n"
        f"admin_username = {user}\n"
        f"admin_password = {password}\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    with (
        postgresql(secrets.token_hex(16)) as database,
        mlflow_server(
            folder,
            "--app-name=basic-auth",
            f"--artifacts-destination={artifacts}",
            MLFLOW_BACKEND_STORE_URI=database,
            MLFLOW_AUTH_CONFIG_PATH=str(settings),
            MLFLOW_FLASK_SERVER_SECRET_KEY=secrets.token_hex(16),
        ) as uri,
    ):
        yield Server(uri, artifacts, user, password)


@pytest.fixture
def signed_in(server: Server, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    for name, value in server.variables.items():
        monkeypatch.setenv(name, value)
    return MlflowClient(tracking_uri=server.uri)


def run(folder: Path, fake_python: Path, server: Server, **variables: str) -> "subprocess.CompletedProcess[str]":
    """A whole experiment, without an engine."""
    command = (
        "experiment=cpu_demo tracking=server hydra.run.dir=out workload.num_trials=2 workload.max_batch_size=2 "
        f"protocol.pairs=1 verify=off tracking.uri={server.uri} runtime.python={fake_python}"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    return subprocess.run(
        [sys.executable, "-m", "bi_experiments", *command.split()],
        cwd=folder,
        env={**environment, "PYTHONPATH": str(REPOSITORY), **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_experiment_reaches_the_server_and_its_password_nothing_else(
    server: Server, signed_in: MlflowClient, fake_python: Path, tmp_path: Path
) -> None:
    done = run(tmp_path, fake_python, server, **server.variables)
    assert done.returncode == 0
    # A server on a busy machine may take its time, which is said.
    assert done.stderr.replace(f"waiting for MLflow at {server.uri}\n", "") == ""
    experiment = signed_in.get_experiment_by_name("bi_experiments")
    runs = signed_in.search_runs([experiment.experiment_id])
    (parent,) = [one for one in runs if one.data.tags["kind"] == "experiment"]
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["overhead/trial_time_pct"] == pytest.approx(10, abs=1)
    assert len([one for one in runs if one.data.tags.get(PARENT) == parent.info.run_id]) == 2
    files = contents(tmp_path) | contents(server.artifacts)
    assert len([path for path in files if path.name == "result.json"]) == 2 * (1 + 2)
    said = {Path("stdout"): done.stdout.encode(), Path("runs"): repr([one.to_dictionary() for one in runs]).encode()}
    for secret in (server.user.encode(), server.password.encode()):
        assert [path for path, content in (files | said).items() if secret in content and path.name != "auth.ini"] == []


def test_without_the_password_the_results_are_on_disk_and_one_line_says_so(
    server: Server, fake_python: Path, tmp_path: Path
) -> None:
    done = run(tmp_path, fake_python, server)
    assert done.returncode == 0
    assert (tmp_path / "out" / "result.json").exists()
    early, line = done.stderr.replace(f"waiting for MLflow at {server.uri}\n", "").splitlines()
    assert early.startswith("warning: ")
    assert "401" in early
    assert line.startswith(f"warning: not logged to MLflow at {server.uri}: ")


@pytest.mark.usefixtures("signed_in")
def test_experiments_that_are_logged_at_once_lose_nothing(server: Server, tmp_path: Path) -> None:
    (tmp_path / "result.json").write_bytes(to_json(factories.experiment_result(configuration=CONFIGURATION)))
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=log_a_part, args=(server.uri, number, tmp_path, 1, 1)) for number in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    check_that_nothing_was_lost(server.uri, experiments=2, phases=4)
