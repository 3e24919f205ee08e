"""A profiled trial of each arm, on a device, with times that can be added up in the head."""

from msgspec.structs import replace

from bi_experiments.records import Operation, Profile, ProfiledStep, StepsTime

PREFILL, DECODE, OUTSIDE = ProfiledStep


def operation(name: str, steps: ProfiledStep, time_s: float, calls: int = 10, within: str | None = None) -> Operation:
    """One kernel or operator."""
    return Operation(name=name, within=within, steps=steps, calls=calls, time_s=time_s)


BASELINE = Profile(
    profiler="torch",
    trial=0,
    on_device=True,
    workers=1,
    time_s=2.3,
    prompt_tokens=512,
    output_tokens=128,
    steps=(StepsTime(steps=PREFILL, number=2, time_s=0.8), StepsTime(steps=DECODE, number=15, time_s=1.4)),
    operations=(
        operation("void cutlass::Kernel2<cutlass_80_wmma_tensorop_bf16_s161616gemm_bf16>", DECODE, 0.75, 60),
        operation("void cutlass::Kernel2<cutlass_80_wmma_tensorop_bf16_s161616gemm_bf16>", PREFILL, 0.5, 8),
        operation("kernel_unified_attention", DECODE, 0.25, 30),
        operation("Memcpy DtoH (Device -> Pinned)", OUTSIDE, 0.05, 17),
    ),
    traces=("rank0.pt.trace.json.gz",),
)
"""2.0 s when timed; 0.75 s idle, 0.3 s of it the profiler's own."""

SECOND = replace(
    BASELINE,
    time_s=2.9,
    steps=(StepsTime(steps=PREFILL, number=2, time_s=1.0), StepsTime(steps=DECODE, number=15, time_s=1.8)),
    operations=(
        operation("matmul_kernel_persistent", DECODE, 1.05, 60),
        operation("matmul_kernel_persistent", PREFILL, 0.7, 8),
        operation("kernel_unified_attention", DECODE, 0.3, 30),
        operation("Memcpy DtoH (Device -> Pinned)", OUTSIDE, 0.05, 17),
    ),
)
"""0.5 s more of matrix multiplication, 0.05 s more of attention."""
