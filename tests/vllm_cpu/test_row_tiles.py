"""Row tiles: every row is computed once, by a kernel that exists."""

import itertools

import pytest

from bi_experiments.vllm_cpu.row_tiles import BASE_ROWS, MAX_PADDING, TILE_ROWS, plan_tiles, to_mask

MASKS = {
    "all": TILE_ROWS,
    "up to the base": tuple(rows for rows in TILE_ROWS if rows <= BASE_ROWS),
    "with a gap": tuple(rows for rows in TILE_ROWS if rows <= BASE_ROWS or rows >= 512),
    "without small ones": (8, BASE_ROWS),
    "one row": (1,),
}
ROWS = (0, 1, 2, 3, 7, 31, 32, 33, 63, 64, 100, 255, 256, 257, 700, 2047, 2048, 2049, 5000)


@pytest.mark.parametrize("blocked", [False, True])
@pytest.mark.parametrize("tile_rows", MASKS.values(), ids=MASKS.keys())
@pytest.mark.parametrize("num_rows", ROWS)
def test_tiles_cover_every_row_once(num_rows: int, tile_rows: tuple[int, ...], blocked: bool) -> None:
    tiles = plan_tiles(num_rows, to_mask(tile_rows), blocked)
    assert [row for tile in tiles for row in range(tile.start, tile.stop)] == list(range(num_rows))
    assert all(tile.rows >= tile.stop - tile.start for tile in tiles)


@pytest.mark.parametrize("tile_rows", MASKS.values(), ids=MASKS.keys())
@pytest.mark.parametrize("num_rows", ROWS)
def test_only_existing_kernels_are_used(num_rows: int, tile_rows: tuple[int, ...]) -> None:
    assert all(tile.rows in tile_rows and not tile.blocked for tile in plan_tiles(num_rows, to_mask(tile_rows), False))
    for tile in plan_tiles(num_rows, to_mask(tile_rows), True):
        assert tile.blocked or tile.rows in tile_rows
        assert not (tile.blocked and tile.rows <= BASE_ROWS)


@pytest.mark.parametrize("num_rows", range(1, BASE_ROWS + 1))
def test_a_small_batch_is_one_tile(num_rows: int) -> None:
    assert len(plan_tiles(num_rows, to_mask(TILE_ROWS), True)) == 1


@pytest.mark.parametrize(("num_rows", "tile_rows"), list(itertools.product(range(33, 3000, 61), MASKS.values())))
def test_a_large_batch_is_padded_little(num_rows: int, tile_rows: tuple[int, ...]) -> None:
    computed = sum(tile.rows for tile in plan_tiles(num_rows, to_mask(tile_rows), False))
    assert computed <= max(num_rows * (1 + MAX_PADDING) + 1, num_rows + BASE_ROWS)
