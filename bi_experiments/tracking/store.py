"""A connection to an MLflow store or server that gives up within seconds, and leaves nothing global behind."""

import contextlib
import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote

from bi_experiments.files import SAY_AFTER_S, locked

if TYPE_CHECKING:
    from mlflow import MlflowClient

T = TypeVar("T")

_SETTINGS = {
    # A server that is down costs seconds: MLflow's own defaults would retry for minutes.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    # The terminal belongs to the report, the network to the tracking server.
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
"""Of MLflow, while it is used; the user's own values win."""

COST_VIEW = "cost"
"""Share key of a view of the runs in MLflow's UI: the experiments, the most expensive first."""

_EXPERIMENT_TAGS = {
    # MLflow's UI opens with the runs, not with what is for agents.
    "mlflow.experimentKind": "custom_model_development",
    f"mlflow.sharedViewState.{COST_VIEW}": json.dumps(
        {
            "searchFilter": "tags.kind = 'experiment'",
            "orderByKey": "metrics.`cost`",
            "orderByAsc": False,
            "selectedColumns": [
                # The UI sorts metrics by name, and leaves tags in this order.
                "metrics.`cost`",
                *(f"tags.`{name}`" for name in ("low", "high", "verdict", "holds")),
                *(f"tags.`{name}`" for name in ("model", "backend", "tp", "batch", "release")),
            ],
        }
    ),
}
"""Of the MLflow experiment; the view is the state that the UI itself writes when one is shared."""

CONNECT_TIMEOUT_S = 5
"""Longest wait for a database."""


INTERRUPTED_S = 30.0
"""Time that logging has to come to its end once the program was interrupted, in seconds."""
LIMIT_S = 900.0
"""Longest time that logging an experiment may take, in seconds."""


def within(limit_s: float, work: Callable[[], T], waiting: Callable[[], None]) -> T:
    """Do something that may never end: a server may send a byte a second, another process may hold a database's lock.

    Args:
        limit_s: Longest time, in seconds; what is not done then is left behind in its thread, which ends with the
            program.
        work: What is done.
        waiting: Called once when it takes longer than `SAY_AFTER_S`.

    Raises:
        TimeoutError: It was not done in time.
    """
    results: list[T] = []
    errors: list[BaseException] = []
    ended = threading.Event()  # a thread whose `join` a signal interrupts counts as ended in Python 3.11

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:  # noqa: BLE001  raised again below, in the thread that waits
            errors.append(error)
        ended.set()

    try:
        try:
            threading.Thread(target=run, daemon=True, name="tracking").start()
        except RuntimeError:  # Python 3.12 starts no thread while it ends, as a sweep that was interrupted does
            run()
        if not ended.wait(min(SAY_AFTER_S, limit_s)):
            waiting()
            ended.wait(max(0.0, limit_s - SAY_AFTER_S))
    except KeyboardInterrupt:
        ended.wait(INTERRUPTED_S)  # a run that is nearly logged is closed, a store that is nearly made is whole
        raise
    if not ended.is_set():
        raise TimeoutError(f"not done within {limit_s:g} s")
    if errors:
        raise errors[0]
    return results[0]


@contextlib.contextmanager
def mlflow_settings() -> Iterator[None]:
    """MLflow's environment variables for use within a program; MLflow is imported and called inside only.

    It reads its settings from environment variables alone, some of them when it is imported.
    """
    added = {key: value for key, value in _SETTINGS.items() if key not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for key in added:
            os.environ.pop(key, None)


@contextlib.contextmanager
def connection(uri: str) -> Iterator["MlflowClient"]:
    """A client of the store or server at a tracking URI, with `mlflow_settings` while it is used.

    There is no active run and no global tracking URI: the client is given the URI, and its calls every run's id.

    Raises:
        Exception: Whatever MLflow, a database's driver or the network raise, within seconds: see `reason`.
    """
    with mlflow_settings():
        if uri.startswith(("sqlite", "postgresql", "mysql")):
            _try_database(uri)
        from mlflow import MlflowClient

        path = _sqlite_path(uri)
        # Two processes that make a SQLite store at once leave one that MLflow cannot open any more.
        with locked(path.with_name(f"{path.name}.lock")) if path else contextlib.nullcontext():
            client = MlflowClient(tracking_uri=uri)
        yield client


def reason(error: BaseException) -> str:
    """One line, from where a network's failure began: `[Errno 111] Connection refused`, not what is around it."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError):
            error = cause
        cause = cause.__cause__ or cause.__context__
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def experiment_id(client: "MlflowClient", uri: str, name: str) -> str:
    """The id of the MLflow experiment of that name, which is created if it does not exist.

    Args:
        client: A client of the store.
        uri: The store's tracking URI.
        name: The experiment's name.
    """
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            created: str = client.create_experiment(name, _artifact_location(uri, name), _EXPERIMENT_TAGS)
        except MlflowException as error:
            # Another process may have made it in between.
            found = client.get_experiment_by_name(name)
            if found is None:
                raise error
        else:
            return created
    found_id: str = found.experiment_id
    for key, value in _EXPERIMENT_TAGS.items():
        if found.tags.get(key) != value:  # made by an earlier version, whose metrics had other names
            client.set_experiment_tag(found_id, key, value)
    return found_id


def _artifact_location(uri: str, name: str) -> str | None:
    """Next to a SQLite file; None: where the server puts them."""
    path = _sqlite_path(uri)
    return None if path is None else (path.parent / "mlruns" / quote(name, safe="")).as_uri()


def _sqlite_path(uri: str) -> Path | None:
    """The file of a SQLite store; None for every other store."""
    from sqlalchemy.engine import make_url

    if not uri.startswith("sqlite"):
        return None
    database = make_url(uri).database
    return Path(database).resolve() if database else None


def _try_database(uri: str) -> None:
    """Connect once: MLflow itself would try ten times, for more than a minute and a half.

    Raises:
        sqlalchemy.exc.SQLAlchemyError: There is no such database, or it refuses.
    """
    import sqlalchemy

    url = sqlalchemy.engine.make_url(uri)
    path = _sqlite_path(uri)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
    timeout = {"timeout" if url.get_backend_name() == "sqlite" else "connect_timeout": CONNECT_TIMEOUT_S}
    engine = sqlalchemy.create_engine(url, connect_args=timeout)
    try:
        sqlalchemy.inspect(engine).get_table_names()
    finally:
        engine.dispose()
