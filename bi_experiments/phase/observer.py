"""What vLLM's workers say about themselves, seen from inside them.

vLLM mixes the class into its workers by name (engine argument `worker_extension_cls`), so its methods can be called
with `LLM.collective_rpc` in every executor without pickling a function.
"""

import os
import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from bi_experiments.phase.proof.recorder import ModuleRecorder, Step

if TYPE_CHECKING:
    from torch import nn

KINDS = (
    ("LogitsProcessor", "LM head"),
    ("LinearBase", "matrix multiplication"),
    ("AttentionLayerBase", "attention"),
    ("MoERunner", "mixture of experts"),
    ("FusedMoE", "mixture of experts"),
    ("VocabParallelEmbedding", "embedding"),
    ("RotaryEmbeddingBase", "rotary embedding"),
)
"""vLLM's base classes and the kind of operator that their subclasses are; norms and activations go by their names."""

_ALL_REDUCE_PINS = ("VLLM_CUSTOM_ALLREDUCE_ALGO", "NCCL_ALGO", "NCCL_PROTO", "NCCL_MAX_NCHANNELS")
"""Variables that decide how the devices of a group add up; the mode sets them inside the worker."""


class WorkerObserver:
    """Methods that vLLM's workers get; names carry the project's, since they share the worker's namespace."""

    vllm_config: Any
    bi_experiments_names: list[str]
    """Kernels that were compiled since it was last asked."""
    bi_experiments_graphs: int
    """Graphs that torch had compiled when it was last asked."""
    model_runner: Any
    bi_experiments_recorder: ModuleRecorder | None = None

    def bi_experiments_observe(self) -> dict[str, Any]:
        """The mode, the attention, the all-reduce and the arithmetic of this worker, as plain values."""
        import torch
        import vllm.envs

        layers = self.vllm_config.compilation_config.static_forward_context.values()
        backends = {layer.get_attn_backend().get_name() for layer in layers if hasattr(layer, "get_attn_backend")}
        return {
            "batch_invariant": bool(vllm.envs.VLLM_BATCH_INVARIANT),
            "attention_backends": sorted(backends),
            "flash_attn_versions": flash_attn_versions(layers),
            "prefix_caching": bool(self.vllm_config.cache_config.enable_prefix_caching),
            "all_reduce": _all_reduce(),
            "fp32_precision": torch.backends.cuda.matmul.fp32_precision if torch.cuda.is_available() else None,
            "threads": torch.get_num_threads(),
        }

    def bi_experiments_tuned_rows(self) -> list[int]:
        """Numbers of rows up to which the mode's tuned matrix multiplications use one tile, in either arm.

        From vLLM's table (0.32, 0.33), for the weights of this worker's model; none where the table has none of them.
        """
        try:
            from vllm.model_executor.determinism import batch_invariant_configs as configs
        except ImportError:  # a release without tuned tiles
            return []
        from vllm.platforms import current_platform

        capability = current_platform.get_device_capability() if current_platform.is_cuda() else None
        family = configs._get_tuned_matmul_arch_family(capability)
        tuned = configs._BATCH_INVARIANT_MATMUL_TUNED_CONFIGS.get(family, {}) if family else {}
        weights = RunnerModel(self.model_runner).module().parameters()
        shapes = {tuple(weight.shape) for weight in weights if str(weight.dtype) == "torch.bfloat16"}
        return sorted({rows for shape in shapes & tuned.keys() for rows, _ in tuned[shape].m_buckets})

    def bi_experiments_watch_compiles(self) -> None:
        """Count what is compiled from now on: kernels by vLLM's monitor or Triton's hook, graphs by torch's counter.

        vLLM's monitor warns of a kernel once, however often it is compiled, so its calls are counted instead.
        """
        self.bi_experiments_names = []
        self.bi_experiments_graphs = _torch_graphs()
        _watch_kernels(self.bi_experiments_names)

    def bi_experiments_compiled(self) -> list[str]:
        """Names of what was compiled since the last call."""
        graphs, before = _torch_graphs(), self.bi_experiments_graphs
        names = [*self.bi_experiments_names, *["a graph of torch.compile"] * (graphs - before)]
        self.bi_experiments_names.clear()
        self.bi_experiments_graphs = graphs
        return names

    def bi_experiments_peak_device_memory(self) -> int:
        """Largest memory that torch held on this worker's device, in bytes; 0 without a device."""
        import torch

        return int(torch.cuda.max_memory_reserved()) if torch.cuda.is_available() else 0

    def bi_experiments_observe_modules(
        self, request_number: int, sample: int, last_position: int, compare: bool
    ) -> None:
        """Hook every module of this worker's model: keep one request's rows, or compare them with those kept."""
        if self.bi_experiments_recorder is None:
            self.bi_experiments_recorder = ModuleRecorder(RunnerModel(self.model_runner))
        self.bi_experiments_recorder.start(request_number, sample, last_position, compare)

    def bi_experiments_end_observation(self) -> list[dict[str, Any]]:
        """Remove the hooks; what was compared, in the order of execution, as plain values."""
        return [] if self.bi_experiments_recorder is None else self.bi_experiments_recorder.stop()


class RunnerModel:
    """The model of a worker's model runner, and the rows of its steps.

    Which rows of a step are a request's follows from the runner's own order of requests, its offsets and its positions,
    as vLLM (0.32, 0.33) prepares them for the step: model runner V1 (CPUs) keeps them in itself, V2
    (`vllm/v1/worker/gpu/model_runner.py`) in the batch that its `prepare_inputs` returns.

    Args:
        runner: vLLM's model runner.
    """

    def __init__(self, runner: Any) -> None:  # noqa: ANN401  vLLM's, which this module does not import
        self._runner = runner
        self._prepared: Any = None

    def module(self) -> "nn.Module":
        """The model itself, out of vLLM's wrapper for graphs."""
        model = self._runner.model
        found: nn.Module = getattr(model, "unwrap", lambda: model)()
        return found

    def watch_steps(self) -> None:
        """Have model runner V2 leave here what it prepares for every step."""
        if hasattr(self._runner, "prepare_inputs"):
            self._runner.prepare_inputs = self._keeping(self._runner.prepare_inputs)

    def unwatch_steps(self) -> None:
        """Leave the runner as it was."""
        vars(self._runner).pop("prepare_inputs", None)

    def _keeping(self, prepare: Callable[..., Any]) -> Callable[..., Any]:
        def keeping(*args: object, **kwargs: object) -> Any:  # noqa: ANN401  vLLM's InputBatch
            self._prepared = prepare(*args, **kwargs)
            return self._prepared

        return keeping

    def rows(self, request: re.Pattern[str], number: int) -> Step | None:
        """The part of the request of that name in the step that has begun; None: it takes no part."""
        batch = self._runner.input_batch if self._prepared is None else self._prepared
        starts = self._runner.query_start_loc.np if self._prepared is None else batch.query_start_loc_np
        source = self._runner if self._prepared is None else batch
        requests = len(batch.req_ids)
        index = next((index for index, name in enumerate(batch.req_ids) if request.fullmatch(name)), None)
        if index is None:
            return None
        rows = slice(int(starts[index]), int(starts[index + 1]))
        return Step(number, index, requests, int(starts[requests]), rows, tuple(source.positions[rows].tolist()))

    def kind(self, module: "nn.Module") -> str:
        """What kind of operator a module is, and the collective that ends it where it is split over devices."""
        return kind_of(module)


def flash_attn_versions(layers: Iterable[object]) -> list[str]:
    """Versions of FlashAttention in the layers of attention; those of MLA have it in what computes prompts."""
    computing = (getattr(layer, name, None) for layer in layers for name in ("impl", "prefill_backend"))
    versions = {getattr(one, "vllm_flash_attn_version", None) for one in computing}
    return sorted(str(version) for version in versions if version is not None)


def known_kind(module: "nn.Module") -> str | None:
    """The kind of operator by vLLM's base classes; None where none of them fits."""
    bases = {base.__name__ for base in type(module).__mro__}
    return next((kind for base, kind in KINDS if base in bases), None)


def kind_of(module: "nn.Module") -> str:
    """What kind of operator a module is, and the collective that ends it where it is split over devices."""
    kind = known_kind(module)
    name = type(module).__name__
    if kind is None:
        if name.endswith("Norm"):
            kind = "norm"
        elif any(True for _ in module.children()):  # it only calls others
            kind = "code between modules"
        else:
            kind = "activation" if re.search("Silu|Gelu|Relu|Act|Mul", name, re.IGNORECASE) else "other"
    if getattr(module, "tp_size", 1) > 1:
        if getattr(module, "reduce_results", False) or kind == "embedding":
            return f"{kind} and all-reduce"
        if getattr(module, "gather_output", False):
            return f"{kind} and all-gather"
    return kind


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
    return " ".join([*in_use, *pins]) if in_use else None  # the pins are those of the communicators on devices


def _torch_graphs() -> int:
    """Graphs that torch.compile has compiled in this process so far."""
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"])


def _watch_kernels(names: list[str]) -> None:
    """Add the name of every kernel that is compiled in this process to the list."""
    from vllm.utils import jit_monitor

    if jit_monitor.is_active():  # it sees Triton's, CuTeDSL's and TileLang's kernels
        report = jit_monitor._handle_jit_event

        def handle(*, backend: str, event: str, fn_name: str, detail: str | None = None) -> None:
            names.append(fn_name)
            report(backend=backend, event=event, fn_name=fn_name, detail=detail)

        jit_monitor._handle_jit_event = handle
        return
    try:
        from triton import knobs  # type: ignore[import-untyped]
    except ImportError:  # no kernels of Triton's here
        return
    hook = knobs.runtime.jit_post_compile_hook

    def after_compile(**said: Any) -> object:  # noqa: ANN401  Triton's own arguments, which change with its releases
        names.append(str(getattr(said.get("fn"), "name", "a Triton kernel")))
        return hook(**said) if hook is not None else None

    knobs.runtime.jit_post_compile_hook = after_compile
