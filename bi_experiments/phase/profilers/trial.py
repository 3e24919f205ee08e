"""One more trial, observed by a profiler: it is not timed, and runs after everything else in its phase."""

import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import msgspec

from bi_experiments.phase import engine
from bi_experiments.phase.profilers.chrome_trace import TraceError, WorkerProfile, mean, read
from bi_experiments.records import Profile, Workload

if TYPE_CHECKING:
    from vllm import LLM

MOST_TOKENS = 128
"""Most tokens that a prompt generates in the profiled trial: some 130 steps, of which a trace holds every operator."""

MOST_TRACE_BYTES = 64 << 20
"""Largest trace that is kept, gzipped, in bytes."""


class Profiler(Protocol):
    """What observes a trial."""

    name: str

    @property
    def engine_arguments(self) -> Mapping[str, object]:
        """What vLLM takes as `profiler_config`."""

    def observing(self, llm: "LLM") -> AbstractContextManager[None]:
        """Observe every worker inside the context."""

    def traces(self) -> list[Path]:
        """Chrome traces that it wrote, one a worker, in the order of their ranks."""


def profile_trial(llm: "LLM", workload: Workload, profiler: Profiler) -> Profile:
    """Run one trial of the workload again while a profiler observes it, and read what it wrote.

    Args:
        llm: The engine, built with the profiler's `engine_arguments`.
        workload: Inputs of the trials.
        profiler: The profiler.

    Returns:
        Where the time went; where the profiler wrote nothing that can be read, why.
    """
    batches = [engine.token_prompts(llm, trial.prompts) for trial in workload.trials]
    index = middle([sum(map(engine.prompt_tokens, batch)) for batch in batches])
    tokens = min(workload.sampling.max_tokens, MOST_TOKENS)
    params = engine.sampling_params(msgspec.structs.replace(workload.sampling, max_tokens=tokens))
    engine.empty_prefix_cache(llm)
    with profiler.observing(llm):
        started = time.perf_counter()
        outputs = engine.generate(llm, batches[index], params)
        time_s = time.perf_counter() - started
    requests = [engine.finished(output) for output in outputs]
    profile = Profile(
        profiler=profiler.name,
        trial=index,
        time_s=time_s,
        prompt_tokens=sum(request.prompt_tokens for request in requests),
        output_tokens=sum(len(request.token_ids) for request in requests),
        whole=tokens == workload.sampling.max_tokens,
    )
    return with_traces(profile, profiler.traces())


def middle(sizes: Sequence[int]) -> int:
    """Index of the median of the sizes, the smaller one of two: a trial that stands for the others."""
    return sorted(range(len(sizes)), key=lambda index: sizes[index])[(len(sizes) - 1) // 2]


def with_traces(profile: Profile, traces: Sequence[Path]) -> Profile:
    """The profile with what the traces say, or with why they say nothing; traces too large to keep are removed."""
    workers: list[WorkerProfile] = []
    try:
        workers = [read(path) for path in traces]
        stopped = None if workers else f"the profiler {profile.profiler} wrote no trace: the phase's log says why"
    except TraceError as error:
        stopped = str(error)
    large = [path for path in traces if path.stat().st_size > MOST_TRACE_BYTES]
    profile = msgspec.structs.replace(
        profile,
        stopped=stopped,
        traces=tuple(path.name for path in traces if path not in large),
        traces_left_out=tuple(f"{path.name} ({path.stat().st_size / 2**20:.0f} MiB)" for path in large),
    )
    for path in large:
        path.unlink()
    if stopped is not None:
        return profile
    whole = mean(workers)
    return msgspec.structs.replace(
        profile,
        on_device=whole.on_device,
        workers=len(workers),
        steps=whole.steps,
        operations=whole.operations,
    )
