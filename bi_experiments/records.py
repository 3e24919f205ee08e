"""What is written down: the frozen, versioned, typed records that the parent and its phases exchange and store.

Everything here is a `msgspec.Struct`, encoded as JSON and read back by the same type; a file that does not match its
type is refused, never guessed at. This module imports nothing of the project and nothing heavy, so that a phase in
another virtual environment can use it.

History of the file format (`RECORD_VERSION`):

* 1: first format. `PhaseResult.clocks` came later; a record without it is read as having none.
* 2: what was added has defaults, with which records of version 1 are read. Of the proof: the steps that its outputs
  come from, faults, repeats, outputs alone, a verdict for each composition, the ledger, the bound, the arms' agreement.
  Of the engine: `ObservedEngine.flash_attn_version` and what follows it. Of a trial: `Trial.compiled` and what follows
  it. Of the number: `Metric.p_value`, `Comparison.trials`, `.robust`, `.fresh_prompts`; `noise_floor_pct` is no longer
  written, and an experiment is about its `total_time`. `PhaseSpec` has `trials_path` and what follows it.
  `PhaseSpec.locate`, `PhaseResult.location`
  and `ExperimentResult.location` are None where the operator behind a difference was not looked for. Without
  `Location.prompt_positions` a difference in a scored prompt is that of the first output token, and `BatchRequest` does
  not say how it asked for logprobs. Without `PhaseResult.borders` the batch is composed with the steps of the engine
  that locates.
  `PhaseSpec.profiler` and `PhaseResult.profile` are None without an extra, profiled trial; `PhaseResult.untuned` is
  what the engine's log says of paths that are not tuned. `ProbeResult.request` is empty where it was not kept.
  `StepCount.changed`, `ProbeResult.positions` and what follows it, `PhaseResult.not_made`, `LedgerRow.control_tokens`
  came later; records without them say less of the proof. Without `StepCount.split` and `LedgerRow.split`, prompts that
  took several steps are counted with the others; without `StepCount.comparable`, `LedgerRow.control_of` also counts
  tokens behind another token id. `PhaseResult.warmup_step_sizes` is None where the warm-up ran batches of the trials
  alone.
"""

from enum import StrEnum
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import msgspec

RECORD_VERSION = 2
"""Of what is written; older versions are read too."""

NEGATIVE_CONTROL = "batch_1"
"""The composition that runs whatever is asked for: each probe alone again."""

DECODE_AGAINST_PREFILL = "prefill"
"""The composition that compares a probe alone with its output as part of a prompt alone: it says nothing of batches."""

TIMED = "timed"
"""The composition of what `trial` and `workload` compare, as it was timed: without logprobs, by its tokens alone."""


class RecordError(ValueError):
    """A stored record cannot be read: another format version, another type, or damaged."""


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all records."""


class Arm(StrEnum):
    """One side of a pair."""

    BASELINE = "baseline"
    BATCH_INVARIANT = "batch_invariant"
    CONTROL = "control"
    """A second baseline instead of `batch_invariant` (A/A)."""

    @classmethod
    def second(cls, control: bool) -> "Arm":
        """The second arm of an experiment: of an A/A another baseline."""
        return cls.CONTROL if control else cls.BATCH_INVARIANT

    @property
    def batch_invariant(self) -> bool:
        """Whether `VLLM_BATCH_INVARIANT` is 1 in this arm."""
        return self is Arm.BATCH_INVARIANT


class PhaseStatus(StrEnum):
    """How a phase ended."""

    OK = "ok"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    INTERRUPTED = "interrupted"


class Difference(StrEnum):
    """The verdict on one metric of a comparison."""

    SLOWER = "slower"
    FASTER = "faster"
    MORE = "more"
    """Of a metric that is not a time: memory."""
    LESS = "less"
    EQUIVALENT = "equivalent"
    INCONCLUSIVE = "inconclusive"


class Invariance(StrEnum):
    """The verdict on one arm's output bits."""

    HOLDS = "holds"
    """Nothing differed, and the same probes did differ in the baseline."""
    VIOLATED = "violated"
    """Something differed. Expected of a baseline, whose differences are the proof that the probes see them."""
    NOT_DETERMINISTIC = "not_deterministic"
    """The same batch gave other bits when it ran again: nothing can be said about the batch."""
    NO_CONTROL = "no_control"
    """Nothing differed, and nothing shows that the probes would have seen a difference: the baseline did not differ."""
    NOT_PROBED = "not_probed"
    """Nothing differed in what was probed, and a part of the workload was not."""
    NOT_SHOWN = "not_shown"
    """In records of version 1 alone: `no_control` or `not_probed`."""


class Reproducibility(StrEnum):
    """The verdict on the bits of one arm's launches, each a process of its own."""

    REPRODUCIBLE = "reproducible"
    NOT_REPRODUCIBLE = "not_reproducible"
    ONE_LAUNCH = "one_launch"
    """No output was compared in two launches."""


class Fault(StrEnum):
    """What is wrong with an output whatever it is compared with."""

    NAN = "NaN"
    INFINITE = "infinite"
    CONSTANT = "constant"
    """The same logprobs at every position, or for every prompt."""


class StepKind(StrEnum):
    """What else is in the step that an output token comes from."""

    PREFILL = "prefill"
    """The token is the first of its sequence, and comes from its own prompt's last step."""
    BESIDE_PREFILL = "beside a prefill"
    """The sequence decodes while another one's prompt is processed."""
    DECODE = "decode"
    """All sequences of the step decode."""


class ProfiledStep(StrEnum):
    """What the engine did at a point of a profiled trial."""

    PREFILL = "prefill"
    """A step in which a prompt is read; other sequences may decode in it."""
    DECODE = "decode"
    """A step in which all sequences decode."""
    OUTSIDE = "outside"
    """Before the first step's work, or after the last one's."""


# --- What a phase is passed -----------------------------------------------------------------------------------------


class Sampling(Record, frozen=True, kw_only=True):
    """Sampling parameters of the timed trials."""

    temperature: float
    top_p: float
    seed: int
    max_tokens: int
    """Tokens generated for each prompt; exactly as many when `ignore_eos` is set."""
    ignore_eos: bool


class TrialInput(Record, frozen=True, kw_only=True):
    """The batch of one trial: the same in every phase of an experiment."""

    prompts: tuple[str, ...]
    needle_position: int
    """Index of the needle in `prompts`."""

    @property
    def batch_size(self) -> int:
        """Prompts in the batch, the needle included."""
        return len(self.prompts)


class Workload(Record, frozen=True, kw_only=True):
    """All inputs of an experiment's trials, built once by the parent."""

    version: int = RECORD_VERSION
    kind: str
    """The workload's name in the configuration: `needle`, `vllm_script`."""
    seed: int
    needle: str
    trials: tuple[TrialInput, ...]
    sampling: Sampling


class EngineSpec(Record, frozen=True, kw_only=True):
    """What the engine is built with; fields are named as vLLM's engine arguments."""

    model: str
    dtype: str
    tensor_parallel_size: int
    pipeline_parallel_size: int
    max_model_len: int
    gpu_memory_utilization: float
    max_num_seqs: int
    max_num_batched_tokens: int | None
    """Largest step in tokens; None: vLLM's default."""
    attention_backend: str | None
    """Name as in vLLM's attention backend registry; None: vLLM chooses."""
    enforce_eager: bool
    enable_prefix_caching: bool
    async_scheduling: bool | None
    """None: vLLM chooses."""
    load_format: str
    trust_remote_code: bool
    quantization: str | None
    distributed_executor_backend: str | None
    extra: dict[str, Any] = {}
    """Further vLLM engine arguments, passed on as they are."""


class ProbePlan(Record, frozen=True, kw_only=True):
    """Which probes a phase runs after its trials; the counts come from the configuration's `verify` group."""

    level: str
    """`needle`, `standard` or `full`."""
    compositions: tuple[str, ...]
    """Names of the batch compositions, in the order in which they run."""
    probes: int
    """Number of probe prompts."""
    max_tokens: int
    """Tokens generated for each probe."""
    logprobs: int
    """Logprobs returned for each generated token."""
    seed: int
    keep: bool
    """Whether the raw logprobs are written next to the phase's result."""
    trial_prompts: int = 8
    """Prompts drawn per trial, at random from all prompts of the workload."""
    trial_times: float | None = None
    """Once the probes have taken this many times the time of the phase's trials, no more prompts of the workload are
    compared than needed; None: however long it takes."""
    repeats: int = 1
    """How often the first batch of a composition with a difference runs again."""


class LocatePlan(Record, frozen=True, kw_only=True):
    """Which differing probe output a phase looks into, instead of running trials and probes."""

    composition: str
    batch: int
    """Number of the batch within the composition, from 0."""
    position: int
    """Index of the probe in the batch."""
    sample: int
    observe: bool
    """Whether the modules are observed; without it only outputs are compared, which compiled models allow too."""
    shrink_time_s: float
    """Time after which no smaller batch is tried any more, in seconds."""
    graph_sizes: tuple[int, ...] | None = None
    """Those that the batch was composed with, as in `PhaseResult`, whatever this engine has; None: this engine's."""
    borders: tuple[int, ...] | None = None


class PhaseSpec(Record, frozen=True, kw_only=True):
    """Everything one phase is passed; written to its folder before the process starts."""

    version: int = RECORD_VERSION
    project_version: str
    """Version of this project that wrote the spec; the parent refuses a phase of another version."""
    index: int
    """Position in the schedule, from 0."""
    pair: int
    """Pair that the phase belongs to, from 0."""
    arm: Arm
    launch: int
    """Which launch of this arm it is, from 0: the first one is cold when caches are private."""
    engine: EngineSpec
    workload_path: str
    workload_digest: str
    """SHA-256 of the workload file; the phase refuses a file with another digest."""
    warmup_batches: int
    """Rounds of uncounted generations before the trials, after the needle alone: a batch of each of their shapes."""
    wait_for_turn: bool
    """Whether the phase waits for the parent's word before each trial (`protocol.interleave=trial`)."""
    probes: ProbePlan | None = None
    trials_path: str | None = None
    """Workload file of the trials, where every pair has prompts of its own; None: `workload_path`, which
    is that of the first pair. The probes are those of `workload_path` in every phase."""
    trials_digest: str | None = None
    """SHA-256 of `trials_path`."""
    trial_order: tuple[int, ...] = ()
    """The order in which the trials run, by their index; empty: as in the workload."""
    inject_pct: float = 0.0
    """Slow-down on purpose: how long to wait within each timed trial, in per cent of what the trial took."""
    locate: LocatePlan | None = None
    """Looks for the operator behind one differing probe, and runs neither trials nor probes."""
    profiler: str | None = None
    """Profiler of one more trial, which is not timed, after trials and probes; None: there is no such trial."""


class OrderSeed(Record, frozen=True, kw_only=True):
    """The seed of the order of launches, turns and trials: `order.json`, for a resumed experiment."""

    version: int = RECORD_VERSION
    seed: int


# --- What a phase reports -------------------------------------------------------------------------------------------


class ObservedEngine(Record, frozen=True, kw_only=True):
    """What vLLM itself says it runs with, read back from the engine after its initialisation."""

    batch_invariant: bool
    """`vllm.envs.VLLM_BATCH_INVARIANT` as vLLM's own code sees it."""
    attention_backend: str
    compilation_mode: str
    cudagraph_mode: str
    enforce_eager: bool
    dtype: str
    device: str
    kv_cache_tokens: int
    """Capacity of the KV cache in tokens; 0 if vLLM does not report it."""
    block_size: int
    max_num_batched_tokens: int
    max_num_seqs: int
    async_scheduling: bool
    threads: int
    """Intra-operation CPU threads of torch in the phase's process."""
    flash_attn_version: str | None = None
    """Version of FlashAttention's kernels that the attention layers call; None, here and below: vLLM does not say, or
    the record is from before it was asked."""
    prefix_caching: bool | None = None
    chunked_prefill: bool | None = None
    kv_cache_dtype: str | None = None
    quantization: str | None = None
    cudagraph_sizes: int | None = None
    """How many batch sizes have a captured graph."""
    fusions: str | None = None
    """Switches of vLLM's compile passes that put several operators into one kernel, and which are on; `none` where it
    compiles nothing. Those into a quantization are left out where nothing is quantized."""
    all_reduce: str | None = None
    """What adds up over the devices of a tensor-parallel group, and how it is pinned; None with one device."""
    fp32_precision: str | None = None
    """How torch's own kernels multiply float32 matrices on the device: `ieee`, `tf32`, `none` (torch's default).
    Triton's, of which the mode's are, do not go by it."""


class Latencies(Record, frozen=True, kw_only=True):
    """Request timing of one trial, in seconds, one value a request, in the order of the prompts.

    From vLLM's own request metrics (`RequestOutput.metrics`).
    """

    time_to_first_token_s: tuple[float, ...]
    time_per_output_token_s: tuple[float, ...]
    """(last token - first token) / (output tokens - 1); 0 for a single token."""
    end_to_end_s: tuple[float, ...]


class NeedleCheck(Record, frozen=True, kw_only=True):
    """The needle's output in a trial's batch against its output alone."""

    equal: bool
    first_difference: int | None = None
    """Index of the first differing output token; None when equal."""


class Trial(Record, frozen=True, kw_only=True):
    """One timed `LLM.generate` of one batch."""

    index: int
    batch_size: int
    started_at: float
    """Unix time in seconds."""
    time_s: float
    """Wall time of `generate`, in seconds."""
    cpu_time_s: float
    """CPU time used meanwhile by the phase's process and its children, in seconds."""
    prompt_tokens: int
    output_tokens: int
    needle: NeedleCheck
    latencies: Latencies | None = None
    """None when this vLLM does not report request metrics."""
    compiled: tuple[str, ...] | None = None
    """Kernels and graphs that were compiled while it ran, in the worker that compiled most; None, here and below: it
    was not counted."""
    preemptions: int | None = None
    """How often a request was put back for lack of KV cache, and its tokens computed again."""
    queued: int | None = None
    """Requests that were first scheduled after another request of the batch had ended: there was no room for them."""
    cached_tokens: int | None = None
    """Prompt tokens that were taken from the prefix cache."""
    split: tuple[int, ...] | None = None
    """Positions of the prompts that are known to have been computed in several steps, by the engine's own times; None
    also where it put a request back."""
    decode_step_s: float | None = None
    """Median time of the steps after the last prompt was read, in seconds; None with fewer than eight."""
    longest_step_s: float | None = None
    """The longest of them, in seconds."""
    ruled_pct: float | None = None
    """Share of output tokens whose steps the engine counted as vLLM's first-come-first-served rule says for outputs of
    `Sampling.max_tokens` tokens, in per cent: with as many sequences decoding together, and another one's prompt ending
    in them or not."""


class ClockReading(Record, frozen=True, kw_only=True):
    """What NVML says of one device about one trial of a phase; the parent asks before and after it, never within."""

    trial: int
    device: int
    """NVML's index."""
    sm_clock_mhz: int | None
    """Clock of the multiprocessors right after the trial, in MHz; None, here and below: NVML does not say."""
    highest_sm_clock_mhz: int | None = None
    """What the device can do, in MHz; None in older records too."""
    temperature_c: int | None
    """Right after the trial, in degrees Celsius."""
    power_w: float | None
    """Mean over the trial, in watts, from the device's energy counter."""
    reasons: tuple[str, ...] = ()
    """What throttled the device right after the trial: `power limit`, `temperature`, ..."""
    throttled_s: dict[str, float] = msgspec.field(default_factory=dict, name="held_back_s")
    """Time in the trial that each of these reasons throttled it, in seconds; only those that the device counts."""


class ProbeResult(Record, frozen=True, kw_only=True):
    """One probe at one place of one batch composition, compared with the same probe alone in the same phase.

    Probe, composition, batch, position and sample say which output it is, the same in every launch.
    """

    probe: int
    """Number of the prompt, from 0: of the plan's probes, or the composition's own prompts (`needle`, `workload`)."""
    composition: str
    batch: int
    """Number of the batch within the composition, from 0."""
    position: int
    """Index of the probe in the batch."""
    sample: int = 0
    """Index of the sample where a request has several."""
    equal: bool
    first_difference: int | None
    """Index, from 0, of the first output token whose id or logprob bits differ; None when equal."""
    tokens_equal: bool
    largest_logprob_difference: float
    """Largest |delta logprob| over all positions up to and including the first differing token id."""
    digest: str
    """SHA-256 over the token ids and the float32 bits of every returned logprob."""
    sampled: bool = False
    """Whether the prompt was drawn at random from the workload: the bound rests on these alone."""
    fault: Fault | None = None
    """What is wrong with the output, alone or in the batch, whatever the other is; None: nothing."""
    repeatable: bool | None = None
    """Whether the same bits came back when the batch and the first differing probe of it alone ran again; None: they
    did not run again."""
    request: str = ""
    """What was asked, as the beginning of a SHA-256 over prompt, length and sampling: the same in two experiments where
    both asked the same. Empty in records from before it was kept."""
    positions: int | None = None
    """Tokens compared, those of the prompt included where it is scored; None: not counted."""
    prompt_positions: int = 0
    """Those of the prompt, from its second token on: `first_difference` counts them first."""


class StepCount(Record, frozen=True, kw_only=True):
    """Output tokens of one class of steps, of the workload or of one composition's probes."""

    composition: str | None
    """None: the workload's timed trials."""
    kind: StepKind
    context: int
    """Lower end of a class of context lengths in tokens; the next class begins where this one ends."""
    sequences: int
    """Lower end of a class of sequences that decode together; 0 for `prefill`."""
    padded: bool = False
    """Whether the step is smaller than the CUDA graph that runs it."""
    split: bool = False
    """Of `prefill`: whether earlier steps computed a part of the prompt."""
    tokens: int
    """Output tokens, over all requests that are compared; of the workload over all requests."""
    comparable: int | None = None
    """Those up to the first other token id of their output, behind which the context is another; None: of the workload,
    or not counted."""
    changed: int | None = None
    """Those of them whose bits are not the bits of the same prompt alone; None: of the workload, or not counted."""


class NotMade(Record, frozen=True, kw_only=True):
    """What a batch composition does not have, because the engine's limits make it impossible."""

    composition: str
    what: str | None
    """`contexts of 1024 and 2048 tokens`; None: all of it."""
    why: str
    """A clause: `the model takes 512 tokens`."""


class AloneOutput(Record, frozen=True, kw_only=True):
    """A probe's output alone: what the two arms are compared by."""

    probe: int
    token_ids: tuple[int, ...]
    logprobs: tuple[tuple[tuple[int, float], ...], ...]
    """For each token the returned (token id, logprob), best rank first."""


class Started(Record, frozen=True, kw_only=True, tag="started"):
    """The phase's process runs and has read its spec."""

    pid: int
    project_version: str
    versions: dict[str, str]
    """Package versions in the phase's environment: python, vllm, torch, transformers."""


class EngineReady(Record, frozen=True, kw_only=True, tag="engine_ready"):
    """The engine is built."""

    init_time_s: float
    """Wall time of building `vllm.LLM`, imports excluded, in seconds."""
    import_time_s: float
    """Wall time of importing vLLM, in seconds."""
    observed: ObservedEngine


class WarmedUp(Record, frozen=True, kw_only=True, tag="warmed_up"):
    """The uncounted generations are over."""

    time_s: float
    needle_token_ids: tuple[int, ...]
    """The needle's output alone."""
    kv_cache_needed_tokens: int | None = None
    """Tokens that the largest trial keeps in the KV cache at its end."""
    step_sizes: int = 0
    """Steps of each round, of the sizes that kernels change at."""


class TrialDone(Record, frozen=True, kw_only=True, tag="trial"):
    """One timed trial is over."""

    trial: Trial


class ProbeDone(Record, frozen=True, kw_only=True, tag="probe"):
    """One batch composition is over for every probe in it."""

    results: tuple[ProbeResult, ...]
    steps: tuple[StepCount, ...] = ()
    """The steps that these outputs come from; with the first composition, those of the workload too."""
    alone: tuple[AloneOutput, ...] = ()
    left_out: int = 0
    """Prompts that were drawn from the workload and do not count as sampled: time was over before their turn."""
    not_made: tuple[NotMade, ...] = ()
    graph_sizes: tuple[int, ...] | None = None
    """As in `PhaseResult`."""
    borders: tuple[int, ...] | None = None


class ModuleDifference(Record, frozen=True, kw_only=True):
    """What one module gave for the probe's own rows in the batch, against what it gave for them alone."""

    rank: int
    """Worker, from 0."""
    module: str
    """Path in the model, `model.layers.2.mlp.down_proj`."""
    class_name: str
    kind: str
    """`matrix multiplication`, `attention`, `norm`, ...; with tensor parallelism also the collective in it."""
    step: int
    """Step of the batch, from 0, among those that the probe takes part in."""
    position: int
    """First position of the sequence, from 0, whose row differs; the first compared one where none does."""
    rows_alone: int
    """Rows that the module computes alone, in the step of that position."""
    rows_in_batch: int
    """The same in the batch: the probe's rows and its neighbours'."""
    shape: tuple[int, ...]
    """Of the compared output: the probe's rows, then the width."""
    elements: int
    """Elements compared."""
    differing: int
    """Those among them whose bits differ."""
    largest_difference: float
    """Largest |difference| of an element; the largest float where one is not a finite number."""
    inputs_equal: bool
    """Whether the bits of its tensor inputs are equal for the same rows."""


class BatchRequest(Record, frozen=True, kw_only=True):
    """One request of a batch, with all that it takes to run it with vLLM alone."""

    prompt: tuple[int, ...]
    max_tokens: int
    temperature: float
    seed: int | None
    samples: int
    logprobs: bool = True
    """Whether logprobs are asked for; without them tokens alone are compared."""
    score_prompt: bool = False
    """Whether the logprobs of the prompt, from its second token on, are compared before the output's."""


class SmallestBatch(Record, frozen=True, kw_only=True):
    """The fewest neighbours with the shortest prompts that were found to change the probe."""

    requests: tuple[BatchRequest, ...]
    position: int
    """Index of the probe in `requests`."""
    sample: int
    first_difference: int
    """First token of the probe that differs in this batch, counted as in `Location`."""
    neighbours_before: int
    """Neighbours in the batch that the search started from."""
    tried: int
    """Batches that the search ran."""
    whole: bool
    """Whether the search came to its end; else the time was over."""
    first: ModuleDifference | None = None
    """First module that differs in this batch; None where modules were not observed."""
    border_tokens: int | None = None
    """Prompt tokens of the only neighbour from which on the probe changes; None: there are more neighbours, or no
    border was seen."""
    larger_differing: tuple[int, ...] = ()
    """Larger numbers of prompt tokens of that neighbour that were tried, and change the probe too."""
    larger_equal: tuple[int, ...] = ()
    """Those that do not."""


class Location(Record, frozen=True, kw_only=True):
    """Where a probe's output first differs from the same probe alone."""

    arm: Arm
    composition: str
    batch: int
    position: int
    sample: int
    level: str = "eager"
    """How the model ran when it was found: `eager`, `compiled without graphs`, `compiled with piecewise graphs`, ..."""
    stopped: str | None = None
    """Why no operator is named, in one sentence; None when one is."""
    composed: bool = True
    """Whether the batch could be composed again on this engine."""
    repeatable: bool = True
    """Whether the probe alone gives the same bits when it runs again."""
    first_difference: int | None = None
    """First token that differs, from 0; None: the outputs were equal."""
    prompt_tokens: int = 0
    """Prompt tokens of the probe."""
    prompt_positions: int = 0
    """Those that are compared, from the second on: `first_difference` counts them first."""
    first: ModuleDifference | None = None
    """The first module that differs, in the order of execution."""
    layers: tuple[ModuleDifference, ...] = ()
    """Every module that computed in the first step that differs, in the order of execution."""
    smallest: SmallestBatch | None = None
    not_shrunk: str | None = None
    """Why there is no smallest batch although one was looked for, in one sentence; None when there is one."""
    logprobs: int = 0
    """Logprobs compared for each output token."""


class Located(Record, frozen=True, kw_only=True, tag="located"):
    """The phase has looked for the operator behind a difference."""

    location: Location


class Operation(Record, frozen=True, kw_only=True):
    """One kernel or operator of a profiled trial, in one kind of step: the mean over the workers."""

    name: str
    """As the profiler names it, cut where it is long: a kernel on a device, else an operator on the CPU."""
    within: str | None = None
    """The outermost operator of vLLM's that called it, `vllm::unified_attention_with_output`; None: none did, or it
    ran on a device, where graphs know of no operators."""
    steps: ProfiledStep
    calls: int
    time_s: float
    """Time in seconds that is its own alone: without the operators that it calls, and without the time in which a
    kernel that started earlier ran too."""


class StepsTime(Record, frozen=True, kw_only=True):
    """The steps of one kind in a profiled trial: the mean over the workers."""

    steps: ProfiledStep
    number: int
    time_s: float
    """From the beginning of each to that of the next, in seconds: on a device by its first kernel."""


class Profile(Record, frozen=True, kw_only=True):
    """One more trial of a phase, observed by a profiler: its time counts nowhere."""

    profiler: str
    """`torch`."""
    stopped: str | None = None
    """Why there is no profile, in one sentence; None when there is one."""
    trial: int
    """Index of the trial whose batch ran again."""
    on_device: bool = False
    """Whether the operations are kernels of a device; else operators on the CPU."""
    workers: int = 0
    time_s: float = 0.0
    """Wall time of `generate` while it was observed, in seconds."""
    prompt_tokens: int = 0
    output_tokens: int = 0
    whole: bool = True
    """Whether it generated as many tokens as the timed trial; a long one is cut, so that its trace can be read."""
    steps: tuple[StepsTime, ...] = ()
    operations: tuple[Operation, ...] = ()
    """The longest first."""
    traces: tuple[str, ...] = ()
    """Chrome traces, gzipped, one a worker: names in the phase's folder `profile`."""
    traces_left_out: tuple[str, ...] = ()
    """Those that were too large to keep, with their size."""


class Profiled(Record, frozen=True, kw_only=True, tag="profiled"):
    """The profiled trial is over."""

    profile: Profile


class Done(Record, frozen=True, kw_only=True, tag="done"):
    """The phase did everything it was passed."""

    peak_memory_bytes: int
    """Largest device memory in use where there is a device, else the largest resident set of the phase's processes."""
    probe_time_s: float
    """Wall time of all probes, in seconds."""


class Failed(Record, frozen=True, kw_only=True, tag="failed"):
    """The phase gave up."""

    error: str
    """One line."""


Event: TypeAlias = Started | EngineReady | WarmedUp | TrialDone | ProbeDone | Located | Profiled | Done | Failed


class PhaseResult(Record, frozen=True, kw_only=True):
    """What is known of one phase: built by the parent from the phase's events, kept after every one of them."""

    version: int = RECORD_VERSION
    index: int
    pair: int
    arm: Arm
    launch: int
    status: PhaseStatus
    error: str | None = None
    """One line, when `status` is not ok."""
    started_at: float
    """Unix time in seconds at which the process was started."""
    wall_time_s: float
    """From the start of the process to its end, in seconds."""
    versions: dict[str, str] = {}
    import_time_s: float | None = None
    init_time_s: float | None = None
    warmup_time_s: float | None = None
    observed: ObservedEngine | None = None
    needle_token_ids: tuple[int, ...] = ()
    kv_cache_needed_tokens: int | None = None
    """Tokens that the largest trial keeps in the KV cache at its end."""
    warmup_step_sizes: int | None = None
    """Steps of each round of the warm-up, of the sizes that kernels change at; None in a record from before they ran.
    """
    trials: tuple[Trial, ...] = ()
    """In the order in which they ran (`PhaseSpec.trial_order`); `Trial.index` says which each is."""
    clocks: tuple[ClockReading, ...] = ()
    """One for each trial and device; none without NVML, or in a record from before they were read."""
    probes: tuple[ProbeResult, ...] = ()
    steps: tuple[StepCount, ...] = ()
    """Of the workload and of the probes, by vLLM's first-come-first-served rule; none in a record of version 1."""
    alone: tuple[AloneOutput, ...] = ()
    """Outputs of the plan's probes alone; none in a record of version 1."""
    left_out: int = 0
    """Prompts that were drawn from the workload and do not count as sampled: time was over before their turn."""
    not_made: tuple[NotMade, ...] = ()
    """What the compositions do not have."""
    graph_sizes: tuple[int, ...] | None = None
    """Tokens of the steps that have a CUDA graph, as the compositions were made for them; None, here and below: none
    were made, or the record is from before it was kept."""
    borders: tuple[int, ...] | None = None
    """Numbers of tokens at which the engine changes kernels or graphs, as far as it reports them."""
    probe_time_s: float | None = None
    location: Location | None = None
    """Only of a phase that was launched to look for one."""
    profile: Profile | None = None
    """One more trial, observed and not timed; None where none was asked for."""
    untuned: tuple[str, ...] = ()
    """What the engine's log says of paths that are not tuned or fall back to slower ones, each message once."""
    peak_memory_bytes: int | None = None
    load_average: float
    """One-minute load average of the machine just before the process was started."""


# --- What an experiment says ----------------------------------------------------------------------------------------


class Device(Record, frozen=True, kw_only=True):
    """One accelerator as NVML sees it."""

    index: int
    name: str
    memory_bytes: int
    compute_capability: tuple[int, int]
    uuid: str | None = None
    """NVML's; None in records of version 1."""


class Environment(Record, frozen=True, kw_only=True):
    """What the experiment ran on. No tokens, no passwords, no home folders: variables come from an allow-list."""

    project_version: str
    commit: str | None
    """Git commit of this project's checkout; None when it does not run from one."""
    dirty: bool | None
    versions: dict[str, str]
    """Package versions in the parent's environment; a phase's own are in its result."""
    driver: str | None
    cuda: str | None
    """Newest CUDA version that the driver supports."""
    devices: tuple[Device, ...]
    platform: str
    cpu: str
    cpu_count: int
    """CPUs this process may run on."""
    memory_bytes: int
    limits: dict[str, str]
    """Limits that bind the run, as text: control group CPU quota and memory, open files."""
    variables: dict[str, str]


class TokenCounts(Record, frozen=True, kw_only=True):
    """Measured size of the trials of one arm, in tokens and prompts, over its first launch."""

    prompts: int
    prompt_tokens: int
    output_tokens: int
    prompt_tokens_min: int
    """Smallest number of prompt tokens of a trial."""
    prompt_tokens_max: int


class Metric(Record, frozen=True, kw_only=True):
    """One quantity in both arms, compared pair by pair."""

    name: str
    """Name as logged: `total_time`, `trial_time`, `init_time_cold`, `throughput`, ..."""
    unit: str
    baseline: float
    """Geometric mean over the launches, and over their trials or requests where those are compared, in `unit`: its
    ratio is the change. In records of before it was that, the mean."""
    second: float = msgspec.field(name="batch_invariant")
    """The same in the second arm; stored under the name that it has where that arm is the mode."""
    change_pct: float | None
    """100 * (exp(mean over pairs of the log ratio) - 1); None when withheld."""
    low_pct: float | None = None
    """Lower end of the 95 % interval; None with fewer than two pairs."""
    high_pct: float | None = None
    pairs: int
    """Pairs that the change rests on."""
    verdict: Difference = Difference.INCONCLUSIVE
    withheld: str | None = None
    """Why the change is withheld; None when it is not."""
    p_value: float | None = None
    """Of the t test that there is no change; None without an interval."""
    adjusted_p_value: float | None = None
    """Holm's, over all metrics but the primary one and its reciprocals; None for these. The verdict goes by it."""


class TrialCost(Record, frozen=True, kw_only=True):
    """What one trial costs: the same prompts in both arms of each pair."""

    index: int
    batch_size: float
    """Prompts; here and below the mean over the pairs, where these have prompts of their own."""
    prompt_tokens: float
    output_tokens: float
    baseline_s: float
    """Geometric mean over the launches, in seconds."""
    second_s: float
    """The same in the second arm."""
    change_pct: float | None
    """Of this trial's time; None where the arms generated different numbers of tokens."""
    low_pct: float | None = None
    """Lower end of the 95 % interval of this trial alone; None with fewer than two pairs."""
    high_pct: float | None = None


class RobustChange(Record, frozen=True, kw_only=True):
    """The change of the total time by the method of Hodges and Lehmann, which a few wild launches do not move."""

    change_pct: float
    low_pct: float
    high_pct: float


class TwoStages(Record, frozen=True, kw_only=True):
    """What the first of two stages said about the number of pairs; known before the second begins."""

    first_pairs: int
    """Pairs of the first stage."""
    deviation_pct: float
    """Standard deviation of their log ratios of total time, in per cent."""
    target_half_width_pct: float
    wanted_pairs: int
    """Pairs that the target takes, those of the first stage included."""
    pairs: int
    """Pairs that are run: `protocol.max_pairs` at most."""
    half_width_pct: float
    """Half-width of the interval to be expected of them, in percentage points."""
    pair_s: float
    """Time of a pair in the first stage, in seconds."""


class Finding(Record, frozen=True, kw_only=True):
    """Something the reader should know before believing the number, with what to do about it."""

    kind: str
    """`drift`, `warm_up`, `neighbour`, `clocks`, `token_counts`, `single_launch`, `needle`, ..."""
    message: str
    remedy: str


class Comparison(Record, frozen=True, kw_only=True):
    """The statistics of an experiment."""

    pairs: int
    """Complete pairs that were used."""
    metrics: tuple[Metric, ...]
    findings: tuple[Finding, ...]
    sequential: bool = False
    """Whether the number of pairs followed from the spread of the first ones (in version 1: was decided on the way)."""
    stages: TwoStages | None = None
    """What the first stage said; None before its end, without a target, and in records from before it was kept."""
    noise_floor_pct: float | None = None
    """In records of version 1: by how much the trial time of two identical arms may differ here, in per cent."""
    trials: tuple[TrialCost, ...] = ()
    """The cost trial by trial, in the order of the workload."""
    robust: RobustChange | None = None
    """None with fewer than six pairs."""
    fresh_prompts: bool = False
    """Whether every pair had prompts of its own, so that the interval is about the workload and not these prompts."""
    sentence: str
    """The result in one sentence."""

    def metric(self, name: str) -> Metric | None:
        """The metric of that name, or None."""
        return next((metric for metric in self.metrics if metric.name == name), None)


class CompositionCount(Record, frozen=True, kw_only=True):
    """How often the probes of one arm differed in one batch composition; an output counts once for all launches."""

    composition: str
    arm: Arm
    differing: int
    total: int
    tokens_differing: int
    """Those among `differing` in which a token id differed too."""
    largest_logprob_difference: float
    verdict: Invariance | None = None
    """Of the batch-invariant arm, on this composition alone; None in another arm, for a clean `batch_1`, and for
    `prefill`, whose outputs are no matter of the batch as long as they are numbers and repeat."""
    fault: Fault | None = None
    """What is wrong with an output whatever it is compared with."""


class ArmVerdict(Record, frozen=True, kw_only=True):
    """Whether invariance holds in one arm."""

    arm: Arm
    verdict: Invariance
    """Of the batch-invariant arm the worst that its workload needs."""
    differing: int
    total: int
    """Probe outputs; one that several launches have counts once."""
    first: ProbeResult | None = None
    """The first probe that differed."""
    launches_compared: int
    """Launches of this arm that have probes; their digests are compared with each other."""
    launches_differing: int
    """Probe outputs whose digest is not the same in all launches."""
    reproducible: Reproducibility | None = None
    """The verdict on these; None in a record of version 1."""


class LedgerRow(Record, frozen=True, kw_only=True):
    """One class of steps: how much of the workload is in it, and what was probed there."""

    kind: StepKind
    context: int
    """Lower end of the class of context lengths, in tokens."""
    context_below: int | None
    """Its upper end, not included; None: there is none."""
    sequences: int
    """Lower end of the class of sequences that decode together; 0 for `prefill`."""
    sequences_below: int | None
    padded: bool
    split: bool = False
    workload_tokens: int
    workload_pct: float
    """Share of the workload's output tokens, in per cent."""
    probe_tokens: int
    """Output tokens of probes in this class, in one launch of the batch-invariant arm."""
    control_tokens: int | None = None
    """The baseline's in this class that changed with the batch, in the same compositions and one launch: the class's
    own control; None: not counted."""
    control_of: int | None = None
    """Those that the baseline compared there; None: not counted."""
    control_behind: int = 0
    """Further ones there, behind the first other token id of their output: not comparable."""
    control_in_doubt: bool = False
    """Whether compositions in which it differs, and nothing shows that the batch did it, are there: not counted."""
    verdict: Invariance
    """The best of the compositions that probe this class, unless one of them is violated."""


class ArmAgreement(Record, frozen=True, kw_only=True):
    """How far the outputs of the same probes alone are apart in the two arms."""

    tokens: int
    """Output tokens compared: of each probe up to the first that differs."""
    tokens_equal_pct: float
    """Share of output tokens that are equal, in per cent; those after the first that differs count as different."""
    largest_logprob_difference: float
    kl_mean: float
    """Mean over the tokens of the Kullback-Leibler divergence of the second arm from the baseline, in nats: over the
    tokens that both arms returned, and all others as one."""
    kl_largest: float
    between_batches: float
    """Largest |delta logprob| of the baseline against itself in other batches."""
    explained: bool
    """Whether rounding explains the distance."""


class InvarianceReport(Record, frozen=True, kw_only=True):
    """The proof, or its failure, from the probes of all phases."""

    level: str
    arms: tuple[ArmVerdict, ...]
    compositions: tuple[CompositionCount, ...]
    needle_differing: dict[Arm, int]
    """Trials in which the needle's tokens differed from its output alone."""
    needle_total: dict[Arm, int]
    not_run: tuple[str, ...] = ()
    """Requested compositions that gave no result: the engine's limits make them impossible, or no phase got there."""
    sentence: str
    """The verdict in one sentence."""
    ledger: tuple[LedgerRow, ...] = ()
    """Every class of steps that the workload has, the largest first; none in a record of version 1."""
    greedy_tokens: int | None = None
    """Output tokens of the greedy continuations that stand in the proof for the workload's outputs, where these are
    sampled or may end early; None: the workload's own are such, or the record does not say."""
    ruled_pct: float | None = None
    """Share of the trials' output tokens whose steps the engine counted as the rule of the ledger says, in per cent;
    None where it does not count them."""
    sampled: int = 0
    """Outputs of prompts drawn at random from the workload that the batch-invariant arm compared, each once."""
    sampled_differing: int = 0
    left_out: int = 0
    """Prompts that were drawn too and do not count: time was over before their turn (`verify.time_share`)."""
    bound_pct: float | None = None
    """At most this share of the workload's outputs changes with the batch, in per cent (one-sided 95 %)."""
    census: bool = False
    """Whether all of the workload's prompts were compared: the bound is then the share that changed."""
    agreement: ArmAgreement | None = None
    """None where an arm has no probe alone."""

    def verdict(self, arm: Arm) -> Invariance | None:
        """The verdict of an arm, or None when it was not probed."""
        return next((verdict.verdict for verdict in self.arms if verdict.arm is arm), None)


INTERRUPTED = "it was interrupted"
"""Why an experiment ended early that a signal ended."""
BUDGET_SPENT = "the time budget"
"""How `ExperimentResult.stopped` begins where `protocol.time_budget_min` ended it, after whole pairs."""
KILLED = "the program was killed before it ended"
"""What the record says of a run that did not come to its end: it is written before each pair."""


class ExperimentResult(Record, frozen=True, kw_only=True):
    """All that one experiment found: `result.json`."""

    version: int = RECORD_VERSION
    name: str
    """Readable name: model, attention backend, tensor parallel size, workload."""
    command: str
    """The command line that repeats this experiment."""
    configuration: dict[str, Any]
    """The composed configuration."""
    environment: Environment
    started_at: float
    """Unix time in seconds."""
    wall_time_s: float
    workload_kind: str
    workload_digest: str
    tokens: dict[Arm, TokenCounts]
    phases: tuple[PhaseResult, ...]
    discarded: PhaseResult | None = None
    """The uncounted launch, before all others (`protocol.discard_first`)."""
    order_seed: int | None = None
    """Seed of the order of launches, turns and trials; `protocol.seed` set to it repeats the order. None in records of
    version 1, whose configuration has it."""
    planned_phases: int
    """Phases that the protocol asked for."""
    stopped: str | None = None
    """Why the experiment ended before its last phase; None when it did not."""
    comparison: Comparison | None = None
    """None without one complete pair."""
    invariance: InvarianceReport | None = None
    """None when nothing was probed and no trial had a needle."""
    taken_over: int = 0
    """Launches that an earlier start of the experiment had finished, and that were not run again."""
    beside: tuple[str, ...] = ()
    """Names of the experiments that were seen to run on other devices or cores of the machine at the same time."""
    location: Location | None = None
    """The operator behind a difference, once `bi_experiments.locate` has looked for it."""

    @property
    def launches(self) -> tuple[PhaseResult, ...]:
        """The phases, that of the uncounted launch included."""
        return (*([self.discarded] if self.discarded else []), *self.phases)

    @property
    def over(self) -> bool:
        """Whether nothing of it is left to run, or its time budget is spent."""
        return self.stopped is None or self.stopped.startswith(BUDGET_SPENT)

    @property
    def interrupted(self) -> bool:
        """Whether a signal ended it, also where that came between two phases."""
        return self.stopped in {INTERRUPTED, KILLED} or any(
            phase.status is PhaseStatus.INTERRUPTED for phase in self.launches
        )


# --- Reading and writing --------------------------------------------------------------------------------------------

R = TypeVar("R", bound=Record)


def to_json(record: Record) -> bytes:
    """The record as indented JSON, ending with a line break."""
    return msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n"


def json_schema() -> str:
    """The JSON schema (2020-12) of an experiment's record, as other languages check it: `docs/result.schema.json`."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **msgspec.json.schema(ExperimentResult)}
    return msgspec.json.format(msgspec.json.encode(schema, order="deterministic"), indent=1).decode() + "\n"


def from_json(data: bytes | str, kind: type[R], source: str | Path) -> R:
    """Read a record back.

    Args:
        data: The JSON text.
        kind: The record's type.
        source: Where the text comes from, for the error message.

    Raises:
        RecordError: The text is not such a record, or of another format version.
    """
    try:
        version = msgspec.json.decode(data, type=_Versioned).version
        if not 1 <= version <= RECORD_VERSION:
            raise RecordError(
                f"{source} has format version {version}, and this release reads 1 to {RECORD_VERSION}: "
                "use the release that wrote it, or run the experiment again"
            )
        return msgspec.json.decode(data, type=kind)
    except _NOT_JSON as error:
        raise RecordError(
            f"{source}: is not a record ({kind.__name__}) of version 1 to {RECORD_VERSION}: {error}"
        ) from error


class _Versioned(msgspec.Struct):
    """The version of any record, read before the rest of it."""

    version: int = RECORD_VERSION


def event_to_line(event: Event) -> bytes:
    """One event as one line of JSON."""
    return msgspec.json.encode(event) + b"\n"


def event_from_line(line: bytes) -> Event:
    """Read one event back.

    Raises:
        RecordError: The line is not an event.
    """
    try:
        event: Event = msgspec.json.decode(line, type=Event)
    except _NOT_JSON as error:
        raise RecordError(f"not an event: {error}: {line[:200]!r}") from error
    return event


_NOT_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises of bytes that are no such record: bytes of no text, and lists in lists without end, too."""
