"""A connection to an MLflow store or server that gives up within seconds, and leaves nothing global behind."""

import configparser
import contextlib
import json
import os
import re
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote, urlsplit

from bi_experiments.config.credentials import without_credentials, without_secrets
from bi_experiments.errors import ConfigurationError
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


ANSWER_S = 5.0
"""Time that a server has to take a connection, in seconds."""
INTERRUPTED_S = 30.0
"""Time that logging has to come to its end once the program was interrupted, in seconds."""
LIMIT_S = 900.0
"""Longest time that logging an experiment may take, in seconds."""

_DRIVERS = {"postgresql": "psycopg2", "mysql": "MySQLdb", "mssql": "pyodbc"}
"""Databases, and the module that SQLAlchemy reaches each with unless the URI names another."""
_SERVERS = ("http", "https")
_REGISTRIES = ("databricks-uc", "uc")
"""Stores of MLflow's that keep models, and no runs."""


def refuse_store(uri: str) -> None:
    """Refuse a tracking URI that MLflow cannot log to, without importing it or touching the network.

    Args:
        uri: MLflow tracking URI.

    Raises:
        ConfigurationError: What is wrong with it, and what to use instead.
    """
    shown = f"tracking.uri={without_credentials(uri)}"
    scheme = uri.partition(":")[0].partition("+")[0].lower() if ":" in uri else ""
    driver = uri.partition(":")[0].partition("+")[2]
    if uri.partition(":")[0] in {one.name for one in entry_points(group=_PLUGINS)}:
        return
    if uri.partition(":")[0] in ("databricks", *_REGISTRIES):
        if (problem := _databricks_problem(uri)) is not None:
            raise ConfigurationError(f"{shown} {problem}")
    elif (scheme in {"", "file"} and not driver) or uri.startswith(("/", ".", "~")):
        if os.environ.get("MLFLOW_ALLOW_FILE_STORE", "").lower() not in {"1", "true"}:
            raise ConfigurationError(
                f"{shown} is a folder, which MLflow 3.13 and newer do not log to: use sqlite:///mlflow.db, or export "
                "MLFLOW_ALLOW_FILE_STORE=true"
            )
    elif scheme == "sqlite":
        if (problem := _sqlite_problem(uri)) is not None:
            raise ConfigurationError(f"{shown} cannot be logged to: {problem}; use sqlite:///mlflow.db")
    elif scheme in (*_DRIVERS, *_SERVERS):
        try:
            parts = urlsplit(uri)
            whole = not re.search(r"\s", uri) and bool(parts.hostname if scheme in _SERVERS else parts.path.strip("/"))
            _ = parts.port
        except ValueError:
            whole = False
        if not whole:
            example = "http://127.0.0.1:5000" if scheme in _SERVERS else f"{scheme}://HOST/DATABASE"
            raise ConfigurationError(f"{shown} names no {'host' if scheme in _SERVERS else 'database'}: use {example}")
        driver = driver or _DRIVERS.get(scheme, "")
        if driver and find_spec({"mysqldb": "MySQLdb"}.get(driver, driver)) is None:
            raise ConfigurationError(f"{shown} needs the package of {driver}, which is not installed: install it")
    else:
        raise ConfigurationError(
            f"{shown} is not a store that MLflow has: use sqlite:///mlflow.db, http://HOST:PORT or postgresql://..."
        )


def _databricks_problem(uri: str) -> str | None:
    """Why nothing says which workspace a URI of Databricks means, or how to log in there; None where something does."""
    if uri.partition(":")[0] in _REGISTRIES:
        return "is a registry of models, which keeps no runs: use databricks"
    profile = uri.partition("://")[2].partition(":")[0].strip("/")
    path = Path(os.environ.get("DATABRICKS_CONFIG_FILE", "~/.databrickscfg")).expanduser()
    known = configparser.ConfigParser(default_section="", interpolation=None)
    try:
        known.read(path)
    except (configparser.Error, OSError, UnicodeDecodeError):
        return f"needs {path}, which cannot be read: mend it, or export DATABRICKS_HOST and DATABRICKS_TOKEN"
    if profile:
        return None if profile in known else f"names a profile that {path} does not have: add [{profile}] to it"
    if known.sections() or any(name in os.environ for name in ("DATABRICKS_HOST", "DATABRICKS_RUNTIME_VERSION")):
        return None
    return "needs a workspace: export DATABRICKS_HOST and DATABRICKS_TOKEN, or use sqlite:///mlflow.db"


_PLUGINS = "mlflow.tracking_store"
"""Entry points through which packages add stores to MLflow."""


def _sqlite_problem(uri: str) -> str | None:
    """Why a SQLite store cannot be written to; None when nothing speaks against it."""
    place = uri.partition("://")[2].partition("?")[0]
    if place and not place.startswith("/"):
        return "two slashes are followed by a host, which SQLite does not have"
    if uri.partition(":")[0] not in {"sqlite", "sqlite+pysqlite"}:
        return "MLflow reaches SQLite through Python's own module alone"
    name = place.removeprefix("/")
    if name in {"", ":memory:"}:
        return "it is in memory, and gone with the program"
    path = Path(name)
    try:
        there = next(one for one in (path.absolute(), *path.absolute().parents) if one.exists())
        if path.is_file():
            with path.open("rb") as file:
                start = file.read(16)
            problem = None if start in {b"", b"SQLite format 3\0"} else "it is not a SQLite database"
        elif path.exists():
            problem = "it is not a file"
        else:
            problem = None if there.is_dir() else f"{there} is not a folder"
        if problem is None and there.is_dir():
            tempfile.TemporaryFile(dir=there).close()  # access(2) allows root everything
        return problem or (None if os.access(there, os.W_OK) else f"{there} cannot be written into")
    except OSError as error:
        return error.strerror or str(error)


def unreachable(uri: str) -> str | None:
    """Why a server takes no connection now, or does not answer as MLflow's; None when it does, or is not a server."""
    parts = urlsplit(uri)
    if parts.scheme not in _SERVERS or parts.hostname is None:
        return None
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname, port), timeout=ANSWER_S).close()
    except OSError as error:
        return str(error)
    try:
        return within(2 * ANSWER_S, lambda: _answer_problem(uri), lambda: None)
    except TimeoutError:
        return f"it takes a connection, and gave no answer within {2 * ANSWER_S:g} s"
    except Exception as error:  # noqa: BLE001  whatever says that it is not a server
        return without_secrets(uri, reason(error))


def _answer_problem(uri: str) -> str | None:
    """What is wrong with a server's answer to a question that changes nothing, asked as MLflow's client asks.

    Raises:
        requests.RequestException: There is no answer.
    """
    import requests

    token, user = (os.environ.get(f"MLFLOW_TRACKING_{name}") for name in ("TOKEN", "USERNAME"))
    answer = requests.get(
        f"{uri.rstrip('/')}/api/2.0/mlflow/experiments/search",
        params={"max_results": "1"},
        headers={"Authorization": f"Bearer {token}"} if token and not user else None,
        auth=(user, os.environ.get("MLFLOW_TRACKING_PASSWORD", "")) if user else None,
        verify=os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH")
        or os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() not in {"1", "true"},
        timeout=ANSWER_S,
    )
    said = f"it answers {answer.status_code} {answer.reason or ''}".rstrip()
    if answer.status_code in {401, 403}:
        if "MLFLOW_TRACKING_AUTH" in os.environ:  # a package that logs in adds what is missing here
            return None
        return (
            f"{said}: export MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, that it "
            "accepts"
        )
    if answer.status_code >= 400:
        return said
    try:
        is_mlflow = isinstance(answer.json(), dict)
    except ValueError:
        is_mlflow = False
    kind = answer.headers.get("Content-Type", "something").partition(";")[0]
    return None if is_mlflow else f"{said} with {kind}, as MLflow does not: set tracking.uri to an MLflow server"


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
