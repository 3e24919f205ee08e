"""What vLLM's workers say about themselves, seen from inside them.

vLLM mixes the class into its workers by name (engine argument `worker_extension_cls`), so its methods can be called
with `LLM.collective_rpc` in every executor without pickling a function.
"""

from typing import Any

from bi_experiments.phase.proof.recorder import ModuleRecorder


class WorkerObserver:
    """Methods that vLLM's workers get; names carry the project's, since they share the worker's namespace."""

    vllm_config: Any
    model_runner: Any
    bi_experiments_recorder: ModuleRecorder | None = None

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

    def bi_experiments_observe_modules(
        self, request_number: int, sample: int, last_position: int, compare: bool
    ) -> None:
        """Hook every module of this worker's model: keep one request's rows, or compare them with those kept."""
        if self.bi_experiments_recorder is None:
            self.bi_experiments_recorder = ModuleRecorder(self.model_runner)
        self.bi_experiments_recorder.start(request_number, sample, last_position, compare)

    def bi_experiments_end_observation(self) -> list[dict[str, Any]]:
        """Remove the hooks; what was compared, in the order of execution, as plain values."""
        return [] if self.bi_experiments_recorder is None else self.bi_experiments_recorder.stop()
