"""The Python function that users coming from vLLM's own benchmark expect."""

from pathlib import Path
from typing import Any


def run_benchmark_with_batch_invariant(
    model: str | Path,
    tp_size: int,
    max_batch_size: int,
    num_trials: int,
    min_prompt: int,
    max_prompt: int,
    max_tokens: int,
    temperature: float,
    gpu_mem_util: float,
    max_model_len: int,
    backend: str,
    batch_invariant: bool,
    seed: int = 12345,
) -> dict[str, Any]:
    """Run one phase in a fresh process and return its timing.

    Everything else is as in the default configuration.

    Args:
        model: Name on the Hugging Face hub, a local folder, or `demo` for the seeded demo model.
        tp_size: Tensor parallel size.
        max_batch_size: Largest batch, in prompts.
        num_trials: Timed trials.
        min_prompt: Shortest prompt, in words.
        max_prompt: Longest prompt, in words.
        max_tokens: Tokens generated for each prompt.
        temperature: 0 for greedy sampling.
        gpu_mem_util: Share of the device's memory that the engine may take, 0 to 1.
        max_model_len: Longest sequence, in tokens.
        backend: Attention backend, a name of vLLM's registry; `CPU_ATTN` for vLLM's CPU backend.
        batch_invariant: Whether `VLLM_BATCH_INVARIANT` is 1.
        seed: Seed of the workload.

    Returns:
        `init_time`, `avg_time`, `min_time`, `max_time` in seconds, `total_tokens` generated, `total_prompts`,
        `throughput` in generated tokens/s, `prompts_per_sec`, and `trial_times`, a list in seconds.

    Raises:
        ConfigurationError: The arguments contradict each other.
        MachineError: The machine cannot run this.
        ExperimentError: The seeded checkpoint of `demo` could not be created.
        PhaseError: The phase failed; its log's last lines are in the message.
    """
    # Local imports: phases import this package too, in environments that may have neither Hydra nor OmegaConf.
    from bi_experiments.analysis.metrics import summarise
    from bi_experiments.config.compose import compose
    from bi_experiments.config.keys import as_override
    from bi_experiments.errors import ConfigurationError
    from bi_experiments.experiment import run_single_phase
    from bi_experiments.records import Arm

    model = str(model) if isinstance(model, Path) else model
    for name, value, kind in (
        ("model", model, str),
        ("backend", backend, str),
        ("batch_invariant", batch_invariant, bool),
    ):
        if not isinstance(value, kind):
            raise ConfigurationError(f"{name}={value!r} is not possible: pass a {kind.__name__}")
    config = compose(
        [
            "backend=cpu" if backend == "CPU_ATTN" else "backend=flash_attn",
            "model=demo" if model == "demo" else "model=qwen3",
            "verify=off",
            "tracking=off",
            *([] if model == "demo" else [as_override("model.name", model)]),
            as_override("backend.attention", backend),
            f"model.attention={'mla' if backend.endswith('MLA') else 'standard'}",
            f"tp={tp_size}",
            f"workload.max_batch_size={max_batch_size}",
            f"workload.num_trials={num_trials}",
            f"workload.min_prompt={min_prompt}",
            f"workload.max_prompt={max_prompt}",
            f"workload.max_tokens={max_tokens}",
            f"workload.temperature={temperature}",
            f"model.gpu_memory_utilization={gpu_mem_util}",
            f"model.max_model_len={max_model_len}",
            f"seed={seed}",
            f"protocol.control={str(not batch_invariant).lower()}",  # the baseline runs where the mode does not
        ]
    )
    summary = summarise(run_single_phase(config, Arm.BATCH_INVARIANT if batch_invariant else Arm.BASELINE))
    return {
        "init_time": summary.init_time_s,
        **summary.by_name,
        "trial_times": list(summary.trial_times_s),
    }
