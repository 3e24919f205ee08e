"""One experiment of a sweep, in whatever process the launcher put it: skip, take over or run it, and write it down."""

import logging
import os
import shutil
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from bi_experiments.analysis.outcome import exit_code
from bi_experiments.config.compose import from_hydra
from bi_experiments.config.plain import as_set, changes, setting
from bi_experiments.config.schema import ExperimentConfig
from bi_experiments.errors import ConfigurationError, ExitCode, ExperimentError
from bi_experiments.experiment import experiment_name, prepare, run_experiment
from bi_experiments.files import locked, write_atomically
from bi_experiments.identity import Identity, identity_of
from bi_experiments.launch.progress import NoProgress, Progress
from bi_experiments.localisation import locate_violation
from bi_experiments.machine.placement import placed
from bi_experiments.paths import OutputFolder, read_result
from bi_experiments.records import INTERRUPTED, ExperimentResult, RecordError, from_json, to_json
from bi_experiments.report.failures import last_words
from bi_experiments.report.rows import Summary
from bi_experiments.sweep import summary, tracking
from bi_experiments.sweep.command import record_of, swept, typed
from bi_experiments.sweep.folder import SweepFolder
from bi_experiments.sweep.parent import end_with_parent
from bi_experiments.sweep.records import ExperimentRecord, Status, ended, interrupted, running, with_result
from bi_experiments.tracking.log import log_experiment

_LOGGER = logging.getLogger(__name__)

PAGES_FROM_S = 60.0
"""Shortest experiment whose figures and pages are drawn at once, in seconds: drawing takes a few, and can wait."""


@dataclass(frozen=True)
class _Job:
    """Where an experiment of a sweep is, and what it is called."""

    sweep: SweepFolder
    folder: OutputFolder
    number: int
    overrides: tuple[str, ...]


def run_in_sweep(composed: DictConfig) -> float | None:
    """Run one experiment of a sweep; whatever becomes of it is a row of the summary.

    Args:
        composed: Its configuration, composed by Hydra.

    Returns:
        The second arm's own time per token in seconds, for a sweeper that searches; None if there is no overhead.

    Raises:
        KeyboardInterrupt: It was interrupted, and the sweep with it.
    """
    end_with_parent()
    hydra = HydraConfig.get()
    job = _Job(
        sweep=SweepFolder(Path(hydra.runtime.cwd) / hydra.sweep.dir),
        folder=OutputFolder(Path(hydra.runtime.output_dir)),
        number=int(hydra.job.num),
        overrides=as_set(hydra.overrides.task),
    )
    try:
        config = from_hydra(composed)
    except ConfigurationError as error:
        _write(job, ended(_running(job), Status.CANNOT_RUN, str(error), error.exit_code))
        return None
    record = _run(config, job)
    written = _write(job, record)
    if record.exit_code == ExitCode.INTERRUPTED:
        raise KeyboardInterrupt
    if written:
        tracking.log(job.sweep, config.tracking, None)
    return record.own_s_per_token if record.status is Status.DONE else None


def _run(config: ExperimentConfig, job: _Job) -> ExperimentRecord:
    started = _running(job)
    try:
        if config.sweep.fail_fast and (failed := summary.first_failure(job.sweep)):
            return ended(started, Status.MISSING, f"not run: experiment {failed.number}: {failed.status}")
        prepare(config)
        identity = identity_of(config)
        started = msgspec.structs.replace(started, identity=identity.digest)
        with locked(job.folder.running_lock):  # a worker of a sweep that was killed, or its Slurm job, may still write
            return _run_or_take_over(config, job, started, identity)
    except ExperimentError as error:
        cannot = error.exit_code == ExitCode.CANNOT_RUN
        return ended(started, Status.CANNOT_RUN if cannot else Status.FAILED, str(error), error.exit_code)
    except KeyboardInterrupt:
        return interrupted(started)
    except Exception as error:  # noqa: BLE001  one experiment's trouble must not end the others
        _LOGGER.error("%s", traceback.format_exc())
        why = (str(error).strip().splitlines() or [""])[0]
        return ended(started, Status.FAILED, f"{type(error).__name__}: {why}", ExitCode.PHASE_FAILED)


def _run_or_take_over(
    config: ExperimentConfig, job: _Job, started: ExperimentRecord, identity: Identity
) -> ExperimentRecord:
    if (finished := _finished(job, config, identity)) is not None:
        return _close(job, finished, config, started, taken_over=True)
    _write(job, started)
    write_atomically(job.folder.identity, to_json(identity))
    name = f"{job.sweep.root.name}/{job.number} {experiment_name(config)}"
    with placed(config, name, lambda why: _show(job, why)) as place, _progress(job) as progress:
        command = typed(job.overrides)
        result = run_experiment(
            config, job.folder, command, progress, resumable=True, place=place, pages_from_s=PAGES_FROM_S
        )
        result = locate_violation(result, config, job.folder)
    sys.stderr.write(last_words(result, job.folder))
    return _close(job, result, config, started, taken_over=False)


def _close(
    job: _Job, result: ExperimentResult, config: ExperimentConfig, started: ExperimentRecord, taken_over: bool
) -> ExperimentRecord:
    """What follows from a result on disk, including one whose process was killed before it got this far."""
    if result.over:
        shutil.rmtree(job.folder.caches, ignore_errors=True)
    summary.sum_up(Summary.of(result), job.folder.root)
    sweep_run_id = tracking.run_id_of(job.sweep, config.tracking)
    log_experiment(result, job.folder.root, config.tracking, parent_run_id=sweep_run_id)
    code = exit_code(result, config)
    status = {ExitCode.INTERRUPTED: Status.INTERRUPTED, ExitCode.PHASE_FAILED: Status.FAILED}.get(code, Status.DONE)
    record = ended(started, status, None if result.stopped == INTERRUPTED else result.stopped, code)
    return with_result(msgspec.structs.replace(record, taken_over=taken_over), result)


def _finished(job: _Job, config: ExperimentConfig, identity: Identity) -> ExperimentResult | None:
    """The result in the experiment's folder, if nothing of it is left to run.

    It may come from another machine of the kind, as after a node was lost; pairs that are left to run may not, which
    would share an interval. What the folder has of another experiment, or in part of another machine, is named and
    moved away: nothing of it is used, and nothing is lost.
    """
    try:
        there = from_json(job.folder.identity.read_bytes(), Identity, job.folder.identity)
    except FileNotFoundError:
        return None
    except RecordError as error:
        _replace(job, str(error))
        return None
    if there.alike(identity) and (result := _over(job.folder, config)) is not None:
        return result
    if there.digest != identity.digest:
        _replace(job, "; ".join(changes(there.parts, identity.parts)))
    return None


def _over(folder: OutputFolder, config: ExperimentConfig) -> ExperimentResult | None:
    """The result in the folder, if it is complete or has spent the time budget that it would have today."""
    try:
        result = read_result(folder.root)
    except ConfigurationError:
        return None
    same_budget = setting(result.configuration, "protocol.time_budget_min") == config.protocol.time_budget_min
    return result if result.stopped is None or (result.over and same_budget) else None


def _replace(job: _Job, why: str) -> None:
    place = job.sweep.replaced / f"{job.number}-{time.time_ns()}"
    place.mkdir(parents=True)
    for path in job.folder.root.iterdir():
        # Hydra has just written its own, and the lock is held.
        if path.name not in {".hydra", job.folder.running_lock.name} and path.suffix != ".log":
            path.rename(place / path.name)
    shutil.rmtree(place / "caches", ignore_errors=True)
    _show(job, f"runs again: the folder has another experiment ({why}); it is kept in {place}")


def _running(job: _Job) -> ExperimentRecord:
    folder = os.path.relpath(job.folder.root, job.sweep.root)
    return running(record_of(job.sweep), job.number, folder, job.overrides)


def _write(job: _Job, record: ExperimentRecord) -> bool:
    """Write down what is known of the experiment, and show it; returns whether the summary was rewritten too."""
    job.sweep.append(record)
    if record.status is Status.RUNNING:
        return False
    again = " (finished earlier)" if record.taken_over else ""
    _show(job, f"{summary.outcome(record)}{again}")
    return summary.write(job.sweep)


def _show(job: _Job, what: str) -> None:
    sweep_record = record_of(job.sweep)
    settings = swept(job.overrides, sweep_record.command if sweep_record else ())
    name = " ".join(f"{key}={value}" for key, value in settings.items())
    sys.stdout.write(f"[{job.number}] {name}: {what}\n" if name else f"[{job.number}] {what}\n")
    sys.stdout.flush()


@contextmanager
def _progress(job: _Job) -> Iterator[Progress]:
    """The live display, where this is the process that the user started and its terminal; elsewhere nothing."""
    from rich.console import Console

    from bi_experiments.report.live import LiveProgress

    console, sweep_record = Console(), record_of(job.sweep)
    if not console.is_terminal or console.is_dumb_terminal or sweep_record is None or sweep_record.pid != os.getpid():
        yield NoProgress()
        return
    with LiveProgress(console, NoProgress()) as live:
        yield live
