"""One phase in one fresh process: its environment, its events, its time limits, and nothing left behind."""

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Self

import msgspec
import psutil

from bi_experiments.files import write_atomically
from bi_experiments.launch.progress import Progress
from bi_experiments.machine.clocks import ClockReader, Counters
from bi_experiments.paths import PhaseFolder
from bi_experiments.phase.pipes import TURN
from bi_experiments.records import (
    Done,
    EngineReady,
    Event,
    Failed,
    PhaseResult,
    PhaseSpec,
    PhaseStatus,
    ProbeDone,
    RecordError,
    Started,
    TrialDone,
    WarmedUp,
    event_from_line,
    event_to_line,
    to_json,
)

EXIT_GRACE_S = 60.0
"""Time that a phase has to end after its last event, and its engine's processes with it."""


@dataclass(frozen=True)
class LaunchSettings:
    """How a phase's process is started."""

    python: str
    """Interpreter."""
    environment: Mapping[str, str]
    """All of its environment variables."""
    timeout_s: float
    """Longest time from start to end, in seconds."""


class PhaseProcess:
    """A phase and its process: a context manager that ends with no process left, however it is left.

    Attributes:
        spec: What the phase is passed.
        result: What is known of it so far.
        started: Whether its process was ever started.
        alive: Whether it is still to be followed.

    Args:
        spec: What the phase is passed.
        folder: Its folder.
        settings: How its process is started.
        progress: Notified of the start, of every event once it is on disk, and of the end.
        clocks: Asked about the devices before and after every trial.
    """

    def __init__(
        self, spec: PhaseSpec, folder: PhaseFolder, settings: LaunchSettings, progress: Progress, clocks: ClockReader
    ) -> None:
        self.spec = spec
        self._folder = folder
        self._settings = settings
        self._progress = progress
        self._clocks = clocks
        self._before_trial: dict[int, Counters] = {}
        self._pending = b""
        self.started = False
        self.alive = False
        self._last: Event | None = None
        self.result = PhaseResult(
            index=spec.index,
            pair=spec.pair,
            arm=spec.arm,
            launch=spec.launch,
            status=PhaseStatus.INTERRUPTED,
            error="interrupted",
            started_at=time.time(),
            wall_time_s=0.0,
            load_average=os.getloadavg()[0],
        )

    def __enter__(self) -> Self:
        self._started = time.monotonic()
        self.result = msgspec.structs.replace(self.result, started_at=time.time(), load_average=os.getloadavg()[0])
        write_atomically(self._folder.spec, to_json(self.spec))
        events_read, events_write = os.pipe()
        turns_read, turns_write = os.pipe()
        self._events_fd, self._turns_fd = events_read, turns_write
        with self._folder.log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    self._settings.python,
                    "-m",
                    "bi_experiments.phase",
                    str(self._folder.spec),
                    f"--events-fd={events_write}",
                    f"--turns-fd={turns_read}",
                ],
                env=dict(self._settings.environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=(events_write, turns_read),
                start_new_session=True,
            )
        os.close(events_write)
        os.close(turns_read)
        os.set_blocking(events_read, False)
        self._events_file = self._folder.events.open("wb")
        self.started = self.alive = True
        self._progress.phase_started(self.spec)
        return self

    def __exit__(self, *_: object) -> None:
        kill_session(self._process.pid)
        self._process.wait()
        os.close(self._events_fd)
        os.close(self._turns_fd)
        self._events_file.close()
        self.result = msgspec.structs.replace(self.result, wall_time_s=time.monotonic() - self._started)
        write_atomically(self._folder.result, to_json(self.result))
        self._progress.phase_ended(self.spec, self.result)

    def fileno(self) -> int:
        """The event pipe, for `select`."""
        return self._events_fd

    @property
    def remaining_s(self) -> float:
        """Time left of the phase's limit, in seconds."""
        return self._settings.timeout_s - (time.monotonic() - self._started)

    def give_turn(self) -> None:
        """Let a phase that waits for its turn continue."""
        self._before_trial = self._clocks.counters()
        with contextlib.suppress(BrokenPipeError):  # it died meanwhile: its events say so
            os.write(self._turns_fd, TURN)

    def pump(self) -> None:
        """Take in the events that have arrived; at the end of the pipe, wait for the process and conclude."""
        while self.alive:
            try:
                data = os.read(self._events_fd, 1 << 16)
            except BlockingIOError:
                return
            if not data:
                self._conclude()
                return
            *lines, self._pending = (self._pending + data).split(b"\n")
            for line in lines:
                self._take(line)

    def stop(self, status: PhaseStatus, error: str) -> None:
        """End the phase from outside: it failed a check, or ran out of time."""
        self.alive = False
        self.result = msgspec.structs.replace(self.result, status=status, error=error)

    def _take(self, line: bytes) -> None:
        try:
            event = event_from_line(line)
        except RecordError as error:
            self.stop(PhaseStatus.FAILED, str(error))
            return
        self._read_clocks(event)
        self._events_file.write(event_to_line(event))
        self._events_file.flush()
        self._last = event
        self.result, problem = fold(self.result, event, self.spec)
        self._progress.event(self.spec, event)
        if problem is not None:
            self.stop(PhaseStatus.FAILED, problem)

    def _read_clocks(self, event: Event) -> None:
        """Before the first trial and after every one; a phase collects garbage between its word and the next trial."""
        if isinstance(event, TrialDone):
            readings = self._clocks.readings(event.trial.index, self._before_trial)
            self.result = msgspec.structs.replace(self.result, clocks=(*self.result.clocks, *readings))
        if isinstance(event, WarmedUp | TrialDone):
            self._before_trial = self._clocks.counters()

    def _conclude(self) -> None:
        """The pipe is closed: the phase is over, or about to be."""
        try:
            code = self._process.wait(timeout=EXIT_GRACE_S)
        except subprocess.TimeoutExpired:
            code = 0  # it had done its work; `__exit__` ends what hangs
        self.alive = False
        if isinstance(self._last, Done):
            self.result = msgspec.structs.replace(self.result, status=PhaseStatus.OK, error=None)
        elif not isinstance(self._last, Failed):
            how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
            self.stop(PhaseStatus.FAILED, f"the process exited without reporting a result ({how})")


def fold(result: PhaseResult, event: Event, spec: PhaseSpec) -> tuple[PhaseResult, str | None]:
    """Add what an event says to what is known of the phase.

    Returns:
        The new result, and why the phase must stop: what it observed is not what it was passed; None if all is
        well.
    """
    problem = None
    match event:
        case Started():
            changes: dict[str, object] = {"versions": event.versions}
            if event.project_version != spec.project_version:
                problem = (
                    f"the phase's environment has bi_experiments {event.project_version}, this is "
                    f"{spec.project_version}: install this version there (pip install --no-deps)"
                )
        case EngineReady():
            changes = {
                "init_time_s": event.init_time_s,
                "import_time_s": event.import_time_s,
                "observed": event.observed,
            }
            problem = _check_observed(event, spec)
        case WarmedUp():
            changes = {"warmup_time_s": event.time_s, "needle_token_ids": event.needle_token_ids}
        case TrialDone():
            changes = {"trials": (*result.trials, event.trial)}
        case ProbeDone():
            changes = {
                "probes": (*result.probes, *event.results),
                "steps": (*result.steps, *event.steps),
                "alone": (*result.alone, *event.alone),
            }
        case Done():
            changes = {"peak_memory_bytes": event.peak_memory_bytes, "probe_time_s": event.probe_time_s}
        case Failed():
            changes = {"status": PhaseStatus.FAILED, "error": event.error}
    return msgspec.structs.replace(result, **changes), problem


def _check_observed(event: EngineReady, spec: PhaseSpec) -> str | None:
    observed, wanted = event.observed, spec.engine.attention_backend
    if observed.batch_invariant != spec.arm.batch_invariant:
        return (
            f"vLLM runs with VLLM_BATCH_INVARIANT={int(observed.batch_invariant)} in the {spec.arm} arm: "
            "the mode did not reach its processes"
        )
    if wanted is not None and observed.attention_backend != wanted:
        return f"vLLM runs attention backend {observed.attention_backend}, not {wanted}: use backend=auto to allow it"
    return None


def follow(phase: PhaseProcess, until: Callable[[PhaseResult], bool] | None = None) -> None:
    """Take in a phase's events, asleep in between, until it is over or `until` says so.

    Args:
        phase: A started phase.
        until: Asked with what is known of the phase after every batch of events; None: to its end.
    """
    while phase.alive and not (until is not None and until(phase.result)):
        ready, _, _ = select.select([phase], [], [], max(0.0, phase.remaining_s))
        if ready:
            phase.pump()
        elif phase.remaining_s <= 0:
            phase.stop(PhaseStatus.TIMED_OUT, "it ran longer than runtime.phase_timeout_s")


def kill_session(leader: int) -> None:
    """Kill every process of the session that a phase leads: the phase, its engine, its workers."""
    for pid in psutil.pids():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.getsid(pid) == leader:
                os.kill(pid, signal.SIGKILL)
