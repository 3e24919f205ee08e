"""What the kernels here do not make batch-invariant, refused by name when the engine loads."""

from typing import NoReturn

from torch import nn
from vllm.config import ModelConfig, VllmConfig
from vllm.distributed import get_tp_group
from vllm.distributed.device_communicators.cpu_communicator import _CPUSHMDistributed
from vllm.model_executor.layers import activation
from vllm.model_executor.layers.attention import Attention
from vllm.model_executor.layers.fused_moe.routed_experts import RoutedExperts
from vllm.model_executor.layers.fused_moe.runner.moe_runner import MoERunner
from vllm.model_executor.layers.fused_moe.runner.shared_experts import SharedExperts
from vllm.model_executor.layers.fused_moe.unquantized_fused_moe_method import UnquantizedFusedMoEMethod
from vllm.model_executor.layers.layernorm import GemmaRMSNorm, LayerNorm, RMSNorm
from vllm.model_executor.layers.linear import LinearBase, UnquantizedLinearMethod
from vllm.model_executor.layers.logits_processor import LogitsProcessor
from vllm.model_executor.layers.rotary_embedding.base import RotaryEmbeddingBase
from vllm.model_executor.layers.rotary_embedding.common import ApplyRotaryEmb
from vllm.model_executor.layers.vocab_parallel_embedding import UnquantizedEmbeddingMethod, VocabParallelEmbedding
from vllm.v1.attention.backend import AttentionType
from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackendImpl

from bi_experiments.vllm_cpu import linear
from bi_experiments.vllm_cpu.experts import experts_agree

ROWWISE_LAYERS = (
    ApplyRotaryEmb,
    activation.FastGELU,
    activation.GELU,
    activation.GeluAndMul,
    activation.NewGELU,
    activation.QuickGELU,
    activation.ReLUSquaredActivation,
    activation.SiluAndMul,
    GemmaRMSNorm,
    LayerNorm,
    LogitsProcessor,
    MoERunner,
    RMSNorm,
    RotaryEmbeddingBase,
    SharedExperts,
    UnquantizedFusedMoEMethod,
    nn.Dropout,
    nn.Embedding,
    nn.Identity,
    nn.LayerNorm,
    nn.ModuleDict,
    nn.ModuleList,
    nn.ReLU,
    nn.Sequential,
)
"""Layers whose result for a row is computed from that row alone, and containers."""

LAYER_LIBRARIES = ("torch.nn.", "vllm.lora.", "vllm.model_executor.layers.")
"""Where classes that are not listed come from libraries of layers; elsewhere they are a model's own glue."""

MOST_RANKS_WITHOUT_SHARED_MEMORY = 2
"""Sums of two ranks have only one order; vLLM's shared-memory all-reduce keeps the order of more."""


class NotCoveredError(RuntimeError):
    """Part of the model, or of how it is run, would not be batch-invariant."""


def refuse(what: str, instead: str = "run the baseline (VLLM_BATCH_INVARIANT=0) or use another model") -> NoReturn:
    """Raise `NotCoveredError` with one line: what is not covered, and what to do instead."""
    raise NotCoveredError(f"VLLM_BATCH_INVARIANT=1 does not cover {what} on the CPU: {instead}")


def refuse_uncovered_features(vllm_config: VllmConfig, model_config: ModelConfig) -> None:
    """Refuse a way of running that is not covered and is known before the weights are loaded.

    Raises:
        NotCoveredError: Naming it.
    """
    if vllm_config.use_v2_model_runner:
        refuse("vLLM's model runner V2", "set VLLM_USE_V2_MODEL_RUNNER=0")
    if vllm_config.lora_config is not None:
        refuse("LoRA adapters")
    if vllm_config.speculative_config is not None:
        refuse("speculative decoding")
    if not linear.onednn_supports(model_config.dtype):
        dtype = str(model_config.dtype).removeprefix("torch.")
        refuse(f"{dtype}, for which oneDNN has no matrix multiplication without AVX-512,", "run in float32")
    if model_config.use_mla:
        refuse(f"the MLA attention of {model_config.architecture}")
    if model_config.runner_type != "generate":
        refuse(f"the {model_config.runner_type} runner of {model_config.architecture}")


def refuse_uncovered_layers(model: nn.Module) -> None:
    """Refuse a loaded model with a layer that is not covered.

    Raises:
        NotCoveredError: Naming the first such layer.
    """
    for path, module in model.named_modules():
        if not is_covered(module):
            refuse(f"the layer {type(module).__name__} ({path or 'the model itself'})")
    group = get_tp_group()
    shared_memory = isinstance(getattr(group.device_communicator, "dist_module", None), _CPUSHMDistributed)
    if group.world_size > MOST_RANKS_WITHOUT_SHARED_MEMORY and not shared_memory:
        refuse(f"tensor parallelism over {group.world_size} ranks without shared memory")


def is_covered(module: nn.Module) -> bool:
    """Whether what a module computes itself, apart from the modules in it, is batch-invariant."""
    match module:
        case LinearBase():
            return isinstance(module.quant_method, UnquantizedLinearMethod) and linear.is_tiled(module)
        case VocabParallelEmbedding():
            return isinstance(module.quant_method, UnquantizedEmbeddingMethod) and linear.is_tiled(module)
        case Attention():
            # A subclass computes something else, a cross attention for example.
            return type(module) is Attention and (
                isinstance(module.impl, CPUAttentionBackendImpl)
                and module.impl.attn_type == AttentionType.DECODER
                and not module.impl.is_fp8_kv_cache
            )
        case RoutedExperts():
            return experts_agree(module)
        case _ if isinstance(module, ROWWISE_LAYERS):
            return True
        case _:
            own_weights = next(module.parameters(recurse=False), None) is not None
            return not own_weights and not type(module).__module__.startswith(LAYER_LIBRARIES)
