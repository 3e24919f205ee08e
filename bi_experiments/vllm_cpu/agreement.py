"""The tile sizes whose kernels give the same bits for a row, wherever in the tile it stands.

A kernel that sums in another order gives other bits, but in most elements rounding to bfloat16 hides it. So the
operands here cancel: each product has a partner of the opposite sign at another place, the exact result is zero, and
what comes out is nothing but the rounding of the partial sums. A different order then shows in almost every element.
"""

from collections.abc import Callable

import torch

Kernel = Callable[[torch.Tensor], torch.Tensor]
"""From rows [M, K] to rows [M, N], for one layer's weights."""

SEED = 20240919
ROUNDING_SCALE = 1e-6
"""What float32 sums of some thousand products of order one are rounded to."""

DISTINCT_OUTPUTS = 512
"""Rows of the weights that are drawn; more are repeats of them, since drawing a vocabulary of weights takes seconds."""


def cancelling_operands(
    out_features: int, in_features: int, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Weights [out_features, in_features], a row [in_features] whose products with them cancel in pairs, and a bias.

    The bias [out_features] is as small as what rounding leaves, so that it does not hide it.
    """
    generator = torch.Generator().manual_seed(SEED)
    weight = torch.randn(min(out_features, DISTINCT_OUTPUTS), in_features, generator=generator)
    row = torch.randn(in_features, generator=generator)
    places = torch.randperm(in_features, generator=generator)
    half = in_features // 2
    first, second = places[:half], places[half : 2 * half]
    weight[:, second] = weight[:, first]
    row[second] = -row[first]
    repeats = -(-out_features // DISTINCT_OUTPUTS)
    bias = ROUNDING_SCALE * torch.randn(out_features, generator=generator)
    return weight.repeat(repeats, 1)[:out_features].to(dtype), row.to(dtype), bias.to(dtype)


def row_bits(kernel: Kernel, row: torch.Tensor, rows: int) -> torch.Tensor | None:
    """What `kernel` makes of `row` in a tile of `rows` rows, or None where its place or its neighbours matter."""
    everywhere = kernel(row.expand(rows, -1).contiguous())
    alone = torch.zeros(rows, row.shape[0], dtype=row.dtype)
    alone[-1] = row
    bits = kernel(alone)[-1]
    return bits if bool((everywhere == bits).all()) else None


def agreeing_rows(
    kernel: Kernel, row: torch.Tensor, candidates: tuple[int, ...], reference: torch.Tensor
) -> tuple[int, ...]:
    """The tile sizes among `candidates`, in rows, at which `kernel` gives `row` the bits of `reference`."""
    return tuple(
        rows
        for rows in candidates
        if (bits := row_bits(kernel, row, rows)) is not None and torch.equal(bits, reference)
    )
