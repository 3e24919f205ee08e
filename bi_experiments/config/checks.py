"""The checks of a configuration that need several keys, or a range that a type cannot say."""

from bi_experiments.config import backends
from bi_experiments.config.backends import MLA_NAMES, Platform
from bi_experiments.config.schema import AttentionKind, ExperimentConfig, Interleave
from bi_experiments.errors import ConfigurationError
from bi_experiments.phase.proof.compositions import composition


def check(config: ExperimentConfig) -> None:
    """Refuse a configuration that contradicts itself, before anything is started.

    Raises:
        ConfigurationError: Naming the first contradiction found.
    """
    _check_ranges(config)
    _check_lengths(config)
    _check_backend(config)
    _check_protocol(config)
    _check_probes(config)


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
        _require(value >= 1, key, value, "use a whole number of at least 1")
    _require(protocol.warmup >= 0, "protocol.warmup", protocol.warmup, "use 0 or more")
    _require(workload.temperature >= 0, "workload.temperature", workload.temperature, "use 0 (greedy) or more")
    _require(0 < workload.top_p <= 1, "workload.top_p", workload.top_p, "use a number above 0 and at most 1")
    utilization = model.gpu_memory_utilization
    _require(0 < utilization <= 1, "model.gpu_memory_utilization", utilization, "use a share above 0 and at most 1")
    timeout = config.runtime.phase_timeout_s
    _require(timeout > 0, "runtime.phase_timeout_s", timeout, "use a number of seconds above 0")
    _require(protocol.equivalence_pct > 0, "protocol.equivalence_pct", protocol.equivalence_pct, "use a number above 0")


def _check_lengths(config: ExperimentConfig) -> None:
    workload = config.workload
    _require(
        workload.min_prompt <= workload.max_prompt,
        "workload.min_prompt",
        workload.min_prompt,
        f"it is over workload.max_prompt={workload.max_prompt}; use at most that",
    )
    limit = config.model.max_model_len
    # A word of the prompts is at least one token; the engine itself counts exactly.
    needed = workload.max_prompt + workload.max_tokens
    _require(
        needed <= limit,
        "model.max_model_len",
        limit,
        f"workload.max_prompt={workload.max_prompt} words and workload.max_tokens={workload.max_tokens} "
        f"need at least {needed} tokens; set model.max_model_len={needed * 3 // 2} or use shorter prompts",
    )


def _check_backend(config: ExperimentConfig) -> None:
    backend, model = config.backend, config.model
    mla = model.attention is AttentionKind.mla
    if not mla and MLA_NAMES.search(model.name):
        raise ConfigurationError(
            f"model.name={model.name} has multi-head latent attention, but model.attention=standard: "
            "use model=deepseek, or model.attention=mla with backend=flash_attn_mla"
        )
    if not backend.enforce_eager and backend.environment.get("TORCHDYNAMO_DISABLE", "0") != "0":
        raise ConfigurationError(
            "backend.enforce_eager=false would compile nothing, since backend.environment.TORCHDYNAMO_DISABLE="
            f"{backend.environment['TORCHDYNAMO_DISABLE']}: set backend.environment.TORCHDYNAMO_DISABLE=0 too"
        )
    name = backend.attention
    if name is None:
        return
    fitting = backends.MLA if mla else backends.STANDARD
    existing = ", ".join(candidate for candidate in fitting if backends.platform(candidate) is backend.platform)
    if name in backends.REMOVED:
        raise ConfigurationError(
            f"backend.attention={name} does not exist: {backends.REMOVED[name]}; use one of {existing}"
        )
    if name not in backends.STANDARD + backends.MLA:
        raise ConfigurationError(f"backend.attention={name} is not known to vLLM 0.32; use one of {existing}")
    if name not in fitting:
        kind = "multi-head latent attention" if mla else "standard attention"
        raise ConfigurationError(
            f"backend.attention={name} cannot run {model.name}, which has {kind}; use one of {existing}"
        )
    if backends.platform(name) is not backend.platform:
        raise ConfigurationError(
            f"backend.attention={name} runs on {backends.platform(name)}, but backend.platform={backend.platform}; "
            f"use one of {existing}"
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
    if protocol.interleave is Interleave.trial:
        _require(
            two_engines_fit(config),
            "protocol.interleave",
            "trial",
            f"two engines would take {2 * config.model.gpu_memory_utilization:.2f} of the device's memory; "
            "set protocol.interleave=launch or model.gpu_memory_utilization=0.45",
        )


def _check_probes(config: ExperimentConfig) -> None:
    verify = config.verify
    for name in verify.compositions:
        try:
            composition(name)
        except ValueError as error:
            raise ConfigurationError(str(error)) from error
    _require(
        verify.max_tokens < config.model.max_model_len,
        "verify.max_tokens",
        verify.max_tokens,
        f"a probe must fit into model.max_model_len={config.model.max_model_len} tokens; use fewer",
    )


MOST_DEVICE_MEMORY = 0.95
"""Share of a device's memory that the engines on it may take together."""


def two_engines_fit(config: ExperimentConfig) -> bool:
    """Whether a device has memory for both engines of a pair; the CPU's is looked at when the machine is."""
    return config.backend.platform is not Platform.cuda or 2 * config.model.gpu_memory_utilization < MOST_DEVICE_MEMORY
