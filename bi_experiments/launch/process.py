"""One phase in one fresh process: its environment, its events, its time limits, and nothing left behind.

The process's own end is watched alongside its event pipe: a child that it left behind may hold the pipe open for ever.
"""

import contextlib
import os
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import msgspec

from bi_experiments.errors import MachineError
from bi_experiments.files import write_atomically
from bi_experiments.launch.causes import cause, concerns_both_arms
from bi_experiments.launch.progress import Progress
from bi_experiments.machine.clocks import ClockReader, Counters
from bi_experiments.paths import PhaseFolder, bound_log, log_tail
from bi_experiments.phase.pipes import TURN
from bi_experiments.phase.processes import MARK, kill_phase, remove_shared_memory
from bi_experiments.records import (
    Done,
    EngineReady,
    Event,
    Failed,
    Located,
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

LONGEST_EVENT_BYTES = 64 << 20
"""A phase that writes more without the end of an event has gone wrong."""

LONGEST_SLEEP_S = 3600.0
"""`select` takes no number of any size."""

CAUSE_LINES, CAUSE_CHARACTERS = 400, 2000
"""Last lines of an engine's log, and characters of each, in which the cause of a failure is looked for."""


@dataclass(frozen=True)
class LaunchSettings:
    """How a phase's process is started."""

    python: str
    """Interpreter."""
    environment: Mapping[str, str]
    """All of its environment variables."""
    timeout_s: float
    """Longest time from start to end, in seconds."""
    num_trials: int | None = None
    """Trials that the phase has to report; None: as many as it likes."""


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
        self._pending = bytearray()
        self._probed: set[tuple[int, str, int, int, int]] = set()
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
        # Not in the output folder: the path of a socket has at most 107 characters.
        self._temporary = Path(tempfile.mkdtemp(prefix="bi-"))
        private = {MARK: str(self._temporary), "TMPDIR": str(self._temporary)}
        with self._folder.log.open("wb") as log, self._undone_on_failure(events_write, turns_read):
            self._process = subprocess.Popen(
                [
                    self._settings.python,
                    "-m",
                    "bi_experiments.phase",
                    str(self._folder.spec),
                    f"--events-fd={events_write}",
                    f"--turns-fd={turns_read}",
                ],
                env={"VLLM_RPC_BASE_PATH": str(self._temporary), **self._settings.environment, **private},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=(events_write, turns_read),
                start_new_session=True,
            )
        os.close(events_write)
        os.close(turns_read)
        os.set_blocking(events_read, False)
        self._process_fd = os.pidfd_open(self._process.pid)
        self._events_file = self._folder.events.open("wb")
        self.started = self.alive = True
        self._progress.phase_started(self.spec)
        return self

    @contextlib.contextmanager
    def _undone_on_failure(self, *descriptors: int) -> Iterator[None]:
        """Leave nothing open where the interpreter cannot be started."""
        try:
            yield
        except OSError as error:
            for descriptor in (*descriptors, self._events_fd, self._turns_fd):
                os.close(descriptor)
            self._temporary.rmdir()
            raise MachineError(
                f"runtime.python={self._settings.python} cannot be started: {error.strerror}; "
                "set it to a Python interpreter"
            ) from error

    def __exit__(self, *_: object) -> None:
        kill_phase(self._process.pid, self._temporary)
        self._process.wait()
        remove_shared_memory(self.result.started_at)
        os.close(self._process_fd)
        os.close(self._events_fd)
        os.close(self._turns_fd)
        self._events_file.close()
        self.result = msgspec.structs.replace(self.result, wall_time_s=time.monotonic() - self._started)
        bound_log(self._folder.log)
        if self.result.status is PhaseStatus.FAILED:
            log = log_tail(self._folder.log, CAUSE_LINES, CAUSE_CHARACTERS)
            self.result = msgspec.structs.replace(self.result, error=cause(self.result.error or "", log))
        write_atomically(self._folder.result, to_json(self.result))
        self._progress.phase_ended(self.spec, self.result)

    def wait(self) -> None:
        """Sleep until there is something to `pump`, or the phase's time is over."""
        select.select([self._events_fd, self._process_fd], [], [], min(max(0.0, self.remaining_s), LONGEST_SLEEP_S))

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
        """Take in the events that have arrived; at the process's end or the pipe's, conclude."""
        ended = self._process.poll() is not None  # asked first: what it wrote before its end is then in the pipe
        while self.alive:
            try:
                data = os.read(self._events_fd, 1 << 16)
            except BlockingIOError:
                if ended:
                    self._conclude()
                return
            if not data:
                self._conclude()
                return
            self._pending += data
            if b"\n" in data:
                *lines, rest = bytes(self._pending).split(b"\n")
                self._pending = bytearray(rest)
                for line in lines:
                    if self.alive:
                        self._take(line)
            if len(self._pending) > LONGEST_EVENT_BYTES:
                self.stop(PhaseStatus.FAILED, f"the phase wrote an event of more than {LONGEST_EVENT_BYTES >> 20} MiB")

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
        if (problem := self._out_of_plan(event)) is not None:
            self.stop(PhaseStatus.FAILED, f"the phase did not keep to its plan: {problem}")
            return
        self._read_clocks(event)
        self._events_file.write(event_to_line(event))
        self._events_file.flush()
        self._last = event
        self.result, problem = fold(self.result, event, self.spec)
        self._progress.event(self.spec, event)
        if problem is not None:
            self.stop(PhaseStatus.FAILED, problem)

    def _out_of_plan(self, event: Event) -> str | None:
        """What an event says that the plan does not allow: trials in order and all, no probe twice, `Done` last.

        Checked as the events come, so that nothing is counted that was not to be measured.
        """
        if isinstance(self._last, Done | Failed):
            return f"it reported {type(event).__name__} after its end"
        match event:
            case TrialDone():
                return self._trial_out_of_plan(event)
            case ProbeDone():
                keys = [(one.probe, one.composition, one.batch, one.position, one.sample) for one in event.results]
                twice = next((key for key in keys if key in self._probed or keys.count(key) > 1), None)
                self._probed.update(keys)
                return None if twice is None else f"it reported probe {twice[0]} of {twice[1]} twice"
            case Done():
                wanted, found = self._settings.num_trials, len(self.result.trials)
                return None if wanted in {None, found} else f"it reported {found} of {wanted} trials"
        return None

    def _trial_out_of_plan(self, event: TrialDone) -> str | None:
        trial, done, planned = event.trial, len(self.result.trials), self._settings.num_trials
        order = self.spec.trial_order or range(done + 1)
        expected = order[done] if done < len(order) and (planned is None or done < planned) else "no"
        if self.result.warmup_time_s is None:
            return f"it reported trial {trial.index} before it was warm"
        if trial.index != expected:
            return f"it reported trial {trial.index} where {expected} was expected"
        if not 0 < trial.time_s < float("inf"):
            return f"trial {trial.index} took {trial.time_s:g} s"
        return None

    def _read_clocks(self, event: Event) -> None:
        """Before the first trial and after every one; a phase collects garbage between its word and the next trial."""
        if isinstance(event, TrialDone):
            readings = self._clocks.readings(event.trial.index, self._before_trial)
            self.result = msgspec.structs.replace(self.result, clocks=(*self.result.clocks, *readings))
        if isinstance(event, WarmedUp | TrialDone):
            self._before_trial = self._clocks.counters()

    def _conclude(self) -> None:
        """The process is over, or has closed its pipe and is about to be."""
        try:
            code = self._process.wait(timeout=EXIT_GRACE_S)
        except subprocess.TimeoutExpired:
            code = 0  # it had done its work; `__exit__` ends what hangs
        self.alive = False
        how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        if isinstance(self._last, Done) and not code and not self._pending:
            self.result = msgspec.structs.replace(self.result, status=PhaseStatus.OK, error=None)
        elif isinstance(self._last, Done):
            self.stop(PhaseStatus.FAILED, f"the process reported a result and then failed ({how})")
        elif not isinstance(self._last, Failed):
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
            changes = {
                "warmup_time_s": event.time_s,
                "needle_token_ids": event.needle_token_ids,
                "kv_cache_needed_tokens": event.kv_cache_needed_tokens,
            }
        case TrialDone():
            changes = {"trials": (*result.trials, event.trial)}
        case ProbeDone():
            changes = {
                "probes": (*result.probes, *event.results),
                "steps": (*result.steps, *event.steps),
                "alone": (*result.alone, *event.alone),
                "left_out": result.left_out + event.left_out,
            }
        case Located():
            changes = {"location": event.location}
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


def cannot_start(result: PhaseResult) -> bool:
    """Whether a phase's engine could not start, for a reason for which that of the other arm could not either."""
    return result.status is PhaseStatus.FAILED and result.observed is None and concerns_both_arms(result.error or "")


def follow(phase: PhaseProcess, until: Callable[[PhaseResult], bool] | None = None) -> None:
    """Take in a phase's events, asleep in between, until it is over or `until` says so.

    Args:
        phase: A started phase.
        until: Asked with what is known of the phase after every batch of events; None: to its end.
    """
    while phase.alive and not (until is not None and until(phase.result)):
        phase.wait()
        phase.pump()
        if phase.alive and phase.remaining_s <= 0:
            phase.stop(PhaseStatus.TIMED_OUT, "it ran longer than runtime.phase_timeout_s")
