"""One phase in one fresh process: its variables, its events, its time limits, and nothing left behind.

The process's own end is watched alongside its event pipe: a child that it left behind may hold the pipe open for ever.
"""

import contextlib
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple, Self

import msgspec

from bi_experiments.errors import MachineError, say
from bi_experiments.files import write_atomically
from bi_experiments.launch.causes import cause, concerns_both_arms
from bi_experiments.launch.progress import Progress
from bi_experiments.launch.untuned import untuned_messages
from bi_experiments.machine.clocks import ClockReader, Counters
from bi_experiments.machine.memory import wait_for_memory
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
    Profiled,
    RecordError,
    Started,
    TrialDone,
    WarmedUp,
    event_from_line,
    event_to_line,
    to_json,
)
from bi_experiments.signals import held_back
from bi_experiments.wording import before_noun

EXIT_GRACE_S = 60.0
"""Time that a phase has to end after its last event, and its engine's processes with it."""

LONGEST_EVENT_BYTES = 64 << 20
"""A phase that writes more without the end of an event has gone wrong."""

LONGEST_SLEEP_S = 3600.0
"""`select` rejects very large timeouts."""

CAUSE_LINES, CAUSE_CHARACTERS = 400, 2000
"""Last lines of an engine's log, and characters of each, in which the cause of a failure is looked for."""


@dataclass(frozen=True)
class StepLimits:
    """Longest times of the steps of a phase, in seconds; None: as long as the phase itself may take."""

    init: float | None = None
    """From the start of the process to the engine's report."""
    warmup: float | None = None
    trial: float | None = None
    probe: float | None = None
    """The probes of one batch composition."""


@dataclass(frozen=True)
class LaunchSettings:
    """How a phase's process is started."""

    python: str
    """Interpreter."""
    variables: Mapping[str, str]
    """All of its environment variables."""
    timeout_s: float
    """Longest time from start to end, in seconds."""
    num_trials: int | None = None
    """Trials that the phase has to report; None: as many as it likes."""
    step_limits: StepLimits = StepLimits()
    device_share: float | None = None
    """Share of each device's memory that is waited for before the start; None: it uses no device."""
    ranks: int = 1
    """Devices that it uses."""


class _Step(NamedTuple):
    """What a phase does now."""

    what: str
    """As in "... took longer than"."""
    limit: str
    """Name of its limit."""
    limit_s: float | None
    since: float
    """`time.monotonic()`."""


class PhaseProcess:
    """A phase and its process: a context manager that ends with no process left, however it is left.

    Attributes:
        spec: What the phase is passed.
        result: What is known of it so far; nothing before its process was started.
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
        self._compositions_done = 0
        self.started = False
        self._ended = False
        self.alive = False
        self._last: Event | None = None
        self._step: _Step | None = None
        self.result = PhaseResult(
            index=spec.index,
            pair=spec.pair,
            arm=spec.arm,
            launch=spec.launch,
            status=PhaseStatus.INTERRUPTED,
            error="interrupted",
            started_at=0.0,
            wall_time_s=0.0,
            load_average=0.0,
        )

    def __enter__(self) -> Self:
        if self._settings.device_share is not None:
            wait_for_memory(self._settings.device_share, self._settings.ranks, say)
        try:
            with held_back():
                self._start()
            return self
        except BaseException:
            self.__exit__()  # a signal that was held back: what was started has an end
            raise

    def _start(self) -> None:
        self._started = time.monotonic()
        self.result = msgspec.structs.replace(self.result, started_at=time.time(), load_average=os.getloadavg()[0])
        write_atomically(self._folder.spec, to_json(self.spec))
        with contextlib.ExitStack() as undone:  # where a step fails
            self._events_fd, events_write = _pipe(undone)
            turns_read, self._turns_fd = _pipe(undone)
            # Not in the output folder: the path of a socket has at most 107 characters.
            self._temporary = Path(tempfile.mkdtemp(prefix="bi-"))
            undone.callback(shutil.rmtree, self._temporary, ignore_errors=True)
            self._events_file = undone.enter_context(self._folder.events.open("wb"))
            with self._folder.log.open("wb") as log:
                self._process = self._interpreter(log, events_write, turns_read)
            undone.callback(self._process.wait)
            undone.callback(self._process.kill)
            self._process_fd = os.pidfd_open(self._process.pid)
            undone.pop_all()
        os.close(events_write)
        os.close(turns_read)
        os.set_blocking(self._events_fd, False)
        self._begin("the engine's start", "init", self._settings.step_limits.init)
        self.started = self.alive = True
        self._progress.phase_started(self.spec)

    def _interpreter(self, log: BinaryIO, events_write: int, turns_read: int) -> subprocess.Popen[bytes]:
        private = {MARK: str(self._temporary), "TMPDIR": str(self._temporary)}
        try:
            return subprocess.Popen(
                [
                    self._settings.python,
                    "-m",
                    "bi_experiments.phase",
                    str(self._folder.spec),
                    f"--events-fd={events_write}",
                    f"--turns-fd={turns_read}",
                ],
                env={"VLLM_RPC_BASE_PATH": str(self._temporary), **self._settings.variables, **private},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=(events_write, turns_read),
                start_new_session=True,
            )
        except OSError as error:
            raise MachineError(
                f"runtime.python={self._settings.python} cannot be started: {error.strerror}; "
                "set it to a Python interpreter"
            ) from error

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """End the process and all that it started, and write down its result; a second time it does nothing."""
        try:
            with held_back():
                self._end()
        finally:
            self._end()  # a signal may have come first

    def _end(self) -> None:
        if not self.started or self._ended:
            return
        self._ended = True
        kill_phase(self._process.pid, self._temporary)
        self._process.wait()
        remove_shared_memory(self.result.started_at)
        os.close(self._process_fd)
        os.close(self._events_fd)
        os.close(self._turns_fd)
        self._events_file.close()
        self.result = msgspec.structs.replace(self.result, wall_time_s=time.monotonic() - self._started)
        bound_log(self._folder.log)
        self.result = msgspec.structs.replace(self.result, untuned=untuned_messages(self._folder.log))
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
        """Time left of the limits of the phase and of the step that it is in, in seconds."""
        now = time.monotonic()
        of_phase = self._settings.timeout_s - (now - self._started)
        if self._step is None or self._step.limit_s is None:
            return of_phase
        return min(of_phase, self._step.limit_s - (now - self._step.since))

    def end_when_late(self) -> None:
        """End the phase if it, or the step that it is in, has taken too long."""
        if not self.alive or self.remaining_s > 0:
            return
        if isinstance(self._last, Done | Failed):
            self._conclude(grace_s=0.0)  # it has said all; `__exit__` ends what hangs
        elif time.monotonic() - self._started >= self._settings.timeout_s or self._step is None:
            self.stop(PhaseStatus.TIMED_OUT, "it ran longer than runtime.phase_timeout_s")
        else:
            step = self._step
            limit = f"runtime.{step.limit}_timeout_s={step.limit_s:g} s"
            self.stop(PhaseStatus.TIMED_OUT, f"{step.what} took longer than {limit}")

    def _begin(self, what: str, limit: str, limit_s: float | None) -> None:
        self._step = _Step(what, limit, limit_s, time.monotonic())

    def _begin_after(self, event: Event) -> None:
        """Note the step that follows an event; one that waits for its turn has none until it is given."""
        limits = self._settings.step_limits
        match event:
            case EngineReady() if self.spec.locate is None:
                self._begin("the warm-up", "warmup", limits.warmup)
            case WarmedUp() | TrialDone():
                self._step = None
                if not self.spec.wait_for_turn:
                    self._begin_next()
            case ProbeDone():
                self._compositions_done += 1
                self._begin_probes(event)
            case Done() | Failed():
                self._begin("its end", "", EXIT_GRACE_S)
            case EngineReady() | Located():
                self._step = None

    def _begin_next(self) -> None:
        """Note that the next trial starts or, after the last, the probes."""
        done, order = len(self.result.trials), self.spec.trial_order
        planned = self._settings.num_trials
        if planned is not None and done >= planned:
            self._begin_probes(None)
        else:
            index = order[done] if done < len(order) else done
            self._begin(f"trial {index + 1}", "trial", self._settings.step_limits.trial)

    def _begin_probes(self, last: ProbeDone | None) -> None:
        compositions = () if self.spec.probes is None else self.spec.probes.compositions
        if self.spec.profiler is not None and self._compositions_done >= len(compositions):
            self._begin("the profiled trial", "trial", self._settings.step_limits.trial)
            return
        after = f" after {last.results[-1].composition}" if last is not None and last.results else ""
        self._begin(f"a composition of probes{after}", "probe", self._settings.step_limits.probe)

    def give_turn(self) -> None:
        """Let a phase that waits for its turn continue."""
        self._begin_next()
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
        if isinstance(event, Failed) and isinstance(self._last, Failed):
            return  # of two threads that saw the same engine die, the first has said why
        if (problem := self._out_of_plan(event)) is not None:
            self.stop(PhaseStatus.FAILED, f"the phase did not keep to its plan: {problem}")
            return
        self._read_clocks(event)
        self._events_file.write(event_to_line(event))
        self._events_file.flush()
        self._last = event
        self.result, problem = fold(self.result, event, self.spec)
        self._begin_after(event)
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
                return None if twice is None else f"it reported probe {twice[0] + 1} of {twice[1]} twice"
            case Done():
                wanted, found = self._settings.num_trials, len(self.result.trials)
                return None if wanted in {None, found} else f"it reported {found} of {wanted} trials"
        return None

    def _trial_out_of_plan(self, event: TrialDone) -> str | None:
        trial, done, planned = event.trial, len(self.result.trials), self._settings.num_trials
        order = self.spec.trial_order or range(done + 1)
        expected = order[done] if done < len(order) and (planned is None or done < planned) else None
        if self.result.warmup_time_s is None:
            return f"it reported trial {trial.index + 1} before it was warm"
        if trial.index != expected:
            said = "none" if expected is None else f"trial {expected + 1}"
            return f"it reported trial {trial.index + 1} where {said} was expected"
        if not 0 < trial.time_s < float("inf"):
            return f"trial {trial.index + 1} took {trial.time_s:g} s"
        return None

    def _read_clocks(self, event: Event) -> None:
        """Before the first trial and after every one; a phase collects garbage between its word and the next trial."""
        if isinstance(event, TrialDone):
            readings = self._clocks.readings(event.trial.index, self._before_trial)
            self.result = msgspec.structs.replace(self.result, clocks=(*self.result.clocks, *readings))
        if isinstance(event, WarmedUp | TrialDone):
            self._before_trial = self._clocks.counters()

    def _conclude(self, grace_s: float = EXIT_GRACE_S) -> None:
        """The process is over, or has closed its pipe and is about to be."""
        try:
            code = self._process.wait(timeout=grace_s)
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


def _pipe(undone: contextlib.ExitStack) -> tuple[int, int]:
    """A pipe's ends, for reading and for writing, which are closed where a step fails."""
    ends = os.pipe()
    for end in ends:
        undone.callback(os.close, end)
    return ends


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
                "warmup_step_sizes": event.step_sizes,
            }
        case TrialDone():
            changes = {"trials": (*result.trials, event.trial)}
        case ProbeDone():
            changes = {
                "probes": (*result.probes, *event.results),
                "steps": (*result.steps, *event.steps),
                "alone": (*result.alone, *event.alone),
                "left_out": result.left_out + event.left_out,
                "not_made": (*result.not_made, *event.not_made),
                "graph_sizes": event.graph_sizes,
                "borders": event.borders,
            }
        case Located():
            changes = {"location": event.location}
        case Profiled():
            changes = {"profile": event.profile}
        case Done():
            changes = {"peak_memory_bytes": event.peak_memory_bytes, "probe_time_s": event.probe_time_s}
        case Failed():
            changes = {"status": PhaseStatus.FAILED, "error": event.error}
    return msgspec.structs.replace(result, **changes), problem


def _check_observed(event: EngineReady, spec: PhaseSpec) -> str | None:
    observed, wanted = event.observed, spec.engine.attention_backend
    if observed.batch_invariant != spec.arm.batch_invariant:
        return (
            f"vLLM runs with VLLM_BATCH_INVARIANT={int(observed.batch_invariant)} in the {before_noun(spec.arm)} arm: "
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
        phase.end_when_late()
