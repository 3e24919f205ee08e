"""What a sweep writes down: `sweep.json`, and a line of `experiments.jsonl` for each experiment."""

import time
from enum import StrEnum

import msgspec

from bi_experiments.analysis.agreement import AloneDigest, alone_digest
from bi_experiments.analysis.engines import changed_settings
from bi_experiments.analysis.metrics import own_s_per_token
from bi_experiments.analysis.outcome import primary
from bi_experiments.analysis.pairs import second_arm
from bi_experiments.errors import ExitCode
from bi_experiments.records import RECORD_VERSION, Arm, Difference, ExperimentResult, Invariance, Record


class Status(StrEnum):
    """What became of an experiment of a sweep."""

    DONE = "done"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    CANNOT_RUN = "cannot run"
    """The configuration contradicts itself, or this machine cannot run it."""
    RUNNING = "running"
    MISSING = "missing"
    """Not run: the sweep was to end with its first failure."""


class SweepRecord(Record, frozen=True, kw_only=True):
    """One sweep: `sweep.json`."""

    version: int = RECORD_VERSION
    command: tuple[str, ...]
    """The command, without `sweep.*` and the sweep's folder: the same for a sweep and for resuming it."""
    started_at: float
    """Unix time in seconds of the first start."""
    session_started_at: float
    """Unix time in seconds of the latest start: of a resumed sweep, when it was resumed."""
    pid: int
    """Process that the user started; the experiments of some launchers run in others."""
    planned: int | None
    """Experiments of the sweep; None where the sweeper decides as it runs."""
    skip_impossible: bool
    """Whether experiments that cannot run here are ignored in the exit code."""
    mlflow_run_id: str | None = None
    again: tuple[int, int] | None = None
    """Number of the experiment that measures the cheapest one again (`sweep.confirm`), and of the cheapest one."""


class ExperimentRecord(Record, frozen=True, kw_only=True):
    """What became of one experiment: a line of `experiments.jsonl`; of one number, the last line counts."""

    number: int
    folder: str
    """Relative to the sweep's."""
    again: int | None = None
    """Number of the experiment that this one measures again, in fresh pairs."""
    overrides: tuple[str, ...]
    """Overrides of the command, with this experiment's values."""
    identity: str | None = None
    """Digest of configuration, workload and environment; None where the configuration could not be read."""
    status: Status
    reason: str | None = None
    """One line, when `status` is neither done nor interrupted, or the experiment ended early."""
    exit_code: int = 0
    taken_over: bool = False
    """Whether a resumed sweep found it finished."""
    at: float
    """Unix time in seconds."""
    wall_time_s: float | None = None
    baseline_s: float | None = None
    """Total time of a launch's trials, in seconds: geometric mean over the launches."""
    second_s: float | None = msgspec.field(default=None, name="batch_invariant_s")
    """The same of the second arm; stored under the name that it has where that arm is the mode."""
    change_pct: float | None = None
    """Of the total time."""
    low_pct: float | None = None
    high_pct: float | None = None
    verdict: Difference | None = None
    differs: str | None = None
    """What vLLM ran the arms with differently, besides the mode; None where it reports nothing of the kind."""
    own_s_per_token: float | None = None
    """Time of the second arm for each token that it generated, in seconds: what a search makes as small as it can."""
    second_arm: Arm | None = None
    """None: without a result, or written before it was."""
    invariance: Invariance | None = None
    """The verdict on the second arm."""
    alike: bool | None = None
    """Whether both arms compute the same, up to rounding; None: not looked at, or written before it was."""
    probed_alone: str | None = None
    """The same where two experiments ran the same probes alone; None: no probe."""
    outputs_alone: str | None = None
    """The same where the second arm's outputs of these are the same to the bit."""

    @property
    def control(self) -> bool:
        """Whether both arms were baselines (A/A), so that the change is no cost of the mode."""
        return self.second_arm is Arm.CONTROL

    @property
    def alone(self) -> AloneDigest | None:
        """The second arm's outputs of the probes alone."""
        if self.probed_alone is None or self.outputs_alone is None:
            return None
        return AloneDigest(self.probed_alone, self.outputs_alone)


def running(sweep_record: SweepRecord | None, number: int, folder: str, overrides: tuple[str, ...]) -> ExperimentRecord:
    """What is written of an experiment when it starts.

    Args:
        sweep_record: Its sweep's, where that is known.
        number: Its number.
        folder: Its folder, relative to the sweep's.
        overrides: Overrides of the command, with its values.
    """
    measured_again = sweep_record.again if sweep_record is not None else None
    return ExperimentRecord(
        number=number,
        folder=folder,
        again=measured_again[1] if measured_again is not None and measured_again[0] == number else None,
        overrides=overrides,
        status=Status.RUNNING,
        at=time.time(),
    )


def ended(started: ExperimentRecord, status: Status, reason: str | None, code: int = ExitCode.DONE) -> ExperimentRecord:
    """What is written of an experiment when it ends.

    Args:
        started: What was written when it started.
        status: What became of it.
        reason: One line, when it is not done, or ended early.
        code: Its exit code.
    """
    return msgspec.structs.replace(started, status=status, reason=reason, exit_code=int(code), at=time.time())


def interrupted(started: ExperimentRecord) -> ExperimentRecord:
    """What is written of an experiment that ran when it, or its sweep, was interrupted."""
    return ended(started, Status.INTERRUPTED, None, ExitCode.INTERRUPTED)


def with_result(record: ExperimentRecord, result: ExperimentResult) -> ExperimentRecord:
    """The record of an experiment with what its result says."""
    total_time = primary(result.comparison) if result.comparison else None
    verdicts = {verdict.arm: verdict.verdict for verdict in result.invariance.arms} if result.invariance else {}
    alone = alone_digest(result)
    agreement = result.invariance.agreement if result.invariance else None
    record = msgspec.structs.replace(
        record,
        wall_time_s=result.wall_time_s,
        second_arm=second_arm(result.phases),
        invariance=verdicts.get(second_arm(result.phases)),
        alike=agreement.explained if agreement else None,
        own_s_per_token=own_s_per_token(result.phases),
        differs=changed_settings(result.phases),
        probed_alone=alone.probed if alone else None,
        outputs_alone=alone.digest if alone else None,
    )
    if total_time is None:
        return record
    return msgspec.structs.replace(
        record,
        baseline_s=total_time.baseline,
        second_s=total_time.second,
        change_pct=total_time.change_pct,
        low_pct=total_time.low_pct,
        high_pct=total_time.high_pct,
        verdict=None if total_time.low_pct is None else total_time.verdict,
    )
