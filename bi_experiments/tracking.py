"""MLflow: one parent run an experiment, one child run a phase, from the record and the files that are already written.

MLflow is imported here only, when something is logged. Its client is given the URI and every run's id: there is no
active run and no global tracking URI.
"""

import contextlib
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

from bi_experiments.config import TrackingConfig
from bi_experiments.errors import ConfigurationError
from bi_experiments.mlflow_runs import IDENTITY, PARENT, RunContent, identity, of_experiment, of_phase
from bi_experiments.records import ExperimentResult

if TYPE_CHECKING:
    from mlflow import MlflowClient

_LOGGER = logging.getLogger(__name__)

_ENVIRONMENT = {
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
"""Of MLflow, while something is logged; the user's own values win."""

CONNECT_TIMEOUT_S = 5
"""Longest wait for a database."""

_CREDENTIALS = re.compile(r"(?<=://)[^/].*@")
"""Greedy: a password may hold any character, and what is cut too much was no part of a host's name."""
_SECRET_PARAMETER = re.compile(
    r"(?<=[?&])(user|username|password|passwd|pwd|token|sslpassword)=([^&#]*)&?", re.IGNORECASE
)


def _to_stderr(message: str) -> None:
    sys.stderr.write(f"warning: {message}\n")


def log_experiment(
    result: ExperimentResult,
    folder: Path,
    tracking: TrackingConfig,
    warn: Callable[[str], None] = _to_stderr,
) -> str | None:
    """Log an experiment whose files are written, unless it was logged before.

    Args:
        result: The record.
        folder: The output folder: everything in it becomes an artifact.
        tracking: Where to log.
        warn: Told in one line when nothing, or not everything, could be logged.

    Returns:
        The run id of the experiment; None when tracking is off or the tracking server failed.
    """
    if not tracking.enabled:
        return None
    runs = (of_experiment(result), *(of_phase(result, phase) for phase in result.phases))
    with _environment():
        try:
            return _log(runs, identity(result), folder, tracking)
        except Exception as error:  # noqa: BLE001  whatever a tracking server does, the results are on disk
            _LOGGER.info("%s", _without(tracking.uri, traceback.format_exc()))
            reason = _without(tracking.uri, _reason(error))
    warn(
        f"not logged to MLflow at {without_credentials(tracking.uri)}: {reason}; "
        f"the results are in {folder}, log them later: python -m bi_experiments.track {folder}"
    )
    return None


def without_credentials(uri: str) -> str:
    """A tracking URI as it may be shown and written down: without user name, password or token."""
    return _SECRET_PARAMETER.sub("", _CREDENTIALS.sub("", uri)).rstrip("?&")


def refuse_credentials(uri: str) -> None:
    """Refuse a URI that was typed with a user name or password: Hydra writes what is typed into the output folder.

    Raises:
        ConfigurationError: It has some, and is not the value of MLFLOW_TRACKING_URI.
    """
    if without_credentials(uri) != uri and uri != os.environ.get("MLFLOW_TRACKING_URI"):
        raise ConfigurationError(
            f"tracking.uri={without_credentials(uri)} was typed with credentials: type it without, and set "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (or, for a database, MLFLOW_TRACKING_URI)"
        )


def _reason(error: BaseException) -> str:
    """One line, from where a network's failure began: `[Errno 111] Connection refused`, not what is around it."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError):
            error = cause
        cause = cause.__cause__ or cause.__context__
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _without(uri: str, text: str) -> str:
    """The text without the credentials of the URI, as they stand there and as a driver reads them."""
    user = _CREDENTIALS.search(uri)
    passwords = [user[0].rstrip("@").partition(":")[2]] if user else []
    passwords += [found[2] for found in _SECRET_PARAMETER.finditer(uri)]
    text = text.replace(uri, without_credentials(uri))
    for secret in (user[0] if user else "", *passwords, *map(unquote, passwords)):
        text = text.replace(secret, "***") if secret else text
    return text


# --- The store --------------------------------------------------------------------------------------------------------


def _log(runs: tuple[RunContent, ...], of: str, folder: Path, tracking: TrackingConfig) -> str:
    from mlflow import MlflowClient

    if tracking.uri.startswith(("sqlite", "postgresql", "mysql")):
        _try_database(tracking.uri)
    client = MlflowClient(tracking_uri=tracking.uri)
    experiment_id = _experiment_id(client, tracking)
    for run in client.search_runs([experiment_id], f"tags.{IDENTITY} = '{of}'"):
        # The parent is ended last: one that still runs was interrupted while it was logged.
        if run.info.status != "RUNNING":
            run_id: str = run.info.run_id
            return run_id
        _delete(client, experiment_id, run.info.run_id)
    parent, *children = runs
    parent_id = _create(client, experiment_id, parent)
    client.log_artifacts(parent_id, str(folder))
    for child in children:
        child_id = _create(client, experiment_id, child, parent_id)
        client.set_terminated(child_id, child.status, child.end_ms)
    client.set_terminated(parent_id, parent.status, parent.end_ms)
    return parent_id


def _create(client: "MlflowClient", experiment_id: str, content: RunContent, parent_id: str | None = None) -> str:
    from mlflow.entities import Metric, Param

    tags = content.tags if parent_id is None else {**content.tags, PARENT: parent_id}
    run_id: str = client.create_run(experiment_id, content.start_ms, tags, content.name).info.run_id
    client.log_batch(
        run_id,
        metrics=[Metric(point.key, point.value, point.timestamp_ms, point.step) for point in content.points],
        params=[Param(key, value) for key, value in content.parameters.items()],
    )
    return run_id


def _delete(client: "MlflowClient", experiment_id: str, run_id: str) -> None:
    for child in client.search_runs([experiment_id], f"tags.`{PARENT}` = '{run_id}'"):
        client.delete_run(child.info.run_id)
    client.delete_run(run_id)


def _experiment_id(client: "MlflowClient", tracking: TrackingConfig) -> str:
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(tracking.experiment)
    if found is None:
        try:
            created: str = client.create_experiment(tracking.experiment, _artifact_location(tracking))
        except MlflowException as error:
            # Another process may have made it in between.
            found = client.get_experiment_by_name(tracking.experiment)
            if found is None:
                raise error
        else:
            return created
    experiment_id: str = found.experiment_id
    return experiment_id


def _artifact_location(tracking: TrackingConfig) -> str | None:
    """Beside a SQLite file; None: where the server puts them."""
    from sqlalchemy.engine import make_url

    if not tracking.uri.startswith("sqlite"):
        return None
    database = make_url(tracking.uri).database
    if not database:
        return None
    return (Path(database).resolve().parent / "mlruns" / quote(tracking.experiment, safe="")).as_uri()


def _try_database(uri: str) -> None:
    """Connect once: MLflow itself would try ten times, for more than a minute and a half.

    Raises:
        sqlalchemy.exc.SQLAlchemyError: There is no such database, or it refuses.
    """
    import sqlalchemy

    url = sqlalchemy.engine.make_url(uri)
    sqlite = url.get_backend_name() == "sqlite"
    if sqlite and url.database:
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    timeout = {"timeout" if sqlite else "connect_timeout": CONNECT_TIMEOUT_S}
    engine = sqlalchemy.create_engine(url, connect_args=timeout)
    try:
        sqlalchemy.inspect(engine).get_table_names()
    finally:
        engine.dispose()


@contextlib.contextmanager
def _environment() -> Iterator[None]:
    """MLflow reads its settings from environment variables alone."""
    added = {key: value for key, value in _ENVIRONMENT.items() if key not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for key in added:
            os.environ.pop(key, None)
