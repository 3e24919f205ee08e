"""The attention backends of vLLM: which exist, run multi-head latent attention, or support batch-invariant mode.

From vLLM 0.32 and 0.33: `vllm/v1/attention/backends/registry.py` (names) and each backend's
`supports_batch_invariance`.
"""

import re
from enum import StrEnum


class Platform(StrEnum):
    """Where a backend runs."""

    cuda = "cuda"
    cpu = "cpu"


BATCH_INVARIANT = ("FLASH_ATTN", "TRITON_ATTN", "FLEX_ATTENTION", "FLASH_ATTN_MLA", "TRITON_MLA", "CPU_ATTN")
"""Backends that support batch-invariant mode; `CPU_ATTN` with this project's plugin."""

MLA = ("FLASH_ATTN_MLA", "TRITON_MLA", "FLASHMLA", "FLASHINFER_MLA", "CUTLASS_MLA", "TOKENSPEED_MLA", "CPU_MLA")
"""Backends for multi-head latent attention (DeepSeek, Kimi); they run no other attention."""

STANDARD = ("FLASH_ATTN", "FLASHINFER", "TRITON_ATTN", "FLEX_ATTENTION", "CPU_ATTN")
"""Backends for multi-head and grouped-query attention."""

REMOVED = {
    "XFORMERS": "vLLM removed it in 0.12",
    "XFORMERS_VLLM_V1": "vLLM removed it in 0.12",
    "FLASH_ATTN_VLLM_V1": "vLLM now calls it FLASH_ATTN",
    "FLASHINFER_VLLM_V1": "vLLM now calls it FLASHINFER",
    "TRITON_ATTN_VLLM_V1": "vLLM now calls it TRITON_ATTN",
    "TORCH_SDPA": "vLLM keeps it for vision encoders only",
}


def platform(backend: str) -> Platform:
    """Where the backend of that name runs."""
    return Platform.cpu if backend.startswith("CPU_") else Platform.cuda


CAPABILITY_MAJORS = {
    "FLASH_ATTN_MLA": (9,),
    "FLASHMLA": (9, 10),
    "CUTLASS_MLA": (10,),
    "FLASHINFER_MLA": (10,),
    "TOKENSPEED_MLA": (10,),
}
"""Compute capabilities, major part, of the backends that are made for some only.

From each backend's `supports_compute_capability` in vLLM 0.32 and 0.33.
"""


LOWEST_CAPABILITIES = {(0, 23): (8, 0), (0, 0): (9, 0)}
"""Lowest compute capability that the mode is documented for, from each release on, the newest first.

From vLLM's `docs/features/batch_invariance.md` of these releases.
"""


def lowest_capability(version: str) -> tuple[int, int]:
    """Lowest compute capability for the mode in a release of vLLM; an unknown one counts as the newest."""
    release = re.match(r"(\d+)\.(\d+)", version)
    # A build from a clone without tags calls itself 0.1.dev.
    if release is None or version.startswith("0.1.dev"):
        return next(iter(LOWEST_CAPABILITIES.values()))
    found = int(release[1]), int(release[2])
    return next(lowest for first, lowest in LOWEST_CAPABILITIES.items() if found >= first)


HALF_TYPES = ("bfloat16", "float16", "half")
HALF_TYPE_FLAGS = {"avx512bw", "avx_ne_convert"}
"""Flags of x86-64 CPUs, as Linux names them, one of which oneDNN needs to multiply matrices of these types.

oneDNN's documentation, "Data types", and seen here: without them the plugin finds no kernel.
"""

MLA_NAMES = re.compile(r"deepseek-(v[23]|r1|coder-v2)|kimi-k2", re.IGNORECASE)
"""Names of models with multi-head latent attention; from their model cards' configurations."""

RELEASES = "0.32 or 0.33"
"""The releases of vLLM that the names in this file are of."""


DTYPES = ("auto", "bfloat16", "float16", "float32", "half", "float")
"""vLLM's `ModelDType` (`vllm/config/model.py`)."""

LOAD_FORMATS = (
    "auto",
    "hf",
    "dummy",
    "fastsafetensors",
    "instanttensor",
    "ipc_cache",
    "mistral",
    "modelexpress",
    "npcache",
    "pt",
    "runai_streamer",
    "runai_streamer_sharded",
    "safetensors",
    "sharded_state",
    "tensorizer",
)
"""vLLM's `LoadFormats` (`vllm/model_executor/model_loader`)."""

QUANTIZATIONS = (
    "awq",
    "auto_awq",
    "fp8",
    "fbgemm_fp8",
    "fp_quant",
    "modelopt",
    "modelopt_fp4",
    "modelopt_mxfp8",
    "modelopt_mixed",
    "auto_gptq",
    "gptq",
    "gptq_marlin",
    "awq_marlin",
    "humming",
    "compressed-tensors",
    "experts_int8",
    "quark",
    "moe_wna16",
    "torchao",
    "inc",
    "mxfp4",
    "gpt_oss_mxfp4",
    "deepseek_v4_fp8",
    "online",
    "fp8_per_tensor",
    "fp8_per_block",
    "fp8_per_channel",
    "int8_per_channel_weight_only",
    "nvfp4_per_token",
    "mxfp8",
)
"""vLLM's `QuantizationMethods` (`vllm/model_executor/layers/quantization`)."""

EXECUTORS = ("ray", "mp", "uni", "external_launcher")
"""vLLM's `DistributedExecutorBackend` (`vllm/config/parallel.py`)."""
