"""Stores that MLflow cannot log to are told apart without MLflow, and nothing that logs may take for ever."""

import signal
import threading
import time
from pathlib import Path

import pytest

from bi_experiments.errors import ConfigurationError
from bi_experiments.tracking import store


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
        ("postgresql://", "names no database"),
        ("postgresql://host", "names no database"),
        ("mysql+pymysql://host/", "names no database"),
        ("http://", "names no host"),
        ("http://host:port", "names no host"),
        ("http://a host", "names no host"),
        ("postgresql+nonsense://host/db", "needs the package of nonsense"),
    ],
)
def test_a_store_that_cannot_be_logged_to_is_refused(uri: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE", raising=False)
    with pytest.raises(ConfigurationError, match=r"^tracking\.uri=") as caught:
        store.refuse_store(uri)
    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_sqlite_store_must_be_one(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("this is no database")
    with pytest.raises(ConfigurationError, match="no SQLite database"):
        store.refuse_store(f"sqlite:///{tmp_path / 'text.db'}")
    with pytest.raises(ConfigurationError, match="it is no file"):
        store.refuse_store(f"sqlite:///{tmp_path}")
    (tmp_path / "empty.db").touch()
    store.refuse_store(f"sqlite:///{tmp_path / 'empty.db'}")


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
    monkeypatch.chdir(tmp_path)
    store.refuse_store(uri)
    assert list(tmp_path.iterdir()) == []


def test_a_file_store_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    store.refuse_store("./mlruns")


def test_what_never_ends_is_given_up_and_said_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "SAY_AFTER_S", 0.05)
    said: list[str] = []
    with pytest.raises(TimeoutError):
        store.within(0.2, threading.Event().wait, lambda: said.append("waiting"))
    assert said == ["waiting"]


def test_what_ends_is_returned_and_what_fails_is_raised() -> None:
    assert store.within(60, lambda: 7, pytest.fail) == 7
    with pytest.raises(ZeroDivisionError):
        store.within(60, lambda: 1 // 0, pytest.fail)


def test_an_interruption_lets_a_run_that_is_nearly_logged_be_closed() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    closed = []

    def log() -> None:
        signal.raise_signal(signal.SIGINT)  # the main thread waits for this one
        time.sleep(0.2)
        closed.append(True)

    with pytest.raises(KeyboardInterrupt):
        store.within(60, log, pytest.fail)
    assert closed == [True]
