"""Dense linear layers and the LM head in row tiles of fixed sizes.

A matrix multiplication library picks its kernel by the number of rows, so that a row's bits depend on how many others
there are. Here each layer has oneDNN kernels of fixed sizes, and a batch of any size is covered by them. That
they agree with one another is checked for each shape of layer when the engine loads; where they do not, fewer sizes
remain, in the last resort one.

On a machine with AMX, what oneDNN has no agreeing size for goes to the kernel from SGLang that comes with vLLM: it
always blocks the rows in the same way, so that it takes any number of them. Such a layer's weights are in memory twice.
"""

import functools
from typing import NamedTuple

import torch
from vllm import _custom_ops as ops
from vllm.model_executor.layers import utils
from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm as dispatch_native_gemm
from vllm.utils.torch_utils import direct_register_custom_op

from bi_experiments.vllm_cpu.agreement import agreeing_rows, cancelling_operands, row_bits
from bi_experiments.vllm_cpu.row_tiles import BASE_ROWS, TILE_ROWS, plan_tiles, to_mask

OP = "bi_experiments_tiled_linear"
PRIMITIVE_CACHE_SIZE = 2 * len(TILE_ROWS)
"""oneDNN keeps this many kernels for a layer's shape: one a tile size, with and without bias."""

CHECKED_BLOCKED_ROWS = (*range(BASE_ROWS + 1, 2 * BASE_ROWS + 1), 97, 257, 1024)
"""The SGLang kernel computes blocks of 32 rows and a smaller one: every size of that, and many blocks."""


class AgreeingKernels(NamedTuple):
    """The kernels that agree for one shape of layer.

    Attributes:
        onednn_rows: Tile sizes, in rows, of the oneDNN kernels.
        blocked: Whether the SGLang kernel agrees with them at any number of rows, and is needed.
    """

    onednn_rows: tuple[int, ...]
    blocked: bool


ONE_ROW = AgreeingKernels(onednn_rows=(1,), blocked=False)
"""The last resort: one row alone has no neighbours and no other place."""


def compute_tile(out: torch.Tensor, x: torch.Tensor, bias: torch.Tensor | None, onednn: torch.Tensor) -> None:
    """One call of the oneDNN kernel for as many rows as `x` [M, K] has, into `out` [M, N]."""
    torch.ops._C.onednn_mm.default(out, x, bias, onednn)


def compute_blocked(out: torch.Tensor, x: torch.Tensor, bias: torch.Tensor | None, sgl: torch.Tensor) -> None:
    """One call of the SGLang kernel, for `x` [M, K] into `out` [M, N]."""
    torch.ops._C.weight_packed_linear.default(out, x, sgl, None if bias is None else bias.float(), True)


def compute_rows(
    x: torch.Tensor,
    bias: torch.Tensor | None,
    onednn: torch.Tensor,
    sgl: torch.Tensor | None,
    out_features: int,
    tile_mask: int,
) -> torch.Tensor:
    """The linear layer's output [M, N] for contiguous rows `x` [M, K], tile by tile.

    Args:
        x: Rows.
        bias: Bias [N].
        onednn: Handle of the weights as oneDNN packs them.
        sgl: The weights as the SGLang kernel packs them, where it is needed.
        out_features: N.
        tile_mask: Which of TILE_ROWS the oneDNN kernels may have.
    """
    num_rows = x.shape[0]
    tiles = plan_tiles(num_rows, tile_mask, sgl is not None)
    out = torch.empty(tiles[-1].start + tiles[-1].rows if tiles else 0, out_features, dtype=x.dtype)
    if len(tiles) == 1 and tiles[0].rows == num_rows and not tiles[0].blocked:
        compute_tile(out, x, bias, onednn)
        return out
    for tile in tiles:
        rows, result = x[tile.start : tile.stop], out[tile.start : tile.start + tile.rows]
        if tile.blocked and sgl is not None:
            compute_blocked(result, rows, bias, sgl)
            continue
        if padding := tile.rows - rows.shape[0]:
            rows = torch.nn.functional.pad(rows, (0, 0, 0, padding))
        compute_tile(result, rows, bias, onednn)
    return out[:num_rows]


def tiled_linear(
    x: torch.Tensor,
    bias: torch.Tensor | None,
    onednn: torch.Tensor,
    sgl: torch.Tensor | None,
    out_features: int,
    tile_mask: int,
) -> torch.Tensor:
    """The custom op: opaque to Dynamo, so that nothing compiled depends on the number of rows of `x` [..., K]."""
    in_features = x.shape[-1]
    # The kernels also depend on the distance of the rows, which of one row alone may be any.
    if x.stride() == (in_features, 1):
        return compute_rows(x, bias, onednn, sgl, out_features, tile_mask)
    out = compute_rows(x.reshape(-1).view(-1, in_features), bias, onednn, sgl, out_features, tile_mask)
    return out.view(*x.shape[:-1], out_features)


def tiled_linear_shape(
    x: torch.Tensor,
    bias: torch.Tensor | None,
    onednn: torch.Tensor,
    sgl: torch.Tensor | None,
    out_features: int,
    tile_mask: int,
) -> torch.Tensor:
    """What the custom op returns, without values: for tracing."""
    return x.new_empty(*x.shape[:-1], out_features)


@functools.cache
def onednn_supports(dtype: torch.dtype) -> bool:
    """Whether oneDNN multiplies matrices of a type on this machine: bfloat16 and float16 need AVX-512 on x86-64."""
    try:
        ops.create_onednn_mm(torch.zeros(BASE_ROWS, BASE_ROWS, dtype=dtype).t(), PRIMITIVE_CACHE_SIZE)
    except RuntimeError:
        return False
    return True


def sgl_supports(out_features: int, in_features: int, dtype: torch.dtype) -> bool:
    """Whether the SGLang kernel exists for a layer of this shape on this machine: it needs AMX and whole blocks."""
    amx = torch.cpu._is_amx_tile_supported() and (
        dtype == torch.bfloat16 or (dtype == torch.float16 and torch.cpu._is_amx_fp16_supported())
    )
    return amx and out_features % 16 == 0 and in_features % 32 == 0


def find_agreeing_kernels(out_features: int, in_features: int, dtype: torch.dtype, has_bias: bool) -> AgreeingKernels:
    """Which kernels may be used together for layers of this shape.

    A layer that has a bias may also be computed without: its ranks but the first leave it out.
    """
    without = check_agreeing_kernels(out_features, in_features, dtype, with_bias=False)
    if not has_bias:
        return without
    with_bias = check_agreeing_kernels(out_features, in_features, dtype, with_bias=True)
    onednn_rows = tuple(rows for rows in without.onednn_rows if rows in with_bias.onednn_rows)
    return AgreeingKernels(onednn_rows, without.blocked and with_bias.blocked) if onednn_rows else ONE_ROW


@functools.cache
def check_agreeing_kernels(out_features: int, in_features: int, dtype: torch.dtype, with_bias: bool) -> AgreeingKernels:
    """Which kernels give the same bits, on operands that show any difference."""
    weight, row, small_bias = cancelling_operands(out_features, in_features, dtype)
    bias = small_bias if with_bias else None
    onednn = ops.create_onednn_mm(weight.t(), PRIMITIVE_CACHE_SIZE)

    def tile_kernel(x: torch.Tensor) -> torch.Tensor:
        out = x.new_empty(x.shape[0], out_features)
        compute_tile(out, x, bias, onednn.handler_tensor)
        return out

    reference = row_bits(tile_kernel, row, BASE_ROWS)
    if reference is None:
        return ONE_ROW
    onednn_rows = agreeing_rows(tile_kernel, row, TILE_ROWS, reference)
    if len(onednn_rows) == len(TILE_ROWS) or not sgl_supports(out_features, in_features, dtype):
        return AgreeingKernels(onednn_rows, blocked=False)
    sgl = torch.ops._C.convert_weight_packed(weight)

    def blocked_kernel(x: torch.Tensor) -> torch.Tensor:
        out = x.new_empty(x.shape[0], out_features)
        compute_blocked(out, x, bias, sgl)
        return out

    blocked = agreeing_rows(blocked_kernel, row, CHECKED_BLOCKED_ROWS, reference) == CHECKED_BLOCKED_ROWS
    return AgreeingKernels(onednn_rows, blocked)


def dispatch_tiled_linear(layer: torch.nn.Module, remove_weight: bool) -> None:
    """Pack a layer's weights and make its `cpu_linear` the tiled one. Stands in for vLLM's function of that shape.

    Args:
        layer: Has a `weight` [N, K] and perhaps a `bias` [N].
        remove_weight: Whether the unpacked weights are no longer needed.
    """
    weight = layer.weight
    if weight.is_meta or weight.ndim != 2:
        dispatch_native_gemm(layer, remove_weight)
        return
    out_features, in_features = weight.shape
    has_bias = getattr(layer, "bias", None) is not None
    kernels = find_agreeing_kernels(out_features, in_features, weight.dtype, has_bias)
    onednn = ops.create_onednn_mm(weight.t(), PRIMITIVE_CACHE_SIZE)
    sgl = torch.ops._C.convert_weight_packed(weight) if kernels.blocked else None
    tile_mask = to_mask(kernels.onednn_rows)

    def cpu_linear(x: torch.Tensor, _weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        # Outside of compiled code the dispatcher would only cost time.
        op = getattr(torch.ops.vllm, OP) if torch.compiler.is_compiling() else tiled_linear
        return op(x, bias, onednn.handler_tensor, sgl, out_features, tile_mask)

    layer.cpu_linear = cpu_linear
    if remove_weight:
        layer.weight = torch.nn.Parameter(weight.new_empty(0), requires_grad=False)


def is_tiled(layer: torch.nn.Module) -> bool:
    """Whether a layer's matrix multiplication is the tiled one."""
    return getattr(getattr(layer, "cpu_linear", None), "__module__", None) == __name__


def install() -> None:
    """Register the custom op and have vLLM pack every dense layer for it."""
    if not hasattr(torch.ops.vllm, OP):
        direct_register_custom_op(OP, tiled_linear, fake_impl=tiled_linear_shape)
    utils.dispatch_cpu_unquantized_gemm = dispatch_tiled_linear
