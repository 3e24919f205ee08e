"""A connection to an MLflow store or server that gives up within seconds, and leaves nothing global behind."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from bi_experiments.files import locked

if TYPE_CHECKING:
    from mlflow import MlflowClient

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
            "orderByKey": "metrics.`overhead/total_time_pct`",
            "orderByAsc": False,
            "selectedColumns": [
                "metrics.`overhead/total_time_pct`",
                "metrics.`overhead/total_time_pct_low`",
                "metrics.`overhead/total_time_pct_high`",
                "metrics.`baseline/total_time`",
                "metrics.`batch_invariant/total_time`",
                "tags.`invariance/batch_invariant`",
                "tags.`device`",
            ],
        }
    ),
}
"""Of the MLflow experiment; the view is the state that the UI itself writes when one is shared."""

CONNECT_TIMEOUT_S = 5
"""Longest wait for a database."""


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
    return found_id


def _artifact_location(uri: str, name: str) -> str | None:
    """Beside a SQLite file; None: where the server puts them."""
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
