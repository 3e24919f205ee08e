"""The schema of the configuration: one dataclass for each group of `conf/`.

The YAML files hold the values; the classes here hold types and units. Hydra composes, OmegaConf validates against
these types, and `from_hydra` turns the result into an `ExperimentConfig`.
"""

from dataclasses import dataclass, field
from enum import Enum, StrEnum
from typing import Any

from omegaconf import MISSING

from bi_experiments.config.backends import Platform


class Order(Enum):
    """Order of the arms within the pairs."""

    balanced = "balanced"
    """Half of the pairs AB and half BA (one more of either for an odd number), in random order."""
    baseline_first = "baseline_first"
    random = "random"


class Caches(Enum):
    """Whose compile caches the phases use."""

    private = "private"
    """An arm's own within the experiment: its first launch is cold, its later ones are warm."""
    user = "user"
    fresh = "fresh"
    """New ones for every launch, or for every `launches_per_cache` launches of an arm, so that the interval includes
    what tuning and compiling decide anew."""


class Interleave(Enum):
    """What alternates within a pair."""

    launch = "launch"
    """One phase runs after the other."""
    trial = "trial"
    """Both phases are alive and take turns, trial by trial."""
    auto = "auto"
    """`trial` on a GPU where two engines fit, else `launch`; a composed configuration has what became of it."""


class ProofLevel(StrEnum):
    """How thoroughly invariance is probed."""

    off = "off"
    needle = "needle"
    standard = "standard"
    full = "full"


class AttentionKind(Enum):
    """The kind of attention a model has, which decides what backends run it."""

    standard = "standard"
    """Multi-head or grouped-query attention."""
    mla = "mla"
    """Multi-head latent attention."""


@dataclass
class SeededCheckpoint:
    """Shape of a checkpoint with seeded random weights, made on first use in the user's cache folder."""

    architecture: str = MISSING
    """`model_type` known to transformers."""
    hidden_size: int = MISSING
    """Width of the model."""
    num_hidden_layers: int = MISSING
    """Layers."""
    num_attention_heads: int = MISSING
    """Heads of queries."""
    num_key_value_heads: int = MISSING
    """Heads of keys and values."""
    head_dim: int = MISSING
    """Width of a head."""
    intermediate_size: int = MISSING
    """Width of the feed-forward layers."""
    vocab_size: int = MISSING
    """Tokens of the vocabulary."""
    seed: int = MISSING
    """Seed of the weights."""
    overrides: dict[str, Any] = field(default_factory=dict)
    """Further values of the architecture's own configuration: experts, latent attention, ..."""


@dataclass
class ModelConfig:
    """Group `model`: what is run."""

    name: str = MISSING
    """Name on the Hugging Face hub, or a local folder."""
    dtype: str = MISSING
    """Data type of weights and activations: `bfloat16`, `float16`, `float32`, `auto`."""
    max_model_len: int = MISSING
    """Longest sequence, prompt and output, in tokens."""
    gpu_memory_utilization: float = MISSING
    """Share of the device's memory that the engine may take, 0 to 1."""
    load_format: str = MISSING
    """vLLM's `load_format`: `auto`, `dummy` (random weights, no download), ..."""
    quantization: str | None = MISSING
    """vLLM's `quantization`; null: what the checkpoint says."""
    trust_remote_code: bool = MISSING
    """Run code that comes with the checkpoint."""
    attention: AttentionKind = MISSING
    """The kind of attention, which decides what backends run it."""
    parameters_billion: float | None = MISSING
    """Parameters in billions, for the memory check before the start; null: not checked."""
    bytes_per_parameter: float = MISSING
    """Size of a stored parameter: 4 for float32, 2 for bf16, 1 for FP8."""
    seeded: SeededCheckpoint | None = MISSING
    """Make the checkpoint instead of loading `name`."""


@dataclass
class BackendConfig:
    """Group `backend`: what runs it."""

    attention: str | None = MISSING
    """Attention backend, a name of vLLM's registry; null: vLLM chooses."""
    platform: Platform = MISSING
    """What the phases run on."""
    enforce_eager: bool = MISSING
    """No torch.compile and no CUDA graphs."""
    enable_prefix_caching: bool = MISSING
    """Keep the KV cache of prompts for later ones."""
    async_scheduling: bool | None = MISSING
    """Schedule the next step while the device computes; null: vLLM chooses."""
    max_num_batched_tokens: int | None = MISSING
    """Largest step in tokens; null: vLLM's default."""
    distributed_executor_backend: str | None = MISSING
    """`mp`, `ray`, `uni`; null: vLLM chooses."""
    environment: dict[str, str] = MISSING
    """Environment variables of the phases."""
    preload: list[str] = MISSING
    """Shared libraries to preload in the phases: patterns of paths below their interpreter's prefix, or whole ones."""
    engine: dict[str, Any] = MISSING
    """Further vLLM engine arguments, passed on as they are."""


SHORTER_THAN_ASKED = frozenset({"vllm_script"})
"""Kinds of workload whose prompts have fewer words than asked for."""


@dataclass
class WorkloadConfig:
    """Group `workload`: what it is asked."""

    kind: str = MISSING
    """Module of `bi_experiments.workload` that builds the prompts: `needle`, `vllm_script`."""
    max_batch_size: int = MISSING
    """Largest batch, in prompts; sizes are uniform in half of it to all of it, and 2 at least where it allows that."""
    num_trials: int = MISSING
    """Timed trials in each phase."""
    min_prompt: int = MISSING
    """Shortest prompt in words."""
    max_prompt: int = MISSING
    """Longest prompt in words."""
    max_tokens: int = MISSING
    """Tokens generated for each prompt."""
    temperature: float = MISSING
    """Sampling temperature; 0: greedy."""
    top_p: float = MISSING
    """Share of the probability that tokens are sampled from, 0 to 1."""
    sampling_seed: int = MISSING
    """Seed of the sampling, for every request."""
    ignore_eos: bool = MISSING
    """Whether every prompt generates exactly `max_tokens`."""
    fresh_prompts: bool = MISSING
    """Other batches and prompts in every pair, the same in both arms of it: the interval is then about the workload."""
    needle: str = MISSING
    """The known prompt at a random position of each batch."""


@dataclass
class ProtocolConfig:
    """Group `protocol`: how it is measured."""

    pairs: int = MISSING
    """Launches of each arm."""
    control: bool = MISSING
    """A/A: a second baseline instead of the batch-invariant arm."""
    order: Order = MISSING
    """Order of the arms within the pairs."""
    seed: int | None = MISSING
    """Seed of the order of launches, turns and trials; null: the experiment's own, which its record has."""
    discard_first: bool = MISSING
    """Run one uncounted launch of the baseline first: it fills the page cache, and warms the machine."""
    inject_pct: float = MISSING
    """Make the second arm wait so many per cent of every trial on purpose, to check that they are found; 0: do not."""
    warmup: int = MISSING
    """Rounds of uncounted generations before the trials, after the needle alone: a batch of each of their shapes, and a
    step of every size that kernels change at."""
    caches: Caches = MISSING
    """Whose compile caches the phases use."""
    launches_per_cache: int = MISSING
    """With `caches=fresh`: launches of an arm that share caches; with 2 or more the report separates the two."""
    interleave: Interleave = MISSING
    """What alternates within a pair: launches or trials."""
    equivalence_pct: float = MISSING
    """Changes within plus or minus this many per cent count as none."""
    target_half_width_pct: float | None = MISSING
    """Once `protocol.pairs` pairs have run, run as many more as narrow the half-width of the total time's interval to
    this, decided once (Stein's two stages); null: exactly `protocol.pairs`."""
    max_pairs: int | None = MISSING
    """Most pairs that are run in all for `protocol.target_half_width_pct`."""
    time_budget_min: float | None = MISSING
    """Start no further pair after this many minutes; null: no limit."""


@dataclass
class VerifyConfig:
    """Group `verify`: how invariance is probed."""

    level: ProofLevel = MISSING
    """How thoroughly invariance is probed."""
    compositions: list[str] = MISSING
    """Batch compositions that every probe is put in."""
    later_launches: list[str] | None = MISSING
    """Those of them that the second and later launches of an arm run, to compare launches by; null: all of them."""
    probes: int = MISSING
    """Probe prompts."""
    max_tokens: int = MISSING
    """Tokens generated for each probe."""
    logprobs: int = MISSING
    """Logprobs compared for each generated token."""
    trial_prompts: int = MISSING
    """Prompts drawn per trial, at random from all prompts of the workload."""
    time_share: float | None = MISSING
    """Once the probes of a launch have taken this share of the time of its arm's trials, in all its launches, `trial`
    samples no more prompts than needed; null: however long it takes."""
    seed: int = MISSING
    """Seed of the probes."""
    keep: bool = MISSING
    """Keep the raw logprobs of the probes."""
    strict: bool = MISSING
    """End with exit code 3 when invariance is violated in the batch-invariant arm, or the arm is not deterministic."""
    strict_launches: bool = MISSING
    """End with exit code 3 also when the batch-invariant arm's outputs differ from launch to launch."""
    locate: bool = MISSING
    """Locate the operator behind a violation in the batch-invariant arm at once, as `bi_experiments.locate` does."""


@dataclass
class TrackingConfig:
    """Group `tracking`: where MLflow logs to."""

    enabled: bool = MISSING
    """Whether anything is logged."""
    uri: str = MISSING
    """MLflow tracking URI."""
    experiment: str = MISSING
    """Name of the MLflow experiment that the runs are put in."""


@dataclass
class RuntimeConfig:
    """Group `runtime`: how the phases are started."""

    python: str | None = MISSING
    """Python interpreter of the phases; null: the one that runs this program."""
    phase_timeout_s: float = MISSING
    """Longest time of one phase, start to end, in seconds."""
    init_timeout_s: float | None = MISSING
    """Longest time until its engine is ready, in seconds; null, as in those below: as long as the phase may take."""
    warmup_timeout_s: float | None = MISSING
    """Longest time of its warm-up, in seconds."""
    trial_timeout_s: float | None = MISSING
    """Longest time of one trial, in seconds."""
    probe_timeout_s: float | None = MISSING
    """Longest time of the probes of one batch composition, in seconds."""
    cache_dir: str = MISSING
    """Folder of checkpoints that this project makes."""


@dataclass
class GateConfig:
    """Key `gate`: the limit that continuous integration sets."""

    max_overhead_pct: float | None = MISSING
    """Largest accepted overhead of the total time, in per cent; null: none."""


@dataclass
class SweepConfig:
    """Key `sweep`: how the experiments of a multirun are run."""

    resume: bool = MISSING
    """Resume the newest sweep of the same command, or the one in `hydra.sweep.dir`."""
    fail_fast: bool = MISSING
    """Run no further experiment after the first that fails."""
    confirm: bool = MISSING
    """Measure the cheapest experiment again at the end, in fresh pairs: the lowest of several is partly low by luck."""
    skip_impossible: bool = MISSING
    """Let the exit code pass over experiments that cannot run here."""
    cores: int | None = MISSING
    """CPU cores that an experiment on the CPU takes for itself; null: all of them."""


@dataclass
class ExperimentConfig:
    """One composed configuration."""

    model: ModelConfig = MISSING
    """What is run."""
    backend: BackendConfig = MISSING
    """What runs it."""
    workload: WorkloadConfig = MISSING
    """What it is asked."""
    protocol: ProtocolConfig = MISSING
    """How it is measured."""
    verify: VerifyConfig = MISSING
    """How invariance is probed."""
    tracking: TrackingConfig = MISSING
    """Where MLflow logs to."""
    runtime: RuntimeConfig = MISSING
    """How the phases are started."""
    gate: GateConfig = MISSING
    """The limit that continuous integration sets."""
    sweep: SweepConfig = MISSING
    """How the experiments of a multirun are run."""
    tp: int = MISSING
    """Tensor parallel size."""
    pp: int = MISSING
    """Pipeline parallel size."""
    seed: int = MISSING
    """Seed of the workload."""
    profile: bool = MISSING
    """Run one more trial in the first launch of each arm, observed by a profiler and not timed: where the time goes."""
