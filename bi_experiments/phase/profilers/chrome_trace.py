"""The time of what ran, added up from a worker's trace in Chrome's format, as PyTorch's profiler writes it.

Prefill and decode are separated by vLLM's own annotation of every step, `execute_context_2(1024)_generation_6(6)`: a
step with a request in its context reads a prompt. What ran belongs to the last step that had begun when it was called
(an operator) or launched (a kernel, by the trace's correlation with the call that launched it, which for a kernel of a
graph is the launch of the graph).
"""

import gzip
import re
import zlib
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import msgspec

from bi_experiments.records import Operation, ProfiledStep, StepsTime

MOST_CHARACTERS = 300
"""Longest name that is kept, in characters: a kernel that is a template has thousands."""
MOST_OPERATIONS = 500
"""Most names that are kept in one kind of step, the longest in time; the others are added up as `REST`."""
REST = "(other operations)"

_STEP = re.compile(r"execute_(?:\d+_)?context_(?P<requests>\d+)\(.*\)_generation_\d+\(")
_ON_DEVICE = frozenset(("kernel", "gpu_memcpy", "gpu_memset"))
_LAUNCHES = frozenset(("cuda_runtime", "cuda_driver", "xpu_runtime", "privateuse1_runtime"))


class TraceError(Exception):
    """A trace says nothing: it cannot be read, or has no steps; one sentence."""


class _Arguments(msgspec.Struct):
    correlation: int | None = None


class _Event(msgspec.Struct):
    """An event of the trace; times in microseconds."""

    ph: str = ""
    cat: str = ""
    name: str = ""
    pid: int | str = 0
    tid: int | str = 0
    ts: float = 0.0
    dur: float = 0.0
    args: _Arguments | None = None

    @property
    def end(self) -> float:
        return self.ts + self.dur

    @property
    def correlation(self) -> int | None:
        return self.args.correlation if self.args is not None else None


class _Head(msgspec.Struct):
    """A trace with its events undecoded: metadata events, whose arguments have other types, are not looked into."""

    traceEvents: list[msgspec.Raw]  # noqa: N815  the name in the format


class WorkerProfile(NamedTuple):
    """Where the time of one worker went."""

    on_device: bool
    steps: tuple[StepsTime, ...]
    operations: tuple[Operation, ...]


class _Ran(NamedTuple):
    """A kernel or an operator that ran once."""

    name: str
    within: str | None
    step: int
    """Number of its step; below 0: before the first."""
    time_us: float


def read(path: Path) -> WorkerProfile:
    """Where the time of one worker went, by its gzipped trace.

    Raises:
        TraceError: The trace cannot be read, or vLLM annotated no step in it.
    """
    try:
        with gzip.open(path) as file:
            events = list(_events(file.read()))
    except (OSError, EOFError, zlib.error, msgspec.DecodeError) as error:
        raise TraceError(f"the trace {path.name} cannot be read: {error}") from error
    steps = sorted(
        (event for event in events if event.cat == "user_annotation" and _STEP.search(event.name)),
        key=lambda event: event.ts,
    )
    if not steps:
        raise TraceError(f"vLLM annotated no step in the trace {path.name}")
    kinds = [_kind(step.name) for step in steps]
    starts = [step.ts for step in steps]
    on_device = sorted((event for event in events if event.cat in _ON_DEVICE), key=lambda event: event.ts)
    if on_device:
        ran, begins, end = _kernels(on_device, events, starts)
    else:
        thread = (steps[0].pid, steps[0].tid)
        operators = [event for event in events if event.cat == "cpu_op" and (event.pid, event.tid) == thread]
        ran = list(_operators(operators, starts))
        begins, end = dict(enumerate(starts)), max([steps[-1].end, *(event.end for event in operators)])
    return WorkerProfile(bool(on_device), _steps_time(kinds, begins, end), _added_up(ran, kinds))


def _events(trace: bytes) -> Iterator[_Event]:
    decoder = msgspec.json.Decoder(_Event)
    complete = re.compile(rb'"ph"\s*:\s*"X"')  # an event with a duration; the others only describe or connect
    for raw in msgspec.json.decode(trace, type=_Head).traceEvents:
        if complete.search(raw):
            yield decoder.decode(raw)


def _kind(annotation: str) -> ProfiledStep:
    found = _STEP.search(annotation)
    assert found is not None
    return ProfiledStep.PREFILL if int(found["requests"]) else ProfiledStep.DECODE


def _kernels(
    kernels: Sequence[_Event], events: Iterable[_Event], starts: Sequence[float]
) -> tuple[list[_Ran], dict[int, float], float]:
    """What ran on the device, when each step began there, and when the last kernel ended.

    Where two kernels run at once, their common time is that of the one that started first, so that the times add up.
    """
    launched: dict[int | None, float] = {
        event.correlation: event.ts for event in events if event.cat in _LAUNCHES and event.correlation is not None
    }
    ran: list[_Ran] = []
    begins: dict[int, float] = {}
    busy_until = float("-inf")
    for kernel in kernels:
        step = bisect_right(starts, launched.get(kernel.correlation, kernel.ts)) - 1
        begins.setdefault(step, kernel.ts)
        ran.append(_Ran(kernel.name, None, step, max(0.0, kernel.end - max(kernel.ts, busy_until))))
        busy_until = max(busy_until, kernel.end)
    return ran, begins, busy_until


def _operators(operators: Sequence[_Event], starts: Sequence[float]) -> Iterator[_Ran]:
    """Every operator of one thread with its own time: without that of the operators it calls."""
    running: list[tuple[_Event, list[float]]] = []

    def ended(event: _Event, called: list[float], callers: Sequence[tuple[_Event, list[float]]]) -> _Ran:
        own = max(0.0, event.dur - sum(called))
        vllm = next((caller.name for caller, _ in callers if caller.name.startswith("vllm::")), None)
        return _Ran(event.name, vllm, bisect_right(starts, event.ts) - 1, own)

    for event in sorted(operators, key=lambda event: (event.ts, -event.dur)):
        while running and event.ts >= running[-1][0].end:
            yield ended(*running.pop(), running)
        if running:
            running[-1][1].append(event.dur)
        running.append((event, []))
    while running:
        yield ended(*running.pop(), running)


def _steps_time(kinds: Sequence[ProfiledStep], begins: dict[int, float], end: float) -> tuple[StepsTime, ...]:
    """Number and time of the steps of each kind; a step lasts until the next one begins."""
    borders = [*sorted((begin, step) for step, begin in begins.items() if step >= 0), (end, len(kinds))]
    times: dict[ProfiledStep, list[float]] = defaultdict(list)
    for (begin, step), (following, _) in pairwise(borders):
        times[kinds[step]].append(following - begin)
    return tuple(
        StepsTime(steps=kind, number=len(times[kind]), time_s=sum(times[kind]) / 1e6)
        for kind in (ProfiledStep.PREFILL, ProfiledStep.DECODE)
        if kind in times
    )


def _added_up(ran: Iterable[_Ran], kinds: Sequence[ProfiledStep]) -> tuple[Operation, ...]:
    times: defaultdict[tuple[str, str | None, ProfiledStep], float] = defaultdict(float)
    calls: Counter[tuple[str, str | None, ProfiledStep]] = Counter()
    for one in ran:
        key = (
            one.name if len(one.name) <= MOST_CHARACTERS else f"{one.name[: MOST_CHARACTERS - 3]}...",
            one.within,
            kinds[one.step] if one.step >= 0 else ProfiledStep.OUTSIDE,
        )
        times[key] += one.time_us / 1e6
        calls[key] += 1
    return _bounded(
        Operation(name=name, within=within, steps=steps, calls=calls[name, within, steps], time_s=time_s)
        for (name, within, steps), time_s in times.items()
    )


def mean(workers: Sequence[WorkerProfile]) -> WorkerProfile:
    """The mean over the workers, at least one; a worker without an operation counts as one that spent no time on it."""
    number = len(workers)
    steps = {one.steps for worker in workers for one in worker.steps}
    found: dict[tuple[str, str | None, ProfiledStep], list[Operation]] = defaultdict(list)
    for worker in workers:
        for one in worker.operations:
            found[one.name, one.within, one.steps].append(one)
    return WorkerProfile(
        on_device=workers[0].on_device,
        steps=tuple(
            StepsTime(
                steps=kind,
                number=max(one.number for worker in workers for one in worker.steps if one.steps is kind),
                time_s=sum(one.time_s for worker in workers for one in worker.steps if one.steps is kind) / number,
            )
            for kind in ProfiledStep
            if kind in steps
        ),
        operations=_bounded(
            Operation(
                name=name,
                within=within,
                steps=kind,
                calls=round(sum(one.calls for one in same) / number),
                time_s=sum(one.time_s for one in same) / number,
            )
            for (name, within, kind), same in found.items()
        ),
    )


def _bounded(operations: Iterable[Operation]) -> tuple[Operation, ...]:
    """The longest first; what is over the limit is added up in each kind of step."""
    ordered = sorted(operations, key=lambda one: (-one.time_s, one.name, one.within or ""))
    kept: list[Operation] = []
    for kind in ProfiledStep:
        of_kind = [one for one in ordered if one.steps is kind]
        kept += of_kind[:MOST_OPERATIONS]
        if rest := of_kind[MOST_OPERATIONS:]:
            calls, time_s = sum(one.calls for one in rest), sum(one.time_s for one in rest)
            kept.append(Operation(name=REST, steps=kind, calls=calls, time_s=time_s))
    return tuple(sorted(kept, key=lambda one: -one.time_s))
