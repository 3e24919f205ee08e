"""Whether a tracking URI can be logged to: asked before the first phase, without importing MLflow."""

import configparser
import os
import re
import socket
import tempfile
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from bi_experiments.config.credentials import without_credentials, without_secrets
from bi_experiments.errors import ConfigurationError
from bi_experiments.tracking.store import reason, within

ANSWER_S = 5.0
"""Time that a server has to take a connection, in seconds."""
_DRIVERS = {"postgresql": "psycopg2", "mysql": "MySQLdb", "mssql": "pyodbc"}
"""Databases, and the module that SQLAlchemy reaches each with unless the URI names another."""
_SERVERS = ("http", "https")
_REGISTRIES = ("databricks-uc", "uc")
"""Stores of MLflow's that keep models, and no runs."""
_PLUGINS = "mlflow.tracking_store"
"""Entry points through which packages add stores to MLflow."""


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
            raise ConfigurationError(
                f"{shown} cannot be logged to: {problem}; set tracking.uri to a database in a writable folder "
                "(sqlite:////FOLDER/mlflow.db), or tracking=off"
            )
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
