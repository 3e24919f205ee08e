"""Activations: right, and a row's bits do not depend on the rows next to it."""

import pytest

pytest.importorskip("vllm", reason="needs the cpu extra")

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch.nn import functional
from vllm.platforms import current_platform

from bi_experiments.vllm_cpu.activations import gelu_and_mul, quick_gelu, silu_and_mul

NONE, TANH = SimpleNamespace(approximate="none"), SimpleNamespace(approximate="tanh")
Elementwise = Callable[[torch.Tensor], torch.Tensor]
# Each: the function, the layer it is given, and what it computes, from the gate.
FUNCTIONS: dict[str, tuple[Callable[[Any, torch.Tensor], torch.Tensor], Any, Elementwise]] = {
    "silu_and_mul": (silu_and_mul, None, functional.silu),
    "gelu_and_mul": (gelu_and_mul, NONE, functional.gelu),
    "gelu_tanh_and_mul": (gelu_and_mul, TANH, lambda x: functional.gelu(x, approximate="tanh")),
    "quick_gelu": (quick_gelu, None, lambda x: x * torch.sigmoid(1.702 * x)),
}


@pytest.fixture(scope="module", autouse=True)
def kernels() -> None:
    """What a worker does before it loads a model."""
    current_platform.import_kernels()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_result_is_right(name: str, dtype: torch.dtype) -> None:
    function, layer, activation = FUNCTIONS[name]
    x = torch.randn(5, 192).to(dtype)
    gate, up = x.double().chunk(2, dim=1) if "mul" in name else (x.double(), torch.ones(()))
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(function(layer, x).double(), activation(gate) * up, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("width", [48, 208, 3072])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_row_has_the_same_bits_in_every_batch(name: str, width: int) -> None:
    function, layer, _ = FUNCTIONS[name]
    x = torch.randn(700, width)
    together = function(layer, x)
    for rows in (1, 2, 7, 333):
        assert torch.equal(function(layer, x[:rows]), together[:rows])
        assert torch.equal(function(layer, x[-rows:]), together[-rows:])
