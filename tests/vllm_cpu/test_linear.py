"""The tiled linear layer: a row's bits are the same in every batch, and right."""

import pytest

pytest.importorskip("vllm", reason="needs the cpu extra")

import torch
from vllm.platforms import current_platform

from bi_experiments.vllm_cpu import linear
from bi_experiments.vllm_cpu.linear import ONE_ROW, check_agreeing_kernels, dispatch_tiled_linear, find_agreeing_kernels
from tests.cpu import HAS_BFLOAT16_MATMUL, needs_bfloat16

BATCHES = (1, 2, 3, 5, 8, 17, 31, 32, 33, 64, 100, 255, 256, 257, 400, 513, 1100)
DTYPES = [torch.float32, pytest.param(torch.bfloat16, marks=needs_bfloat16)]
# (in, out) features: tiny, one that vLLM gives to the SGLang kernels, one that oneDNN sums in several orders.
SHAPES = ((64, 96), (256, 512), (1024, 1024))


@pytest.fixture(scope="module", autouse=True)
def kernels() -> None:
    """What a worker does before it loads a model."""
    torch.cpu._init_amx()
    current_platform.import_kernels()


def make_layer(in_features: int, out_features: int, dtype: torch.dtype, has_bias: bool) -> torch.nn.Linear:
    torch.manual_seed(0)
    layer = torch.nn.Linear(in_features, out_features, bias=has_bias, dtype=dtype).requires_grad_(False)
    dispatch_tiled_linear(layer, remove_weight=False)
    return layer


def compute(layer: torch.nn.Linear, x: torch.Tensor) -> torch.Tensor:
    out: torch.Tensor = layer.cpu_linear(x, layer.weight, layer.bias)
    return out


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("in_features", "out_features"), SHAPES)
def test_a_row_has_the_same_bits_in_every_batch(
    in_features: int, out_features: int, dtype: torch.dtype, has_bias: bool
) -> None:
    layer = make_layer(in_features, out_features, dtype, has_bias)
    x = torch.randn(max(BATCHES), in_features).to(dtype)
    alone = torch.cat([compute(layer, row[None]) for row in x[:40]])
    for rows in BATCHES:
        assert torch.equal(compute(layer, x[:rows])[:40], alone[:rows]), rows
        moved = torch.cat([x[40 : 40 + rows], x[:1]])
        assert torch.equal(compute(layer, moved)[-1], alone[0]), rows


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_result_is_that_of_the_layer(dtype: torch.dtype, has_bias: bool) -> None:
    layer = make_layer(256, 512, dtype, has_bias)
    for shape in [(0, 256), (1, 256), (70, 256), (3, 5, 256)]:
        x = torch.randn(shape).to(dtype)
        exact = torch.nn.functional.linear(x.double(), layer.weight.double(), layer.bias.double() if has_bias else None)
        tolerance = 1e-5 if dtype == torch.float32 else 1e-2
        torch.testing.assert_close(compute(layer, x).double(), exact, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("rows", [1, 50])
def test_the_distance_of_the_rows_does_not_matter(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = make_layer(256, 512, torch.float32, has_bias=False)
    strides = []
    native = linear.compute_tile

    def watched(out: torch.Tensor, x: torch.Tensor, bias: torch.Tensor | None, onednn: torch.Tensor) -> None:
        strides.append(x.stride())
        native(out, x, bias, onednn)

    monkeypatch.setattr(linear, "compute_tile", watched)
    x = torch.randn(rows, 512)[:, :256]
    assert torch.equal(compute(layer, x), compute(layer, x.clone()))
    assert set(strides) == {(256, 1)}


def test_the_bias_may_be_left_out() -> None:
    layer = make_layer(256, 512, torch.float32, has_bias=True)
    x = torch.randn(40, 256)
    without: torch.Tensor = layer.cpu_linear(x, layer.weight, None)
    assert not torch.equal(without, compute(layer, x))
    assert torch.equal(without[:1], layer.cpu_linear(x[:1], layer.weight, None))


def test_unneeded_weights_are_dropped() -> None:
    layer = torch.nn.Linear(64, 96, bias=False)
    dispatch_tiled_linear(layer, remove_weight=True)
    assert layer.weight.numel() == 0
    assert linear.is_tiled(layer)


def test_compiled_code_takes_any_batch_without_compiling_again() -> None:
    linear.install()
    layer = make_layer(64, 96, torch.float32, has_bias=True)
    graphs = []

    def count(graph: torch.fx.GraphModule, _inputs: list[torch.Tensor]) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    compiled = torch.compile(lambda x: compute(layer, x), dynamic=True, backend=count)
    for rows in (2, 5, 40, 300):
        x = torch.randn(rows, 64)
        assert torch.equal(compiled(x), compute(layer, x))
    assert len(graphs) == 1


def test_types_without_a_kernel_are_known() -> None:
    assert linear.onednn_supports(torch.float32)
    assert linear.onednn_supports(torch.bfloat16) == HAS_BFLOAT16_MATMUL


def test_without_agreeing_sizes_one_tile_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    native = linear.compute_tile

    def place_matters(out: torch.Tensor, x: torch.Tensor, bias: torch.Tensor | None, onednn: torch.Tensor) -> None:
        native(out, x, bias, onednn)
        out[3:] *= 2

    monkeypatch.setattr(linear, "compute_tile", place_matters)
    check_agreeing_kernels.cache_clear()
    assert find_agreeing_kernels(96, 64, torch.float32, has_bias=True) == ONE_ROW
    check_agreeing_kernels.cache_clear()


def test_sizes_that_disagree_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    native = linear.compute_tile

    def large_differs(out: torch.Tensor, x: torch.Tensor, bias: torch.Tensor | None, onednn: torch.Tensor) -> None:
        native(out, x, bias, onednn)
        if x.shape[0] > 64:
            out *= 2

    monkeypatch.setattr(linear, "compute_tile", large_differs)
    check_agreeing_kernels.cache_clear()
    found = find_agreeing_kernels(96, 64, torch.float32, has_bias=False)
    check_agreeing_kernels.cache_clear()
    assert 32 in found.onednn_rows
    assert max(found.onednn_rows) <= 64
