"""The schema of the configuration: one dataclass for each group of `conf/`, and the checks that need several keys.

The YAML files hold the values; the classes here hold types and units. Hydra composes, OmegaConf validates against
these types, `from_hydra` turns the result into an `ExperimentConfig`, and `check` refuses what contradicts itself.
"""

import re
from dataclasses import dataclass
from enum import Enum
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bi_experiments import attention
from bi_experiments.attention import Platform
from bi_experiments.errors import ConfigurationError


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


class Interleave(Enum):
    """What alternates within a pair."""

    launch = "launch"
    """One phase runs after the other."""
    trial = "trial"
    """Both phases are alive and take turns, trial by trial."""


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
    num_hidden_layers: int = MISSING
    num_attention_heads: int = MISSING
    num_key_value_heads: int = MISSING
    head_dim: int = MISSING
    intermediate_size: int = MISSING
    vocab_size: int = MISSING
    seed: int = MISSING


@dataclass
class ModelConfig:
    """Group `model`: what is run."""

    name: str = MISSING
    """Name on the Hugging Face hub, or a local folder."""
    dtype: str = MISSING
    max_model_len: int = MISSING
    """Longest sequence, prompt and output, in tokens."""
    gpu_memory_utilization: float = MISSING
    """Share of the device's memory that the engine may take, 0 to 1."""
    load_format: str = MISSING
    """vLLM's `load_format`: `auto`, `dummy` (random weights, no download), ..."""
    quantization: str | None = MISSING
    trust_remote_code: bool = MISSING
    attention: AttentionKind = MISSING
    parameters_billion: float | None = MISSING
    """Parameters in billions, for the memory check before the start; null: not checked."""
    bytes_per_parameter: float = MISSING
    """Size of a stored parameter: 2 for bf16, 1 for FP8."""
    seeded: SeededCheckpoint | None = MISSING
    """Make the checkpoint instead of loading `name`."""


@dataclass
class BackendConfig:
    """Group `backend`: what runs it."""

    attention: str | None = MISSING
    """Attention backend, a name of vLLM's registry; null: vLLM chooses."""
    platform: Platform = MISSING
    enforce_eager: bool = MISSING
    """No torch.compile and no CUDA graphs."""
    enable_prefix_caching: bool = MISSING
    async_scheduling: bool = MISSING
    max_num_batched_tokens: int | None = MISSING
    """Largest step in tokens; null: vLLM's default."""
    distributed_executor_backend: str | None = MISSING
    """`mp`, `ray`, `uni`; null: vLLM chooses."""
    environment: dict[str, str] = MISSING
    """Environment variables of the phases."""
    preload: list[str] = MISSING
    """Shared libraries to preload in the phases where they exist: names without folder, `libtcmalloc_minimal.so.4`."""
    engine: dict[str, Any] = MISSING
    """Further vLLM engine arguments, passed on as they are."""


@dataclass
class WorkloadConfig:
    """Group `workload`: what it is asked."""

    kind: str = MISSING
    """Module of `bi_experiments.workload` that builds the prompts: `needle`, `vllm_script`."""
    max_batch_size: int = MISSING
    """Largest batch, in prompts; sizes are uniform in half of it to all of it."""
    num_trials: int = MISSING
    """Timed trials in each phase."""
    min_prompt: int = MISSING
    """Shortest prompt in words."""
    max_prompt: int = MISSING
    """Longest prompt in words."""
    max_tokens: int = MISSING
    """Tokens generated for each prompt."""
    temperature: float = MISSING
    top_p: float = MISSING
    sampling_seed: int = MISSING
    ignore_eos: bool = MISSING
    """Whether every prompt generates exactly `max_tokens`."""
    needle: str = MISSING
    """The known prompt at a random position of each batch."""


@dataclass
class ProtocolConfig:
    """Group `protocol`: how it is measured."""

    pairs: int = MISSING
    """Launches of each arm."""
    control: bool = MISSING
    """A/A: a second baseline in the place of the batch-invariant arm."""
    order: Order = MISSING
    seed: int = MISSING
    """Seed of the order."""
    warmup: int = MISSING
    """Uncounted generations of the largest batch, after the needle alone."""
    caches: Caches = MISSING
    interleave: Interleave = MISSING
    equivalence_pct: float = MISSING
    """Changes within plus or minus this many per cent count as none."""
    target_half_width_pct: float | None = MISSING
    """Add pairs until the interval of the trial time is this narrow; null: exactly `pairs`."""
    max_pairs: int | None = MISSING
    """Most pairs with `target_half_width_pct`."""
    time_budget_min: float | None = MISSING
    """Start no further pair after this many minutes; null: no limit."""


@dataclass
class VerifyConfig:
    """Group `verify`: how invariance is probed."""

    level: str = MISSING
    """`off`, `needle`, `standard`, `full`."""
    compositions: list[str] = MISSING
    """Batch compositions that every probe is put in."""
    probes: int = MISSING
    max_tokens: int = MISSING
    """Tokens generated for each probe."""
    logprobs: int = MISSING
    """Logprobs compared for each generated token."""
    seed: int = MISSING
    keep: bool = MISSING
    """Keep the raw logprobs of the probes."""
    strict: bool = MISSING
    """End with exit code 3 when invariance is violated in the batch-invariant arm."""


@dataclass
class TrackingConfig:
    """Group `tracking`: where MLflow logs to."""

    enabled: bool = MISSING
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
    cache_dir: str = MISSING
    """Folder of checkpoints that this project makes."""


@dataclass
class GateConfig:
    """Key `gate`: the limit that continuous integration sets."""

    max_overhead_pct: float | None = MISSING
    """Largest accepted overhead of the trial time, in per cent; null: none."""


@dataclass
class ExperimentConfig:
    """One composed configuration."""

    model: ModelConfig = MISSING
    backend: BackendConfig = MISSING
    workload: WorkloadConfig = MISSING
    protocol: ProtocolConfig = MISSING
    verify: VerifyConfig = MISSING
    tracking: TrackingConfig = MISSING
    runtime: RuntimeConfig = MISSING
    gate: GateConfig = MISSING
    tp: int = MISSING
    """Tensor parallel size."""
    pp: int = MISSING
    """Pipeline parallel size."""
    seed: int = MISSING
    """Seed of the workload."""


def register_schema() -> None:
    """Put the classes into Hydra's ConfigStore, under the names that the YAML files start from."""
    store = ConfigStore.instance()
    store.store(name="base_config", node=ExperimentConfig)
    for group, node in (
        ("model", ModelConfig),
        ("backend", BackendConfig),
        ("workload", WorkloadConfig),
        ("protocol", ProtocolConfig),
        ("verify", VerifyConfig),
        ("tracking", TrackingConfig),
        ("runtime", RuntimeConfig),
    ):
        store.store(group=group, name=f"base_{group}", node=node)


def from_hydra(composed: DictConfig) -> ExperimentConfig:
    """Turn the composed configuration into its dataclasses, every interpolation resolved and converted.

    Raises:
        ConfigurationError: a value is missing or cannot be resolved (an environment variable of the wrong type).
    """
    try:
        config = OmegaConf.to_object(composed)
    except OmegaConfBaseException as error:
        raise ConfigurationError(one_line(error)) from error
    assert isinstance(config, ExperimentConfig)
    return config


def one_line(error: OmegaConfBaseException) -> str:
    """The message of an OmegaConf error with the key it is about, in one line."""
    message = str(error).strip().splitlines()[0].rstrip(".")
    key = getattr(error, "full_key", None)
    return f"{key}: {message}" if key and key not in message else message


def check(config: ExperimentConfig) -> None:
    """Refuse a configuration that contradicts itself, before anything is started.

    Raises:
        ConfigurationError: naming the first contradiction found.
    """
    _check_ranges(config)
    _check_lengths(config)
    _check_backend(config)
    _check_protocol(config)


def _require(condition: bool, key: str, found: object, instead: str) -> None:
    if not condition:
        raise ConfigurationError(f"{key}={found} is not possible: {instead}")


def _check_ranges(config: ExperimentConfig) -> None:
    workload, model, protocol, verify = config.workload, config.model, config.protocol, config.verify
    for key, value in (
        ("tp", config.tp),
        ("pp", config.pp),
        ("workload.max_batch_size", workload.max_batch_size),
        ("workload.num_trials", workload.num_trials),
        ("workload.min_prompt", workload.min_prompt),
        ("workload.max_tokens", workload.max_tokens),
        ("model.max_model_len", model.max_model_len),
        ("protocol.pairs", protocol.pairs),
        ("verify.probes", verify.probes),
        ("verify.max_tokens", verify.max_tokens),
        ("verify.logprobs", verify.logprobs),
    ):
        _require(value >= 1, key, value, "type a whole number from 1 up")
    _require(protocol.warmup >= 0, "protocol.warmup", protocol.warmup, "type 0 or more")
    _require(workload.temperature >= 0, "workload.temperature", workload.temperature, "type 0 (greedy) or more")
    _require(0 < workload.top_p <= 1, "workload.top_p", workload.top_p, "type a number above 0, at most 1")
    utilization = model.gpu_memory_utilization
    _require(0 < utilization <= 1, "model.gpu_memory_utilization", utilization, "type a share above 0, at most 1")
    timeout = config.runtime.phase_timeout_s
    _require(timeout > 0, "runtime.phase_timeout_s", timeout, "type a number of seconds above 0")
    _require(protocol.equivalence_pct > 0, "protocol.equivalence_pct", protocol.equivalence_pct, "type above 0")


def _check_lengths(config: ExperimentConfig) -> None:
    workload = config.workload
    _require(
        workload.min_prompt <= workload.max_prompt,
        "workload.min_prompt",
        workload.min_prompt,
        f"it is over workload.max_prompt={workload.max_prompt}; type at most that",
    )
    limit = config.model.max_model_len
    # A word of the prompts is at least one token; the engine itself counts exactly.
    needed = workload.max_prompt + workload.max_tokens
    _require(
        needed <= limit,
        "model.max_model_len",
        limit,
        f"workload.max_prompt={workload.max_prompt} words and workload.max_tokens={workload.max_tokens} "
        f"need at least {needed} tokens; type model.max_model_len={needed * 3 // 2} or shorter prompts",
    )


_MLA_NAMES = re.compile(r"deepseek-(v[23]|r1|coder-v2)|kimi-k2", re.IGNORECASE)


def _check_backend(config: ExperimentConfig) -> None:
    backend, model = config.backend, config.model
    mla = model.attention is AttentionKind.mla
    if not mla and _MLA_NAMES.search(model.name):
        raise ConfigurationError(
            f"model.name={model.name} has multi-head latent attention, but model.attention=standard: "
            "type model=deepseek, or model.attention=mla with backend=flash_attn_mla"
        )
    name = backend.attention
    if name is None:
        return
    fitting = attention.MLA if mla else attention.STANDARD
    existing = ", ".join(candidate for candidate in fitting if attention.platform(candidate) is backend.platform)
    if name in attention.REMOVED:
        raise ConfigurationError(
            f"backend.attention={name} does not exist: {attention.REMOVED[name]}; type one of {existing}"
        )
    if name not in attention.STANDARD + attention.MLA:
        raise ConfigurationError(f"backend.attention={name} is not known to vLLM 0.32; type one of {existing}")
    if name not in fitting:
        kind = "multi-head latent attention" if mla else "standard attention"
        raise ConfigurationError(
            f"backend.attention={name} does not run {model.name}, which has {kind}; type one of {existing}"
        )
    if attention.platform(name) is not backend.platform:
        raise ConfigurationError(
            f"backend.attention={name} runs on {attention.platform(name)}, but backend.platform={backend.platform}; "
            f"type one of {existing}"
        )


def _check_protocol(config: ExperimentConfig) -> None:
    protocol = config.protocol
    if protocol.target_half_width_pct is not None:
        _require(
            protocol.max_pairs is not None and protocol.max_pairs >= protocol.pairs,
            "protocol.max_pairs",
            protocol.max_pairs,
            f"with protocol.target_half_width_pct it must be at least protocol.pairs={protocol.pairs}",
        )
        _require(protocol.pairs >= 2, "protocol.pairs", protocol.pairs, "an interval needs 2 pairs or more")
    both = 2 * config.model.gpu_memory_utilization
    if protocol.interleave is Interleave.trial and config.backend.platform is Platform.cuda:
        _require(
            both < 0.95,
            "protocol.interleave",
            "trial",
            f"two engines would take {both:.2f} of the device's memory; "
            "type protocol.interleave=launch or model.gpu_memory_utilization=0.45",
        )
