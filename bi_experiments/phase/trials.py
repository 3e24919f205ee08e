"""The body of a phase: warm-up and timed trials of a workload."""

import gc
import hashlib
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

from bi_experiments.phase import engine
from bi_experiments.phase.pipes import Emit
from bi_experiments.phase.proof.requests import EngineLimits, Request
from bi_experiments.phase.proof.steps import StepTokens, share_by_rule
from bi_experiments.records import (
    Latencies,
    NeedleCheck,
    PhaseSpec,
    RecordError,
    Trial,
    TrialDone,
    WarmedUp,
    Workload,
    from_json,
)

if TYPE_CHECKING:
    from vllm import LLM, SamplingParams
    from vllm.inputs import TokensPrompt

FEWEST_STEPS = 8
"""Steps from which one of them can be called longer than its like."""
FIRST_TOKEN = 1
"""A token id that every vocabulary has, as it does those that follow it."""


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


class Timed(NamedTuple):
    """What the timed trials made."""

    time_s: float
    """Time of all of them."""
    token_ids: dict[int, tuple[tuple[int, ...], ...]]
    """The outputs of each, by its number, in the order of its prompts."""


def run_workload(
    llm: "LLM", workload: Workload, spec: PhaseSpec, emit: Emit, wait_for_turn: Callable[[], None]
) -> Timed:
    """Warm up, then time every trial.

    Uncounted are the needle alone, whose output the trials' needles are compared with, and `spec.warmup_batches` rounds
    of a batch of every shape that the trials have and a step of every size that kernels change at. The prefix cache is
    emptied before each of them and before every trial, so that none finds a prompt that was read before it.

    Args:
        llm: The engine.
        workload: Inputs of the trials.
        spec: What the phase was passed.
        emit: Receives `WarmedUp` and one `TrialDone` a trial.
        wait_for_turn: Called before each trial; returns when the trial may start.

    """
    params = engine.sampling_params(workload.sampling)
    batches = [engine.token_prompts(llm, trial.prompts) for trial in workload.trials]
    started = time.perf_counter()
    (needle,) = engine.token_prompts(llm, [workload.needle])
    alone = engine.finished(engine.generate(llm, [needle], params)[0]).token_ids
    engine.watch_compiles(llm)
    lengths = [[engine.prompt_tokens(prompt) for prompt in batch] for batch in batches]
    limits = engine.limits(llm, engine.step_tokens(llm), engine.step_sequences(llm), spec.engine.max_model_len)
    step_sizes = 0
    for _ in range(spec.warmup_batches):
        step_sizes = warm_up(llm, batches, params, limits)
    needed = max(sum(batch) + len(batch) * workload.sampling.max_tokens for batch in lengths)
    emit(
        WarmedUp(
            time_s=time.perf_counter() - started,
            needle_token_ids=alone,
            kv_cache_needed_tokens=needed,
            step_sizes=step_sizes,
        )
    )
    time_s = 0.0
    token_ids: dict[int, tuple[tuple[int, ...], ...]] = {}
    for index in spec.trial_order or range(len(batches)):
        wait_for_turn()
        position = workload.trials[index].needle_position
        trial, token_ids[index] = run_trial(
            llm, index, batches[index], position, params, alone, spec.inject_pct, limits
        )
        time_s += trial.time_s
        emit(TrialDone(trial=trial))
    return Timed(time_s, token_ids)


def warm_up(
    llm: "LLM", batches: "Sequence[Sequence[TokensPrompt]]", params: "SamplingParams", limits: EngineLimits
) -> int:
    """Run a batch of every shape that the trials have and a step of every size that kernels change at.

    Args:
        llm: The engine.
        batches: The trials' prompts, as token ids.
        params: How they are continued.
        limits: The engine's.

    Returns:
        How many such steps there are.
    """
    lengths = [[engine.prompt_tokens(prompt) for prompt in batch] for batch in batches]
    for index in one_of_each_shape(lengths, limits.max_num_batched_tokens):
        engine.empty_prefix_cache(llm)
        engine.generate(llm, batches[index], params)
    step_sizes = 0
    for requests in steps_of_every_size(limits):
        engine.empty_prefix_cache(llm)
        engine.generate_together(llm, requests, logprobs=0)
        step_sizes += 1
    return step_sizes


def one_of_each_shape(lengths: Sequence[Sequence[int]], step_tokens: int) -> tuple[int, ...]:
    """Indices of batches that have between them every shape that kernels are compiled or tuned for, the largest first.

    A shape is the batch size and the tokens of the first step, each by its power of two and by whether 16 divides it:
    graphs are captured for some sizes, tiles are tuned by powers of two, and Triton compiles a kernel again where a
    size is 1 or divisible by 16.

    Args:
        lengths: Prompt tokens of every prompt, batch by batch.
        step_tokens: Largest step in tokens.
    """
    largest_first = sorted(range(len(lengths)), key=lambda index: (-len(lengths[index]), -sum(lengths[index]), index))
    shapes: dict[tuple[int, bool, int, bool], int] = {}
    for index in largest_first:
        size, tokens = len(lengths[index]), min(sum(lengths[index]), step_tokens)
        shapes.setdefault((size.bit_length(), size % 16 == 0, tokens.bit_length(), tokens % 16 == 0), index)
    return tuple(shapes.values())


def steps_of_every_size(limits: EngineLimits) -> Iterator[list[Request]]:
    """A batch for every size of a step that kernels change at, and for the largest, and one for a token fewer.

    A trial's last steps of prompts have any size, another one in each launch where the requests arrive during the first
    step, so that no batch of the trials warms them all up. While `max_num_seqs` allows it, every token is a prompt: the
    LM head then has as many rows. Longer prompts begin with different tokens, so that none is found in the prefix
    cache, into which an engine puts the blocks of a step while it plans it. None where the engine reports no such size.
    """
    largest = limits.max_num_batched_tokens
    sizes = {size - less for size in (*limits.borders, largest) for less in (0, 1)} if limits.borders else ()
    for tokens in sorted(size for size in sizes if 1 <= size <= largest):
        longest = 1 if tokens <= limits.max_num_seqs else min(limits.max_model_len - 1, limits.longest_piece)
        lengths = [longest] * (tokens // longest) + [tokens % longest] * (tokens % longest > 0)
        if len(lengths) <= limits.max_num_seqs:
            yield [
                Request((FIRST_TOKEN + at * (longest > 1),) * length, max_tokens=1, logprobs=False)
                for at, length in enumerate(lengths)
            ]


def run_trial(
    llm: "LLM",
    index: int,
    prompts: "Sequence[TokensPrompt]",
    needle_position: int,
    params: "SamplingParams",
    needle_alone: Sequence[int],
    inject_pct: float = 0.0,
    limits: EngineLimits | None = None,
) -> tuple[Trial, tuple[tuple[int, ...], ...]]:
    """Time one `generate`; nothing else is between the two readings of the clock, but for what is injected on purpose.

    Its outputs come back too, as token ids.

    Args:
        llm: The engine.
        index: The trial's number.
        prompts: Its prompts, as token ids.
        needle_position: Index of the needle among them.
        params: How they are continued.
        needle_alone: Token ids of the needle's output alone, which that in the batch is compared with.
        inject_pct: How long to wait before the second reading, in per cent of the time until then.
        limits: What the engine can take at once, by which its steps are held against vLLM's rule; None: they are not.
    """
    processes = engine.process_tree()
    engine.empty_prefix_cache(llm)
    engine.compiled(llm)
    steps = engine.step_log(llm)
    gc.collect()
    gc.disable()
    try:
        steps.restart()
        started_at = time.time()
        cpu_before = engine.cpu_time_s(processes)
        before = time.perf_counter()
        outputs = engine.generate(llm, prompts, params)
        if inject_pct:
            time.sleep((time.perf_counter() - before) * inject_pct / 100)
        time_s = time.perf_counter() - before
        cpu_time = engine.cpu_time_s(processes) - cpu_before
    finally:
        gc.enable()
    requests = [engine.finished(output) for output in outputs]
    first_difference = first_differing_index(requests[needle_position].token_ids, needle_alone)
    decode_steps_s = steps.decode_steps_s()
    enough = len(decode_steps_s) >= FEWEST_STEPS
    trial = Trial(
        index=index,
        batch_size=len(requests),
        started_at=started_at,
        time_s=time_s,
        cpu_time_s=cpu_time,
        prompt_tokens=sum(request.prompt_tokens for request in requests),
        output_tokens=sum(len(request.token_ids) for request in requests),
        needle=NeedleCheck(equal=first_difference is None, first_difference=first_difference),
        latencies=_latencies(requests),
        compiled=engine.compiled(llm),
        preemptions=_preemptions(requests),
        queued=_queued(requests),
        cached_tokens=sum(request.cached_tokens for request in requests),
        split=None if limits is None else split_prompts(requests, limits.max_num_batched_tokens, limits.steps_ahead),
        decode_step_s=median(decode_steps_s) if enough else None,
        longest_step_s=max(decode_steps_s) if enough else None,
        ruled_pct=None if limits is None else steps_by_rule_pct(requests, params.max_tokens, limits, steps.tokens()),
    )
    return trial, tuple(request.token_ids for request in requests)


def steps_by_rule_pct(
    requests: Sequence[engine.Finished],
    max_tokens: int | None,
    limits: EngineLimits,
    counted_steps: Iterable[StepTokens],
) -> float:
    """Share of output tokens whose steps the engine counted as the proof's ledger has them, in per cent.

    Args:
        requests: All of a trial.
        max_tokens: Output tokens that the ledger gives each, whether or not it ended before; None: as many as it has.
        limits: The engine's.
        counted_steps: What the engine counted, step by step.
    """
    sequences = [(request.prompt_tokens, max_tokens or len(request.token_ids)) for request in requests]
    return 100 * share_by_rule(sequences, limits, counted_steps)


def first_differing_index(one: Sequence[int], other: Sequence[int]) -> int | None:
    """First index at which the sequences differ, or at which one of them ends; None when they are equal."""
    for index, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return index
    return None if len(one) == len(other) else min(len(one), len(other))


def _latencies(requests: Sequence[engine.Finished]) -> Latencies | None:
    """Latencies of all requests: to the first token as the front end saw it, behind it by the engine's clock."""
    first_s, per_token_s, end_to_end_s = [], [], []
    for request in requests:
        times = request.times
        if times is None:
            return None
        decode_s = times.last_token_s - times.first_token_s
        first_s.append(times.time_to_first_token_s)
        per_token_s.append(decode_s / max(1, len(request.token_ids) - 1))
        end_to_end_s.append(times.time_to_first_token_s + decode_s)
    return Latencies(
        time_to_first_token_s=tuple(first_s),
        time_per_output_token_s=tuple(per_token_s),
        end_to_end_s=tuple(end_to_end_s),
    )


def _preemptions(requests: Sequence[engine.Finished]) -> int | None:
    times = [request.times for request in requests if request.times is not None]
    return sum(each.preemptions for each in times) if len(times) == len(requests) else None


def split_prompts(
    requests: Sequence[engine.Finished], step_tokens: int, steps_ahead: int = 0
) -> tuple[int, ...] | None:
    """Positions of the prompts that are known to have been computed in several steps, by the engine's own times.

    All that a step takes up are scheduled at one time, and all tokens of a step are there at one time. So a prompt took
    several steps where another request's first or last token came after it was scheduled and before its own first one,
    where one that was scheduled with it or later had its first token before, and where it is longer than a step. Where
    steps are in flight when another is scheduled (`step_with_batch_queue` in vLLM's `v1/engine/core.py`, first in,
    first out), their tokens come then too, and only more times than these say so; none is in flight before the trial's
    first step. A step in which no request begins or ends its output is not seen.

    Args:
        requests: All of a trial.
        step_tokens: Largest step in tokens.
        steps_ahead: Most steps that are in flight when another one is scheduled.

    Returns:
        None where the engine keeps no times, or put a request back: its prompt may have been computed whole later.
    """
    times = [request.times for request in requests if request.times is not None]
    if len(times) < len(requests) or any(each.preemptions for each in times):
        return None
    ends_s = sorted({end_s for each in times for end_s in (each.first_token_s, each.last_token_s)})
    begin_s = min(each.scheduled_s for each in times)
    by_schedule = sorted(times, key=lambda each: each.scheduled_s)
    scheduled_s = [each.scheduled_s for each in by_schedule]
    earliest_s = list(accumulate((each.first_token_s for each in reversed(by_schedule)), min))[::-1]

    def split(request: engine.Finished, each: engine.RequestTimes) -> bool:
        in_flight = steps_ahead if each.scheduled_s > begin_s else 0
        seen = bisect_left(ends_s, each.first_token_s) - bisect_right(ends_s, each.scheduled_s)
        overtaken = earliest_s[bisect_left(scheduled_s, each.scheduled_s)] < each.first_token_s
        return overtaken or seen > in_flight or request.prompt_tokens - request.cached_tokens > step_tokens

    return tuple(
        position for position, (request, each) in enumerate(zip(requests, times, strict=True)) if split(request, each)
    )


def _queued(requests: Sequence[engine.Finished]) -> int | None:
    """Requests that were scheduled after the first request to end had ended."""
    times = [request.times for request in requests if request.times is not None]
    if len(times) < len(requests):
        return None
    first_end_s = min(each.last_token_s for each in times)
    return sum(1 for each in times if each.scheduled_s > first_end_s)
