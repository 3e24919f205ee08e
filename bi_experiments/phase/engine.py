"""The vLLM engine of a phase (written for vLLM 0.32 and 0.33).

vLLM's objects are read here and in `observer.py` alone, whose methods run in vLLM's workers; they differ between
releases.
"""

import contextlib
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
import psutil

from bi_experiments.phase.proof.requests import EngineLimits, Output, Request, Sample
from bi_experiments.phase.proof.steps import StepTokens
from bi_experiments.records import EngineSpec, ModuleDifference, ObservedEngine, Sampling

if TYPE_CHECKING:
    from vllm import LLM, RequestOutput, SamplingParams
    from vllm.config import CompilationConfig
    from vllm.inputs import TokensPrompt
    from vllm.v1.metrics.stats import IterationStats


class Tokenizer(Protocol):
    """What a phase asks of a tokenizer (transformers' `PreTrainedTokenizerBase`)."""

    all_special_ids: Sequence[int]

    def get_added_vocab(self) -> dict[str, int]:
        """Ids of the tokens that were added to the model's own."""
        ...

    def encode(self, text: str) -> list[int]:
        """Token ids of a text."""
        ...


def build_engine(spec: EngineSpec, profiler: Mapping[str, object] | None = None) -> "LLM":
    """Build the engine; vLLM must be imported before, so that the time of this call is the engine's alone.

    Args:
        spec: Engine arguments.
        profiler: vLLM's `profiler_config`, where a trial is to be profiled. Until `profiling` is entered it changes
            nothing: a worker makes its profiler at the first start, and asks at each step only whether it has one.
    """
    from vllm import LLM

    arguments: dict[str, Any] = {
        "model": spec.model,
        "dtype": spec.dtype,
        "tensor_parallel_size": spec.tensor_parallel_size,
        "pipeline_parallel_size": spec.pipeline_parallel_size,
        "max_model_len": spec.max_model_len,
        "gpu_memory_utilization": spec.gpu_memory_utilization,
        "max_num_seqs": spec.max_num_seqs,
        "enforce_eager": spec.enforce_eager,
        "enable_prefix_caching": spec.enable_prefix_caching,
        "load_format": spec.load_format,
        "trust_remote_code": spec.trust_remote_code,
        "worker_extension_cls": "bi_experiments.phase.observer.WorkerObserver",
        # Request metrics (time to first token, ...) exist only with statistics on.
        "disable_log_stats": False,
    }
    optional: dict[str, Any] = {
        "max_num_batched_tokens": spec.max_num_batched_tokens,
        "async_scheduling": spec.async_scheduling,
        "quantization": spec.quantization,
        "distributed_executor_backend": spec.distributed_executor_backend,
    }
    optional["profiler_config"] = dict(profiler) if profiler is not None else None
    arguments.update({name: value for name, value in optional.items() if value is not None})
    llm = LLM(**(arguments | further_arguments(spec)))
    # With statistics come loggers that count every step for Prometheus, in the timed process; nobody reads them here.
    llm.llm_engine.logger_manager = StepLog()
    return llm


class StepLog:
    """When each step of the engine ended; has the methods of vLLM's `StatLoggerManager`, which it replaces."""

    def __init__(self) -> None:
        self._steps: list[tuple[float, StepTokens]] = []

    def record(
        self,
        scheduler_stats: object,
        iteration_stats: "IterationStats | None",
        mm_cache_stats: object = None,
        engine_idx: int = 0,
    ) -> None:
        """Note the time, how many sequences got their first output token in the step, and how many a further one."""
        tokens = StepTokens(0, 0)
        if iteration_stats is not None:
            first, further = iteration_stats.time_to_first_tokens_iter, iteration_stats.inter_token_latencies_iter
            tokens = StepTokens(len(first), len(further))
        self._steps.append((time.perf_counter(), tokens))

    def log(self) -> None:
        """Nothing is printed."""

    def record_sleep_state(self, is_awake: int, level: int) -> None:
        """Nothing is counted."""

    def restart(self) -> None:
        """Forget all steps."""
        self._steps.clear()

    def decode_steps_s(self) -> tuple[float, ...]:
        """Time of every step since `restart` after the last that read a prompt to its end, in seconds."""
        last = max((index for index, (_, tokens) in enumerate(self._steps) if tokens.first), default=0)
        return tuple(after - before for (before, _), (after, _) in pairwise(self._steps[last:]))

    def tokens(self) -> tuple[StepTokens, ...]:
        """Output tokens of every step since `restart`."""
        return tuple(tokens for _, tokens in self._steps)


def step_log(llm: "LLM") -> StepLog:
    """The log of an engine that `build_engine` built."""
    log = llm.llm_engine.logger_manager
    assert isinstance(log, StepLog)
    return log


def token_prompts(llm: "LLM", texts: Iterable[str]) -> list["TokensPrompt"]:
    """The prompts as vLLM itself would tokenize them, so that this is not timed."""
    encode = tokenizer(llm).encode
    return [{"prompt_token_ids": encode(text)} for text in texts]


def prompt_tokens(prompt: "TokensPrompt") -> int:
    """Number of tokens in a prompt that `token_prompts` made."""
    return len(prompt["prompt_token_ids"])


def generate(llm: "LLM", prompts: "Sequence[TokensPrompt]", params: "SamplingParams") -> "list[RequestOutput]":
    """Continue all prompts in one call; `finished` reads what it returns, which is not timed."""
    outputs: list[RequestOutput] = llm.generate(list(prompts), params, use_tqdm=False)
    return outputs


@dataclass(frozen=True)
class RequestTimes:
    """When things happened to a request; from vLLM's `RequestStateStats`.

    Attributes:
        time_to_first_token_s: As the front end saw it.
        scheduled_s: When it was first scheduled, by the engine's own clock.
        first_token_s: When its first token was there, by the same clock.
        last_token_s: When its last token was there, by the same clock.
        preemptions: How often it lost its KV cache.
    """

    time_to_first_token_s: float
    scheduled_s: float
    first_token_s: float
    last_token_s: float
    preemptions: int


@dataclass(frozen=True)
class Finished:
    """A request of a trial that has ended.

    Attributes:
        prompt_tokens: Tokens of its prompt.
        token_ids: Its output.
        cached_tokens: Tokens of its prompt that were in the prefix cache.
        times: None where the engine keeps no statistics.
    """

    prompt_tokens: int
    token_ids: tuple[int, ...]
    cached_tokens: int
    times: RequestTimes | None


def finished(output: "RequestOutput") -> Finished:
    """What vLLM returns for a request of `generate`."""
    stats = output.metrics
    return Finished(
        prompt_tokens=len(output.prompt_token_ids or ()),
        token_ids=tuple(output.outputs[0].token_ids),
        cached_tokens=output.num_cached_tokens or 0,
        times=None
        if stats is None
        else RequestTimes(
            time_to_first_token_s=stats.first_token_latency,
            scheduled_s=stats.scheduled_ts,
            first_token_s=stats.first_token_ts,
            last_token_s=stats.last_token_ts,
            preemptions=stats.num_preemptions,
        ),
    )


def empty_prefix_cache(llm: "LLM") -> None:
    """Forget all prompts that were read.

    Raises:
        RuntimeError: The engine keeps prompts, and did not forget them.
    """
    if keeps_prompts(llm) and not llm.reset_prefix_cache():
        raise RuntimeError("the engine did not empty its prefix cache")


def tokenizer(llm: "LLM") -> Tokenizer:
    """The model's own."""
    found: Tokenizer = llm.get_tokenizer()
    return found


def vocabulary_size(llm: "LLM") -> int:
    """Token ids that the model knows."""
    return int(llm.llm_engine.vllm_config.model_config.get_vocab_size())


def keeps_prompts(llm: "LLM") -> bool:
    """Whether prefix caching is on."""
    return bool(llm.llm_engine.vllm_config.cache_config.enable_prefix_caching)


def step_tokens(llm: "LLM") -> int:
    """Largest step in tokens."""
    return int(llm.llm_engine.vllm_config.scheduler_config.max_num_batched_tokens)


def step_sequences(llm: "LLM") -> int:
    """Most sequences in a step."""
    return int(llm.llm_engine.vllm_config.scheduler_config.max_num_seqs)


def ranks_a_stage(llm: "LLM") -> int:
    """Workers of one stage of the pipeline; their ranks follow one another, stage by stage."""
    parallel = llm.llm_engine.vllm_config.parallel_config
    return int(parallel.world_size) // int(parallel.pipeline_parallel_size)


def watch_compiles(llm: "LLM") -> None:
    """Have the workers count from now on what they compile."""
    llm.collective_rpc("bi_experiments_watch_compiles")


def compiled(llm: "LLM") -> tuple[str, ...]:
    """Names of what was compiled since the last call, in the worker that compiled most."""
    return max((tuple(names) for names in llm.collective_rpc("bi_experiments_compiled")), key=len, default=())


def further_arguments(spec: EngineSpec) -> dict[str, Any]:
    """`spec.extra`, with the attention backend among what it says of attention."""
    backend = {"backend": spec.attention_backend} if spec.attention_backend else {}
    attention = {**(spec.extra.get("attention_config") or {}), **backend}
    return {**spec.extra, **({"attention_config": attention} if attention else {})}


def observe(llm: "LLM") -> ObservedEngine:
    """Read back what the engine really runs with, the mode and the attention backend from inside its workers."""
    workers: list[dict[str, Any]] = llm.collective_rpc("bi_experiments_observe")
    config = llm.llm_engine.vllm_config
    cache, compilation, scheduler = config.cache_config, config.compilation_config, config.scheduler_config
    modes = {worker["batch_invariant"] for worker in workers}
    if len(modes) > 1:
        raise RuntimeError("the workers do not agree on VLLM_BATCH_INVARIANT")
    backends = sorted({backend for worker in workers for backend in worker["attention_backends"]})
    return ObservedEngine(
        batch_invariant=modes.pop(),
        attention_backend="+".join(backends),
        compilation_mode=compilation.mode.name,
        cudagraph_mode=compilation.cudagraph_mode.name,
        enforce_eager=config.model_config.enforce_eager,
        dtype=str(config.model_config.dtype).removeprefix("torch."),
        device=_device_name(),
        kv_cache_tokens=(cache.num_gpu_blocks or 0) * cache.block_size,
        block_size=cache.block_size,
        max_num_batched_tokens=scheduler.max_num_batched_tokens,
        max_num_seqs=scheduler.max_num_seqs,
        async_scheduling=bool(scheduler.async_scheduling),
        threads=workers[0]["threads"],
        flash_attn_version=_distinct(version for worker in workers for version in worker["flash_attn_versions"]),
        # Where a layer switches prefix caching off, it does so in the worker's copy of the configuration.
        prefix_caching=bool(cache.enable_prefix_caching) and all(worker["prefix_caching"] for worker in workers),
        chunked_prefill=bool(scheduler.enable_chunked_prefill),
        kv_cache_dtype=str(cache.cache_dtype),
        quantization=config.model_config.quantization,
        cudagraph_sizes=len(compilation.cudagraph_capture_sizes or ()),
        fusions=fusions(compilation, quantized=config.model_config.quantization is not None),
        all_reduce=_distinct(worker["all_reduce"] for worker in workers),
        fp32_precision=_distinct(worker["fp32_precision"] for worker in workers),
    )


def fusions(compilation: "CompilationConfig", *, quantized: bool) -> str:
    """What vLLM fuses when it compiles, by the names that it logs (`PassConfig.log_enabled_passes`), or `none`.

    Args:
        compilation: vLLM's own configuration.
        quantized: Whether anything is quantized; without, the fusions into a quantization find nothing to fuse.
    """
    if compilation.mode.name != "VLLM_COMPILE":
        return "none"
    passes = compilation.pass_config
    on = (one.name for one in fields(passes) if one.name.startswith(("fuse_", "enable_")) and getattr(passes, one.name))
    named = (name.split("_", 1)[1] for name in on)
    return " ".join(sorted(name for name in named if quantized or not name.endswith("_quant"))) or "none"


def _distinct(values: Iterable[str | None]) -> str | None:
    """What the workers say, once each; None when none of them says anything."""
    return "+".join(sorted({value for value in values if value is not None})) or None


def _device_name() -> str:
    from vllm.platforms import current_platform

    return str(current_platform.get_device_name() or current_platform.device_name)


def limits(llm: "LLM", max_num_batched_tokens: int, max_num_seqs: int, max_model_len: int) -> EngineLimits:
    """What the engine can take at once, for the probes.

    Args:
        llm: The engine.
        max_num_batched_tokens: Largest step, in tokens.
        max_num_seqs: Most sequences in a step.
        max_model_len: Longest sequence, in tokens.
    """
    config = llm.llm_engine.vllm_config
    compilation = config.compilation_config
    graphs = frozenset(compilation.cudagraph_capture_sizes or ()) if compilation.cudagraph_mode.name != "NONE" else ()
    compiled = (size for size in compilation.compile_sizes or () if isinstance(size, int))
    tuned = {rows for worker in llm.collective_rpc("bi_experiments_tuned_rows") for rows in worker}
    return EngineLimits(
        max_num_batched_tokens=max_num_batched_tokens,
        max_num_seqs=max_num_seqs,
        max_model_len=max_model_len,
        prefix_caching=keeps_prompts(llm),
        block_size=config.cache_config.block_size,
        graph_sizes=frozenset(graphs),
        borders=tuple(sorted({*graphs, *compiled, *tuned})),
        blocks_can_be_held=_block_pool(llm) is not None,
        chunked_prefill=bool(config.scheduler_config.enable_chunked_prefill),
        long_prefill_tokens=config.scheduler_config.long_prefill_token_threshold,
        steps_ahead=_concurrent_steps(config) - 1,
    )


def _concurrent_steps(config: Any) -> int:  # noqa: ANN401  vLLM's VllmConfig, which this module does not import
    """Most steps that are in flight at once; not every release says so."""
    said: int | None = getattr(config, "max_concurrent_batches", None)
    stages: int = config.parallel_config.pipeline_parallel_size
    return stages + bool(config.scheduler_config.async_scheduling) if said is None else said


def _block_pool(llm: "LLM") -> Any:  # noqa: ANN401  vLLM's BlockPool, which this module does not import
    """The pool of the KV cache's blocks, where the cache can be made smaller; else None.

    It can where the engine core is in this process, has one kind of block and keeps none back for waiting requests.
    """
    core = getattr(llm.llm_engine.engine_core, "engine_core", None)
    manager = getattr(getattr(core, "scheduler", None), "kv_cache_manager", None)
    if manager is None or manager.watermark_blocks or len(manager.kv_cache_config.kv_cache_groups) != 1:
        return None
    return manager.block_pool


@contextlib.contextmanager
def small_kv_cache(llm: "LLM", blocks: int | None) -> Iterator[None]:
    """Leave the KV cache only so many free blocks inside the context; None: all."""
    if blocks is None:
        yield
        return
    pool = _block_pool(llm)
    held = pool.get_new_blocks(max(0, pool.get_num_free_blocks() - blocks))
    try:
        yield
    finally:
        pool.free_blocks(held)


def sampling_params(sampling: Sampling) -> "SamplingParams":
    """The trials' sampling parameters: no logprobs, and no text, which nobody reads."""
    from vllm import SamplingParams

    return SamplingParams(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        seed=sampling.seed,
        max_tokens=sampling.max_tokens,
        ignore_eos=sampling.ignore_eos,
        detokenize=False,
    )


def generate_together(llm: "LLM", requests: Sequence[Request], logprobs: int) -> list[Output]:
    """Run requests that are all queued before the engine's first step.

    `LLM.generate` alone does not promise that: an engine core in another process starts on the first request while the
    others are on their way. Pausing the scheduler is what vLLM's documentation gives for it (`LLM.enqueue_chat`).
    """
    from vllm import SamplingParams

    prompts: list[Any] = []
    params: list[SamplingParams] = []
    for request in requests:
        text = isinstance(request.prompt, str)
        prompts.append(request.prompt if text else {"prompt_token_ids": list(request.prompt)})
        params.append(
            SamplingParams(
                n=request.samples,
                temperature=request.temperature,
                seed=request.seed,
                max_tokens=request.max_tokens,
                ignore_eos=True,
                detokenize=False,
                logprobs=logprobs if request.logprobs else None,
                prompt_logprobs=logprobs if request.scored_from is not None or request.score_prompt else None,
            )
        )
    llm.sleep(level=0)
    llm.enqueue(prompts, params, use_tqdm=False)
    llm.wake_up(tags=["scheduling"])
    outputs = llm.wait_for_completion(use_tqdm=False)
    return [to_output(request, output) for request, output in zip(requests, outputs, strict=True)]


def next_request_number(llm: "LLM") -> int:
    """The number that the next request gets; vLLM counts them, and its workers know a request by it."""
    return int(llm.request_counter.counter)


def observe_modules(llm: "LLM", request_number: int, sample: int, last_position: int, compare: bool) -> None:
    """Have the workers keep, or compare with what they kept, every module's rows of one request's sample.

    Args:
        llm: The engine, eager.
        request_number: The request's, from `next_request_number`.
        sample: Index of its continuation.
        last_position: Last position of the sequence that is looked at, from 0.
        compare: Whether the rows are compared with those kept before; else they are kept.
    """
    llm.collective_rpc("bi_experiments_observe_modules", args=(request_number, sample, last_position, compare))


def end_observation(llm: "LLM") -> list[ModuleDifference]:
    """Take the hooks out again; what the workers compared, rank by rank, each in the order of execution."""
    workers: list[list[dict[str, Any]]] = llm.collective_rpc("bi_experiments_end_observation")
    return [
        msgspec.convert({"rank": rank, **found}, ModuleDifference)
        for rank, worker in enumerate(workers)
        for found in worker
    ]


@contextlib.contextmanager
def profiling(llm: "LLM") -> Iterator[None]:
    """Have vLLM's profiler observe every worker inside the context; its files are complete at its end."""
    llm.start_profile()
    try:
        yield
    finally:
        llm.stop_profile()


def to_output(request: Request, output: "RequestOutput") -> Output:
    """What vLLM returns for a request."""
    if request.scored_from is None:
        samples = [
            to_sample(completion.token_ids, completion.logprobs or [{} for _ in completion.token_ids])
            for completion in output.outputs
        ]
    else:
        samples = [_scored(output, request.scored_from)]
    if request.score_prompt:
        scored = _scored(output, 1)  # nothing precedes the first token
        samples = [Sample(scored.token_ids + each.token_ids, scored.logprobs + each.logprobs) for each in samples]
    return Output(
        samples=tuple(samples),
        cached_tokens=output.num_cached_tokens or 0,
        preemptions=getattr(output.metrics, "num_preemptions", 0),
    )


def _scored(output: "RequestOutput", first: int) -> Sample:
    """The prompt's own tokens from that index on, with their logprobs."""
    return to_sample(output.prompt_token_ids[first:], output.prompt_logprobs[first:])


def to_sample(token_ids: Sequence[int], logprobs: Sequence[dict[int, Any]]) -> Sample:
    """Tokens and vLLM's logprobs, a dictionary a position from token id to logprob and rank."""
    return Sample(
        token_ids=tuple(token_ids),
        logprobs=tuple(
            tuple(
                (token, entry.logprob)
                for token, entry in sorted(entries.items(), key=lambda item: (item[1].rank, item[0]))
            )
            for entries in logprobs
        ),
    )


def peak_memory_bytes(llm: "LLM") -> int:
    """Largest device memory over all workers, added up; without a device the processes' largest resident sets."""
    on_devices = sum(llm.collective_rpc("bi_experiments_peak_device_memory"))
    return on_devices or sum(_peak_resident_bytes(process.pid) for process in process_tree())


def _peak_resident_bytes(pid: int) -> int:
    """`VmHWM` of a process (proc(5)), 0 when it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:")), 0)


def process_tree() -> list[psutil.Process]:
    """The phase's process and all that it started."""
    own = psutil.Process(os.getpid())
    return [own, *own.children(recursive=True)]


def cpu_time_s(processes: list[psutil.Process]) -> float:
    """CPU time used so far by the processes, user and system, in seconds."""
    total = 0.0
    for process in processes:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


def shut_down(llm: "LLM") -> None:
    """End the engine and its processes. `LLM` itself has no such method in any release."""
    llm.llm_engine.engine_core.shutdown()
