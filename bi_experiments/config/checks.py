"""The checks of a configuration: what a type cannot say of a setting, and what contradicts another."""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import MappingProxyType
from typing import get_origin
from urllib.parse import quote

from bi_experiments.config import backends
from bi_experiments.config.backends import MLA_NAMES, Platform
from bi_experiments.config.credentials import refuse_secrets
from bi_experiments.config.keys import alternatives, key_types
from bi_experiments.config.plain import setting
from bi_experiments.config.ranges import NUMBERS
from bi_experiments.config.schema import (
    SHORTER_THAN_ASKED,
    AttentionKind,
    Caches,
    ExperimentConfig,
    Interleave,
    ProofLevel,
    ProtocolConfig,
)
from bi_experiments.errors import ConfigurationError, did_you_mean
from bi_experiments.phase.proof.compositions import composition
from bi_experiments.wording import count

MOST_WORDS = 100_000_000
"""Most words of all prompts together: the parent writes them into one file, and holds them in memory."""

NOT_EMPTY = (
    "model.name",
    "workload.needle",
    "tracking.uri",
    "tracking.experiment",
    "runtime.cache_dir",
    "runtime.python",
    "model.seeded.architecture",
)
"""Texts that must say something."""

FOLDER_NAMES = ("tracking.experiment", "model.seeded.architecture")
"""Texts that name a folder, which MLflow's store and the cache of checkpoints make."""
MOST_OF_A_NAME = 200
"""Longest name of a folder, of 255 bytes that file systems take, and of an experiment in the report and in MLflow."""

MOST_REQUESTS = 100_000
"""Largest number in the name of a composition: of requests, tokens or samples."""
MOST_CHARACTERS = 100_000
"""Longest text of a setting: the phase's command line and environment hold some of them."""

NAMES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "model.dtype": backends.DTYPES,
        "model.load_format": backends.LOAD_FORMATS,
        "model.quantization": backends.QUANTIZATIONS,
        "backend.distributed_executor_backend": backends.EXECUTORS,
    }
)
"""The names that a key may have where vLLM's are known, by its key."""


def check(config: ExperimentConfig) -> None:
    """Refuse a configuration that contradicts itself, before anything is started.

    Raises:
        ConfigurationError: Naming the first contradiction found.
    """
    _check_lists(config)
    _check_texts(config)
    _check_numbers(config)
    _check_names(config)
    _check_model(config)
    _check_lengths(config)
    _check_backend(config)
    _check_variables(config)
    _check_engine(config)
    _check_protocol(config)
    _check_probes(config)
    if not config.sweep.resume:  # what began under an earlier release may have them
        _check_what_decides_nothing(config)


def _require(condition: bool, key: str, found: object, instead: str) -> None:
    if not condition:
        raise ConfigurationError(f"{key}={found} is not possible: {instead}")


def _check_lists(config: ExperimentConfig) -> None:
    """Hydra lets anything through as an entry of a list."""
    for key, hint in key_types().items():
        entries = setting(config, key)
        if get_origin(hint) is list or any(get_origin(one) is list for one in alternatives(hint)):
            for entry in entries or ():
                _require(
                    isinstance(entry, str) and bool(entry.strip()),
                    key,
                    entries,
                    "each entry must be a text that is not empty",
                )


def _check_texts(config: ExperimentConfig) -> None:
    for key, text in _texts(config, ""):
        shown = text if len(text) <= 60 else f"{text[:60]}..."
        printable = shown.encode("ascii", "backslashreplace").decode()
        _require(len(text) <= MOST_CHARACTERS, key, printable, f"use at most {MOST_CHARACTERS} characters")
        _require("\0" not in text, key, printable, "it contains a NUL character")
        one_line = text.isprintable() or key == "workload.needle" or key.startswith("backend.")
        _require(one_line, key, text.encode("unicode_escape").decode(), "it contains control characters")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ConfigurationError(f"{key}={printable} is not possible: it is not UTF-8") from None
    for key in NOT_EMPTY:
        value = setting(config, key)
        _require(not isinstance(value, str) or bool(value.strip()), key, value, "it is empty; set a text")
    for key in FOLDER_NAMES:
        name = setting(config, key)
        if name is not None:
            _require(name not in {".", ".."}, key, name, "`.` and `..` cannot be used as a name")
            _check_name(key, name, quote(name, safe=""))


def _check_name(key: str, name: str, written: str) -> None:
    """Refuse a name that is too long as it is written."""
    instead = f"as a name it takes {len(written)} characters; use at most {MOST_OF_A_NAME}"
    _require(len(written) <= MOST_OF_A_NAME, key, f"{name[:30]}...", instead)


def _texts(value: object, key: str) -> Iterator[tuple[str, str]]:
    """Every text in a configuration, with its key."""
    if isinstance(value, str):
        yield key, value
    elif is_dataclass(value):
        for field in fields(value):
            yield from _texts(getattr(value, field.name), f"{key}.{field.name}".lstrip("."))
    elif isinstance(value, Mapping):
        for name, entry in value.items():
            yield from _texts(str(name), key)
            yield from _texts(entry, f"{key}.{name}")
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from _texts(entry, key)


def _check_numbers(config: ExperimentConfig) -> None:
    for key, numbers in NUMBERS.items():
        value = setting(config, key)
        if value is not None:
            assert isinstance(value, int | float)
            _require(value in numbers, key, _short(value), f"use a number {numbers}")


def _short(value: float) -> str:
    """A number as it was set, or its beginning where it has too many digits to read (or, over 4300, to write)."""
    if isinstance(value, int) and abs(value) >= 10**30:
        return "a number of more than 30 digits"
    return str(value)


def _check_names(config: ExperimentConfig) -> None:
    for key, names in NAMES.items():
        value = setting(config, key)
        if value is not None and value not in names:
            meant = did_you_mean(str(value), names) or f": use one of {', '.join(names)}"
            raise ConfigurationError(f"{key}={value} is not known to vLLM {backends.RELEASES}{meant}")


_HUB_NAME = re.compile(r"[\w.-]{1,96}(/[\w.-]{1,96})?(:[\w.-]+)?")
"""A model's name on the hub; after a colon, which of its GGUF files."""
_LOCAL = ("/", ".", "~")
_NOWHERE = "it is neither a folder here nor a name on the hub (ORGANISATION/MODEL)"
_WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.gguf", "*.tensors")
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "tekken.json", "*.tiktoken")


def _check_model(config: ExperimentConfig) -> None:
    """A model is made here, or is a folder with all that vLLM reads, or may be a name on the hub."""
    model = config.model
    if model.seeded is not None:
        seeded = model.seeded
        _check_name("model.name", model.name, model.name)
        for name, value in seeded.overrides.items():
            key = f"model.seeded.overrides.{name}"
            own = {field.name for field in fields(seeded)}
            _require(name not in own, key, value, f"use model.seeded.{name}")
            _require(_all_finite(value), key, value, "use a finite number")
        _require(
            seeded.num_attention_heads % seeded.num_key_value_heads == 0,
            "model.seeded.num_key_value_heads",
            seeded.num_key_value_heads,
            f"it must divide model.seeded.num_attention_heads={seeded.num_attention_heads}",
        )
        return
    try:
        folder = Path(model.name).expanduser()
    except RuntimeError as error:
        raise ConfigurationError(f"model.name={model.name} cannot be read: there is no such user") from error
    looks_local = model.name.startswith(_LOCAL) or folder.suffix == ".gguf"
    try:
        exists, is_folder = folder.exists(), folder.is_dir()
    except OSError as error:
        raise ConfigurationError(f"model.name={model.name} cannot be read: {error.strerror}") from error
    if not exists and "://" not in model.name:
        _require(not looks_local, "model.name", model.name, "there is no such folder")
        _require(
            _HUB_NAME.fullmatch(model.name) is not None,
            "model.name",
            model.name,
            _NOWHERE,
        )
    elif not is_folder:
        one_file = "://" in model.name or folder.suffix == ".gguf"
        _require(one_file, "model.name", model.name, "it is a file; name the model's folder, or a .gguf file")
    else:
        _check_model_folder(folder, model.load_format)


def _check_model_folder(folder: Path, load_format: str) -> None:
    parts = {
        "config.json": ("config.json", "params.json"),
        "weights (*.safetensors, *.bin, ...)": _WEIGHTS,
        "tokenizer (tokenizer.json, tokenizer.model, ...)": _TOKENIZERS,
    }
    for what, patterns in parts.items():
        if load_format == "dummy" and patterns is _WEIGHTS:
            continue
        if not any(next(folder.glob(pattern), None) for pattern in patterns):
            raise ConfigurationError(f"model.name={folder} is not a model's folder: it has no {what}")


def _check_lengths(config: ExperimentConfig) -> None:
    workload = config.workload
    _require(
        workload.min_prompt <= workload.max_prompt,
        "workload.min_prompt",
        workload.min_prompt,
        f"it exceeds workload.max_prompt={workload.max_prompt}; use at most that",
    )
    limit = config.model.max_model_len
    words = workload.num_trials * workload.max_batch_size * workload.max_prompt
    _require(
        words <= MOST_WORDS,
        "workload.max_batch_size",
        workload.max_batch_size,
        f"with workload.num_trials={workload.num_trials} and workload.max_prompt={workload.max_prompt} the prompts "
        f"have up to {words:.3g} words, over the limit of {MOST_WORDS:.0e}; use smaller numbers",
    )
    # A word of the prompts is at least one token; the engine itself counts exactly.
    needed = workload.max_prompt + workload.max_tokens
    _require(
        needed <= limit or workload.kind in SHORTER_THAN_ASKED,
        "model.max_model_len",
        limit,
        f"workload.max_prompt={workload.max_prompt} words and workload.max_tokens={workload.max_tokens} "
        f"need at least {needed} tokens; set model.max_model_len={needed * 3 // 2} or use shorter prompts",
    )
    needle = len(workload.needle.split())
    _require(
        needle + workload.max_tokens <= limit,
        "workload.needle",
        f"{workload.needle[:30]}...",
        f"its {needle} words and workload.max_tokens={workload.max_tokens} do not fit into model.max_model_len={limit}",
    )
    _require(
        workload.max_batch_size > 1 or needle >= workload.min_prompt,
        "workload.max_batch_size",
        workload.max_batch_size,
        f"it leaves room for the needle alone, of {count(needle, 'word')}; set workload.needle to the prompt that is "
        f"to be timed, of workload.min_prompt={workload.min_prompt} words or more, or use 2",
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
        raise ConfigurationError(
            f"backend.attention={name} is not known to vLLM {backends.RELEASES}; use one of {existing}"
        )
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


_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OWN_VARIABLES = {
    "VLLM_BATCH_INVARIANT": "each arm has its own; protocol=control compares the baseline with itself",
    "LD_PRELOAD": "use backend.preload",
    "BI_EXPERIMENTS_PHASE": "each phase is recognised by its own",
    "TMPDIR": "each phase has a folder of its own; export TMPDIR to move them all",
    "VLLM_RPC_BASE_PATH": "each phase has a folder of its own; export TMPDIR to move them all",
    "CUDA_VISIBLE_DEVICES": "export it: what is checked, locked and observed are the devices that it names",
    "CUDA_DEVICE_ORDER": "devices are counted as NVML counts them, in the order of the PCI bus",
    "PYTHONHOME": "use runtime.python",
}
"""Variables that the program itself sets, with what to set instead."""
CACHE_FOLDERS: Mapping[str, str] = MappingProxyType(
    {
        "XDG_CACHE_HOME": ".",
        "VLLM_CACHE_ROOT": "vllm",
        "TORCHINDUCTOR_CACHE_DIR": "torchinductor",
        "TRITON_CACHE_DIR": "triton",
    }
)
"""Variables that it sets where the compile caches are not the user's, each to a folder below the arm's own."""


def _check_variables(config: ExperimentConfig) -> None:
    for name, value in config.backend.environment.items():
        key = f"backend.environment.{name}"
        _require(_VARIABLE.fullmatch(name) is not None, key, value, "it is not the name of an environment variable")
        _require(name not in _OWN_VARIABLES, key, value, _OWN_VARIABLES.get(name, ""))
        own = config.protocol.caches is not Caches.user and name in CACHE_FOLDERS
        _require(not own, key, value, f"with protocol.caches={config.protocol.caches} arms have folders of their own")
        whole = name != "VLLM_CPU_KVCACHE_SPACE" or (value.isascii() and value.isdecimal())
        _require(whole, key, value, "use a whole number of GiB")


OWN_ENGINE_ARGUMENTS: Mapping[str, str] = MappingProxyType(
    {
        "model": "use model.name",
        "dtype": "use model.dtype",
        "tensor_parallel_size": "use tp",
        "pipeline_parallel_size": "use pp",
        "max_model_len": "use model.max_model_len",
        "gpu_memory_utilization": "use model.gpu_memory_utilization",
        "max_num_seqs": "use workload.max_batch_size, which sets it",
        "max_num_batched_tokens": "use backend.max_num_batched_tokens",
        "attention_backend": "use backend.attention",
        "enforce_eager": "use backend.enforce_eager",
        "enable_prefix_caching": "use backend.enable_prefix_caching",
        "async_scheduling": "use backend.async_scheduling",
        "load_format": "use model.load_format",
        "trust_remote_code": "use model.trust_remote_code",
        "quantization": "use model.quantization",
        "distributed_executor_backend": "use backend.distributed_executor_backend",
        "worker_extension_cls": "the program reads back through it what the engine runs with",
        "profiler_config": "use profile=true",
        "disable_log_stats": "the latencies come from the engine's statistics",
    }
)
"""Engine arguments that the program itself sets, with what to set instead of `backend.engine.NAME`."""


def _check_engine(config: ExperimentConfig) -> None:
    """Engine arguments that are passed on as they are, where they contradict what the program does."""
    engine = config.backend.engine
    for name, value in engine.items():
        key = f"backend.engine.{name}"
        refuse_secrets(value, key)  # the phase's spec would hold it
        _require(name.isidentifier(), key, value, "it is not the name of an engine argument")
        _require(name not in OWN_ENGINE_ARGUMENTS, key, value, OWN_ENGINE_ARGUMENTS.get(name, ""))
        _require(_all_finite(value), key, value, "use a finite number")
    most, logprobs = engine.get("max_logprobs"), config.verify.logprobs
    _require(
        config.verify.level is ProofLevel.off or not isinstance(most, int) or not 0 <= most < logprobs,
        "backend.engine.max_logprobs",
        most,
        f"the proof asks for verify.logprobs={logprobs}; set it to at least that, or lower verify.logprobs",
    )
    attention = engine.get("attention_config")
    if attention is not None:
        _require(
            isinstance(attention, Mapping),
            "backend.engine.attention_config",
            attention,
            "write it as {flash_attn_version:2}",
        )
        backend = attention.get("backend", config.backend.attention)
        _require(
            backend == config.backend.attention,
            "backend.engine.attention_config.backend",
            backend,
            "use backend.attention",
        )
    tokenizer = engine.get("tokenizer")
    if tokenizer is not None:
        known = isinstance(tokenizer, str) and (
            _HUB_NAME.fullmatch(tokenizer) if not tokenizer.startswith(_LOCAL) else _exists(tokenizer)
        )
        _require(bool(known), "backend.engine.tokenizer", tokenizer, _NOWHERE)
    for name in ("data_parallel_size", "data_parallel_size_local"):
        _require(
            engine.get(name) in {None, 1},
            f"backend.engine.{name}",
            engine.get(name),
            "one LLM object runs one replica; measure one with tp and pp, replicas run the same",
        )
    _check_split_prompts(config)
    _require(
        config.backend.platform is not Platform.cpu or not config.backend.async_scheduling,
        "backend.async_scheduling",
        "true",
        "vLLM switches it off on the CPU without reporting it; leave it null",
    )
    if engine.get("speculative_config") is not None and not config.protocol.control:
        raise ConfigurationError(
            "backend.engine.speculative_config is not possible with batch-invariant mode: vLLM checks several tokens "
            "in one step, whose size depends on the guesses; leave it out, or set protocol=control"
        )


def _check_split_prompts(config: ExperimentConfig) -> None:
    """A prompt that is not split must fit into a step, and vLLM cannot sample behind one that is on the CPU."""
    _require(
        config.backend.max_num_batched_tokens is None
        or config.backend.max_num_batched_tokens >= config.workload.max_batch_size,
        "backend.max_num_batched_tokens",
        config.backend.max_num_batched_tokens,
        "a step must hold a token of every sequence; use at least "
        f"workload.max_batch_size={config.workload.max_batch_size}",
    )
    whole = config.backend.engine.get("enable_chunked_prefill") is False
    step, longest = config.backend.max_num_batched_tokens, config.model.max_model_len
    too_short = step is not None and step < longest
    _require(
        not (whole and too_short),
        "backend.max_num_batched_tokens",
        step,
        "with backend.engine.enable_chunked_prefill=false a prompt must fit into one step; use at least "
        f"model.max_model_len={longest}",
    )
    piece = config.backend.engine.get("long_prefill_token_threshold")  # splits prompts that share a step in any case
    pieces = isinstance(piece, int) and 0 < piece < longest
    instead = [f" with backend.max_num_batched_tokens={longest}"] if too_short else []
    instead += [f" without backend.engine.long_prefill_token_threshold={piece}"] if pieces else []
    # It turns back the generator of a prompt that is not complete, which torch's generator for the CPU does not do.
    _require(
        (whole and not pieces) or config.backend.platform is not Platform.cpu or not config.workload.temperature,
        "workload.temperature",
        config.workload.temperature,
        "vLLM fails on the CPU when it samples and a prompt is split over steps; set workload.temperature=0, or "
        f"+backend.engine.enable_chunked_prefill=false{' and'.join(instead)}",
    )


def _exists(path: str) -> bool:
    try:
        return Path(path).expanduser().exists()
    except (OSError, RuntimeError):  # too long; of a user that there is not
        return False


def _all_finite(value: object) -> bool:
    """Whether no number in it is infinite or NaN, which JSON does not have."""
    if isinstance(value, Mapping):
        return all(map(_all_finite, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_all_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def _check_shared_caches(protocol: ProtocolConfig) -> None:
    key, value = "protocol.launches_per_cache", protocol.launches_per_cache
    _require(protocol.caches is Caches.fresh, key, value, "it requires protocol.caches=fresh")
    _require(protocol.pairs % value == 0, key, value, f"protocol.pairs={protocol.pairs} must be a multiple of it")
    _require(
        protocol.target_half_width_pct is None,
        key,
        value,
        "leave out protocol.target_half_width_pct",
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
    if protocol.launches_per_cache > 1:
        _check_shared_caches(protocol)
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
    for key, names in (
        ("verify.compositions", verify.compositions),
        ("verify.later_launches", verify.later_launches or ()),
    ):
        for name in names:
            try:
                _, size = composition(name)
            except ValueError as error:
                raise ConfigurationError(str(error)) from error
            _require(size <= MOST_REQUESTS, key, name, f"use a number of at most {MOST_REQUESTS}")
            _require(list(names).count(name) == 1, key, f"[{','.join(names)}]", f"{name} is listed more than once")
    _require(
        bool(verify.compositions) or verify.level is ProofLevel.off,
        "verify.compositions",
        "[]",
        f"verify.level={verify.level} needs at least one composition; name one, or set verify=off",
    )
    _require(
        verify.max_tokens < config.model.max_model_len,
        "verify.max_tokens",
        verify.max_tokens,
        f"a probe must fit into model.max_model_len={config.model.max_model_len} tokens; use fewer",
    )


def _check_what_decides_nothing(config: ExperimentConfig) -> None:
    """Settings that ask for what the others cannot give: a decision without an interval, or without a probe."""
    protocol, verify, limit = config.protocol, config.verify, config.gate.max_overhead_pct
    if limit is not None:
        key = "gate.max_overhead_pct"
        _require(protocol.pairs >= 2, key, limit, "it needs an interval; use protocol.pairs=2 or more")
        _require(
            not protocol.inject_pct,
            key,
            limit,
            "an injected delay is not a cost; leave the gate out, or set protocol.inject_pct=0",
        )
    _require(
        protocol.launches_per_cache == 1 or protocol.pairs > protocol.launches_per_cache,
        "protocol.pairs",
        protocol.pairs,
        f"with protocol.launches_per_cache={protocol.launches_per_cache} an arm has one set of caches and no interval; "
        f"use {2 * protocol.launches_per_cache} or more",
    )
    for key, asked in (("verify.locate", verify.locate), ("verify.strict_launches", verify.strict_launches)):
        _require(
            not asked or verify.level is not ProofLevel.off,
            key,
            "true",
            "nothing is probed with verify.level=off; leave it out, or set verify=standard",
        )


MOST_DEVICE_MEMORY = 0.95
"""Share of a device's memory that the engines on it may take together."""


def two_engines_fit(config: ExperimentConfig) -> bool:
    """Whether a device has memory for both engines of a pair; the CPU's is looked at when the machine is."""
    return config.backend.platform is not Platform.cuda or 2 * config.model.gpu_memory_utilization < MOST_DEVICE_MEMORY
