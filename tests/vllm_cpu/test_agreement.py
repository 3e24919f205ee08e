"""Agreement of kernels: found where the order of sums is the same, denied where rows, places or sums are not alike."""

import pytest

pytest.importorskip("torch", reason="needs the cpu extra")

import torch

from bi_experiments.vllm_cpu.agreement import Kernel, agreeing_rows, cancelling_operands, row_bits

ROWS = (1, 2, 8, 32, 64)
SHAPE = (96, 256)


def chunked_kernel(weight: torch.Tensor, chunks: int) -> Kernel:
    """Sums a row's products chunk by chunk, row by row: a row's bits depend on nothing but the number of chunks."""

    def kernel(x: torch.Tensor) -> torch.Tensor:
        parts = zip(x.float().chunk(chunks, dim=1), weight.float().chunk(chunks, dim=1), strict=True)
        products = [torch.stack([wide @ row for row in rows]) for rows, wide in parts]
        return torch.stack(products).cumsum(0)[-1].to(x.dtype)

    return kernel


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("out_features", [16, 96, 1200])
def test_operands_leave_nothing_but_rounding(out_features: int, dtype: torch.dtype) -> None:
    weight, row, bias = cancelling_operands(out_features, 256, dtype)
    assert weight.shape == (out_features, 256)
    assert weight.dtype == row.dtype == bias.dtype == dtype
    assert (weight.double() @ row.double()).abs().max() < 1e-12
    assert (weight.double() * row.double()).abs().sum(1).min() > 10


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_kernel_agrees_with_itself(dtype: torch.dtype) -> None:
    weight, row, _ = cancelling_operands(*SHAPE, dtype)
    kernel = chunked_kernel(weight, 4)
    reference = row_bits(kernel, row, 32)
    assert reference is not None
    assert agreeing_rows(kernel, row, ROWS, reference) == ROWS


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_another_order_of_sums_does_not_agree(dtype: torch.dtype) -> None:
    weight, row, _ = cancelling_operands(*SHAPE, dtype)
    reference = row_bits(chunked_kernel(weight, 4), row, 32)
    assert reference is not None
    other = row_bits(chunked_kernel(weight, 2), row, 32)
    assert other is not None
    assert (other != reference).float().mean() > 0.5
    assert agreeing_rows(chunked_kernel(weight, 2), row, ROWS, reference) == ()


def test_a_kernel_that_changes_with_its_size_agrees_up_to_there() -> None:
    weight, row, _ = cancelling_operands(*SHAPE, torch.bfloat16)

    def kernel(x: torch.Tensor) -> torch.Tensor:
        return chunked_kernel(weight, 4 if x.shape[0] <= 8 else 2)(x)

    reference = row_bits(kernel, row, 8)
    assert reference is not None
    assert agreeing_rows(kernel, row, ROWS, reference) == (1, 2, 8)


def test_a_row_whose_place_matters_has_no_bits() -> None:
    weight, row, _ = cancelling_operands(*SHAPE, torch.bfloat16)

    def kernel(x: torch.Tensor) -> torch.Tensor:
        return torch.cat([chunked_kernel(weight, 4)(x[:5]), chunked_kernel(weight, 2)(x[5:])])

    assert row_bits(kernel, row, 8) is None


def test_a_row_whose_neighbours_matter_has_no_bits() -> None:
    weight, row, _ = cancelling_operands(*SHAPE, torch.bfloat16)

    def kernel(x: torch.Tensor) -> torch.Tensor:
        return chunked_kernel(weight, 2 if x[0].any() else 4)(x)

    assert row_bits(kernel, row, 8) is None
