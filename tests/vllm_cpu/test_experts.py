"""The experts' check: the kernel passes, and one that depends on the number of rows does not."""

import pytest

pytest.importorskip("vllm", reason="needs the cpu extra")

import torch
from vllm import _custom_ops
from vllm.platforms import current_platform

from bi_experiments.vllm_cpu.experts import kernel_agrees

SHAPE = (64, 96)


@pytest.fixture(scope="module", autouse=True)
def kernels() -> None:
    """What a worker does before it loads a model."""
    torch.cpu._init_amx()
    current_platform.import_kernels()


@pytest.mark.parametrize("activation", ["silu", "gelu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_kernel_agrees(dtype: torch.dtype, activation: str) -> None:
    amx = dtype == torch.bfloat16 and torch.cpu._is_amx_tile_supported()
    assert kernel_agrees(*SHAPE, dtype, activation, "amx" if amx else "vec")


@pytest.mark.parametrize("changed", ["first", "second"])
def test_a_kernel_that_depends_on_the_rows_does_not(changed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With many rows, one of the two matrix multiplications sums in two parts instead of one."""

    def expert(out: torch.Tensor, x: torch.Tensor, gate_up: torch.Tensor, down: torch.Tensor, *_: object) -> None:
        parts = 2 if x.shape[0] > 20 else 1
        first = multiply(x, gate_up[0], parts if changed == "first" else 1)
        gate, up = first.chunk(2, dim=1)
        out.copy_(multiply(torch.nn.functional.silu(gate) * up, down[0], parts if changed == "second" else 1))

    monkeypatch.setattr(_custom_ops, "cpu_prepack_moe_weight", lambda weight, _isa: weight)
    monkeypatch.setattr(_custom_ops, "cpu_fused_moe", expert)
    kernel_agrees.cache_clear()
    assert not kernel_agrees(*SHAPE, torch.float32, "silu", "vec")
    kernel_agrees.cache_clear()


def multiply(x: torch.Tensor, weight: torch.Tensor, parts: int) -> torch.Tensor:
    """Rows times weights, summed in parts, one row after the other."""
    pairs = list(zip(x.chunk(parts, dim=1), weight.chunk(parts, dim=1), strict=True))
    return sum((torch.stack([wide @ row for row in rows]) for rows, wide in pairs), torch.zeros(()))
