"""A vLLM plugin: batch-invariant kernels for vLLM's CPU backend, which has none of its own.

vLLM calls `register` in every process of an engine (entry point group `vllm.general_plugins`). In batch-invariant mode
(`VLLM_BATCH_INVARIANT=1`) a token's logprobs then depend on its own prompt alone, to the last bit, and not on what else
is in the batch:

    linear      every dense linear layer and the LM head in row tiles of fixed sizes
    attention   queries in tiles of a fixed size, no split of the keys
    activations row by row
    experts     vLLM's own fused experts, checked when the engine loads
    sampling    with per-request seeds, also where a prompt is prefilled in chunks
    coverage    everything else is refused by name
"""


def register() -> None:
    """Install the kernels if the platform is CPU and batch-invariant mode is on; otherwise do nothing.

    May be called any number of times.
    """
    from vllm import envs
    from vllm.platforms import current_platform

    if not (envs.VLLM_BATCH_INVARIANT and current_platform.is_cpu()):
        return

    from vllm.model_executor.determinism import batch_invariant

    from bi_experiments.vllm_cpu import activations, attention, experts, linear, loading

    # vLLM's own would register Triton kernels for the CPU, where there is no Triton.
    batch_invariant.enable_batch_invariant_mode = lambda: None
    linear.install()
    activations.install()
    attention.install()
    experts.install()
    loading.install()
