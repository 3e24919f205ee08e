"""What must hold after every fault: no process, temporary file or lock is left, records are whole, runs are closed."""

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import psutil

from bi_experiments.errors import ConfigurationError
from bi_experiments.paths import read_result
from bi_experiments.records import (
    PhaseResult,
    PhaseSpec,
    PhaseStatus,
    Record,
    RecordError,
    Workload,
    event_from_line,
    from_json,
)
from bi_experiments.tracking.runs import of_experiment, of_phase
from tests.processes import ticks

_RECORDS: dict[str, type[Record]] = {"spec.json": PhaseSpec, "result.json": PhaseResult, "workload.json": Workload}

_NOT_FAILED = {PhaseStatus.OK: "FINISHED", PhaseStatus.INTERRUPTED: "KILLED"}


def left_behind(folder: Path, temporary: Path, database: Path | None = None) -> list[str]:
    """What a program left that it must not leave, a line each; empty: nothing.

    Args:
        folder: The folder that it ran in.
        temporary: Its folder for temporary files, which no other program has.
        database: The MLflow store that it logged to, if any.
    """
    return [
        *_processes(temporary),
        *_temporary_files(folder, temporary),
        *_locks(folder, temporary),
        *_unreadable(folder),
        *(_runs(database, folder) if database is not None and database.exists() else ()),
    ]


def _processes(temporary: Path) -> list[str]:
    """Those that inherited the folder for temporary files, after the second that their end may take."""
    found: list[str] = []
    for _ in ticks(5):
        found = [f"process {process.pid} {process.name()}" for process in _with_variable(os.fsencode(temporary))]
        if not found:
            break
    return found


def _with_variable(value: bytes) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        try:
            environment = Path(f"/proc/{process.pid}/environ").read_bytes()
        except OSError:
            continue
        if value in environment and process.pid != os.getpid():
            yield process


def _temporary_files(folder: Path, temporary: Path) -> Iterator[str]:
    """The folder of the locks stays; a file that is written for another has its name between two points."""
    for path in temporary.iterdir():
        if not path.name.startswith("bi_experiments-"):
            yield f"temporary file {path.name}"
    for path in folder.rglob(".*.*.*"):
        yield f"half a file {path.name}"


def _locks(folder: Path, temporary: Path) -> Iterator[str]:
    for path in (*folder.rglob("*.lock"), *temporary.rglob("*.lock"), *temporary.rglob("*.queue")):
        with path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield f"lock {path.name} is held"


def _unreadable(folder: Path) -> Iterator[str]:
    for path in folder.rglob("*.json"):
        try:
            if path.name == "result.json" and path.parent.parent.name not in {"phases", "location"}:
                read_result(path.parent)
            elif path.name in _RECORDS:
                from_json(path.read_bytes(), _RECORDS[path.name], path)
            else:
                msgspec.json.decode(path.read_bytes())
        except (ConfigurationError, RecordError, msgspec.DecodeError) as error:
            yield f"{path.name} cannot be read: {error}"
    for path in folder.rglob("events.jsonl"):
        try:
            for line in path.read_bytes().splitlines():
                event_from_line(line)
        except RecordError as error:
            yield f"{path} cannot be read: {error}"


def _runs(database: Path, folder: Path) -> Iterator[str]:
    """Runs that still run, and closed ones whose status is not that of the record that they were made of."""
    with closing(sqlite3.connect(database)) as connection:
        if not connection.execute("select 1 from sqlite_master where name = 'tags'").fetchone():
            yield f"{database.name} is a store that is half made"
            return
        statuses = dict(
            connection.execute(
                "select tags.value, runs.status from runs join tags on tags.run_uuid = runs.run_uuid"
                " where runs.lifecycle_stage = 'active' and tags.key = 'mlflow.runName'"
            )
        )
    yield from (f"run {name} still runs" for name, status in statuses.items() if status == "RUNNING")
    for path in folder.rglob("result.json"):
        if path.parent.parent.name != "phases":
            result = read_result(path.parent)
            failed = any(phase.status not in _NOT_FAILED for phase in result.launches)
            expected = "FAILED" if failed else "KILLED" if result.interrupted else "FINISHED"
            names = {of_experiment(result).name: expected}
            names |= {
                of_phase(result, phase, []).name: _NOT_FAILED.get(phase.status, "FAILED") for phase in result.phases
            }
            for name, expected in names.items():
                if (status := statuses.get(name)) not in {None, expected}:
                    yield f"run {name} is {status} and not {expected}"
