"""Paths that vLLM itself says are not tuned, or slower than others: the cost is then that of the path too.

The messages are those of vLLM 0.32 and 0.33 at level WARNING, in the order in which they matter for an arm's cost.
What vLLM takes without saying so (the mode's matrix multiplication at a shape that its table of tiles lacks) cannot be
found here.
"""

import re
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from bi_experiments.analysis.pairs import Pair
from bi_experiments.records import Arm, Finding
from bi_experiments.wording import before_noun

_TUNE_EXPERTS = (
    "Tune it (benchmarks/kernels/benchmark_moe.py in vLLM's repository) and name the folder of the result: "
    "+backend.environment.VLLM_TUNED_CONFIG_FOLDER=FOLDER. The mode takes one fixed configuration whatever is tuned, "
    "without logging it, so that tuning the baseline raises what the mode costs."
)
_OTHER_BACKEND = "Name a kernel that this device and these weights allow, or other weights: model.quantization."
_LIBRARY = "Install the library that it names, or reckon with the slower path in both arms."


class Message(NamedTuple):
    """What vLLM's log may say."""

    pattern: str
    """Regular expression that is searched for in a line; what it finds begins the message."""
    example: str
    """The message, as vLLM's source has it."""
    remedy: str


MESSAGES: tuple[Message, ...] = (
    Message(
        r"Using default (?:FlyDSL )?MoE config\.",
        "Using default MoE config. Performance might be sub-optimal! Config file not found at %s",
        _TUNE_EXPERTS,
    ),
    Message(
        r"No tuning config found for shape",
        "No tuning config found for shape %s, using default block_size=64",
        _TUNE_EXPERTS,
    ),
    Message(
        r"Using default W8A8 Block FP8 kernel config\.",
        "Using default W8A8 Block FP8 kernel config. Performance might be sub-optimal! Config file not found at %s",
        "Tune it (benchmarks/kernels/benchmark_w8a8_block_fp8.py in vLLM's repository) and put the result where it "
        "was looked for.",
    ),
    Message(
        r"Using default Mamba SSU config\.",
        "Using default Mamba SSU config. Performance might be sub-optimal! Config file not found at %s",
        "Tune it and name the folder of the result: +backend.environment.VLLM_TUNED_CONFIG_FOLDER=FOLDER.",
    ),
    Message(r"Using default LoRA kernel configs", "Using default LoRA kernel configs", "Tune LoRA's kernels."),
    Message(
        r"\S+ has no vLLM implementation, falling back to Transformers",
        "%s has no vLLM implementation, falling back to Transformers implementation. Some features may not be "
        "supported and performance may not be optimal.",
        "Measure a model that vLLM implements, or read the cost as that of this fallback.",
    ),
    Message(
        r"CUDAGraphMode\.\w+ is not supported with",
        "CUDAGraphMode.FULL_AND_PIECEWISE is not supported with FlexAttention backend (support: NEVER); setting "
        "cudagraph_mode=PIECEWISE because attention is compiled piecewise",
        "Choose an attention backend whose graphs vLLM captures whole (backend=flash_attn), or run both arms alike "
        "(experiment=like_with_like).",
    ),
    Message(
        r"Overriding cudagraph_mode",
        "Overriding cudagraph_mode from %s to PIECEWISE.",
        "Run both arms alike (experiment=like_with_like), or fix it: "
        "+backend.engine.compilation_config.cudagraph_mode=PIECEWISE.",
    ),
    Message(
        r"Custom (?:allreduce is|collectives are) disabled because|Custom allreduce is disabled due to",
        "Custom allreduce is disabled because it's not supported on more than two PCIe-only GPUs. To silence this "
        "warning, specify disable_custom_all_reduce=True explicitly.",
        "The devices add up through NCCL then: use devices that are linked by NVLink, or a smaller tp.",
    ),
    Message(
        r"NVFP4 linear falling back to the slow and unoptimized",
        "NVFP4 linear falling back to the slow and unoptimized emulation backend as no optimized backend is available",
        _OTHER_BACKEND,
    ),
    Message(
        r"Using \w+QuantizationEmulation\w+ MOE backend",
        "Using Nvfp4QuantizationEmulationTritonExperts MOE backend. This will dequantize weights on the fly and may be "
        "slower than native quantized MOE.",
        _OTHER_BACKEND,
    ),
    Message(
        r"Falling back to (?:unoptimized AWQ|Moe WNA16) kernels|Layer '\S+' is not supported by \w+\. Falling back",
        "Layer '%s' is not supported by AutoAWQMarlin. Falling back to unoptimized AWQ kernels.",
        _OTHER_BACKEND,
    ),
    Message(
        r"Marlin requires thread-tile padding|Padding hidden size from \d+ to \d+ for FlashInfer",
        "Marlin requires thread-tile padding for some weight shapes in this model. Activations and/or outputs of the "
        "padded layers are padded/sliced on every forward; performance may be degraded.",
        _OTHER_BACKEND,
    ),
    Message(
        r"Mxfp4 on hopper is running on torch",
        "Mxfp4 on hopper is running on torch < 2.8.1, this cause swizzling to be disabled, which may cause performance "
        "degradation.",
        "Use the torch that this vLLM was released with.",
    ),
    Message(
        r"aiter\.ops\.sampling is not available|falling back to PyTorch-native|Falling back to PyTorch-native",
        "aiter.ops.sampling is not available on ROCm. Falling back to PyTorch-native implementation.",
        _LIBRARY,
    ),
    Message(
        r"Failed to create oneDNN linear, fallback to torch linear",
        "Failed to create oneDNN linear, fallback to torch linear. Exception: %s",
        "Use model.dtype=float32 on a CPU that cannot multiply the model's type.",
    ),
)
"""All that is looked for."""

ANY = re.compile("|".join(f"(?:{message.pattern})" for message in MESSAGES))
"""Where a line of a log begins to say one of them."""


def untuned(pairs: Sequence[Pair]) -> Iterator[Finding]:
    """One finding for each message, with the arms that it concerns."""
    arms: dict[str, dict[Arm, None]] = {}
    for phase in (phase for pair in pairs for phase in pair):
        for said in phase.untuned:
            arms.setdefault(said, {}).setdefault(phase.arm)
    for said, concerned in sorted(arms.items(), key=lambda one: _rank(one[0])):
        yield Finding(
            kind="untuned",
            message=f"vLLM's log says of {_where(concerned)}: {said.rstrip('.')}.",
            remedy=MESSAGES[_rank(said)].remedy if _rank(said) < len(MESSAGES) else "Look into the phase's log.",
        )


def _where(arms: Collection[Arm]) -> str:
    if len(arms) > 1:
        return "both arms"
    (arm,) = arms
    meaning = "which the cost is measured against" if arm is Arm.BASELINE else "so that the cost is that of this too"
    return f"the {before_noun(arm)} arm alone, {meaning}"


def _rank(said: str) -> int:
    """Place of the message in the table; after all of it for one that this release does not know."""
    return next((n for n, message in enumerate(MESSAGES) if re.search(message.pattern, said)), len(MESSAGES))
