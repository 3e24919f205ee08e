"""What vLLM's workers say about themselves, seen from inside them.

vLLM mixes the class into its workers by name (engine argument `worker_extension_cls`), so its methods can be called
with `LLM.collective_rpc` in every executor without pickling a function.
"""

import os
from typing import Any

_ALL_REDUCE_PINS = ("VLLM_CUSTOM_ALLREDUCE_ALGO", "NCCL_ALGO", "NCCL_PROTO", "NCCL_MAX_NCHANNELS")
"""Variables that decide how the devices of a group add up; the mode sets them inside the worker."""


class WorkerObserver:
    """Methods that vLLM's workers get; names carry the project's, since they share the worker's namespace."""

    vllm_config: Any

    def bi_experiments_observe(self) -> dict[str, Any]:
        """The mode, the attention, the all-reduce and the arithmetic of this worker, as plain values."""
        import torch
        import vllm.envs

        layers = self.vllm_config.compilation_config.static_forward_context.values()
        backends = {layer.get_attn_backend().get_name() for layer in layers if hasattr(layer, "get_attn_backend")}
        versions = {getattr(getattr(layer, "impl", None), "vllm_flash_attn_version", None) for layer in layers}
        return {
            "batch_invariant": bool(vllm.envs.VLLM_BATCH_INVARIANT),
            "attention_backends": sorted(backends),
            "flash_attn_versions": sorted(str(version) for version in versions if version is not None),
            "prefix_caching": bool(self.vllm_config.cache_config.enable_prefix_caching),
            "all_reduce": _all_reduce(),
            "fp32_precision": torch.backends.cuda.matmul.fp32_precision if torch.cuda.is_available() else None,
            "threads": torch.get_num_threads(),
        }

    def bi_experiments_peak_device_memory(self) -> int:
        """Largest memory that torch held on this worker's device, in bytes; 0 without a device."""
        import torch

        return int(torch.cuda.max_memory_reserved()) if torch.cuda.is_available() else 0


def _all_reduce() -> str | None:
    """The communicators of the tensor-parallel group that are in use, and their pins; None with one device."""
    from vllm.distributed.parallel_state import get_tp_group

    group = get_tp_group()
    if group.world_size == 1:
        return None
    found = vars(group.device_communicator) if group.device_communicator is not None else {}
    in_use = sorted(
        type(one).__name__
        for name, one in found.items()
        if name.endswith("_comm") and one is not None and not getattr(one, "disabled", False)
    )
    pins = [f"{name}={os.environ[name]}" for name in _ALL_REDUCE_PINS if name in os.environ]
    return " ".join([*in_use, *pins])
