"""What a kernel or an operator is for, by its name: one table for both arms, for devices and the CPU."""

import re
from enum import StrEnum
from functools import cache
from typing import NamedTuple


class OperationClass(StrEnum):
    """What time is spent on."""

    MATRIX_MULTIPLICATION = "matrix multiplication"
    """The LM head too: its kernel's name does not tell it from the others."""
    ATTENTION = "attention"
    """And what stands in its place: state-space and linear-attention layers."""
    EXPERTS = "mixture of experts"
    ELEMENTWISE = "norm and elementwise"
    """Norms, activations, rotary embeddings, quantization, sums, and what torch.compile fuses of these."""
    SAMPLING = "sampling and logits"
    COMMUNICATION = "communication"
    MEMORY = "memory"
    """Copies, fills, gathers, the embedding, writes of the KV cache, and the tables that a step needs."""
    HOST = "host and idle"
    """No kernel ran on the device, or no operator on the CPU's main thread: Python, the scheduler, waiting."""
    UNKNOWN = "unknown"
    """No row of the table knows the name."""
    PROFILER = "the profiler itself"
    """By how much longer the trial took than the same one when it was timed, on a device: its kernels take as long as
    ever, and wait for a host that writes down what it does."""


class Row(NamedTuple):
    """Names of one class."""

    kind: OperationClass
    pattern: str
    """Regular expression that is searched for in a name, capitals or not."""
    examples: tuple[str, ...]
    """Names that the row is for, those of the baseline's kernels first."""


_C = OperationClass

TABLE: tuple[Row, ...] = (
    Row(
        _C.MATRIX_MULTIPLICATION,
        r"^triton_tem_fused|^triton_(?:mm|bmm)\b",
        ("triton_tem_fused_addmm_3",),
    ),
    Row(
        _C.ELEMENTWISE,
        r"^triton_(?:poi|per|red|for)_fused",
        ("triton_poi_fused_mul_silu_slice_1", "triton_red_fused__to_copy_add_mean_mul_pow_rsqrt_0"),
    ),
    Row(
        _C.COMMUNICATION,
        r"nccl|cross_device_reduce|(?:one|two)_?shot|multimem|quick_?reduce|quickreduce|all_?reduce|all_?gather"
        r"|reduce_?scatter|all_?to_?all|c10d::|gloo:|shm_|_fixed_order_sum|send_kernel|recv_kernel",
        (
            "ncclDevKernel_AllReduce_Sum_bf16_RING_LL(ncclDevKernelArgsStorage<4096ul>)",
            "void vllm::cross_device_reduce_1stage<__nv_bfloat16, 2>(vllm::RankData*)",
            "_fixed_order_sum_kernel",
            "_C::shm_allreduce",
        ),
    ),
    Row(
        _C.MEMORY,
        r"reshape_and_cache|concat_and_cache|store_kv|cp_gather|_cache_insert|gather_cache|kv_cache_update|_zero_kv",
        (
            "void vllm::reshape_and_cache_flash_kernel<__nv_bfloat16, __nv_bfloat16>",
            "reshape_and_cache_kernel_flash",
            "_C::cpu_attn_reshape_and_cache",
            "vllm::unified_kv_cache_update",
        ),
    ),
    Row(
        _C.EXPERTS,
        r"moe|expert|grouped_topk|topk_?(?:gating|sigmoid)|topkGating|grouped_gemm|_ep_(?:gather|scatter)|router"
        r"|_routing_",
        (
            "void vllm::moe::topkGating<8, 128, 4, 16, 32, int, float>",
            "void vllm::moe::moe_align_block_size_kernel<int>",
            "fused_moe_kernel",
            "_C::cpu_fused_moe",
            "vllm::moe_forward",
        ),
    ),
    Row(
        # Torch's selection of a router's experts: vLLM samples from float32.
        _C.EXPERTS,
        r"(?:gatherTopK|[sm]btopk|bitonicSort|radixSort).*c10::(?:BFloat16|Half)",
        ("void at::native::sbtopk::gatherTopK<c10::BFloat16, unsigned int, 2, false>",),
    ),
    Row(
        _C.ATTENTION,
        r"flash|fmha|attention|attn|(?<![a-z])mla|paged_|reduce_segments|BatchDecode|BatchPrefill|SinglePrefill|_tq_"
        r"|_fwd_grouped_kernel_stage|_fwd_kernel_stage|merge_states|indexer|scaled_dot_product|selective_scan|chunk_"
        r"|causal_conv1d|gated_delta|state_passing|ssm_|_ssu_|get_scheduler_metadata",
        (
            "void cutlass::device_kernel<flash::enable_sm90<flash::FlashAttnFwdSm90<flash::CollectiveMainloopFwdSm90",
            "void flash::flash_fwd_splitkv_kernel<Flash_fwd_kernel_traits<128, 64, 128, 4>>",
            "kernel_unified_attention",
            "_fwd_grouped_kernel_stage1",
            "_C::cpu_attention_with_kv_cache",
            "vllm::unified_attention_with_output",
        ),
    ),
    Row(
        _C.SAMPLING,
        r"arg_?max|gumbel|soft_?max|logsumexp|multinomial|sort|radix|topk|top_?[kp]_|penalt|_temperature|min_p"
        r"|logprob|_ranks_kernel|sampl|rejection|exponential|bincount|_bad_words|_bias_kernel|grammar",
        (
            "void at::native::reduce_kernel<512, 1, at::native::ReduceOp<float, at::native::ArgMaxOps<float>>>",
            "void at::native::(anonymous namespace)::cunn_SoftMaxForward<4, float, float, float>",
            "_topk_log_softmax_kernel",
            "_softmax_kernel",
            "aten::argmax",
        ),
    ),
    Row(
        _C.MATRIX_MULTIPLICATION,
        r"gemm|gemv|nvjet|cutlass|cublas|split_?k|matmul|bmm|addmm|baddbmm|_mm(?:_|\b)|::mm$|xmma|marlin|machete"
        r"|mkldnn_linear|onednn|aten::linear|aten::dot|aten::mv|mm_batch_invariant|linear_batch_invariant|row_tiles",
        (
            "nvjet_tst_128x256_64x4_2x1_v_bz_coopA_TNT",
            "void cutlass::Kernel2<cutlass_80_wmma_tensorop_bf16_s161616gemm_bf16_16x16_128x2_tn_align8>",
            "void cublasLt::splitKreduce_kernel<32, 16, int, __nv_bfloat16>",
            "matmul_kernel_persistent",
            "matmul_kernel_descriptor_persistent",
            "bmm_kernel",
            "_C::onednn_mm",
            "aten::mm",
        ),
    ),
    Row(
        _C.MEMORY,
        r"memcpy|memset|copy|CatArray|index|gather|scatter|fill|(?<!rotary_)embedding|slot_mapping|block_table|_prepare_|_expand_"
        r"|_update_|_combine_|_pack_|_unpack_|_cache_inputs|_zeros|masked_select|nonzero|arange|write"
        r"|aten::(?:empty|cat|clone|contiguous|to$|zero|ones|full|new_|stack|detach|lift|pin_memory|resize|set_|tensor"
        r"|item|_local_scalar|is_|view|_unsafe_view|reshape|_reshape_alias|slice|select|narrow|expand|permute|transpose"
        r"|t$|unsqueeze|squeeze|split|chunk|unbind|unflatten|flatten|as_strided|alias|unfold|repeat|tile|roll|pad"
        r"|constant_pad|result_type|can_cast|random|lift_fresh|resolve_|numpy_T|movedim|real)",
        (
            "Memcpy DtoH (Device -> Pinned)",
            "Memset (Device)",
            "void at::native::unrolled_elementwise_kernel<at::native::direct_copy_kernel_cuda(at::TensorIteratorBase&)",
            "void at::native::index_elementwise_kernel<128, 4, at::native::gpu_index_kernel>",
            "_compute_slot_mappings_kernel",
            "aten::copy_",
            "aten::embedding",
        ),
    ),
    Row(
        _C.ELEMENTWISE,
        r"norm|rotary|rope|silu|gelu|relu|swiglu|act_and_mul|_and_mul|activation|elementwise|reduce_kernel|mean|quant"
        r"|sigmoid|tanh|fused_|"
        r"aten::(?:_?add|_?sub|rsub|mul|div|pow|sqrt|rsqrt|neg|abs|exp|log|cos|sin|sum|amax|amin|max|min|maximum|minimum"
        r"|clamp|where|eq|ne|lt|le|gt|ge|bitwise|logical|any|all|outer|ceil|floor|round|reciprocal|masked_fill|remainder"
        r"|fmod|addcmul|lerp|square|isnan|isinf|nan_to_num|var|cumprod|tril|triu|polar|complex|erf|cumsum|diff)",
        (
            "void vllm::fused_add_rms_norm_kernel<c10::BFloat16, 8>",
            "void vllm::act_and_mul_kernel<c10::BFloat16, &vllm::silu_kernel>",
            "void vllm::rotary_embedding_kernel<c10::BFloat16, true>",
            "void at::native::reduce_kernel<512, 1, at::native::ReduceOp<float, at::native::MeanOps<float>>>",
            "_rms_norm_kernel",
            "mean_kernel",
            "_C::silu_and_mul",
            "aten::mul",
        ),
    ),
)
"""The classes of names. The first row whose pattern is found in a name counts, so that the order is part of the table:
what is most particular comes first."""


@cache
def classify(name: str, within: str | None = None) -> OperationClass:
    """What a kernel or an operator is for.

    Args:
        name: Its name, as the profiler gives it.
        within: vLLM's operator that called it: what attention or a mixture of experts calls belongs to them.
    """
    caller = _by_name(within) if within is not None else None
    if caller in {_C.ATTENTION, _C.EXPERTS} and _by_name(name) is not _C.COMMUNICATION:
        return caller
    return _by_name(name)


def _by_name(name: str) -> OperationClass:
    return next((row.kind for row in TABLE if re.search(row.pattern, name, re.IGNORECASE)), _C.UNKNOWN)
