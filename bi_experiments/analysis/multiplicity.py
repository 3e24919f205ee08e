"""Many tests at once.

S. Holm, "A simple sequentially rejective multiple test procedure", Scand. J. Stat. 6 (1979); Y. Benjamini and
Y. Hochberg, "Controlling the false discovery rate", J. R. Stat. Soc. B 57 (1995).
"""

from collections.abc import Sequence
from itertools import accumulate


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Adjusted p values, in the order given: below 5 % in every one of which the claims hold together, at 5 %."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    scaled = [(len(p_values) - rank) * p_values[index] for rank, index in enumerate(order)]
    return _in_order(order, [min(1.0, value) for value in accumulate(scaled, max)])


def benjamini_hochberg(p_values: Sequence[float]) -> tuple[float, ...]:
    """Adjusted p values, in the order given: of the claims below 5 %, at most 5 % are expected to be false."""
    order = sorted(range(len(p_values)), key=lambda index: -p_values[index])
    scaled = [len(p_values) / (len(p_values) - rank) * p_values[index] for rank, index in enumerate(order)]
    return _in_order(order, [min(1.0, value) for value in accumulate(scaled, min)])


def _in_order(order: Sequence[int], values: Sequence[float]) -> tuple[float, ...]:
    placed = dict(zip(order, values, strict=True))
    return tuple(placed[index] for index in range(len(order)))
