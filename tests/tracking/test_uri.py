"""Stores that MLflow cannot log to are told apart without MLflow."""

import contextlib
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from bi_experiments.config.schema import TrackingConfig
from bi_experiments.errors import ConfigurationError
from bi_experiments.tracking import uri as module
from bi_experiments.tracking.log import warn_early


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("ftp://nowhere", "is not a store"),
        ("nonsense:thing", "is not a store"),
        ("./mlruns", "use sqlite:///mlflow.db"),
        ("/tmp/mlruns", "MLFLOW_ALLOW_FILE_STORE"),
        ("file:///tmp/mlruns", "MLFLOW_ALLOW_FILE_STORE"),
        ("mlruns", "MLFLOW_ALLOW_FILE_STORE"),
        ("sqlite://", "in memory"),
        ("sqlite:///", "in memory"),
        ("sqlite:///:memory:", "in memory"),
        ("sqlite:////proc/self/status/x.db", "is not a folder"),
        ("sqlite:////proc/mlflow.db", "a database in a writable folder (sqlite:////FOLDER/mlflow.db), or tracking=off"),
        ("postgresql://", "names no database"),
        ("postgresql://host", "names no database"),
        ("mysql+pymysql://host/", "names no database"),
        ("http://", "names no host"),
        ("http://host:port", "names no host"),
        ("http://a host", "names no host"),
        ("postgresql+nonsense://host/db", "needs the package of nonsense"),
        ("sqlite://mlflow.db", "two slashes are followed by a host"),
        ("sqlite+aiosqlite:///mlflow.db", "Python's own module"),
        ("s3://bucket/runs", "is not a store"),
        ("file+s3://bucket/runs", "is not a store"),
        ("dbfs:/runs", "is not a store"),
        ("databricks", "export DATABRICKS_HOST and DATABRICKS_TOKEN"),
        ("databricks://nobody", "add [nobody] to it"),
        ("databricks-uc", "is a registry of models, which keeps no runs"),
        ("uc:http://host", "is a registry of models, which keeps no runs"),
    ],
)
def test_a_store_that_cannot_be_logged_to_is_refused(uri: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_ALLOW_FILE_STORE", "DATABRICKS_HOST", "DATABRICKS_RUNTIME_VERSION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DATABRICKS_CONFIG_FILE", "/nowhere/databrickscfg")
    with pytest.raises(ConfigurationError, match=r"^tracking\.uri=") as caught:
        module.refuse_store(uri)
    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_sqlite_store_must_be_one(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("this is no database")
    with pytest.raises(ConfigurationError, match="not a SQLite database"):
        module.refuse_store(f"sqlite:///{tmp_path / 'text.db'}")
    with pytest.raises(ConfigurationError, match="it is not a file"):
        module.refuse_store(f"sqlite:///{tmp_path}")
    (tmp_path / "empty.db").touch()
    module.refuse_store(f"sqlite:///{tmp_path / 'empty.db'}")


@pytest.mark.parametrize(
    "uri",
    [
        "sqlite:///mlflow.db",
        "sqlite:///new/folder/mlflow.db",
        "http://127.0.0.1:5000",
        "https://host/path",
        "postgresql+psycopg2://ada@host:5432/mlflow",
        "databricks",
        "databricks://profile",
    ],
)
def test_a_store_that_can_be_is_let_through(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    (tmp_path / "databrickscfg").write_text("[profile]\nhost = https://host\ntoken = x%y\n")
    monkeypatch.setenv("DATABRICKS_CONFIG_FILE", str(tmp_path / "databrickscfg"))
    module.refuse_store(uri)
    assert list(folder.iterdir()) == []


class Answers(BaseHTTPRequestHandler):
    """A server that answers as its path says: /STATUS/TYPE, /drip a byte a second."""

    def do_GET(self) -> None:
        _, status, kind, *_ = self.path.split("/")
        accepted = self.headers.get("Authorization") == "Basic YWRhOnB3"  # ada:pw
        self.send_response(200 if accepted else int(status))
        self.send_header("Content-Type", {"json": "application/json", "html": "text/html", "drip": "text/plain"}[kind])
        self.end_headers()
        with contextlib.suppress(OSError):  # the client has given up
            while kind == "drip":
                self.wfile.write(b" ")
                time.sleep(0.1)
            self.wfile.write(b"{}" if kind == "json" else b"<html>log in</html>")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of that server."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as listening:
        listening.daemon_threads, listening.block_on_close = True, False
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_port}"
        listening.shutdown()


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("200/json", None),
        ("401/json", "it answers 401 Unauthorized: export MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"),
        ("403/html", "it answers 403 Forbidden: export MLFLOW_TRACKING_USERNAME"),
        ("404/html", "it answers 404 Not Found"),
        ("500/json", "it answers 500 Internal Server Error"),
        ("200/html", "it answers 200 OK with text/html, as MLflow does not: set tracking.uri to an MLflow server"),
        ("200/drip", "gave no answer within"),
    ],
)
def test_what_a_server_answers_is_said_before_the_first_phase(
    server: str, path: str, said: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("USERNAME", "PASSWORD", "TOKEN", "AUTH"):
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}", raising=False)
    if path == "200/drip":  # the others have the time that a busy machine takes
        monkeypatch.setattr(module, "ANSWER_S", 0.5)
    found = module.unreachable(f"{server}/{path}")
    assert (found is None) if said is None else (found is not None and said in found)
    warn_early(TrackingConfig(enabled=True, uri=f"{server}/{path}", experiment="x"))
    warned = capsys.readouterr().err.splitlines()
    assert len(warned) == (said is not None)
    assert all("python -m bi_experiments.track" in line for line in warned)


def test_the_early_question_logs_in_as_mlflow_does(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ada")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "pw")
    assert module.unreachable(f"{server}/401/json") is None


def test_a_host_that_does_not_exist_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "Connection refused" in str(module.unreachable("http://127.0.0.1:1"))
    assert module.unreachable("http://host.invalid") is not None


def test_a_file_store_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    module.refuse_store("./mlruns")
