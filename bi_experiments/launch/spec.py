"""What a phase is passed, from the configuration: the engine's arguments, the model's folder, the probes."""

import dataclasses
import functools
import json
import subprocess
from pathlib import Path

from bi_experiments.config.schema import ExperimentConfig, ProofLevel
from bi_experiments.errors import ExperimentError
from bi_experiments.machine.interpreter import interpreter
from bi_experiments.records import NEGATIVE_CONTROL, Arm, EngineSpec, ProbePlan

WITH_PREFIX_CACHING = ("prefix_cache", "prefill")
"""Compositions that level `standard` adds where prompts may be found in the prefix cache."""


def engine_spec(config: ExperimentConfig, model: str) -> EngineSpec:
    """The engine arguments of a configuration.

    Args:
        config: The configuration.
        model: Name on the hub, or local folder.
    """
    extra = dict(config.backend.engine)
    if isinstance(tokenizer := extra.get("tokenizer"), str):
        extra["tokenizer"] = _expanded(tokenizer)
    return EngineSpec(
        model=model,
        dtype=config.model.dtype,
        tensor_parallel_size=config.tp,
        pipeline_parallel_size=config.pp,
        max_model_len=config.model.max_model_len,
        gpu_memory_utilization=config.model.gpu_memory_utilization,
        max_num_seqs=config.workload.max_batch_size,
        max_num_batched_tokens=config.backend.max_num_batched_tokens,
        attention_backend=config.backend.attention,
        enforce_eager=config.backend.enforce_eager,
        enable_prefix_caching=config.backend.enable_prefix_caching,
        async_scheduling=config.backend.async_scheduling,
        load_format=config.model.load_format,
        trust_remote_code=config.model.trust_remote_code,
        quantization=config.model.quantization,
        distributed_executor_backend=config.backend.distributed_executor_backend,
        extra=extra,
    )


def probe_plan(config: ExperimentConfig, arm: Arm = Arm.BATCH_INVARIANT, launch: int = 0) -> ProbePlan | None:
    """The probes of group `verify`; None when it is off.

    Args:
        config: The configuration.
        arm: Whose they are. A difference in the mode is a violation, so it has to repeat once more than the
            baseline's, which are many and cost a batch each.
        launch: Which launch of its arm it is, from 0: later ones run `verify.later_launches` alone.
    """
    verify = config.verify
    if verify.level is ProofLevel.off:
        return None
    later = verify.later_launches
    cached = WITH_PREFIX_CACHING if verify.level is ProofLevel.standard and config.backend.enable_prefix_caching else ()
    asked = [name for name in (*verify.compositions, *cached) if launch == 0 or later is None or name in later]
    return ProbePlan(
        level=verify.level,
        compositions=tuple(dict.fromkeys((NEGATIVE_CONTROL, *asked))),
        probes=verify.probes,
        max_tokens=verify.max_tokens,
        logprobs=verify.logprobs,
        seed=verify.seed,
        keep=verify.keep,
        trial_prompts=verify.trial_prompts,
        trial_times=None if verify.time_share is None else verify.time_share * config.protocol.pairs,
        repeats=2 if arm.batch_invariant else 1,
    )


def _expanded(name: str) -> str:
    """A model or tokenizer as vLLM takes it: it does not know `~`."""
    return str(Path(name).expanduser()) if name.startswith("~") else name


def model_path(config: ExperimentConfig) -> str:
    """The model's name or folder; a seeded checkpoint is created first if it is missing.

    Raises:
        ExperimentError: The checkpoint could not be created.
    """
    seeded = config.model.seeded
    if seeded is None:
        return _expanded(config.model.name)
    overrides = {"tie_word_embeddings": False, **seeded.overrides}
    spec = {
        **dataclasses.asdict(seeded),
        "overrides": list(overrides.items()),
        "dtype": config.model.dtype,
        "weights": config.model.load_format != "dummy",
    }
    return _checkpoint(interpreter(config), json.dumps(spec), config.runtime.cache_dir)


@functools.cache
def _checkpoint(python: str, spec: str, cache_dir: str) -> str:
    """Folder of a seeded checkpoint; looked for once a process, however many experiments of a sweep use it."""
    command = [python, "-m", "bi_experiments.phase.checkpoint", "--spec", spec, "--cache-dir", cache_dir]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode:
        reason = (made.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ExperimentError(f"model.seeded: the checkpoint could not be created in {cache_dir}: {reason}")
    return made.stdout.strip().splitlines()[-1]
