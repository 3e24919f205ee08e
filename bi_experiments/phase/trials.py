"""The body of a phase: warm-up and timed trials of a workload."""

import gc
import hashlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bi_experiments.phase import engine
from bi_experiments.phase.pipes import Emit
from bi_experiments.records import (
    Latencies,
    NeedleCheck,
    PhaseSpec,
    RecordError,
    Trial,
    TrialDone,
    TrialInput,
    WarmedUp,
    Workload,
    from_json,
)

if TYPE_CHECKING:
    from vllm import LLM, RequestOutput, SamplingParams


def read_workload(path: Path, digest: str) -> Workload:
    """Read the inputs of the trials.

    Args:
        path: The workload file.
        digest: SHA-256 that the file must have.

    Raises:
        RecordError: The file has another digest, or is not a workload.
    """
    data = path.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != digest:
        raise RecordError(f"{path}: the workload changed: SHA-256 {found[:12]}, expected {digest[:12]}")
    return from_json(data, Workload, path)


def run_workload(
    llm: "LLM", workload: Workload, spec: PhaseSpec, emit: Emit, wait_for_turn: Callable[[], None]
) -> None:
    """Warm up, then time every trial.

    Uncounted are the needle alone, whose output the trials' needles are compared with, and `spec.warmup_batches`
    generations of the largest batch.

    Args:
        llm: The engine.
        workload: Inputs of the trials.
        spec: What the phase was passed.
        emit: Receives `WarmedUp` and one `TrialDone` a trial.
        wait_for_turn: Called before each trial; returns when the trial may start.
    """
    params = engine.sampling_params(workload.sampling)
    started = time.perf_counter()
    alone = llm.generate([workload.needle], params, use_tqdm=False)[0].outputs[0].token_ids
    largest = max(workload.trials, key=lambda trial: trial.batch_size)
    for _ in range(spec.warmup_batches):
        llm.generate(list(largest.prompts), params, use_tqdm=False)
    emit(WarmedUp(time_s=time.perf_counter() - started, needle_token_ids=tuple(alone)))
    for index, trial in enumerate(workload.trials):
        wait_for_turn()
        emit(TrialDone(trial=run_trial(llm, index, trial, params, alone)))


def run_trial(
    llm: "LLM", index: int, trial: TrialInput, params: "SamplingParams", needle_alone: Sequence[int]
) -> Trial:
    """Time one `generate`; nothing else is between the two readings of the clock.

    Args:
        llm: The engine.
        index: The trial's number.
        trial: Its prompts.
        params: How they are continued.
        needle_alone: Token ids of the needle's output alone, which that in the batch is compared with.
    """
    prompts = list(trial.prompts)
    processes = engine.process_tree()
    gc.collect()
    gc.disable()
    try:
        started_at = time.time()
        cpu_before = engine.cpu_time_s(processes)
        before = time.perf_counter()
        outputs = llm.generate(prompts, params, use_tqdm=False)
        time_s = time.perf_counter() - before
        cpu_time = engine.cpu_time_s(processes) - cpu_before
    finally:
        gc.enable()
    needle = outputs[trial.needle_position].outputs[0].token_ids
    first_difference = first_differing_index(needle, needle_alone)
    return Trial(
        index=index,
        batch_size=len(outputs),
        started_at=started_at,
        time_s=time_s,
        cpu_time_s=cpu_time,
        prompt_tokens=sum(len(output.prompt_token_ids or ()) for output in outputs),
        output_tokens=sum(len(output.outputs[0].token_ids) for output in outputs),
        needle=NeedleCheck(equal=first_difference is None, first_difference=first_difference),
        latencies=_latencies(outputs),
    )


def first_differing_index(one: Sequence[int], other: Sequence[int]) -> int | None:
    """First index at which the sequences differ, or at which one of them ends; None when they are equal."""
    for index, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return index
    return None if len(one) == len(other) else min(len(one), len(other))


def _latencies(outputs: "Sequence[RequestOutput]") -> Latencies | None:
    """Request timing from vLLM's `RequestStateStats`.

    The first token's latency is the front end's; the rest of the time is between two time stamps of the engine.
    """
    first_s, per_token_s, end_to_end_s = [], [], []
    for output in outputs:
        stats = output.metrics
        if stats is None:
            return None
        decode_s = stats.last_token_ts - stats.first_token_ts
        first_s.append(stats.first_token_latency)
        per_token_s.append(decode_s / max(1, stats.num_generation_tokens - 1))
        end_to_end_s.append(stats.first_token_latency + decode_s)
    return Latencies(
        time_to_first_token_s=tuple(first_s),
        time_per_output_token_s=tuple(per_token_s),
        end_to_end_s=tuple(end_to_end_s),
    )
