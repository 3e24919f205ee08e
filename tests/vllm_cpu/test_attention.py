"""Tiles of queries: the same queries over the same keys, and none larger than what agrees with single queries."""

from types import SimpleNamespace

import pytest

pytest.importorskip("vllm", reason="needs the cpu extra")

import torch
from vllm.platforms import current_platform
from vllm.v1.attention.backend import CommonAttentionMetadata
from vllm.v1.attention.backends.cpu_attn import _get_attn_isa

from bi_experiments.vllm_cpu import attention
from bi_experiments.vllm_cpu.attention import TileCheck, largest_agreeing_tile, split_queries


@pytest.fixture(scope="module", autouse=True)
def kernels() -> None:
    """What a worker does before it loads a model."""
    torch.cpu._init_amx()
    current_platform.import_kernels()


def metadata(query_lens: list[int], contexts: list[int]) -> CommonAttentionMetadata:
    starts = torch.tensor([0, *query_lens], dtype=torch.int32).cumsum(0).to(torch.int32)
    return CommonAttentionMetadata(
        query_start_loc=starts,
        query_start_loc_cpu=starts,
        seq_lens=torch.tensor(contexts, dtype=torch.int32) + torch.tensor(query_lens, dtype=torch.int32),
        num_reqs=len(query_lens),
        num_actual_tokens=sum(query_lens),
        max_query_len=max(query_lens),
        max_seq_len=1000,
        block_table_tensor=torch.arange(len(query_lens), dtype=torch.int32)[:, None] * 10,
        slot_mapping=torch.arange(sum(query_lens)),
    )


def queries(step: CommonAttentionMetadata) -> list[tuple[int, int]]:
    """Each query's request, by its block table, and its position in the request's context."""
    found = []
    for request in range(step.num_reqs):
        start, stop = step.query_start_loc[request : request + 2].tolist()
        context = int(step.seq_lens[request]) - (stop - start)
        found += [(int(step.block_table_tensor[request, 0]), context + query) for query in range(stop - start)]
    return found


@pytest.mark.parametrize("tile", [1, 3, 8])
def test_a_step_in_tiles_has_the_same_queries(tile: int) -> None:
    step = metadata([1, 20, 8, 9, 1], [50, 0, 7, 100, 3])
    tiled = split_queries(step, tile)
    assert queries(tiled) == queries(step)
    assert tiled.query_start_loc.diff().max() <= tile
    assert tiled.max_query_len == tile
    assert tiled.num_reqs == len(tiled.seq_lens) == len(tiled.block_table_tensor)
    assert tiled.num_actual_tokens == step.num_actual_tokens
    assert tiled.query_start_loc.dtype == tiled.seq_lens.dtype == torch.int32


def test_a_step_that_only_decodes_is_left_alone() -> None:
    step = metadata([1, 1, 1], [5, 6, 7])
    assert split_queries(step, 8) is step


def builder(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch, window: int = -1, heads: int = 4) -> SimpleNamespace:
    """What the check reads of a metadata builder, for layers with `window`."""
    layer = SimpleNamespace(impl=SimpleNamespace(sliding_window=window))
    monkeypatch.setattr(attention, "get_layers_from_vllm_config", lambda *_: {"layer": layer})
    return SimpleNamespace(
        vllm_config=SimpleNamespace(model_config=SimpleNamespace(max_model_len=4000)),
        layer_names=["layer"],
        num_heads=heads,
        num_kv_heads=2,
        head_dim=64,
        block_size=128,
        dtype=dtype,
        isa=_get_attn_isa(dtype, 128, 64),
    )


@pytest.mark.parametrize("window", [-1, 700])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tiles_agree_with_single_queries(dtype: torch.dtype, window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    made = builder(dtype, monkeypatch, window)
    assert TileCheck.drawn(made).agrees(largest_agreeing_tile(made))


def test_many_queries_at_once_do_not_agree_with_single_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason for the tiles: blocks of keys are shorter for many queries. Float32 needs the shortest contexts."""
    assert not TileCheck.drawn(builder(torch.float32, monkeypatch)).agrees(64)


def test_where_tiles_do_not_agree_queries_go_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention.TileCheck, "agrees", lambda *_: False)
    assert largest_agreeing_tile(builder(torch.float32, monkeypatch)) == 1


def test_more_heads_than_rows_go_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert largest_agreeing_tile(builder(torch.float32, monkeypatch, heads=32)) == 1
