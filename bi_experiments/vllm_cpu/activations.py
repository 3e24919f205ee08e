"""Activation functions that go row by row.

Without torch.compile, vLLM computes these with PyTorch's elementwise kernels, which cut the whole batch into pieces for
the threads and take the last elements of a piece through a scalar function that rounds otherwise than the vector one.
vLLM's own C++ kernels for them take whole rows. With torch.compile the generated code does so too.
"""

import torch
from vllm.model_executor.layers.activation import GeluAndMul, QuickGELU, SiluAndMul


def silu_and_mul(_layer: SiluAndMul, x: torch.Tensor) -> torch.Tensor:
    """silu(gate) * up for `x` [..., 2 * D] of gate and up; returns [..., D]."""
    out = x.new_empty(*x.shape[:-1], x.shape[-1] // 2)
    torch.ops._C.silu_and_mul(out, x.contiguous())
    return out


def gelu_and_mul(layer: GeluAndMul, x: torch.Tensor) -> torch.Tensor:
    """gelu(gate) * up for `x` [..., 2 * D] of gate and up; returns [..., D]."""
    out = x.new_empty(*x.shape[:-1], x.shape[-1] // 2)
    kernel = torch.ops._C.gelu_and_mul if layer.approximate == "none" else torch.ops._C.gelu_tanh_and_mul
    kernel(out, x.contiguous())
    return out


def quick_gelu(_layer: QuickGELU, x: torch.Tensor) -> torch.Tensor:
    """The sigmoid form of GELU, x * sigmoid(1.702 x), for `x` of any shape."""
    out = torch.empty_like(x)
    torch.ops._C.gelu_quick(out, x.contiguous())
    return out


def install() -> None:
    """Have the layers use these functions on the CPU."""
    SiluAndMul.forward_cpu = silu_and_mul
    GeluAndMul.forward_cpu = gelu_and_mul
    QuickGELU.forward_cpu = quick_gelu
