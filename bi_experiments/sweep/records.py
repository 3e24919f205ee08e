"""What a sweep writes down, and where: `sweep.json`, and a line of `experiments.jsonl` for each experiment."""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import msgspec

from bi_experiments.errors import ExitCode
from bi_experiments.records import RECORD_VERSION, Difference, ExperimentResult, Invariance, Record


class Status(StrEnum):
    """What became of an experiment of a sweep."""

    DONE = "done"
    FAILED = "failed"
    CANNOT_RUN = "cannot run"
    """The configuration contradicts itself, or this machine cannot do it."""
    RUNNING = "running"
    MISSING = "missing"
    """Not run: the sweep was to end with its first failure."""


class SweepRecord(Record, frozen=True, kw_only=True):
    """One sweep: `sweep.json`."""

    version: int = RECORD_VERSION
    command: tuple[str, ...]
    """What was typed, without `sweep.*` and the sweep's folder: the same for a sweep and for going on with it."""
    started_at: float
    """Unix time in seconds of the first start."""
    session_started_at: float
    """Unix time in seconds of the latest start: of a resumed sweep, when it was resumed."""
    pid: int
    """Process that was typed; the experiments of some launchers run in others."""
    planned: int | None
    """Experiments of the sweep; None where the sweeper decides on the way."""
    skip_impossible: bool
    """Whether experiments that cannot run here count in the exit code."""
    mlflow_run_id: str | None = None


class ExperimentRecord(Record, frozen=True, kw_only=True):
    """What became of one experiment: a line of `experiments.jsonl`; of one number, the last line counts."""

    number: int
    folder: str
    """Relative to the sweep's."""
    overrides: tuple[str, ...]
    """What was typed, with this experiment's values."""
    identity: str | None = None
    """Digest of configuration, workload and environment; None where the configuration could not be read."""
    status: Status
    reason: str | None = None
    """One line, when `status` is not done."""
    exit_code: int = 0
    taken_over: bool = False
    """Whether a resumed sweep found it finished."""
    at: float
    """Unix time in seconds."""
    wall_time_s: float | None = None
    baseline_s: float | None = None
    """Mean time of a trial, in seconds."""
    batch_invariant_s: float | None = None
    change_pct: float | None = None
    """Of the trial time."""
    low_pct: float | None = None
    high_pct: float | None = None
    verdict: Difference | None = None
    invariance: Invariance | None = None


class Identity(Record, frozen=True, kw_only=True):
    """What makes an experiment the one it is: `identity.json` in its folder."""

    version: int = RECORD_VERSION
    digest: str
    parts: dict[str, str]
    """Settings and environment, flat: what the digest is made of."""


@dataclass(frozen=True)
class SweepFolder:
    """Files of one sweep; its experiments have folders of their own in it."""

    root: Path

    @property
    def record(self) -> Path:
        """What was typed, and when."""
        return self.root / "sweep.json"

    @property
    def experiments(self) -> Path:
        """What became of the experiments, one event a line."""
        return self.root / "experiments.jsonl"

    @property
    def csv(self) -> Path:
        """The summary, one row an experiment."""
        return self.root / "sweep.csv"

    @property
    def html(self) -> Path:
        """The summary as a page."""
        return self.root / "sweep.html"

    @property
    def figures(self) -> Path:
        """The summary's figures."""
        return self.root / "figures"

    @property
    def summary_stamp(self) -> Path:
        """When the summary was last written, and how long that took."""
        return self.root / ".summary.json"

    @property
    def summary_lock(self) -> Path:
        """Held by who writes the summary."""
        return self.root / ".summary.lock"

    @property
    def mlflow_lock(self) -> Path:
        """Held by who makes the sweep's run."""
        return self.root / ".run.lock"

    @property
    def running_lock(self) -> Path:
        """Held by the process that was typed, as long as it lives."""
        return self.root / ".running.lock"

    @property
    def replaced(self) -> Path:
        """Results of experiments whose identity was another one."""
        return self.root / "replaced"

    def append(self, record: ExperimentRecord) -> None:
        """Add a line; one write under a lock, so that it is whole whoever else writes."""
        self.root.mkdir(parents=True, exist_ok=True)
        with self.experiments.open("ab+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            end = file.seek(0, os.SEEK_END)
            torn = b""  # a process that was killed while it wrote left a part of a line
            if end:
                file.seek(end - 1)
                torn = b"" if file.read(1) == b"\n" else b"\n"
            file.write(torn + msgspec.json.encode(record) + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def read(self) -> list[ExperimentRecord]:
        """The last record of every experiment, by number; a line that a killed process left unfinished is no record."""
        last: dict[int, ExperimentRecord] = {}
        with contextlib.suppress(FileNotFoundError):
            for line in self.experiments.read_bytes().splitlines():
                with contextlib.suppress(msgspec.DecodeError):
                    record = _DECODER.decode(line)
                    last[record.number] = record
        return [last[number] for number in sorted(last)]


_DECODER = msgspec.json.Decoder(ExperimentRecord)


def interrupted(started: ExperimentRecord) -> ExperimentRecord:
    """What is written of an experiment that ran when it, or its sweep, was interrupted."""
    code = int(ExitCode.INTERRUPTED)
    return msgspec.structs.replace(
        started, status=Status.FAILED, reason="it was interrupted", exit_code=code, at=time.time()
    )


def of_result(result: ExperimentResult) -> dict[str, object]:
    """The fields of an experiment's record that its result gives."""
    trial_time = result.comparison.metric("trial_time") if result.comparison else None
    verdicts = {verdict.arm: verdict.verdict for verdict in result.invariance.arms} if result.invariance else {}
    other = next((phase.arm for phase in result.phases if phase.arm.value != "baseline"), None)
    fields: dict[str, object] = {
        "wall_time_s": result.wall_time_s,
        "invariance": verdicts.get(other) if other is not None else None,
    }
    if trial_time is not None:
        fields |= {
            "baseline_s": trial_time.baseline,
            "batch_invariant_s": trial_time.batch_invariant,
            "change_pct": trial_time.change_pct,
            "low_pct": trial_time.low_pct,
            "high_pct": trial_time.high_pct,
            "verdict": trial_time.verdict,
        }
    return fields


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file; waits for it."""
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
