"""What vLLM's workers say about themselves, seen from inside them.

vLLM mixes the class into its workers by name (engine argument `worker_extension_cls`), so its methods can be called
with `LLM.collective_rpc` in every executor without pickling a function.
"""

from typing import Any


class WorkerObserver:
    """Methods that vLLM's workers get; names carry the project's, since they share the worker's namespace."""

    vllm_config: Any

    def bi_experiments_observe(self) -> dict[str, Any]:
        """The mode and the attention backends of this worker, as plain values."""
        import torch
        import vllm.envs

        layers = self.vllm_config.compilation_config.static_forward_context.values()
        backends = {layer.get_attn_backend().get_name() for layer in layers if hasattr(layer, "get_attn_backend")}
        return {
            "batch_invariant": bool(vllm.envs.VLLM_BATCH_INVARIANT),
            "attention_backends": sorted(backends),
            "threads": torch.get_num_threads(),
        }

    def bi_experiments_peak_device_memory(self) -> int:
        """Largest memory that torch held on this worker's device, in bytes; 0 without a device."""
        import torch

        return int(torch.cuda.max_memory_reserved()) if torch.cuda.is_available() else 0
