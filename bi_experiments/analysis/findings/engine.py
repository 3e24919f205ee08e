"""What vLLM changed with the mode: the number is then the cost of that too, and not of the kernels alone."""

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

from bi_experiments.analysis.engines import engine_differences
from bi_experiments.analysis.pairs import Pair
from bi_experiments.records import Finding

_COMPILE_ALIKE = (
    "Run with +backend.environment.VLLM_USE_BREAKABLE_CUDAGRAPH=0, which keeps compilation on in the mode where vLLM "
    "supports that, with CUDA graphs; its tiles of matrix multiplication are then fixed when it compiles, where the "
    "mode picks them by the size of the step. Or run experiment=like_with_like, which measures both arms without "
    "compilation and without CUDA graphs: the kernels are the mode's own, and the time to launch each is left as well."
)

REMEDIES: Mapping[str, str] = MappingProxyType(
    {
        "device": "Give both arms the same device (CUDA_VISIBLE_DEVICES with CUDA_DEVICE_ORDER=PCI_BUS_ID).",
        "dtype": "Set model.dtype to one that both arms keep.",
        "quantization": "Set model.quantization to one that both arms keep.",
        "kv_cache_dtype": "Fix it for both arms: +backend.engine.kv_cache_dtype=auto.",
        "attention_backend": "Name one that supports batch-invariant mode: backend=flash_attn or backend=triton_attn "
        "(with multi-head latent attention flash_attn_mla or triton_mla).",
        "flash_attn_version": "Fix it for both arms: +backend.engine.attention_config.flash_attn_version=2.",
        "compilation_mode": _COMPILE_ALIKE,
        "enforce_eager": "Set backend.enforce_eager=true, so that both arms run without graphs.",
        "cudagraph_mode": _COMPILE_ALIKE,
        "cudagraph_sizes": "Fix them for both arms: +backend.engine.compilation_config.cudagraph_capture_sizes=[...].",
        "fusions": "Switch it off for both arms: +backend.engine.compilation_config.pass_config.fuse_NAME=false. With "
        "it the number is what a user pays; without, what the kernels cost.",
        "prefix_caching": "Set backend.enable_prefix_caching=false, so that both arms compute every prompt token.",
        "chunked_prefill": "Fix it for both arms: +backend.engine.enable_chunked_prefill=true.",
        "max_num_batched_tokens": "Set backend.max_num_batched_tokens to a number that both arms keep.",
        "max_num_seqs": "Set workload.max_batch_size, which is max_num_seqs, to one that both arms keep.",
        "async_scheduling": "Set backend.async_scheduling=true, or false where vLLM refuses that, so that both arms "
        "schedule alike.",
        "all_reduce": "It is part of the mode's cost on several devices; measure tp=1 too, to see it apart.",
        "fp32_precision": "Of float32 alone, and of torch's own kernels: the mode's are Triton's, which do not go by "
        "it and multiply float32 in TF32 on NVIDIA devices (tl.dot's default). Read no cost of more exact arithmetic "
        "from it; measure model.dtype=bfloat16, where neither matters.",
        "threads": "Fix it for both arms: +backend.environment.OMP_NUM_THREADS=N.",
        "block_size": "Fix it for both arms: +backend.engine.block_size=N.",
        "kv_cache_tokens": "Fix it for both arms: +backend.engine.num_gpu_blocks_override=N.",
    }
)
"""What to do about a difference, by field of `ObservedEngine`."""


def engine(pairs: Sequence[Pair]) -> Iterator[Finding]:
    """Every field that vLLM reports of its engines and that differs between the arms, the most severe first."""
    for difference in engine_differences(pairs):
        yield Finding(
            kind=difference.field,
            message=f"The arms do not differ in their kernels alone: vLLM changed {difference.name} "
            f"({difference.change}). Part of the change may be due to that.",
            remedy=REMEDIES[difference.field],
        )
