"""Mixture of experts: vLLM's fused CPU kernel, which blocks each expert's rows itself and never splits a sum.

It computes the rows that are left over in a smaller block than the others. That a row gets the same bits in every block
is checked for each shape of experts when the engine loads, on operands that cancel (see `agreement`).
"""

import functools

import torch
from vllm import _custom_ops as ops
from vllm.model_executor.layers.fused_moe.experts.cpu_moe import CPUUnquantizedExperts
from vllm.model_executor.layers.fused_moe.routed_experts import RoutedExperts

from bi_experiments.vllm_cpu.agreement import SEED, row_bits

CHECKED_ROWS = (*range(1, 34), 64, 97, 257)
"""One expert's rows: every size of the block that is left over, and several blocks."""


def experts_agree(layer: RoutedExperts) -> bool:
    """Whether the experts' kernel is the known one and gives a row the same bits in any number of rows."""
    kernel = getattr(layer.quant_method, "moe_kernel", None)
    experts = getattr(kernel, "fused_experts", None)
    if not isinstance(experts, CPUUnquantizedExperts) or experts._use_zentorch:
        return False
    _, hidden_size, intermediate_size = layer.w2_weight.shape
    return kernel_agrees(hidden_size, intermediate_size, layer.w2_weight.dtype, layer.activation.value, experts.isa)


@functools.cache
def kernel_agrees(hidden_size: int, intermediate_size: int, dtype: torch.dtype, activation: str, isa: str) -> bool:
    """Whether one expert of this shape gives a row the same bits in every number of rows."""
    generator = torch.Generator().manual_seed(SEED)
    gate, up = torch.randn(2, intermediate_size, hidden_size, generator=generator)
    down = torch.randn(hidden_size, intermediate_size, generator=generator)
    row = torch.randn(hidden_size, generator=generator)
    first, second = pairs(hidden_size, generator)
    cancelling_gate, cancelling_up, cancelling_row = gate.clone(), up.clone(), row.clone()
    cancelling_gate[:, second], cancelling_up[:, second] = gate[:, first], up[:, first]
    cancelling_row[second] = -row[first]
    first, second = pairs(intermediate_size, generator)
    gate[second], up[second] = gate[first], up[first]
    cancelling_down = down.clone()
    cancelling_down[:, second] = -down[:, first]
    return one_expert_agrees(cancelling_gate, cancelling_up, down, cancelling_row, dtype, activation, isa) and (
        one_expert_agrees(gate, up, cancelling_down, row, dtype, activation, isa)
    )


def pairs(size: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Random places 0 to `size`, in two halves of partners."""
    places = torch.randperm(size, generator=generator)
    half = size // 2
    return places[:half], places[half : 2 * half]


def one_expert_agrees(
    gate: torch.Tensor,
    up: torch.Tensor,
    down: torch.Tensor,
    row: torch.Tensor,
    dtype: torch.dtype,
    activation: str,
    isa: str,
) -> bool:
    """Whether one expert gives `row` [H] the same bits in every number of rows; gate and up [I, H], down [H, I]."""
    gate_up = ops.cpu_prepack_moe_weight(torch.cat([gate, up]).to(dtype)[None].contiguous(), isa)
    packed_down = ops.cpu_prepack_moe_weight(down.to(dtype)[None].contiguous(), isa)

    def expert(x: torch.Tensor) -> torch.Tensor:
        out = torch.empty_like(x)
        weights = torch.ones(x.shape[0], 1)
        ids = torch.zeros(x.shape[0], 1, dtype=torch.int32)
        ops.cpu_fused_moe(out, x, gate_up, packed_down, None, None, weights, ids, activation, isa)
        return out

    row = row.to(dtype)
    reference = row_bits(expert, row, 1)
    found = (row_bits(expert, row, rows) for rows in CHECKED_ROWS)
    return reference is not None and all(bits is not None and torch.equal(bits, reference) for bits in found)


def install() -> None:
    """Have vLLM choose these experts in batch-invariant mode."""
    CPUUnquantizedExperts._supports_batch_invariance = staticmethod(lambda: True)
