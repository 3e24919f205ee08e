"""MLflow: a run a sweep, in it a run an experiment, in it a run a phase, from the record and the files on disk."""

import json
import logging
import os
import shlex
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from bi_experiments.config.credentials import without_credentials, without_secrets
from bi_experiments.config.plain import setting
from bi_experiments.config.schema import TrackingConfig
from bi_experiments.errors import say, warn
from bi_experiments.files import locked
from bi_experiments.paths import OutputFolder
from bi_experiments.records import ExperimentResult, to_json
from bi_experiments.tracking import store
from bi_experiments.tracking.runs import (
    IDENTITY,
    PARENT,
    RunContent,
    SweepContent,
    composition_table,
    identity,
    ledger_table,
    of_experiment,
    of_phase,
)
from bi_experiments.tracking.system_metrics import stored
from bi_experiments.tracking.uri import refuse_store, unreachable

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_LOGGER = logging.getLogger(__name__)

ENVIRONMENT = "environment.json"
"""Artifact with what the experiment ran on."""
COMPOSITION_TABLE = "invariance_by_composition.json"
LEDGER_TABLE = "workload_steps.json"
"""Artifact that MLflow shows as a table."""
DIGEST_CHARACTERS = 36
"""Longest digest of a dataset that MLflow takes: the beginning of the workload's SHA-256."""


def tracking_of(result: ExperimentResult, uri: str | None, enabled: bool = True) -> TrackingConfig:
    """Where to log an experiment: as it was run, or to another URI.

    The record has no credentials; MLFLOW_TRACKING_URI brings them back where it names the same server.
    """
    recorded = result.configuration["tracking"]
    from_variable = os.environ.get("MLFLOW_TRACKING_URI", "")
    if uri is None and without_credentials(from_variable) == recorded["uri"]:
        uri = from_variable
    return TrackingConfig(enabled=enabled, uri=uri or recorded["uri"], experiment=recorded["experiment"])


def warn_early(tracking: TrackingConfig) -> None:
    """Say before the first phase that the tracking server cannot be logged to: it may be mended meanwhile."""
    if tracking.enabled and (why := unreachable(tracking.uri)) is not None:
        warn(
            f"MLflow at {without_credentials(tracking.uri)} cannot be logged to now ({why}): mend that before the "
            "experiment ends, or log the results later with python -m bi_experiments.track"
        )


def log_experiment(
    result: ExperimentResult,
    folder: Path,
    tracking: TrackingConfig,
    parent_run_id: str | None = None,
) -> str | None:
    """Log an experiment whose files are written, unless it was logged before.

    Args:
        result: The record.
        folder: The output folder: its files become artifacts, but for caches and what was replaced.
        tracking: Where to log.
        parent_run_id: Run of the sweep that it belongs to, from `log_sweep`; an experiment that was logged before
            is put under it.

    Returns:
        The run id of the experiment; None when tracking is off or the tracking server failed, of which it warns.
    """
    elsewhere = without_credentials(tracking.uri) != setting(result.configuration, "tracking.uri")
    where = f" --uri {shlex.quote(without_credentials(tracking.uri))}" if elsewhere else ""
    later = f"the results are in {folder}, to log them later: python -m bi_experiments.track {folder}{where}"
    limit_s = store.INTERRUPTED_S if result.interrupted else store.LIMIT_S
    return _attempt(
        lambda client: _log_experiment(client, result, folder, tracking, parent_run_id), tracking, later, limit_s
    )


def log_again(
    result: ExperimentResult,
    folder: Path,
    tracking: TrackingConfig,
) -> str | None:
    """Log an experiment whose files have changed since: the artifacts of its run are replaced, its numbers stay.

    Args:
        result: The record.
        folder: The output folder.
        tracking: Where to log.

    Returns:
        The run id of the experiment; None when tracking is off or the tracking server failed, of which it warns.
    """

    def log(client: "MlflowClient") -> str:
        run_id = _log_experiment(client, result, folder, tracking, None)
        _log_files(client, run_id, OutputFolder(folder))
        return run_id

    return _attempt(log, tracking, f"the results are in {folder}")


def log_sweep(
    sweep: SweepContent,
    folder: Path,
    files: Iterable[Path],
    lock: Path,
    tracking: TrackingConfig,
) -> str | None:
    """Make the run of a sweep, or bring it up to date.

    To be called before the first experiment is logged (for the run id that the experiments' runs are put under), after
    every experiment, and at the end; in any of the sweep's processes, also in several at once, and again after a
    resume. The same call twice changes nothing.

    Args:
        sweep: All that the run says. A parameter keeps the value that was logged first.
        folder: The sweep's folder, which all of its processes see.
        files: Those of its files that become artifacts, at their places in the folder; what was uploaded before is
            replaced. A file that is not there (yet) is left out.
        lock: Lock file that the sweep's processes share, so that they make one run and not several.
        tracking: Where to log.

    Returns:
        The run id of the sweep; None when tracking is off or the tracking server failed, of which it warns.
    """
    later = f"the summary is in {folder}"
    return _attempt(lambda client: _log_sweep(client, sweep, folder, files, lock, tracking), tracking, later)


def _attempt(
    log: Callable[["MlflowClient"], str],
    tracking: TrackingConfig,
    later: str,
    limit_s: float = store.LIMIT_S,
) -> str | None:
    """Log something within a time in seconds; a store or server that fails, or is late, costs a warning."""
    if not tracking.enabled:
        return None
    shown = without_credentials(tracking.uri)

    def attempt() -> str:
        with store.connection(tracking.uri) as client:
            return log(client)

    try:
        refuse_store(tracking.uri)
        return store.within(limit_s, attempt, lambda: say(f"waiting for MLflow at {shown}"))
    except Exception as error:  # noqa: BLE001  whatever a tracking server does, the results are on disk
        _LOGGER.info("%s", without_secrets(tracking.uri, traceback.format_exc()))
        why = without_secrets(tracking.uri, store.reason(error))
    warn(f"not logged to MLflow at {shown}: {why}; {later}")
    return None


# --- Runs -------------------------------------------------------------------------------------------------------------


def _log_experiment(
    client: "MlflowClient", result: ExperimentResult, folder: Path, tracking: TrackingConfig, sweep_id: str | None
) -> str:
    experiment_id = store.experiment_id(client, tracking.uri, tracking.experiment)
    content = of_experiment(result)
    for run in _of_identity(client, experiment_id, identity(result)):
        run_id: str = run.info.run_id
        # The experiment's run is ended last: one that still runs was interrupted while it was logged. One that ended
        # before the experiment did is of an earlier start.
        if run.info.status != "RUNNING" and run.info.end_time >= content.end_ms:
            if sweep_id is not None and run.data.tags.get(PARENT) != sweep_id:
                client.set_tag(run_id, PARENT, sweep_id)
            return run_id
        sweep_id = sweep_id or run.data.tags.get(PARENT)
        _delete(client, experiment_id, run_id)
    run_id = _create(client, experiment_id, content, sweep_id)
    _log_workload(client, run_id, result)
    _log_files(client, run_id, OutputFolder(folder))
    client.log_text(run_id, to_json(result.environment).decode(), ENVIRONMENT)
    if result.invariance is not None and result.invariance.compositions:
        client.log_table(run_id, composition_table(result.invariance), COMPOSITION_TABLE)
    if result.invariance is not None and result.invariance.ledger:
        client.log_table(run_id, ledger_table(result.invariance), LEDGER_TABLE)
    for phase in result.phases:
        child = of_phase(result, phase, stored(OutputFolder(folder).phase(phase.index, phase.arm).system_metrics))
        child_id = _create(client, experiment_id, child, run_id)
        client.set_terminated(child_id, child.status, child.end_ms)
    client.set_terminated(run_id, content.status, content.end_ms)
    return run_id


def _log_files(client: "MlflowClient", run_id: str, folder: OutputFolder) -> None:
    """The folder's files at their places, without what serves a later start alone: caches may be gigabytes."""
    for path in sorted(folder.root.iterdir()):
        if path in {folder.caches, folder.replaced, folder.running_lock}:
            continue
        if path.is_dir():
            client.log_artifacts(run_id, str(path), path.name)
        else:
            client.log_artifact(run_id, str(path))


def _log_workload(client: "MlflowClient", run_id: str, result: ExperimentResult) -> None:
    """The workload as the run's input, by which MLflow finds the experiments that ran the same prompts."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    dataset = Dataset(
        name=result.workload_kind,
        digest=result.workload_digest[:DIGEST_CHARACTERS],
        source_type="local",
        source=json.dumps({"uri": "workload.json"}),
        profile=_profile(result),
    )
    inputs = [DatasetInput(dataset, [InputTag("mlflow.data.context", "workload")])]
    try:
        client.log_inputs(run_id, inputs)
    except Exception:  # noqa: BLE001  MLflow loses a race with a process that makes the same dataset; now it is there
        client.log_inputs(run_id, inputs)


def _profile(result: ExperimentResult) -> str:
    """The measured size of the trials, by arm, as MLflow shows it of a dataset."""
    return json.dumps({str(arm): msgspec.to_builtins(counts) for arm, counts in result.tokens.items()})


def _log_sweep(
    client: "MlflowClient",
    sweep: SweepContent,
    folder: Path,
    files: Iterable[Path],
    lock: Path,
    tracking: TrackingConfig,
) -> str:
    from mlflow.entities import Metric, Param, RunTag

    experiment_id = store.experiment_id(client, tracking.uri, tracking.experiment)
    # The other processes of the sweep must not make a second run of it.
    with locked(lock):
        found = _of_identity(client, experiment_id, sweep.identity)
        if not found:
            found = [client.create_run(experiment_id, sweep.start_ms, sweep.tags, sweep.name)]
        run = found[0]
        run_id: str = run.info.run_id
        now_ms = round(1000 * time.time())
        last = run.data.metrics
        client.log_batch(
            run_id,
            metrics=[
                Metric(key, value, now_ms, sweep.step) for key, value in sweep.metrics.items() if last.get(key) != value
            ],
            params=[Param(key, value) for key, value in sweep.parameters.items() if key not in run.data.params],
            tags=[RunTag(key, value) for key, value in sweep.tags.items() if run.data.tags.get(key) != value],
        )
        for file in files:
            if file.exists():
                place = file.parent.relative_to(folder).as_posix()
                client.log_artifact(run_id, str(file), None if place == "." else place)
        status = sweep.status or "RUNNING"
        if run.info.status != status:
            client.set_terminated(run_id, status) if sweep.status else client.update_run(run_id, status)
    return run_id


def _of_identity(client: "MlflowClient", experiment_id: str, identity: str) -> "list[Run]":
    runs: list[Run] = client.search_runs(
        [experiment_id], f"tags.{IDENTITY} = '{identity}'", order_by=["attributes.start_time"]
    )
    return runs


def _create(client: "MlflowClient", experiment_id: str, content: RunContent, parent_id: str | None) -> str:
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
