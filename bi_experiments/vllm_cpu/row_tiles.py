"""Which fixed numbers of rows a matrix of any number of rows is computed in."""

import functools
from typing import NamedTuple

BASE_ROWS = 32
"""Up to this many rows the time goes into reading the weights, so that padding is cheaper than a second tile.

Where the kernels agree there is one for each number of rows: padding by a single one costs a tenth.
"""

TILE_ROWS = (
    *range(1, BASE_ROWS + 1),
    *(48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048),
)
MAX_PADDING = 1 / 16
"""Share of the rows by which a tile beyond the base may be larger, where no kernel takes any number of rows."""


class RowTile(NamedTuple):
    """Rows `start` to `stop` of the input, computed at once.

    Attributes:
        start: First row.
        stop: Row after the last.
        rows: Rows that the kernel is made for; beyond `stop - start` they are padding.
        blocked: Whether the kernel is the one that blocks the rows itself, and takes any number of them.
    """

    start: int
    stop: int
    rows: int
    blocked: bool


def to_mask(tile_rows: tuple[int, ...]) -> int:
    """Some of TILE_ROWS as a number whose bit i stands for TILE_ROWS[i]: a custom op takes it quicker than a list."""
    return sum(1 << TILE_ROWS.index(rows) for rows in tile_rows)


@functools.lru_cache(maxsize=8192)
def plan_tiles(num_rows: int, mask: int, blocked: bool) -> tuple[RowTile, ...]:
    """Cover rows 0 to `num_rows` with tiles, largest first.

    Args:
        num_rows: Rows of the input.
        mask: Which of TILE_ROWS there are kernels for.
        blocked: Whether there is also a kernel that blocks the rows itself; it takes what the others have no tile for,
            above BASE_ROWS rows.
    """
    tile_rows = [rows for bit, rows in enumerate(TILE_ROWS) if mask >> bit & 1]
    tiles: list[RowTile] = []
    start = 0
    while start < num_rows:
        remaining = num_rows - start
        fitting = [rows for rows in tile_rows if rows <= remaining]
        most_rows = max(BASE_ROWS, remaining if blocked else remaining * (1 + MAX_PADDING))
        padded = [rows for rows in tile_rows if remaining <= rows <= most_rows]
        if padded:
            tiles.append(RowTile(start, num_rows, padded[0], blocked=False))
        elif blocked and remaining > BASE_ROWS and not (fitting and fitting[-1] > BASE_ROWS):
            tiles.append(RowTile(start, num_rows, remaining, blocked=True))
        elif fitting:
            tiles.append(RowTile(start, start + fitting[-1], fitting[-1], blocked=False))
        else:
            tiles.append(RowTile(start, num_rows, tile_rows[0], blocked=False))
        start = tiles[-1].stop
    return tuple(tiles)
